//! Mappings: each becomes one plan, or is left out and named. A Mapping that cannot be meant keeps its place and answers 503.

use std::{collections::BTreeMap, sync::Arc};

use http::HeaderValue;
use proxy::{
    Reason,
    route::Upgrades,
    upstream::{ClusterPolicy, Protocol, RetryOn, RetryPolicy},
};
use resource::Document;

use super::{
    Compiler,
    edits::edits,
    group,
    matching::{authority_match, fields, host, method, path, search_regex},
    of_kind,
    origination::{cluster, tls},
    service::ServiceText,
};
use crate::{
    kind::{Broken, Reader},
    plan::{ClusterPlan, HostGlob, MappingPlan, Outcome, RedirectPath, RedirectPlan, Unavailable},
    report::Severity,
};

/// Fields without a meaning here: selection, documentation, records of Emissary's version conversion.
const IGNORED: &[&str] = &["docs", "v2ExplicitTLS", "v2BoolHeaders", "v2BoolQueryParameters", "status"];

/// Fields of Emissary without which a Mapping is as safe as with them.
const UNSUPPORTED: &[&str] = &[
    "resolver",
    "load_balancer",
    "stats_name",
    "v3StatsName",
    "dns_type",
    "respect_dns_ttl",
    "enable_ipv4",
    "enable_ipv6",
    "keepalive",
    "circuit_breakers",
    "health_checks",
    "v3health_checks",
    "outlier_detection",
    "add_linkerd_headers",
    "cors",
    "priority",
    "auth_context_extensions",
    "labels",
    "error_response_overrides",
    "bypass_error_response_overrides",
    "modules",
    "envoy_override",
];

/// A Mapping's plan with what attaching it to Hosts needs.
pub(crate) struct Compiled {
    pub(crate) plan: MappingPlan,
    pub(crate) labels: BTreeMap<String, String>,
    /// `None`: attached by labels alone.
    pub(crate) hostname: Option<HostGlob>,
}

/// Compiles every Mapping.
pub(crate) fn compile(compiler: &mut Compiler<'_>, documents: &[&Document]) -> Vec<Compiled> {
    let found = of_kind(documents, "Mapping");
    // Plans are large: room is made once, and what is not needed is never touched.
    let mut mappings = Vec::with_capacity(found.len());
    compiler.clusters.reserve(found.len());
    mappings.extend(found.into_iter().filter_map(|document| Some((document, one(compiler, document)?))));
    group::settle(compiler, documents, mappings)
}

fn one(compiler: &mut Compiler<'_>, document: &Document) -> Option<Compiled> {
    let mut spec = Reader::spec(document);
    let Some(prefix) = spec.text("prefix") else {
        let message = "is missing: the Mapping has no place in the table and is left out".to_owned();
        spec.find(
            "prefix",
            (Severity::Error, "missing_prefix"),
            message,
            "write the start of the path, as /shop/",
        );
        compiler.findings.extend(spec.abandon());
        return None;
    };
    let (path, edit_len) = path(&mut spec, prefix);
    let (host, hostname) = host(&mut spec, &*document.version != "v3alpha1");
    let method = method(&mut spec);
    let mut headers = fields(&mut spec, ("headers", "regex_headers"), true);
    let host = match headers.iter().position(|field| &*field.name == ":authority") {
        Some(at) => authority_match(headers.remove(at), host),
        None => host,
    };
    let query = fields(&mut spec, ("query_parameters", "regex_query_parameters"), false);
    let precedence = spec.int("precedence").unwrap_or(0);
    let weight = weight(&mut spec);
    let mut edits = edits(&mut spec, edit_len, &path, &compiler.module.headers);
    let service = service(&mut spec);
    edits.authority = authority(&mut spec, service.as_ref(), &document.object.namespace, compiler);
    let outcome = outcome(compiler, &mut spec, document, service.as_ref());
    let bypass_auth = spec.bool("bypass_auth").unwrap_or(false);
    spec.instance();
    spec.ignore(IGNORED);
    spec.unsupported(UNSUPPORTED);
    if spec.bool("shadow") == Some(true) {
        let message = "is not supported yet: a copy of traffic must not become a route".to_owned();
        spec.broken("shadow", "unsupported_field", message, "remove the Mapping");
    }
    let (findings, broken) = spec.finish();
    compiler.findings.extend(findings);
    let refused = broken.or_else(|| compiler.guards.refusal(&outcome, bypass_auth));
    let object = &document.object;
    Some(Compiled {
        plan: MappingPlan {
            object: object.clone(),
            name: format!("{}/{}", object.namespace, object.name).into(),
            precedence,
            path,
            prefix: prefix.into(),
            method,
            host,
            headers,
            query,
            weight,
            share: 0..100,
            outcome: refused.map_or(outcome, |broken| Outcome::Unavailable(unavailable(broken))),
            edits,
        },
        labels: document.labels.clone(),
        hostname,
    })
}

