//! YAML (and JSON) text to located documents, on the events of a YAML parser.

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use granit_parser::{Event, Parser, ScalarStyle, ScanError, Span};

use crate::{Document, Kind, Node, ObjectRef, Origin, SourceError, Value};

/// Most values that one file may write.
const MAX_NODES: usize = 5_000_000;
/// Most values that anchors and aliases of one file may copy: a "billion laughs" ends here.
const MAX_COPIED_NODES: usize = 250_000;
/// Most bytes of text that they may copy.
const MAX_COPIED_BYTES: usize = 16 * 1024 * 1024;
/// Maps with more fields look their names up by hash.
const MANY_FIELDS: usize = 32;
/// Deepest nesting.
const MAX_DEPTH: usize = 64;

/// Reads every document of a text; `List` kinds are taken apart. The second part names single documents that are wrong;
/// `Err`: the text is no YAML, and nothing of it counts.
pub fn parse(
    path: &Arc<PathBuf>,
    text: &str,
    default_namespace: &str,
) -> Result<(Vec<Document>, Vec<SourceError>), SourceError> {
    let mut builder = Builder::default();
    builder.read(text).map_err(|broken| {
        broken.at(path, "mend the YAML; until then nothing new is read from this file, and what was read of it before stays in use")
    })?;
    Ok(taken(path, builder.roots, default_namespace, Vec::new()))
}

/// Reads a text that is no YAML as a whole, document by document: those that can be read count, each of the others is named.
pub fn parse_each(
    path: &Arc<PathBuf>,
    text: &str,
    default_namespace: &str,
) -> (Vec<Document>, Vec<SourceError>) {
    // One builder: what a file may hold and copy is limited for all of its documents together.
    let (mut builder, mut errors) = (Builder::default(), Vec::new());
    for piece in pieces(text) {
        let good = builder.roots.len();
        builder.before = piece.before;
        if let Err(broken) = builder.read(piece.text) {
            builder.roots.truncate(good);
            builder.open.clear();
            errors.push(broken.at(
                path,
                "mend the YAML; until then this document is left out, and the others of its file serve",
            ));
        }
    }
    taken(path, builder.roots, default_namespace, errors)
}

/// The objects of a file's documents, and what is wrong with its documents, in order of the lines.
#[expect(clippy::rc_buffer, reason = "documents and errors share it in this form")]
fn taken(
    path: &Arc<PathBuf>,
    roots: Vec<Node>,
    default_namespace: &str,
    errors: Vec<SourceError>,
) -> (Vec<Document>, Vec<SourceError>) {
    let mut reader = Reader { path, default_namespace, names: HashMap::new(), documents: Vec::new(), errors };
    for root in roots {
        if let Err((line, message)) = reader.take(root) {
            let error = Broken { line, message }.at(path, "give it apiVersion, kind and metadata.name");
            reader.errors.push(error);
        }
    }
    reader.errors.sort_by_key(|error| error.line);
    (reader.documents, reader.errors)
}

/// A part of a text that holds one document.
struct Piece<'a> {
    /// Lines of the text before it.
    before: u32,
    text: &'a str,
}

/// Cuts a text at its document markers. One in the first column ends a document wherever it stands, in a block scalar or
/// an open quote as well (YAML 1.2.2, 9.1.2). What holds comments and directives alone is no document.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut before, mut at) = (0, 0, 0);
    for (number, written) in text.split_inclusive('\n').enumerate() {
        let end = at + written.len();
        let is_end = is_marker(written, "...");
        if is_end || is_marker(written, "---") {
            pieces.push(Piece { before, text: text.get(start..at).unwrap_or_default() });
            start = if is_end { end } else { at };
            before = line(number + usize::from(is_end));
        }
        at = end;
    }
    pieces.push(Piece { before, text: text.get(start..).unwrap_or_default() });
    let says_something = |written: &str| !written.trim().is_empty() && !written.starts_with(['#', '%']);
    pieces.retain(|piece| piece.text.lines().any(says_something));
    pieces
}

