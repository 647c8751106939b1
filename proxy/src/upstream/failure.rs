//! What a failed exchange means: whose fault, whether anything was processed, whether it may be tried again.

use std::error::Error as StdError;

use http::Response;
use hyper::body::Incoming;
use tokio::sync::oneshot;

use super::{
    conn::Pooled,
    endpoint::Lease,
    tunnel::{Answered, Tunnel},
};
use crate::{Error, Reason, Retry};

/// How a request stood when its exchange failed.
pub(super) struct Sent<'a> {
    pub(super) upstream: std::net::SocketAddr,
    pub(super) conn: &'a Pooled,
    /// The connection had carried another request before.
    pub(super) reused: bool,
    /// Bytes heard on the connection when the request was given to it.
    pub(super) heard_before: u64,
    pub(super) http2: bool,
}

impl Sent<'_> {
    /// The error of an exchange that ended without the head of an answer. `returned`: the request came back, so that
    /// nothing of it was sent.
    pub(super) fn failed(&self, error: &hyper::Error, returned: bool) -> Error {
        if let Some(reason) = self.conn.cut.get() {
            // It was long under way: whoever asked must not wait for it twice.
            return self.error(reason.clone(), Retry::Never, "the connection was cut".to_owned());
        }
        let mut message = causes(error);
        if self.conn.heard.refused_certificate() {
            let reason = Reason::UPSTREAM_REFUSED_CERTIFICATE;
            return self.error(reason, Retry::Idempotent, self.conn.heard.failure().unwrap_or("").to_owned());
        }
        if let Some(failure) = self.conn.heard.failure() {
            message.push_str("; ");
            message.push_str(failure);
        }
        if returned {
            return self.error(Reason::UPSTREAM_RESET, Retry::Unsent, message);
        }
        if error.is_parse() || self.conn.heard.is_endless() {
            return self.error(Reason::UPSTREAM_PROTOCOL, Retry::Never, message);
        }
        let retry = if self.http2 { self.stream_retry(error) } else { self.connection_retry() };
        self.error(Reason::UPSTREAM_RESET, retry, message)
    }

    /// A connection that was idle may have been closed by the upstream just as the request was sent. Once a byte of an
    /// answer was heard, the request was processed.
    fn connection_retry(&self) -> Retry {
        let answered = self.conn.heard.bytes() > self.heard_before;
        if self.reused && !answered { Retry::Idempotent } else { Retry::Never }
    }

    fn stream_retry(&self, error: &hyper::Error) -> Retry {
        let mut causes = std::iter::successors(error.source(), |cause| (*cause).source());
        match causes.find_map(|cause| cause.downcast_ref::<h2::Error>()) {
            // A GOAWAY reaches only the streams above its last id (RFC 9113, 6.8); a refused stream was not processed (8.7).
            Some(h2) if h2.is_remote() && h2.is_go_away() => {
                // Older streams keep the connection open, but it takes no new ones.
                self.conn.retired.set(true);
                Retry::Unsent
            }
            Some(h2) if h2.is_remote() && h2.reason() == Some(h2::Reason::REFUSED_STREAM) => Retry::Refused,
            Some(h2) if h2.is_reset() => Retry::Never,
            // The connection died under the stream.
            _ if self.reused => Retry::Idempotent,
            _ => Retry::Never,
        }
    }

    /// The upstream speaks another protocol from now on. The bytes come once the request was sent whole.
    pub(super) async fn switched(
        &self,
        response: Response<Incoming>,
        switched: Option<oneshot::Receiver<Tunnel>>,
        lease: Lease,
    ) -> Result<Answered, Error> {
        let wrong = |what: &str| self.error(Reason::UPSTREAM_PROTOCOL, Retry::Never, what.to_owned());
        let Some(switched) = switched else {
            return Err(wrong("it switched protocols, which nobody had asked for"));
        };
        let tunnel = switched.await.map_err(|_gone| {
            let what = "it switched protocols and closed the connection".to_owned();
            self.error(Reason::UPSTREAM_RESET, Retry::Never, what)
        })?;
        if !tunnel.is_flushed() {
            return Err(wrong("it switched protocols before it had read the request"));
        }
        Ok(Answered::Switched(response.map(drop), tunnel.held_by(lease)))
    }

    fn error(&self, reason: Reason, retry: Retry, message: String) -> Error {
        Error::Upstream { upstream: self.upstream.to_string(), reason, retry, message }
    }
}

/// An error with its causes: hyper prints one level only.
fn causes(error: &dyn StdError) -> String {
    let mut text = error.to_string();
    for cause in std::iter::successors(error.source(), |cause| (*cause).source()) {
        text.push_str(": ");
        text.push_str(&cause.to_string());
    }
    text
}
