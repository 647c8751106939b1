//! Module `ambassador`: process-wide settings that resources may override.

use std::time::Duration;

use proxy::route::HttpPolicy;
use resource::Document;

use super::of_kind;
use crate::{kind::Reader, report::Finding};

/// What the Module says.
#[derive(Clone, Debug, Default)]
pub(crate) struct Module {
    pub(crate) http: HttpPolicy,
    pub(crate) strip_matching_host_port: bool,
    pub(crate) request_timeout: Option<Duration>,
    pub(crate) cluster_idle_timeout: Option<Duration>,
    pub(crate) cluster_max_lifetime: Option<Duration>,
    /// `defaults.tls_secret_namespacing`, true unless said otherwise.
    pub(crate) no_secret_namespacing: bool,
}

impl Module {
    pub(crate) fn read(documents: &[&Document], findings: &mut Vec<Finding>) -> Self {
        let mut module = Self::default();
        let modules = of_kind(documents, "Module");
        let Some(document) = modules.iter().find(|document| &*document.object.name == "ambassador") else {
            return module;
        };
        let mut spec = Reader::spec(document);
        spec.ignore(&["ambassador_id", "ambassadorId"]);
        if let Some(mut config) = spec.child("config") {
            module.read_config(&mut config);
            spec.merge(config);
        }
        findings.extend(spec.finish().0);
        module
    }

    fn read_config(&mut self, config: &mut Reader<'_>) {
        self.request_timeout = config.millis("cluster_request_timeout_ms");
        self.cluster_idle_timeout = config.millis("cluster_idle_timeout_ms");
        self.cluster_max_lifetime = config.millis("cluster_max_connection_lifetime_ms");
        self.strip_matching_host_port = config.bool("strip_matching_host_port").unwrap_or(false);
        let hops = config.int("xff_num_trusted_hops").unwrap_or(0);
        self.http = HttpPolicy {
            trusted_hops: u32::try_from(hops).unwrap_or(0),
            trust_forwarded_proto: hops > 0,
            merge_slashes: config.bool("merge_slashes").unwrap_or(false),
            reject_escaped_slashes: config.bool("reject_requests_with_escaped_slashes").unwrap_or(false),
            server_name: config.text("server_name").and_then(|name| name.parse().ok()),
            preserve_request_id: config.bool("preserve_external_request_id").unwrap_or(false),
            suppress_envoy_headers: config.bool("suppress_envoy_headers").unwrap_or(false),
            idle_timeout: config.millis("listener_idle_timeout_ms"),
        };
        if config.bool("use_remote_address") == Some(false) {
            let message = "false is not supported: the client's address always comes from the connection".to_owned();
            config.find("use_remote_address", crate::report::Severity::Warning, "unsupported_field", message, "use xff_num_trusted_hops for proxies in front");
        }
        if let Some(mut defaults) = config.child("defaults") {
            self.no_secret_namespacing = defaults.bool("tls_secret_namespacing") == Some(false);
            defaults.unsupported(&["httpmapping"]);
            config.merge(defaults);
        }
        config.ignore(&["diagnostics", "readiness_probe", "liveness_probe", "admin_port", "service_port", "statsd", "debug_mode", "envoy_validation_timeout", "regex_max_size", "regex_type", "prune_unreachable_routes"]);
        config.unsupported(&[
            "circuit_breakers", "retry_policy", "load_balancer", "cors", "keepalive", "resolver", "add_linkerd_headers",
            "headers_with_underscores_action", "envoy_log_type", "envoy_log_format", "envoy_log_path", "ip_allow", "ip_deny",
            "forward_client_cert_details", "set_current_client_cert_details", "enable_http10", "proper_case",
            "header_case_overrides", "max_request_headers_kb", "buffer_limit_bytes", "buffer", "gzip", "lua_scripts",
            "grpc_stats", "enable_grpc_web", "default_labels", "default_label_domain", "enable_ipv4", "enable_ipv6",
            "use_ambassador_namespace_for_service_resolution", "use_proxy_proto", "x_forwarded_proto_redirect",
            "error_response_overrides",
        ]);
    }
}