pub(super) fn unavailable(broken: Broken) -> Unavailable {
    Unavailable { reason: Reason::new(broken.code), message: broken.message.into() }
}

pub(super) fn weight(spec: &mut Reader<'_>) -> Option<i64> {
    let weight = spec.int("weight")?;
    if !(0..=100).contains(&weight) {
        let message = format!("{weight} is not between 0 and 100");
        spec.broken("weight", "unknown_value", message, "write a percentage");
    }
    Some(weight)
}

pub(super) fn service(spec: &mut Reader<'_>) -> Option<ServiceText> {
    let Some(text) = spec.text("service") else {
        spec.broken("service", "bad_service", "is missing".to_owned(), "write [http(s)://]host[:port]");
        return None;
    };
    let parsed = ServiceText::parse(text);
    parsed.map_err(|why| spec.broken("service", "bad_service", why, "write [http(s)://]host[:port]")).ok()
}

/// The Host sent upstream: `host_rewrite`, or the service's name with `auto_host_rewrite`; else the client's.
fn authority(
    spec: &mut Reader<'_>,
    service: Option<&ServiceText>,
    namespace: &str,
    compiler: &Compiler<'_>,
) -> Option<HeaderValue> {
    let auto = spec.bool("auto_host_rewrite").unwrap_or(false);
    if let Some(text) = spec.text("host_rewrite") {
        if auto {
            let message = "has no effect beside `host_rewrite`".to_owned();
            spec.find("auto_host_rewrite", (Severity::Notice, "no_effect"), message, "give one of them");
        }
        let authority = text.parse::<http::uri::Authority>().ok();
        let value = authority.and_then(|authority| HeaderValue::from_str(authority.as_str()).ok());
        if value.is_none() {
            spec.broken(
                "host_rewrite",
                "unknown_value",
                format!("`{text}` is not a host"),
                "write a host name",
            );
        }
        return value;
    }
    let service = service.filter(|_| auto)?;
    let host = service.qualified(namespace, &compiler.settings.namespace);
    HeaderValue::from_str(&if host.contains(':') { format!("[{host}]") } else { host }).ok()
}

