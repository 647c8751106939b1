//! A document: one Kubernetes-style object with the place of each of its fields.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A file.
    File {
        /// Path as it was given or found.
        path: Arc<PathBuf>,
        /// First line of the document, from 1.
        line: u32,
    },
    /// An object of a cluster.
    Cluster,
}

/// API group and kind: `getambassador.io` and `Mapping`; a `Secret` has no group.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Group without version; empty for the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
}

/// Kind, namespace and name: the key of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Group and kind.
    pub kind: Kind,
    /// Namespace; `default` where a file says nothing (`AMBASSADOR_NAMESPACE`).
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
    }
}

/// One object as written, not yet understood.
#[derive(Clone, PartialEq)]
pub struct Document {
    /// Its key.
    pub object: ObjectRef,
    /// Version part of `apiVersion`: `v1`, `v2`, `v3alpha1`.
    pub version: Arc<str>,
    /// Where it stands.
    pub origin: Origin,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The whole object with lines.
    pub root: Node,
}

impl fmt::Debug for Document {
    /// Without the contents: they may be a Secret's.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Document")
            .field("object", &self.object)
            .field("origin", &self.origin)
            .finish_non_exhaustive()
    }
}

/// A value and the line it stands on (0 when it comes from a cluster).
#[derive(Clone, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// A YAML value under the JSON data model (YAML 1.2 core schema: `yes` and `on` are text), order kept.
#[derive(Clone, PartialEq)]
pub enum Value {
    /// `null`, or nothing.
    Null,
    /// `true` or `false`.
    Bool(bool),
    /// A number, as it was written.
    Number(Box<str>),
    /// Text.
    Text(Box<str>),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; keys are text and unique.
    Map(Vec<(Box<str>, Node)>),
}

impl Value {
    /// Gives back what a collection holds in reserve: documents are kept as long as they are served, and are many.
    pub(crate) fn shrink(&mut self) {
        match self {
            Self::List(items) => items.shrink_to_fit(),
            Self::Map(fields) => fields.shrink_to_fit(),
            Self::Null | Self::Bool(_) | Self::Number(_) | Self::Text(_) => {}
        }
    }
}

impl Node {
    /// A field of a map by name; a `null` counts as absent.
    pub fn get(&self, field: &str) -> Option<&Self> {
        let found = self.fields().iter().find(|(name, _)| &**name == field).map(|(_, node)| node);
        found.filter(|node| node.value != Value::Null)
    }

    /// A field by a dotted path: `spec.tls.ca_secret`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, field| node.get(field))
    }

    /// The fields of a map; none for anything else.
    pub fn fields(&self) -> &[(Box<str>, Self)] {
        match &self.value {
            Value::Map(fields) => fields,
            _ => &[],
        }
    }

    /// The items of a list; none for anything else.
    pub fn items(&self) -> &[Self] {
        match &self.value {
            Value::List(items) => items,
            _ => &[],
        }
    }

    /// Text, or a number or boolean as it was written: for fields that mean text.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) | Value::Number(text) => Some(text),
            Value::Bool(true) => Some("true"),
            Value::Bool(false) => Some("false"),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        }
    }

    /// A whole number.
    pub fn as_int(&self) -> Option<i64> {
        match &self.value {
            Value::Number(text) => text.parse().ok(),
            _ => None,
        }
    }

    /// A boolean.
    pub fn as_bool(&self) -> Option<bool> {
        match &self.value {
            Value::Bool(flag) => Some(*flag),
            _ => None,
        }
    }

    /// Gives a map this field, unless it has one.
    pub(crate) fn default_text(&mut self, field: &str, text: &str) {
        if self.get(field).is_some() {
            return;
        }
        let line = self.line;
        if let Value::Map(fields) = &mut self.value {
            fields.retain(|(name, _)| &**name != field);
            fields.push((field.into(), Self { line, value: Value::Text(text.into()) }));
        }
    }

    /// What kind of value it is, for messages.
    pub fn kind(&self) -> &'static str {
        match &self.value {
            Value::Null => "nothing",
            Value::Bool(_) => "a boolean",
            Value::Number(_) => "a number",
            Value::Text(_) => "text",
            Value::List(_) => "a list",
            Value::Map(_) => "an object",
        }
    }
}

/// The values of a Kubernetes Secret: `data` in base64, `stringData` as text (it wins). The error names the line.
pub fn secret_data(document: &Document) -> Result<BTreeMap<String, Vec<u8>>, (u32, String)> {
    use base64::Engine as _;
    let mut values = BTreeMap::new();
    for (name, node) in document.root.get("data").map(Node::fields).unwrap_or_default() {
        if node.value == Value::Null {
            values.insert(name.to_string(), Vec::new());
            continue;
        }
        let text =
            node.as_text().ok_or_else(|| (node.line, format!("data.{name} is {}, not text", node.kind())))?;
        let text: String = text.split_ascii_whitespace().collect();
        let decoded = base64::engine::general_purpose::STANDARD.decode(text);
        values.insert(
            name.to_string(),
            decoded.map_err(|_secret| (node.line, format!("data.{name} is not base64")))?,
        );
    }
    for (name, node) in document.root.get("stringData").map(Node::fields).unwrap_or_default() {
        let text = node
            .as_text()
            .ok_or_else(|| (node.line, format!("stringData.{name} is {}, not text", node.kind())))?;
        values.insert(name.to_string(), text.as_bytes().to_vec());
    }
    Ok(values)
}