fn is_marker(written: &str, marker: &str) -> bool {
    written
        .strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Reads one value: the first document of a text that is no manifest. The error is a line and what is wrong there.
pub fn parse_value(text: &str) -> Result<Node, (u32, String)> {
    let mut builder = Builder::default();
    builder.read(text).map_err(|Broken { line, message }| (line, message))?;
    builder.roots.into_iter().next().ok_or_else(|| (1, "nothing is written here".to_owned()))
}

struct Broken {
    line: u32,
    message: String,
}

impl Broken {
    fn scan(error: &ScanError, before: u32) -> Self {
        let line = line(error.marker().line()).saturating_add(before);
        Self { line, message: format!("not YAML: {}", error.info()) }
    }

    #[expect(clippy::rc_buffer, reason = "documents and errors share it in this form")]
    fn at(self, path: &Arc<PathBuf>, remedy: &str) -> SourceError {
        SourceError {
            path: Some(Arc::clone(path)),
            line: self.line,
            message: self.message,
            remedy: remedy.to_owned(),
            kept_last_good: false,
        }
    }
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

/// Builds values from events.
#[derive(Default)]
struct Builder {
    /// Lines of the file before the text.
    before: u32,
    open: Vec<Open>,
    roots: Vec<Node>,
    anchors: HashMap<usize, (Node, Size)>,
    nodes: usize,
    copied: Size,
}

/// How much a value holds, itself counted.
#[derive(Clone, Copy, Default)]
struct Size {
    nodes: usize,
    bytes: usize,
    depth: usize,
}

/// A collection being read.
struct Open {
    line: u32,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map(Fields),
}

/// A map being read.
#[derive(Default)]
struct Fields {
    read: Vec<(Box<str>, Node)>,
    key: Option<Box<str>>,
    /// The names so far, once there are many.
    names: HashSet<Box<str>>,
}

impl Fields {
    /// A key and a value by turns.
    fn put(&mut self, node: Node) -> Result<(), Broken> {
        if let Some(name) = self.key.take() {
            self.read.push((name, node));
            return Ok(());
        }
        let Some(name) = node.as_text() else {
            let message = format!("a key that is {}, not text", node.kind());
            return Err(Broken { line: node.line, message });
        };
        if self.has(name) {
            return Err(Broken { line: node.line, message: format!("the key `{name}` stands twice") });
        }
        self.key = Some(name.into());
        Ok(())
    }

    fn has(&mut self, name: &str) -> bool {
        if self.read.len() < MANY_FIELDS {
            return self.read.iter().any(|(known, _)| &**known == name);
        }
        if self.names.is_empty() {
            self.names.extend(self.read.iter().map(|(known, _)| known.clone()));
        }
        !self.names.insert(name.into())
    }
}

impl Builder {
    fn read(&mut self, text: &str) -> Result<(), Broken> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| Broken::scan(&error, self.before))?;
            self.on(event, &span)?;
        }
        Ok(())
    }

    fn on(&mut self, event: Event<'_>, span: &Span) -> Result<(), Broken> {
        let at = line(span.start.line()).saturating_add(self.before);
        match event {
            Event::DocumentStart(..) => self.anchors.clear(),
            Event::Scalar(text, style, anchor, tag) => {
                let said_text = tag.is_some_and(|tag| tag.core_suffix() == Some("str"));
                let value = if said_text { Value::Text((&*text).into()) } else { scalar(&text, style) };
                self.put(Node { line: at, value }, anchor)?;
            }
            Event::SequenceStart(_, anchor, _) => self.enter(at, anchor, Content::List(Vec::new()))?,
            Event::MappingStart(_, anchor, _) => self.enter(at, anchor, Content::Map(Fields::default()))?,
            Event::SequenceEnd | Event::MappingEnd => {
                if let Some(Open { line, anchor, content }) = self.open.pop() {
                    let mut value = match content {
                        Content::List(items) => Value::List(items),
                        Content::Map(fields) => Value::Map(merge(fields.read)?),
                    };
                    value.shrink();
                    self.put(Node { line, value }, anchor)?;
                }
            }
            Event::Alias(anchor) => {
                let Some(&(_, size)) = self.anchors.get(&anchor) else {
                    return Err(Broken { line: at, message: "an alias without its anchor".to_owned() });
                };
                self.copy(at, size)?;
                if let Some((node, _)) = self.anchors.get(&anchor) {
                    let node = Node { line: at, ..node.clone() };
                    self.put(node, 0)?;
                }
            }
            _ => {}
        }
        Ok(())
    }

    fn enter(&mut self, line: u32, anchor: usize, content: Content) -> Result<(), Broken> {
        if self.open.len() >= MAX_DEPTH {
            return Err(Broken { line, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        self.open.push(Open { line, anchor, content });
        Ok(())
    }

    fn put(&mut self, node: Node, anchor: usize) -> Result<(), Broken> {
        self.nodes += 1;
        if self.nodes > MAX_NODES {
            return Err(Broken {
                line: node.line,
                message: format!("more than {MAX_NODES} values in one file"),
            });
        }
        if anchor != 0 {
            let size = Size::of(&node);
            self.copy(node.line, size)?;
            self.anchors.insert(anchor, (node.clone(), size));
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.roots.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map(fields)) => fields.put(node)?,
        }
        Ok(())
    }

    /// Takes a copy of a value of this size into account, before it is made.
    fn copy(&mut self, line: u32, size: Size) -> Result<(), Broken> {
        self.copied.nodes += size.nodes;
        self.copied.bytes += size.bytes;
        if self.copied.nodes > MAX_COPIED_NODES || self.copied.bytes > MAX_COPIED_BYTES {
            let message =
                format!("aliases copy more than {MAX_COPIED_NODES} values or {MAX_COPIED_BYTES} bytes");
            return Err(Broken { line, message });
        }
        if self.open.len() + size.depth > MAX_DEPTH {
            return Err(Broken { line, message: format!("nested deeper than {MAX_DEPTH} levels") });
        }
        Ok(())
    }
}

/// Merge keys (`<<`): what is written wins over what is merged, and an earlier source over a later one.
fn merge(mut fields: Vec<(Box<str>, Node)>) -> Result<Vec<(Box<str>, Node)>, Broken> {
    let Some(at) = fields.iter().position(|(name, _)| &**name == "<<") else { return Ok(fields) };
    let (_, merged) = fields.remove(at);
    let mut names: HashSet<Box<str>> = fields.iter().map(|(name, _)| name.clone()).collect();
    let sources = if let Value::List(sources) = merged.value { sources } else { vec![merged] };
    for source in sources {
        let kind = source.kind();
        let Value::Map(added) = source.value else {
            return Err(Broken {
                line: source.line,
                message: format!("a merge key that is {kind}, not an object"),
            });
        };
        fields.extend(added.into_iter().filter(|(name, _)| names.insert(name.clone())));
    }
    Ok(fields)
}

impl Size {
    /// Not deeper than [`MAX_DEPTH`], which every value in hand keeps.
    fn of(node: &Node) -> Self {
        let mut size = Self { nodes: 1, bytes: 0, depth: 0 };
        if let Value::Text(text) | Value::Number(text) = &node.value {
            size.bytes = text.len();
        }
        for (name, node) in node.fields() {
            size.bytes += name.len();
            size.add(Self::of(node));
        }
        for node in node.items() {
            size.add(Self::of(node));
        }
        size
    }

    fn add(&mut self, below: Self) {
        self.nodes += below.nodes;
        self.bytes += below.bytes;
        self.depth = self.depth.max(below.depth + 1);
    }
}

/// The YAML 1.2 core schema for plain scalars; anything quoted is text.
fn scalar(text: &str, style: ScalarStyle) -> Value {
    if style != ScalarStyle::Plain {
        return Value::Text(text.into());
    }
    match text {
        "" | "~" | "null" | "Null" | "NULL" => Value::Null,
        "true" | "True" | "TRUE" => Value::Bool(true),
        "false" | "False" | "FALSE" => Value::Bool(false),
        _ if is_number(text) => Value::Number(text.into()),
        _ => Value::Text(text.into()),
    }
}

fn is_number(text: &str) -> bool {
    text.starts_with(|c: char| c.is_ascii_digit() || matches!(c, '-' | '+' | '.'))
        && text.bytes().all(|b| b.is_ascii_digit() || matches!(b, b'-' | b'+' | b'.' | b'e' | b'E'))
        && text.parse::<f64>().is_ok()
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
                    if let Err((line, message)) = self.take(item) {
                        self.errors.push(SourceError {
                            path: Some(Arc::clone(self.path)),
                            line,
                            message,
                            remedy: "give it apiVersion, kind and metadata.name".to_owned(),
                            kept_last_good: false,
                        });
                    }
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

#[cfg(test)]
mod tests {
    use super::*;

    fn read(text: &str) -> (Vec<Document>, Vec<SourceError>) {
        parse(&Arc::new(PathBuf::from("x.yaml")), text, "default").expect("YAML")
    }

    #[test]
    fn documents_know_their_lines() {
        let (documents, errors) = read(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: a\n  labels: {x: y}\nspec:\n  prefix: /a/\n  weight: 10\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: n}\n",
        );
        assert!(errors.is_empty());
        let [mapping, secret] = documents.as_slice() else { panic!("two documents") };
        assert_eq!(mapping.object.to_string(), "Mapping default/a");
        assert_eq!((&*mapping.version, &*mapping.object.kind.group), ("v3alpha1", "getambassador.io"));
        assert_eq!(mapping.root.at("spec.prefix").map(|node| node.line), Some(8));
        assert_eq!(mapping.root.at("spec.weight").and_then(Node::as_int), Some(10));
        assert_eq!(mapping.labels["x"], "y");
        assert_eq!(secret.object.to_string(), "Secret n/b");
        assert_eq!(secret.origin, Origin::File { path: Arc::new(PathBuf::from("x.yaml")), line: 11 });
    }

    #[test]
    fn text_stays_text() {
        let (documents, _) = read(
            "apiVersion: v1\nkind: X\nmetadata: {name: a}\nv: [yes, on, y, 1.10, \"1\", true, -5, 0x1f, ~]\n",
        );
        let values = documents[0].root.get("v").expect("v").items();
        let texts: Vec<_> = values.iter().map(|node| (node.kind(), node.as_text().unwrap_or("-"))).collect();
        assert_eq!(
            texts,
            [
                ("text", "yes"),
                ("text", "on"),
                ("text", "y"),
                ("a number", "1.10"),
                ("text", "1"),
                ("a boolean", "true"),
                ("a number", "-5"),
                ("text", "0x1f"),
                ("nothing", "-")
            ]
        );
    }

    #[test]
    fn lists_are_taken_apart_and_one_bad_item_is_alone() {
        let (documents, errors) = read(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {kind: Service}\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n",
        );
        assert_eq!(documents.len(), 2);
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        for (text, line) in [("a: [1\nb: 2\n", 2), ("a: 1\na: 2\n", 2)] {
            let error = parse(&Arc::new(PathBuf::from("x.yaml")), text, "default").expect_err("no YAML");
            assert_eq!(error.line, line, "{}", error.message);
        }
    }

    #[test]
    fn anchors_merge_and_bombs_end() {
        let (documents, _) =
            read("apiVersion: v1\nkind: X\nmetadata: {name: a}\nbase: &b {x: 1, y: 2}\nv: {<<: *b, y: 3}\n");
        assert_eq!(documents[0].root.at("v.x").and_then(Node::as_int), Some(1));
        assert_eq!(documents[0].root.at("v.y").and_then(Node::as_int), Some(3));
        let level = |level: u32| {
            let before = format!("*a{},", level - 1).repeat(10);
            format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(','))
        };
        let bomb = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..9).map(level).collect::<String>());
        assert!(parse(&Arc::new(PathBuf::from("x.yaml")), &bomb, "default").is_err());
    }
}
