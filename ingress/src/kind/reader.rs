//! A reader over one object's fields: gives typed values, and findings for what is not as it should be.

use resource::{Document, Node, Value};

use crate::report::{Finding, Severity};

/// Why a resource, or a part of it, cannot be meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Broken {
    /// A code of `docs/reasons.md`.
    pub code: &'static str,
    /// One sentence.
    pub message: String,
}

/// Reads the fields below one node.
pub struct Reader<'a> {
    document: &'a Document,
    node: Option<&'a Node>,
    path: String,
    known: Vec<&'static str>,
    findings: Vec<Finding>,
    broken: Option<Broken>,
    /// An unknown field makes the resource unusable.
    strict: bool,
}

impl<'a> Reader<'a> {
    /// A reader of `spec`.
    pub fn spec(document: &'a Document) -> Self {
        Self::new(document, document.root.get("spec"), "spec".to_owned())
    }

    fn new(document: &'a Document, node: Option<&'a Node>, path: String) -> Self {
        let mut reader = Self {
            document,
            node,
            path,
            known: Vec::new(),
            findings: Vec::new(),
            broken: None,
            strict: false,
        };
        if let Some(node) = node.filter(|node| !matches!(node.value, Value::Map(_))) {
            reader.wrong_type(node, "", "an object");
        }
        reader
    }

    /// The same for a block that says who is trusted: a field that nobody knows may be a typing error without which less would
    /// be verified than was meant, so it makes the resource unusable.
    #[must_use]
    pub fn strict(mut self) -> Self {
        self.strict = true;
        self
    }

