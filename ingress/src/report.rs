//! Findings: what is wrong with a resource, where, and what to do. The same for `check`, `/config`, the log and conditions.

use resource::{ObjectRef, Origin};

/// How bad a finding is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth knowing; nothing is lost.
    Notice,
    /// Works, but probably not as meant, or less safe.
    Warning,
    /// The resource, or a part of it, does not work.
    Error,
}

/// One finding.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Finding {
    /// The file, or the cluster.
    pub origin: Origin,
    /// Line of the field, from 1; 0 for a cluster object.
    pub line: u32,
    /// The resource; `None` for a file that could not be read.
    pub object: Option<ObjectRef>,
    /// Dotted path of the field below the object: `spec.tls`.
    pub field: String,
    /// How bad.
    pub severity: Severity,
    /// A code of `docs/reasons.md`.
    pub code: &'static str,
    /// What is wrong, without a trailing stop.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
}

/// All findings of one compile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Report {
    /// In order of origin, line and field.
    pub findings: Vec<Finding>,
}

impl Report {
    /// A report in its order, each finding once.
    pub fn new(findings: impl IntoIterator<Item = Finding>) -> Self {
        let mut findings: Vec<_> = findings.into_iter().collect();
        findings.sort_by(|a, b| {
            (&a.origin, a.line, &a.field, &a.message).cmp(&(&b.origin, b.line, &b.field, &b.message))
        });
        findings.dedup();
        Self { findings }
    }
}

impl Severity {
    /// `error`, `warning` or `notice`.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Notice => "notice",
            Self::Warning => "warning",
            Self::Error => "error",
        }
    }
}

impl Finding {
    /// The row of `check --output json`.
    pub fn to_json(&self) -> serde_json::Value {
        let file = match &self.origin {
            Origin::File { path, .. } => path.display().to_string(),
            Origin::Cluster => String::new(),
        };
        let object = self.object.as_ref();
        serde_json::json!({
            "file": file,
            "line": self.line,
            "kind": object.map_or("", |object| &*object.kind.kind),
            "namespace": object.map_or("", |object| &*object.namespace),
            "name": object.map_or("", |object| &*object.name),
            "field": self.field,
            "severity": self.severity.as_str(),
            "code": self.code,
            "message": self.message,
            "remedy": self.remedy,
        })
    }
}

/// A text with its control characters escaped: values of manifests must not end a line, or speak to a terminal.
struct Plain<T>(T);

impl<T: std::fmt::Display> std::fmt::Display for Plain<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        use std::fmt::Write as _;
        struct Escaping<'a, 'b>(&'a mut std::fmt::Formatter<'b>);
        impl std::fmt::Write for Escaping<'_, '_> {
            fn write_str(&mut self, text: &str) -> std::fmt::Result {
                text.chars().try_for_each(|c| {
                    if c.is_control() {
                        write!(self.0, "{}", c.escape_default())
                    } else {
                        self.0.write_char(c)
                    }
                })
            }
        }
        write!(Escaping(f), "{}", self.0)
    }
}

impl std::fmt::Display for Finding {
    /// `FILE:LINE: Kind namespace/name: field: what is wrong; remedy`
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if let Origin::File { path, .. } = &self.origin {
            write!(f, "{}:{}: ", Plain(path.display()), self.line)?;
        }
        if let Some(object) = &self.object {
            write!(f, "{}: ", Plain(object))?;
        }
        if !self.field.is_empty() {
            write!(f, "{}: ", Plain(&self.field))?;
        }
        let mark = if self.severity == Severity::Error { "" } else { self.severity.as_str() };
        let mark = if mark.is_empty() { String::new() } else { format!("{mark}: ") };
        write!(f, "{mark}{}; {}", Plain(&self.message), Plain(&self.remedy))
    }
}
