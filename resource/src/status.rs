//! Where conditions of resources go, so that programs never name a cluster's client.

use std::sync::Arc;

use crate::ObjectRef;

/// One condition of one resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Condition {
    /// `Accepted`, `ResolvedRefs`, `Programmed`, `UpstreamNotVerified`.
    pub kind: &'static str,
    /// Whether it holds.
    pub holds: bool,
    /// A code of `docs/reasons.md`.
    pub reason: Arc<str>,
    /// One sentence.
    pub message: String,
}

/// Takes the conditions of all resources after each compile. From files they are shown by `/config` and `check`.
pub trait StatusSink: Send + Sync {
    /// Replaces what was reported before.
    fn report(&self, conditions: Vec<(ObjectRef, Vec<Condition>)>);
}