/// What the Mapping does: a redirect, or a cluster.
fn outcome(
    compiler: &mut Compiler<'_>,
    spec: &mut Reader<'_>,
    document: &Document,
    service: Option<&ServiceText>,
) -> Outcome {
    let redirect = redirect(spec);
    let (timeout, idle_timeout) = (spec.millis("timeout_ms"), spec.millis("idle_timeout_ms"));
    let retry = retry(spec).or_else(|| compiler.module.retry.clone()).unwrap_or_default();
    let policy = policy(spec, compiler);
    let grpc = spec.bool("grpc").unwrap_or(false);
    let upgrades = upgrades(spec, grpc);
    let tag = spec.text("cluster_tag").unwrap_or_default();
    let Some(service) = service else { return nothing() };
    let namespace = &document.object.namespace;
    if let Some((path, code)) = redirect {
        spec.ignore(&["tls"]);
        return Outcome::Redirect(RedirectPlan { host: service.authority().into(), path, code });
    }
    let host = service.qualified(namespace, &compiler.settings.namespace);
    let Ok(tls) = tls(compiler, spec, service, namespace, &host) else { return nothing() };
    let port = service.port.unwrap_or(if tls.is_some() { 443 } else { 80 });
    let protocol = if grpc { Protocol::Http2 } else { Protocol::Auto };
    let cluster = cluster(compiler, spec, (&host, port, namespace), tls, (protocol, tag));
    let index = compiler.cluster(ClusterPlan { policy, ..cluster });
    Outcome::Forward {
        cluster: index,
        timeout: timeout.or(compiler.module.request_timeout),
        idle_timeout,
        retry,
        upgrades,
    }
}

/// What clients may switch to. Emissary also takes `use_websocket: false` for yes; here it means no.
fn upgrades(spec: &mut Reader<'_>, grpc: bool) -> Upgrades {
    let mut names = spec.texts("allow_upgrade").unwrap_or_default();
    for name in &names {
        let parts: Vec<&str> = name.splitn(2, '/').collect();
        if !parts.iter().all(|part| is_token(part)) {
            let message = format!("`{name}` is no protocol that an Upgrade field can name");
            let remedy = "write names as websocket, spdy/3.1 or CONNECT";
            spec.broken("allow_upgrade", "unknown_value", message, remedy);
        } else if name.eq_ignore_ascii_case("h2c") {
            let message =
                "`h2c` is never passed on: behind it requests could not be seen any longer".to_owned();
            let remedy = "remove it; clients that want HTTP/2 get it by ALPN";
            spec.find("allow_upgrade", (Severity::Warning, "no_effect"), message, remedy);
        }
    }
    if spec.bool("use_websocket") == Some(true) {
        names.push("websocket");
    }
    if grpc && !names.is_empty() {
        let message = "has no effect beside `grpc: true`: HTTP/2 carries no upgrade of HTTP/1.1".to_owned();
        let remedy = "give what is upgraded a Mapping of its own";
        spec.find("allow_upgrade", (Severity::Warning, "no_effect"), message, remedy);
    }
    Upgrades::new(names)
}

/// RFC 9110 5.6.2.
fn is_token(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&b))
}

/// Stands in until the finding that explains it takes its place.
pub(super) fn nothing() -> Outcome {
    Outcome::Unavailable(Unavailable { reason: Reason::new("bad_service"), message: "no service".into() })
}

fn policy(spec: &mut Reader<'_>, compiler: &Compiler<'_>) -> ClusterPolicy {
    let module = &compiler.module;
    let idle = spec.millis("cluster_idle_timeout_ms").or(module.cluster_idle_timeout);
    ClusterPolicy {
        connect_timeout: spec.millis("connect_timeout_ms"),
        idle_timeout: idle.filter(|idle| !idle.is_zero()).unwrap_or(ClusterPolicy::default().idle_timeout),
        max_lifetime: spec.millis("cluster_max_connection_lifetime_ms").or(module.cluster_max_lifetime),
        ..ClusterPolicy::default()
    }
}

