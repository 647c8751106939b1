//! Names of metrics: the only place of them, because dashboards hang on them. `docs/metrics.md` is held against this list.

/// One metric as `/metrics` shows it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Metric {
    /// Its name. The text format appends `_total` to the name of a counter.
    pub name: &'static str,
    /// One sentence.
    pub help: &'static str,
}

const fn metric(name: &'static str, help: &'static str) -> Metric {
    Metric { name, help }
}

/// `class`: `none`, `1xx` to `5xx`.
pub const REQUESTS: Metric = metric("selvedge_requests", "Finished requests and connections by status class");
/// `reason`: a code of `docs/reasons.md`.
pub const FAILURES: Metric =
    metric("selvedge_failures", "Finished requests and connections by reason, other than ok");
/// A histogram.
pub const DURATION: Metric =
    metric("selvedge_request_duration_seconds", "From the head of the request to the end of the response");
/// `worker`: its number.
pub const LOOP_LAG: Metric =
    metric("selvedge_worker_loop_lag_us", "How late each worker's timer is or last was, in microseconds");

/// Label of Envoy's cluster metrics.
pub const CLUSTER_LABEL: &str = "envoy_cluster_name";
/// Label of a status class, `1` to `5`.
pub const CLASS_LABEL: &str = "envoy_response_code_class";
/// Label of Envoy's downstream metrics, and the value that Emissary's dashboards select.
pub const MANAGER: (&str, &str) = ("envoy_http_conn_manager_prefix", "ingress_http");

/// By cluster.
pub const CLUSTER_REQUESTS: Metric = metric("envoy_cluster_upstream_rq", "Finished requests by cluster");
/// By cluster and class.
pub const CLUSTER_CLASSES: Metric =
    metric("envoy_cluster_upstream_rq_xx", "Finished requests by cluster and status class");
/// By cluster; a histogram, in milliseconds as in Envoy.
pub const CLUSTER_TIME: Metric =
    metric("envoy_cluster_upstream_rq_time", "Duration of requests by cluster, in milliseconds");
/// By cluster.
pub const CLUSTER_OPEN: Metric =
    metric("envoy_cluster_upstream_cx_active", "Open upstream connections by cluster");
/// All requests.
pub const DOWNSTREAM_REQUESTS: Metric = metric("envoy_http_downstream_rq", "Finished requests");
/// By class.
pub const DOWNSTREAM_CLASSES: Metric =
    metric("envoy_http_downstream_rq_xx", "Finished requests by status class");
/// Now.
pub const DOWNSTREAM_ACTIVE: Metric = metric("envoy_http_downstream_rq_active", "Requests in flight");
/// All connections.
pub const DOWNSTREAM_CONNECTIONS: Metric = metric("envoy_http_downstream_cx", "Client connections accepted");
/// Now.
pub const DOWNSTREAM_OPEN: Metric = metric("envoy_http_downstream_cx_active", "Open client connections");

/// `source`, `spiffe_id`.
pub const SVID_NOT_AFTER: Metric =
    metric("identity_svid_not_after_seconds", "End of validity of each own certificate, seconds since 1970");
/// `source`, `problem`.
pub const SOURCE_UP: Metric =
    metric("identity_source_up", "1: the source has usable material and no problem");
/// `kind`, `namespace`, `name`, `severity`, `reason`.
pub const CONFIG_PROBLEMS: Metric = metric("config_problems", "Findings about resources");

/// Metrics that are neither a [`Counter`] nor a [`Gauge`] and are always there.
pub const OTHERS: &[Metric] = &[
    REQUESTS,
    FAILURES,
    DURATION,
    LOOP_LAG,
    CLUSTER_REQUESTS,
    CLUSTER_CLASSES,
    CLUSTER_TIME,
    CLUSTER_OPEN,
    DOWNSTREAM_REQUESTS,
    DOWNSTREAM_CLASSES,
    DOWNSTREAM_ACTIVE,
    DOWNSTREAM_CONNECTIONS,
    DOWNSTREAM_OPEN,
];

