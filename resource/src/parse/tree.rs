//! Values from the events of a YAML parser, within bounds.

use std::collections::{HashMap, HashSet};

use granit_parser::{Event, Parser, ScalarStyle, Span};

use super::{Broken, line};
use crate::{Node, Value};

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

/// Builds values from events.
#[derive(Default)]
pub(super) struct Builder {
    /// Lines of the file before the text.
    pub(super) before: u32,
    open: Vec<Open>,
    pub(super) roots: Vec<Node>,
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
    pub(super) fn read(&mut self, text: &str) -> Result<(), Broken> {
        for event in Parser::new_from_str(text) {
            let (event, span) = event.map_err(|error| Broken::scan(&error, self.before))?;
            self.on(event, &span)?;
        }
        Ok(())
    }

    /// Leaves out what was read of a broken document: only the first `good` roots stay.
    pub(super) fn give_up(&mut self, good: usize) {
        self.roots.truncate(good);
        self.open.clear();
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
