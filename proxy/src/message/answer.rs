//! A final answer that the proxy gives by itself.

use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};

use crate::Reason;

/// A response that needs no upstream: a redirect, a refusal, an error.
#[derive(Clone, Debug)]
pub struct Answer {
    /// The status. For gRPC requests the engine turns it into a trailers-only answer.
    pub status: StatusCode,
    /// Fields, for example `location`.
    pub headers: Vec<(HeaderName, HeaderValue)>,
    /// The body; empty for most.
    pub body: Bytes,
    /// Why.
    pub reason: Reason,
}

impl Answer {
    /// An answer without fields or body.
    pub fn new(status: StatusCode, reason: Reason) -> Self {
        Self { status, headers: Vec::new(), body: Bytes::new(), reason }
    }
}
