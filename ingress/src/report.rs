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