/// Metrics that the program adds.
pub const OF_PROGRAM: &[Metric] = &[SVID_NOT_AFTER, SOURCE_UP, CONFIG_PROBLEMS];

/// Events that are counted by name. Each limit and timeout of `docs/contract.md` has one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
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
    /// `--max-streams` reached: a stream was refused.
    MaxStreams,
    /// HTTP/2 connections ended for floods of DATA frames that carry nothing.
    EmptyFrames,
    /// A PROXY protocol header that is missing, malformed or not allowed from this peer (`--proxy-protocol-from`).
    BadProxyProtocol,
    /// Requests refused for their framing.
    BadFraming,
    /// Requests that became tunnels.
    Upgrades,
    /// Requests refused because they wanted to become tunnels.
    UpgradesRefused,
    /// Accept errors that the loop survived.
    AcceptErrors,
    /// Connections to the admin or health port that were closed unheard, because there were 256 of them.
    AdminRefused,
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
    /// Requests not tried again, as their cluster's budget was spent.
    RetriesRefused,
    /// Requests sent to upstreams that nobody verified.
    UpstreamNotVerified,
    /// Access lines lost because the pipe was blocked, or as they could not be written.
    AccessLogDropped,
    /// Lines of the program's log that were lost so.
    LogDropped,
    /// Lines of the program's log left out because there were many like them.
    LogSuppressed,
    /// Panics, each of which has ended one request or connection.
    Panics,
    /// Workers that were begun anew after a panic.
    WorkerRestarts,
    /// Times that a worker was stuck.
    WorkerStuck,
    /// Connections cut at the drain deadline.
    DrainCut,
    /// Connections told to end because their peer may not be here any longer.
    TrustRemoved,
}

/// Values that go up and down.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(usize)]
#[non_exhaustive]
pub enum Gauge {
    /// Open client connections.
    DownstreamOpen,
    /// Those of them that rest between two requests, without memory for one.
    DownstreamParked,
    /// Requests in flight.
    RequestsActive,
    /// Open upstream connections.
    UpstreamOpen,
    /// Tunnels: upgraded requests and TCP connections that are relayed.
    TunnelsActive,
    /// Tasks alive on the workers and the control thread.
    Tasks,
    /// Tables that were replaced and are still used by what began under them.
    RetiredTables,
}

impl Counter {
    pub(super) const COUNT: usize = Self::ALL.len();

