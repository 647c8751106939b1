//! Limits and timeouts: one default, one place, one reason each (`docs/contract.md`).

use std::time::Duration;

/// Settings of the data plane, shared by all workers. Fields of resources win over these.
#[derive(Clone, Debug)]
pub struct Limits {
    /// A request head must arrive within this (slowloris).
    pub header_timeout: Duration,
    /// A client connection without a request is closed after this.
    pub idle_timeout: Duration,
    /// A TLS handshake must end within this.
    pub handshake_timeout: Duration,
    /// An upstream connection, TLS included, must stand within this.
    pub connect_timeout: Duration,
    /// To the end of the response; zero: none.
    pub upstream_timeout: Duration,
    /// No bytes either way on a stream; zero: none.
    pub stream_idle_timeout: Duration,
    /// Bytes of a request head.
    pub max_header_bytes: usize,
    /// Fields of a request head.
    pub max_headers: usize,
    /// Client connections, all workers together.
    pub max_connections: usize,
    /// Descriptors that the process may open, as the system says: new connections wait when most are in use.
    pub max_descriptors: usize,
    /// Concurrent streams of an HTTP/2 connection.
    pub max_streams: u32,
    /// Early resets of an HTTP/2 connection within ten seconds before it is closed.
    pub max_resets: usize,
    /// TLS handshakes under way, all workers together.
    pub max_handshakes: usize,
    /// Peers that may speak the PROXY protocol.
    pub proxy_protocol_from: Vec<ipnet::IpNet>,
    /// Wait before the listeners close, still accepting.
    pub drain_delay: Duration,
    /// During a drain a connection at rest may still ask once; after this it is closed. Closing it at once would race with a
    /// request that is on its way.
    pub last_request_within: Duration,
    /// What still runs is cut after this.
    pub drain_timeout: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            header_timeout: Duration::from_secs(10),
            idle_timeout: Duration::from_hours(1),
            handshake_timeout: Duration::from_secs(10),
            connect_timeout: Duration::from_secs(3),
            upstream_timeout: Duration::from_secs(3),
            stream_idle_timeout: Duration::from_mins(5),
            max_header_bytes: 64 * 1024,
            max_headers: 100,
            max_connections: 10_000,
            max_descriptors: usize::MAX,
            max_streams: 100,
            max_resets: 100,
            max_handshakes: 256,
            proxy_protocol_from: Vec::new(),
            drain_delay: Duration::ZERO,
            last_request_within: Duration::from_secs(5),
            drain_timeout: Duration::from_secs(30),
        }
    }
}
