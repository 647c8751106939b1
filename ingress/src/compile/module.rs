//! Module `ambassador`: process-wide settings that resources may override.

use std::time::Duration;

use proxy::{route::HttpPolicy, upstream::RetryPolicy};
use resource::Document;

use super::{edits::HeaderDefaults, guard::Guards, mapping::retry, of_kind};
use crate::{
    kind::Reader,
    report::{Finding, Severity},
};

/// Keys that mean nothing here: switches of Emissary's own parts, and of Envoy.
const IGNORED: &[&str] = &[
    "diagnostics",
    "readiness_probe",
    "liveness_probe",
    "admin_port",
    "service_port",
    "statsd",
    "debug_mode",
    "envoy_validation_timeout",
    "regex_max_size",
    "regex_type",
    "prune_unreachable_routes",
    "runtime_flags",
];

/// Keys without which requests are as safe as with them.
const UNSUPPORTED: &[&str] = &[
    "circuit_breakers",
    "load_balancer",
    "cors",
    "keepalive",
    "resolver",
    "add_linkerd_headers",
    "headers_with_underscores_action",
    "envoy_log_type",
    "envoy_log_format",
    "envoy_log_path",
    "forward_client_cert_details",
    "set_current_client_cert_details",
    "enable_http10",
    "allow_chunked_length",
    "proper_case",
    "header_case_overrides",
    "max_request_headers_kb",
    "buffer_limit_bytes",
    "buffer",
    "gzip",
    "lua_scripts",
    "grpc_stats",
    "enable_grpc_web",
    "enable_grpc_http11_bridge",
    "default_labels",
    "default_label_domain",
    "enable_ipv4",
    "enable_ipv6",
    "use_ambassador_namespace_for_service_resolution",
    "use_proxy_proto",
    "x_forwarded_proto_redirect",
    "error_response_overrides",
];

/// What the Module says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub(crate) http: HttpPolicy,
    pub(crate) strip_matching_host_port: bool,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) cluster_idle_timeout: Option<Duration>,
    pub(crate) cluster_max_lifetime: Option<Duration>,
    /// Used by Mappings that have none.
    pub(crate) retry: Option<RetryPolicy>,
    /// `defaults.httpmapping`.
    pub(crate) headers: HeaderDefaults,
    /// `defaults.tls_secret_namespacing`, true unless said otherwise.
    pub(crate) no_secret_namespacing: bool,
}

impl Module {
    pub(crate) fn read(documents: &[&Document], guards: &mut Guards, findings: &mut Vec<Finding>) -> Self {
        let mut module = Self::default();
        let mut first = true;
        for document in of_kind(documents, "Module") {
            let mut spec = Reader::spec(document);
            if &*document.object.name != "ambassador" {
                let message =
                    format!("Module `{}` has no effect; only `ambassador` has one", document.object.name);
                spec.find("", (Severity::Warning, "no_effect"), message, "use Host and TLSContext for TLS");
                findings.extend(spec.abandon());
                continue;
            }
            if !std::mem::take(&mut first) {
                let message = "is a second Module `ambassador` and has no effect".to_owned();
                spec.find("", (Severity::Warning, "no_effect"), message, "keep one");
                findings.extend(spec.abandon());
                continue;
            }
            spec.instance();
            if let Some(mut config) = spec.child("config") {
                module.read_config(&mut config);
                guards.module(&mut config);
                spec.merge(config);
            }
            findings.extend(spec.finish().0);
        }
        module
    }

    fn read_config(&mut self, config: &mut Reader<'_>) {
        self.request_timeout = config.millis("cluster_request_timeout_ms");
        self.cluster_idle_timeout = config.millis("cluster_idle_timeout_ms");
        self.cluster_max_lifetime = config.millis("cluster_max_connection_lifetime_ms");
        self.strip_matching_host_port = config.bool("strip_matching_host_port").unwrap_or(false);
        self.retry = retry(config);
        self.http = http_policy(config);
        if let Some(mut defaults) = config.child("defaults") {
            self.no_secret_namespacing = defaults.bool("tls_secret_namespacing") == Some(false);
            if let Some(mut mapping) = defaults.child("httpmapping") {
                self.headers = HeaderDefaults::read(&mut mapping);
                mapping.unsupported(UNSUPPORTED);
                defaults.merge(mapping);
            }
            config.merge(defaults);
        }
        config.ignore(IGNORED);
        config.unsupported(UNSUPPORTED);
    }
}

fn http_policy(config: &mut Reader<'_>) -> HttpPolicy {
    let hops = config.int("xff_num_trusted_hops").unwrap_or(0);
    let trusted_hops = u32::try_from(hops).unwrap_or_else(|_out_of_range| {
        let message = format!("{hops} cannot be meant; no proxy in front is trusted");
        config.find("xff_num_trusted_hops", (Severity::Error, "unknown_value"), message, "write 0 or more");
        0
    });
    if config.bool("use_remote_address") == Some(false) {
        let message =
            "false is not supported: the client's address always comes from the connection".to_owned();
        let remedy = "use xff_num_trusted_hops for proxies in front";
        config.find("use_remote_address", (Severity::Warning, "unsupported_field"), message, remedy);
    }
    let server_name = config.text("server_name").and_then(|name| {
        let value = name.parse().ok();
        if value.is_none() {
            let message = "is not a valid header value".to_owned();
            config.find("server_name", (Severity::Error, "unknown_value"), message, "no control characters");
        }
        value
    });
    HttpPolicy {
        trusted_hops,
        trust_forwarded_proto: trusted_hops > 0,
        merge_slashes: config.bool("merge_slashes").unwrap_or(false),
        reject_escaped_slashes: config.bool("reject_requests_with_escaped_slashes").unwrap_or(false),
        server_name,
        preserve_request_id: config.bool("preserve_external_request_id").unwrap_or(false),
        suppress_envoy_headers: config.bool("suppress_envoy_headers").unwrap_or(false),
        idle_timeout: config.millis("listener_idle_timeout_ms"),
    }
}
