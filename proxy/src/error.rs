//! The data-plane error: who is at fault, whether the request may be tried again, and the one mapping to a response.

use http::StatusCode;

use crate::Reason;

/// Who caused an error.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The client.
    Downstream,
    /// The upstream or the way to it.
    Upstream,
    /// This proxy, its configuration or its identity.
    Us,
}

/// Whether a failed request may be sent again.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Retry {
    /// Never.
    Never,
    /// Always: no byte of it reached the upstream's application (GOAWAY above its last id, connect failure).
    Unsent,
    /// Always, as far as the cluster's budget goes: the upstream did not process it, as it refused the stream, perhaps for
    /// being overloaded.
    Refused,
    /// If the request is idempotent: a reused connection died before the first byte of the answer.
    Idempotent,
}

/// What can go wrong with a request or connection. `Send + Sync`.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// The client broke the protocol, was too slow or too large.
    #[error("downstream: {message}")]
    Downstream {
        /// The code, which also decides the status.
        reason: Reason,
        /// What exactly, for the log.
        message: String,
    },
    /// The client went away.
    #[error("downstream closed the connection")]
    DownstreamClosed,
    /// Nothing was sent: no endpoint, no address, connect or handshake failure.
    #[error("connect to {upstream}: {message}")]
    Connect {
        /// `host:port` or address.
        upstream: String,
        /// The code.
        reason: Reason,
        /// What exactly, for the log.
        message: String,
    },
    /// The own identity or the trust for this upstream is not usable.
    #[error("identity for {upstream}: {message}")]
    Identity {
        /// `host:port` or address.
        upstream: String,
        /// The code.
        reason: Reason,
        /// What exactly, for the log.
        message: String,
    },
    /// The upstream failed after the request was sent, before the head of its answer.
    #[error("upstream {upstream}: {message}")]
    Upstream {
        /// Address.
        upstream: String,
        /// The code.
        reason: Reason,
        /// Whether it may be tried again.
        retry: Retry,
        /// What exactly, for the log.
        message: String,
    },
    /// A deadline passed.
    #[error("{} after {after:?}", .reason.code())]
    Timeout {
        /// The code, which names the deadline.
        reason: Reason,
        /// How long it was.
        after: std::time::Duration,
    },
    /// What the Mapping makes of the request cannot be sent.
    #[error("rewrite: {message}")]
    Rewrite {
        /// What exactly, for the log.
        message: String,
    },
    /// A configured limit was reached.
    #[error("limit reached: {}", .0.code())]
    Limit(Reason),
}

impl Error {
    /// Who is at fault.
    pub fn origin(&self) -> Origin {
        match self {
            Self::Downstream { .. } | Self::DownstreamClosed => Origin::Downstream,
            Self::Identity { .. } | Self::Rewrite { .. } | Self::Limit(_) => Origin::Us,
            Self::Timeout { reason, .. } if *reason == Reason::HEADER_TIMEOUT => Origin::Downstream,
            Self::Connect { .. } | Self::Upstream { .. } | Self::Timeout { .. } => Origin::Upstream,
        }
    }

    /// Whether the request may be tried again.
    pub fn retry(&self) -> Retry {
        match self {
            Self::Connect { .. } => Retry::Unsent,
            Self::Upstream { retry, .. } => *retry,
            _ => Retry::Never,
        }
    }

    /// The code for log and metrics.
    pub fn reason(&self) -> Reason {
        match self {
            Self::Downstream { reason, .. }
            | Self::Connect { reason, .. }
            | Self::Identity { reason, .. }
            | Self::Upstream { reason, .. }
            | Self::Timeout { reason, .. }
            | Self::Limit(reason) => reason.clone(),
            Self::DownstreamClosed => Reason::DOWNSTREAM_RESET,
            Self::Rewrite { .. } => Reason::BAD_REWRITE,
        }
    }