fn redirect(spec: &mut Reader<'_>) -> Option<(RedirectPath, u16)> {
    let on = spec.bool("host_redirect").unwrap_or(false);
    let code = spec.int("redirect_response_code").unwrap_or(301);
    let path = spec.text("path_redirect").map(|text| RedirectPath::Replace(text.into()));
    let prefix = spec.text("prefix_redirect").map(|text| RedirectPath::Prefix(text.into()));
    let regex = spec.child("regex_redirect").and_then(|mut child| {
        let pair = substitution(&mut child);
        spec.merge(child);
        pair.map(|(pattern, substitution)| RedirectPath::Regex { pattern, substitution })
    });
    let given = [("path_redirect", &path), ("prefix_redirect", &prefix), ("regex_redirect", &regex)];
    let mut given = given.iter().filter(|(_, change)| change.is_some()).map(|(field, _)| *field);
    let first = given.next();
    for later in given {
        let message = format!("has no effect beside `{}`", first.unwrap_or_default());
        spec.find(later, (Severity::Warning, "no_effect"), message, "give one of them");
    }
    if !on {
        if let Some(field) = first {
            let message = "has no effect without `host_redirect: true`".to_owned();
            spec.find(field, (Severity::Warning, "no_effect"), message, "write host_redirect: true");
        }
        return None;
    }
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        let message = format!("{code} is no redirect");
        spec.broken("redirect_response_code", "unknown_value", message, "write 301, 302, 303, 307 or 308");
    }
    let code = u16::try_from(code).unwrap_or(301);
    Some((path.or(prefix).or(regex).unwrap_or(RedirectPath::Keep), code))
}

/// `pattern` and `substitution` of a regex rewrite or redirect.
pub(super) fn substitution(child: &mut Reader<'_>) -> Option<(Arc<regex_automata::meta::Regex>, Arc<str>)> {
    let (pattern, substitution) = (child.text("pattern"), child.text("substitution"));
    let (Some(pattern), Some(substitution)) = (pattern, substitution) else {
        child.broken("", "wrong_type", "needs `pattern` and `substitution`".to_owned(), "write both");
        return None;
    };
    let pattern = search_regex(child, "pattern", pattern)?;
    if let Some(group) = groups(substitution).find(|group| *group >= pattern.captures_len()) {
        let message = format!("\\{group} names a group, but the pattern has {}", pattern.captures_len() - 1);
        child.broken(
            "substitution",
            "unknown_value",
            message,
            "name a group of the pattern; \\\\ is a backslash",
        );
    }
    Some((pattern, substitution.into()))
}

/// The groups that a substitution names.
fn groups(substitution: &str) -> impl Iterator<Item = usize> {
    let mut chars = substitution.chars();
    std::iter::from_fn(move || {
        chars.find(|c| *c == '\\')?;
        Some(chars.next().and_then(|c| c.to_digit(10)))
    })
    .flatten()
    .filter_map(|digit| usize::try_from(digit).ok())
}

/// A `retry_policy`; `None` where none is written.
pub(super) fn retry(spec: &mut Reader<'_>) -> Option<RetryPolicy> {
    let mut policy = spec.child("retry_policy")?;
    let mut on = Vec::new();
    for text in policy.texts("retry_on").unwrap_or_default().into_iter().flat_map(|text| text.split(',')) {
        match text.trim() {
            "5xx" => on.push(RetryOn::ServerError),
            "gateway-error" => on.push(RetryOn::GatewayError),
            "connect-failure" => on.push(RetryOn::ConnectFailure),
            "retriable-4xx" => on.push(RetryOn::Retriable4xx),
            "refused-stream" => on.push(RetryOn::RefusedStream),
            other => {
                let remedy = "write 5xx, gateway-error, connect-failure, retriable-4xx or refused-stream";
                policy.broken("retry_on", "unknown_value", format!("`{other}` cannot be meant"), remedy);
            }
        }
    }
    let tries = policy.int("num_retries").unwrap_or(1);
    let tries = u32::try_from(tries).unwrap_or_else(|_out_of_range| {
        policy.broken("num_retries", "unknown_value", format!("{tries} cannot be meant"), "write 0 to 10");
        0
    });
    let per_try =
        policy.text("per_try_timeout").and_then(|text| match text.parse::<crate::cli::HumanDuration>() {
            Ok(duration) => Some(duration.0),
            Err(why) => {
                policy.broken("per_try_timeout", "unknown_value", why, "write 500ms or 5s");
                None
            }
        });
    spec.merge(policy);
    Some(RetryPolicy { on, tries: tries.min(10), per_try })
}
