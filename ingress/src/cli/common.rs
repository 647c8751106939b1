//! Flags that `selvedge-ingress run` and the sidecar share (`docs/contract.md`, 'Common').

use std::{net::SocketAddr, path::PathBuf};

use clap::{Args, ValueEnum, builder::BoolishValueParser};

use super::{HumanDuration, HumanSize};

/// Form of the access log.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum AccessLogForm {
    /// None
    Off,
    /// A line of text for each request
    Text,
    /// A JSON object for each request
    #[default]
    Json,
}

/// Form of the program's log.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum LogForm {
    /// For people
    Text,
    /// For programs
    Json,
}

/// Common flags. `None` means: the environment of Emissary or Envoy, then the default.
#[derive(Clone, Debug, Args)]
pub struct CommonArgs {
    /// Worker threads [default: the cgroup's CPUs] [also: ENVOY_CONCURRENCY]
    #[arg(long, value_name = "N", env = "SELVEDGE_WORKERS", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub workers: Option<u16>,
    /// Admin address: /config, /explain, /metrics, /ready, /drain...
    #[arg(long, value_name = "ADDR", env = "SELVEDGE_ADMIN", default_value = "127.0.0.1:8877")]
    pub admin: SocketAddr,
    /// A second address for health and metrics only, for probes and scrapers [default: off]
    #[arg(long, value_name = "ADDR", env = "SELVEDGE_HEALTH")]
    pub health: Option<SocketAddr>,
    /// File that receives the addresses as JSON once everything listens, written by rename
    #[arg(long, value_name = "PATH", env = "SELVEDGE_READY_FILE")]
    pub ready_file: Option<PathBuf>,
    /// How long to wait for the first SVID before ready; the ingress then serves on, Mappings that need it answer 503
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_IDENTITY_TIMEOUT", default_value = "30s")]
    pub identity_timeout: HumanDuration,
    /// Access log on stdout
    #[arg(long, value_enum, value_name = "FORM", env = "SELVEDGE_ACCESS_LOG", default_value_t)]
    pub access_log: AccessLogForm,
    /// Level of the program's log on stderr: error, warn, info, debug, trace, or per module as in `info,proxy=debug`
    #[arg(long, value_name = "LEVEL", env = "SELVEDGE_LOG_LEVEL", default_value = "info")]
    pub log_level: String,
    /// Form of the program's log [default: text on a terminal, else json]
    #[arg(long, value_enum, value_name = "FORM", env = "SELVEDGE_LOG_FORMAT")]
    pub log_format: Option<LogForm>,
    /// A request head must arrive within this
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_HEADER_TIMEOUT", default_value = "10s")]
    pub header_timeout: HumanDuration,
    /// A client connection without a request is closed after this
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_IDLE_TIMEOUT", default_value = "1h")]
    pub idle_timeout: HumanDuration,
    /// A client's TLS handshake must end within this
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_HANDSHAKE_TIMEOUT", default_value = "10s")]
    pub handshake_timeout: HumanDuration,
    /// An upstream connection, TLS included, must stand within this
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_CONNECT_TIMEOUT", default_value = "3s")]
    pub connect_timeout: HumanDuration,
    /// A whole request, to the end of the response; 0: none. A Mapping's `timeout_ms` wins
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_UPSTREAM_TIMEOUT", default_value = "3s")]
    pub upstream_timeout: HumanDuration,
    /// No bytes either way on a stream; 0: none. A Mapping's `idle_timeout_ms` wins
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_STREAM_IDLE_TIMEOUT", default_value = "5m")]
    pub stream_idle_timeout: HumanDuration,
    /// Bytes of a request head
    #[arg(long, value_name = "SIZE", env = "SELVEDGE_MAX_HEADER_BYTES", default_value = "64KiB")]
    pub max_header_bytes: HumanSize,
    /// Fields of a request head
    #[arg(long, value_name = "N", env = "SELVEDGE_MAX_HEADERS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub max_headers: u32,
    /// Open client connections [default: from the file limit]
    #[arg(long, value_name = "N", env = "SELVEDGE_MAX_CONNECTIONS", value_parser = clap::value_parser!(u32).range(1..))]
    pub max_connections: Option<u32>,
    /// Concurrent streams of an HTTP/2 connection
    #[arg(long, value_name = "N", env = "SELVEDGE_MAX_STREAMS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_streams: u32,
    /// Early resets of an HTTP/2 connection within ten seconds before it is closed
    #[arg(long, value_name = "N", env = "SELVEDGE_MAX_RESETS", default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_resets: u32,
    /// TLS handshakes of clients under way
    #[arg(long, value_name = "N", env = "SELVEDGE_MAX_HANDSHAKES", default_value_t = 256, value_parser = clap::value_parser!(u32).range(1..))]
    pub max_handshakes: u32,
    /// Peers in this network may name the client in a PROXY protocol header; repeatable [default: none]
    #[arg(long, value_name = "CIDR")]
    pub proxy_protocol_from: Vec<ipnet::IpNet>,
    /// At SIGTERM, go on accepting for this long while unready
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_DRAIN_DELAY", default_value = "0s")]
    pub drain_delay: HumanDuration,
    /// What still runs after this is cut [default: 30s] [also: AMBASSADOR_DRAIN_TIME, in seconds]
    #[arg(long, value_name = "DURATION", env = "SELVEDGE_DRAIN_TIMEOUT")]
    pub drain_timeout: Option<HumanDuration>,
    /// Let a listener that is not on loopback present certificates of the dev authority
    #[arg(long, env = "SELVEDGE_ALLOW_DEV_IDENTITY", value_parser = BoolishValueParser::new())]
    pub allow_dev_identity: bool,
}