    /// The one mapping of an error to a status.
    pub fn status(&self) -> StatusCode {
        match self {
            Self::Downstream { reason, .. } => match reason.code() {
                "headers_too_large" => StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE,
                "header_timeout" => StatusCode::REQUEST_TIMEOUT,
                _ => StatusCode::BAD_REQUEST,
            },
            // Nobody reads it, unless only half of the connection is closed.
            Self::DownstreamClosed => StatusCode::BAD_REQUEST,
            Self::Upstream { reason, .. } if *reason == Reason::UPSTREAM_PROTOCOL => StatusCode::BAD_GATEWAY,
            Self::Connect { .. } | Self::Identity { .. } | Self::Limit(_) | Self::Upstream { .. } => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Self::Timeout { reason, .. } if *reason == Reason::HEADER_TIMEOUT => StatusCode::REQUEST_TIMEOUT,
            Self::Timeout { .. } => StatusCode::GATEWAY_TIMEOUT,
            Self::Rewrite { .. } => StatusCode::INTERNAL_SERVER_ERROR,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn downstream(reason: Reason) -> Error {
        Error::Downstream { reason, message: String::new() }
    }

    fn upstream(reason: Reason, retry: Retry) -> Error {
        Error::Upstream { upstream: String::new(), reason, retry, message: String::new() }
    }

    #[test]
    fn texts_name_codes() {
        let late = Error::Timeout { reason: Reason::UPSTREAM_TIMEOUT, after: Duration::from_secs(3) };
        assert_eq!(late.to_string(), "upstream_timeout after 3s");
        assert_eq!(
            Error::Limit(Reason::OVERFLOW).to_string(),
            format!("limit reached: {}", Reason::OVERFLOW.code())
        );
    }

    #[test]
    fn every_variant_has_its_origin_retry_and_status() {
        use Origin::{Downstream, Upstream, Us};
        let (upstream_name, message) = (String::new(), String::new());
        let connect = Error::Connect {
            upstream: upstream_name.clone(),
            reason: Reason::CONNECT_TIMEOUT,
            message: message.clone(),
        };
        let identity = Error::Identity { upstream: upstream_name, reason: Reason::IDENTITY_PENDING, message };
        let late = |reason| Error::Timeout { reason, after: Duration::from_secs(1) };
        let refused = Reason::UPSTREAM_REFUSED_CERTIFICATE;
        let table = [
            (downstream(Reason::BAD_FRAMING), Downstream, Retry::Never, 400),
            (downstream(Reason::BAD_HOST), Downstream, Retry::Never, 400),
            (downstream(Reason::HEADERS_TOO_LARGE), Downstream, Retry::Never, 431),
            (downstream(Reason::HEADER_TIMEOUT), Downstream, Retry::Never, 408),
            (Error::DownstreamClosed, Downstream, Retry::Never, 400),
            (connect, Upstream, Retry::Unsent, 503),
            (identity, Us, Retry::Never, 503),
            (upstream(Reason::UPSTREAM_RESET, Retry::Idempotent), Upstream, Retry::Idempotent, 503),
            (upstream(Reason::UPSTREAM_RESET, Retry::Unsent), Upstream, Retry::Unsent, 503),
            (upstream(refused, Retry::Idempotent), Upstream, Retry::Idempotent, 503),
            (upstream(Reason::UPSTREAM_PROTOCOL, Retry::Never), Upstream, Retry::Never, 502),
            (late(Reason::UPSTREAM_TIMEOUT), Upstream, Retry::Never, 504),
            (late(Reason::STREAM_IDLE), Upstream, Retry::Never, 504),
            (late(Reason::HEADER_TIMEOUT), Downstream, Retry::Never, 408),
            (Error::Rewrite { message: String::new() }, Us, Retry::Never, 500),
            (Error::Limit(Reason::OVERFLOW), Us, Retry::Never, 503),
        ];
        for (error, origin, retry, status) in table {
            assert_eq!(
                (error.origin(), error.retry(), error.status().as_u16()),
                (origin, retry, status),
                "{error:?}"
            );
        }
    }
}
