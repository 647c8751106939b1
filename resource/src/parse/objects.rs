//! The objects that a document holds: itself, or the items of a list.

use std::{
    collections::{BTreeMap, HashMap},
    path::PathBuf,
    sync::Arc,
};

use super::Broken;
use crate::{Document, Kind, Node, ObjectRef, Origin, SourceError, Value};

/// The objects of a file's documents, and what is wrong with its documents, in order of the lines.
#[expect(clippy::rc_buffer, reason = "documents and errors share it in this form")]
pub(super) fn taken(
    path: &Arc<PathBuf>,
    roots: Vec<Node>,
    default_namespace: &str,
    errors: Vec<SourceError>,
) -> (Vec<Document>, Vec<SourceError>) {
    let mut reader = Reader { path, default_namespace, names: HashMap::new(), documents: Vec::new(), errors };
    for root in roots {
        reader.keep(root);
    }
    reader.errors.sort_by_key(|error| error.line);
    (reader.documents, reader.errors)
}

/// Takes documents apart into objects.
struct Reader<'a> {
    #[expect(clippy::rc_buffer, reason = "documents and errors share it in this form")]
    path: &'a Arc<PathBuf>,
    default_namespace: &'a str,
    /// Kinds, versions and namespaces repeat: one copy of each.
    names: HashMap<String, Arc<str>>,
    documents: Vec<Document>,
    errors: Vec<SourceError>,
}

impl Reader<'_> {
    fn name(&mut self, text: &str) -> Arc<str> {
        if let Some(known) = self.names.get(text) {
            return Arc::clone(known);
        }
        let name: Arc<str> = text.into();
        self.names.insert(text.to_owned(), Arc::clone(&name));
        name
    }

    /// One bad object never stops another.
    fn keep(&mut self, root: Node) {
        if let Err((line, message)) = self.take(root) {
            let error = Broken { line, message };
            self.errors.push(error.at(self.path, "give it apiVersion, kind and metadata.name"));
        }
    }

    fn take(&mut self, root: Node) -> Result<(), (u32, String)> {
        if root.value == Value::Null {
            return Ok(());
        }
        let at = root.line;
        let text = |path: &str| root.at(path).and_then(Node::as_text);
        let api_version =
            text("apiVersion").ok_or_else(|| (at, "a document without apiVersion".to_owned()))?;
        let kind = text("kind").ok_or_else(|| (at, "a document without kind".to_owned()))?;
        if kind.ends_with("List")
            && matches!(root.get("items").map(|items| &items.value), Some(Value::List(_)))
        {
            // `MappingList`: what the API answers leaves the items' own kind out.
            let item_kind = kind.strip_suffix("List").unwrap_or_default().to_owned();
            let api_version = api_version.to_owned();
            let Value::Map(fields) = root.value else { return Ok(()) };
            for (_, items) in fields.into_iter().filter(|(name, _)| &**name == "items") {
                let Value::List(items) = items.value else { continue };
                for mut item in items {
                    if !item_kind.is_empty() {
                        item.default_text("apiVersion", &api_version);
                        item.default_text("kind", &item_kind);
                    }
                    self.keep(item);
                }
            }
            return Ok(());
        }
        let name = text("metadata.name").ok_or_else(|| (at, format!("a {kind} without metadata.name")))?;
        let (group, version) = api_version.split_once('/').unwrap_or(("", api_version));
        let labels = root.at("metadata.labels").map(Node::fields).unwrap_or_default();
        let labels: BTreeMap<String, String> = labels
            .iter()
            .filter_map(|(name, node)| Some((name.to_string(), node.as_text()?.to_owned())))
            .collect();
        let namespace = text("metadata.namespace").unwrap_or(self.default_namespace);
        let object = ObjectRef {
            kind: Kind { group: self.name(group), kind: self.name(kind) },
            namespace: self.name(namespace),
            name: name.into(),
        };
        let version = self.name(version);
        let origin = Origin::File { path: Arc::clone(self.path), line: at };
        self.documents.push(Document { object, version, origin, labels, root });
        Ok(())
    }
}