    /// The version part of `apiVersion`.
    pub fn version(&self) -> &'a str {
        &self.document.version
    }

    /// Fields that choose the instance; they were looked at before.
    pub fn instance(&mut self) {
        for field in ["ambassador_id", "ambassadorId"] {
            self.texts(field);
        }
    }

    /// A reader of an object below this one; take it back with [`Reader::merge`].
    pub fn child(&mut self, field: &'static str) -> Option<Self> {
        let node = self.node(field)?;
        Some(Self::new(self.document, Some(node), self.at(field)))
    }

    /// Takes over what a child found.
    pub fn merge(&mut self, child: Self) {
        let (findings, broken) = child.finish();
        self.findings.extend(findings);
        self.broken = self.broken.take().or(broken);
    }

    /// A field as it stands.
    pub fn node(&mut self, field: &'static str) -> Option<&'a Node> {
        self.known.push(field);
        self.node?.get(field)
    }

    /// A field as it stands, also an explicit `null`.
    pub fn raw(&mut self, field: &'static str) -> Option<&'a Node> {
        self.known.push(field);
        self.node?.fields().iter().find(|(name, _)| &**name == field).map(|(_, node)| node)
    }

    /// A field that means text.
    pub fn text(&mut self, field: &'static str) -> Option<&'a str> {
        let node = self.node(field)?;
        let text = node.as_text();
        if text.is_none() {
            self.wrong_type(node, field, "text");
        }
        text
    }

    /// A boolean.
    pub fn bool(&mut self, field: &'static str) -> Option<bool> {
        let node = self.node(field)?;
        let flag = node.as_bool();
        if flag.is_none() {
            self.wrong_type(node, field, "true or false");
        }
        flag
    }

    /// A whole number.
    pub fn int(&mut self, field: &'static str) -> Option<i64> {
        let node = self.node(field)?;
        let number = node.as_int();
        if number.is_none() {
            self.wrong_type(node, field, "a whole number");
        }
        number
    }

    /// Milliseconds, not negative.
    pub fn millis(&mut self, field: &'static str) -> Option<std::time::Duration> {
        let number = self.int(field)?;
        match u64::try_from(number) {
            Ok(millis) => Some(std::time::Duration::from_millis(millis)),
            Err(_negative) => {
                self.broken(
                    field,
                    "unknown_value",
                    format!("{number} is negative"),
                    "write milliseconds, 0 or more",
                );
                None
            }
        }
    }

    /// A list of texts; v1 and v2 also write one text, or texts with commas where `commas` says so.
    pub fn texts(&mut self, field: &'static str) -> Option<Vec<&'a str>> {
        let node = self.node(field)?;
        if let Some(one) = node.as_text() {
            return Some(vec![one]);
        }
        let texts: Option<Vec<_>> = node.items().iter().map(Node::as_text).collect();
        if texts.is_none() || !matches!(node.value, Value::List(_)) {
            self.wrong_type(node, field, "a list of texts");
            return None;
        }
        texts
    }

    /// Names and values of an object.
    pub fn map(&mut self, field: &'static str) -> &'a [(Box<str>, Node)] {
        let Some(node) = self.node(field) else { return &[] };
        if !matches!(node.value, Value::Map(_)) {
            self.wrong_type(node, field, "an object");
        }
        node.fields()
    }

    /// Says that a field is known but means nothing here.
    pub fn ignore(&mut self, fields: &[&'static str]) {
        self.known.extend(fields);
    }

    /// Says that fields are known to Emissary but not supported yet; the resource is as safe without them.
    pub fn unsupported(&mut self, fields: &[&'static str]) {
        for field in fields {
            if self.node(field).is_some() {
                let message = "is not supported yet and has no effect".to_owned();
                self.find(
                    field,
                    (Severity::Warning, "unsupported_field"),
                    message,
                    "remove it, or keep it for later",
                );
            }
        }
    }

    /// A finding about a field.
    pub fn find(
        &mut self,
        field: &str,
        (severity, code): (Severity, &'static str),
        message: String,
        remedy: &str,
    ) {
        let node = self.node.and_then(|node| node.get(field).or(Some(node)));
        self.findings.push(Finding {
            origin: self.document.origin.clone(),
            line: node.map_or(self.document.root.line, |node| node.line),
            object: Some(self.document.object.clone()),
            field: self.at(field),
            severity,
            code,
            message,
            remedy: remedy.to_owned(),
        });
    }

    /// An error that makes the whole resource unusable.
    pub fn broken(&mut self, field: &str, code: &'static str, message: String, remedy: &str) {
        let first = Broken { code, message: format!("{}: {message}", self.at(field)) };
        self.find(field, (Severity::Error, code), message, remedy);
        self.broken.get_or_insert(first);
    }

    /// Unknown fields are reported; gives the findings and the first error that makes the resource unusable.
    pub fn finish(mut self) -> (Vec<Finding>, Option<Broken>) {
        let names: Vec<&str> =
            self.node.map(Node::fields).unwrap_or_default().iter().map(|(name, _)| &**name).collect();
        for name in names {
            if self.known.contains(&name) {
                continue;
            }
            let close = self.known.iter().find(|known| is_close(known, name));
            let remedy = close.map_or("remove it".to_owned(), |known| format!("did you mean `{known}`?"));
            let message = "is not a field of this kind".to_owned();
            if self.strict {
                self.broken(name, "unknown_field", message, &remedy);
            } else {
                self.find(name, (Severity::Warning, "unknown_field"), message, &remedy);
            }
        }
        (self.findings, self.broken)
    }

    /// The findings so far, for a reader that has not looked at every field.
    pub fn abandon(self) -> Vec<Finding> {
        self.findings
    }

    fn at(&self, field: &str) -> String {
        if field.is_empty() { self.path.clone() } else { format!("{}.{field}", self.path) }
    }

    fn wrong_type(&mut self, node: &Node, field: &str, wanted: &str) {
        let message = format!("is {}, not {wanted}", node.kind());
        self.broken(field, "wrong_type", message, &format!("write {wanted}"));
    }
}

/// One edit apart, or the same without regard to case and separators.
fn is_close(known: &str, name: &str) -> bool {
    let plain = |text: &str| text.replace(['_', '-'], "").to_ascii_lowercase();
    let (known, name) = (plain(known), plain(name));
    if known == name {
        return true;
    }
    let common = known.bytes().zip(name.bytes()).take_while(|(a, b)| a == b).count();
    let tail = known.bytes().rev().zip(name.bytes().rev()).take_while(|(a, b)| a == b).count();
    let longer = known.len().max(name.len());
    known.len().abs_diff(name.len()) <= 1 && common + tail + 1 >= longer && longer > 3
}