    /// Every counter with its metric's name and help, in order of declaration.
    pub const ALL: &'static [(Self, &'static str, &'static str)] = &[
        (Self::DownstreamConnections, "selvedge_downstream_connections", "Client connections accepted"),
        (Self::MaxConnections, "selvedge_max_connections", "--max-connections reached"),
        (Self::MaxHandshakes, "selvedge_max_handshakes", "--max-handshakes reached"),
        (Self::HandshakeTimeout, "selvedge_handshake_timeout", "--handshake-timeout passed"),
        (Self::HandshakeFailed, "selvedge_handshake_failed", "Client handshakes that failed"),
        (Self::Handshakes, "selvedge_handshakes", "Client handshakes that ended well"),
        (Self::HeaderTimeout, "selvedge_header_timeout", "--header-timeout passed"),
        (Self::IdleTimeout, "selvedge_idle_timeout", "--idle-timeout closed a client connection"),
        (Self::StreamIdleTimeout, "selvedge_stream_idle_timeout", "--stream-idle-timeout passed"),
        (Self::HeadersTooLarge, "selvedge_headers_too_large", "--max-header-bytes or --max-headers reached"),
        (Self::MaxResets, "selvedge_max_resets", "--max-resets reached"),
        (Self::MaxStreams, "selvedge_max_streams", "--max-streams reached: a stream was refused"),
        (
            Self::EmptyFrames,
            "selvedge_empty_frames",
            "HTTP/2 connections ended for floods of DATA frames that carry nothing",
        ),
        (
            Self::BadProxyProtocol,
            "selvedge_bad_proxy_protocol",
            "A PROXY protocol header that is missing, malformed or not allowed from this peer (--proxy-protocol-from)",
        ),
        (Self::BadFraming, "selvedge_bad_framing", "Requests refused for their framing"),
        (
            Self::Upgrades,
            "selvedge_upgrades",
            "Requests that became tunnels: WebSocket, other upgrades, CONNECT",
        ),
        (
            Self::UpgradesRefused,
            "selvedge_upgrades_refused",
            "Requests refused because they asked for a protocol that their Mapping does not allow",
        ),
        (Self::AcceptErrors, "selvedge_accept_errors", "Accept errors that the loop survived"),
        (
            Self::AdminRefused,
            "selvedge_admin_refused",
            "Connections to the admin or health port closed unheard, because there were 256 of them",
        ),
        (Self::UpstreamConnections, "selvedge_upstream_connections", "Upstream connections made"),
        (Self::UpstreamReuses, "selvedge_upstream_reuses", "Upstream connections reused"),
        (
            Self::UpstreamConnectFailures,
            "selvedge_upstream_connect_failures",
            "Upstream connections that could not be made",
        ),
        (Self::ConnectTimeout, "selvedge_connect_timeout", "--connect-timeout passed"),
        (Self::UpstreamHandshakes, "selvedge_upstream_handshakes", "Upstream handshakes that ended well"),
        (
            Self::UpstreamHandshakeFailed,
            "selvedge_upstream_handshake_failed",
            "Upstream handshakes or identity checks that failed",
        ),
        (Self::UpstreamTimeout, "selvedge_upstream_timeout", "--upstream-timeout passed"),
        (Self::Retries, "selvedge_retries", "Requests tried again"),
        (
            Self::RetriesRefused,
            "selvedge_retries_refused",
            "Requests not tried again because the retry budget of their cluster was spent",
        ),
        (
            Self::UpstreamNotVerified,
            "selvedge_upstream_not_verified",
            "Requests sent to upstreams that nobody verified",
        ),
        (
            Self::AccessLogDropped,
            "selvedge_access_log_dropped",
            "Access lines lost because the pipe was blocked, or as they could not be written",
        ),
        (
            Self::LogDropped,
            "selvedge_log_dropped",
            "Lines of the program's log lost because the pipe was blocked, or as they could not be written",
        ),
        (
            Self::LogSuppressed,
            "selvedge_log_suppressed",
            "Lines of the program's log left out because there were many like them in one second",
        ),
        (Self::Panics, "selvedge_panics", "Panics: each has ended one request or connection"),
        (Self::WorkerRestarts, "selvedge_worker_restarts", "Workers that were begun anew after a panic"),
        (
            Self::WorkerStuck,
            "selvedge_worker_stuck",
            "Times that a worker did not come round for two seconds",
        ),
        (Self::DrainCut, "selvedge_drain_cut", "Connections cut at the drain deadline"),
        (
            Self::TrustRemoved,
            "selvedge_trust_removed",
            "Connections told to end because their peer may not be here any longer",
        ),
    ];
}

impl Gauge {
    pub(super) const COUNT: usize = Self::ALL.len();

    /// Every gauge with its metric's name and help, in order of declaration.
    pub const ALL: &'static [(Self, &'static str, &'static str)] = &[
        (Self::DownstreamOpen, "selvedge_downstream_open", "Open client connections"),
        (
            Self::DownstreamParked,
            "selvedge_downstream_parked",
            "Open client connections that rest between two requests, without memory for one",
        ),
        (Self::RequestsActive, "selvedge_requests_active", "Requests in flight"),
        (Self::UpstreamOpen, "selvedge_upstream_open", "Open upstream connections"),
        (
            Self::TunnelsActive,
            "selvedge_tunnels_active",
            "Bytes relayed both ways: upgraded requests and TCP connections",
        ),
        (Self::Tasks, "selvedge_tasks", "Tasks alive on the workers and the control thread"),
        (
            Self::RetiredTables,
            "selvedge_retired_tables",
            "Tables that were replaced and are still used by what began under them",
        ),
    ];
}
