//! When a request is tried again.

use std::time::Duration;

/// Conditions of a retry beyond what is always safe.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RetryOn {
    /// Any 5xx, or no answer.
    ServerError,
    /// 502, 503, 504.
    GatewayError,
    /// The connection could not be made.
    ConnectFailure,
    /// 409.
    Retriable4xx,
    /// The upstream refused the stream.
    RefusedStream,
}

/// How often and when a request is tried again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RetryPolicy {
    /// Conditions asked for by the Mapping.
    pub on: Vec<RetryOn>,
    /// How many more tries the conditions may cause.
    pub tries: u32,
    /// Deadline of one try; `None`: the request's.
    pub per_try: Option<Duration>,
}

impl Default for RetryPolicy {
    fn default() -> Self {
        Self { on: Vec::new(), tries: 1, per_try: None }
    }
}
