//! The crate's error, and [`Problem`]: the form in which a failure is kept, shown and counted.

use std::{fmt, sync::Arc};

/// Why material cannot be used, as kept beside a source and shown in `/config`, logs and metrics.
///
/// The code is one of `docs/reasons.md`; the message names the thing, the reason and, where known, the remedy. It never
/// holds key bytes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Problem {
    /// Stable code, for example `key_mismatch`.
    pub code: &'static str,
    /// One sentence without a trailing stop.
    pub message: Arc<str>,
}

impl Problem {
    /// A problem with its stable code and its sentence.
    pub fn new(code: &'static str, message: impl Into<Arc<str>>) -> Self {
        Self { code, message: message.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.message)
    }
}

/// What can go wrong in this crate.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// Material that cannot be used.
    #[error("{0}")]
    Material(Problem),
    /// An I/O operation on a named thing failed.
    #[error("{what}: {source}")]
    Io {
        /// What was touched: a path or a socket.
        what: String,
        /// The operating system's error.
        #[source]
        source: std::io::Error,
    },
    /// A setting that cannot be meant, for example a malformed endpoint URI.
    #[error("{0}")]
    Setting(String),
}

impl From<Problem> for Error {
    fn from(problem: Problem) -> Self {
        Self::Material(problem)
    }
}
