//! Mappings: each becomes one plan, or is left out and named. A Mapping that cannot be meant keeps its place and answers 503.

use std::{collections::BTreeMap, sync::Arc};

use http::{HeaderName, HeaderValue};
use proxy::{
    Reason,
    message::{Edits, HeaderEdit, PathEdit},
    upstream::{ClusterPolicy, Protocol, RetryOn, RetryPolicy, RuleRef, ServiceRef, Tag, TlsKey, TransportKey},
};
use regex_automata::meta::Regex;
use resource::{Document, Node};

use super::{
    Compiler, of_kind,
    service::{Scheme, ServiceText},
};
use crate::{
    kind::{Broken, Reader},
    plan::{
        ClientPlan, ClusterPlan, FieldMatch, HostGlob, HostMatch, MappingPlan, Outcome, PathMatch, RedirectPath,
        RedirectPlan, TextMatch, Unavailable, VerifyPlan,
    },
    report::Severity,
};

/// Largest compiled form of one pattern, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// A Mapping's plan with what attaching it to Hosts needs.
pub(crate) struct Compiled {
    pub(crate) plan: MappingPlan,
    pub(crate) labels: BTreeMap<String, String>,
    /// `None`: attached by labels alone.
    pub(crate) hostname: Option<HostGlob>,
}

/// Compiles every Mapping.
pub(crate) fn compile(compiler: &mut Compiler<'_>, documents: &[&Document]) -> Vec<Compiled> {
    of_kind(documents, "Mapping").into_iter().filter_map(|document| one(compiler, document)).collect()
}

fn one(compiler: &mut Compiler<'_>, document: &Document) -> Option<Compiled> {
    let mut spec = Reader::spec(document);
    let old = &*document.version != "v3alpha1";
    let Some(prefix) = spec.text("prefix") else {
        let message = "is missing: the Mapping has no place in the table and is left out".to_owned();
        spec.find("prefix", Severity::Error, "missing_prefix", message, "write the start of the path, as /shop/");
        compiler.findings.extend(spec.finish().0);
        return None;
    };
    let (path, edit_len) = path(&mut spec, prefix);
    let (host, hostname) = host(&mut spec, old);
    let method = method(&mut spec);
    let mut headers = fields(&mut spec, ("headers", "regex_headers"), true);
    let host = match headers.iter().position(|field| &*field.name == ":authority") {
        Some(at) => authority_match(headers.remove(at), host),
        None => host,
    };
    let query = fields(&mut spec, ("query_parameters", "regex_query_parameters"), false);
    let precedence = spec.int("precedence").unwrap_or(0);
    let weight = spec.int("weight");
    if weight.is_some_and(|weight| !(0..=100).contains(&weight)) {
        spec.broken("weight", "unknown_value", "is not between 0 and 100".to_owned(), "write a percentage");
    }
    let edits = edits(&mut spec, edit_len, &path);
    let outcome = outcome(compiler, &mut spec, document);
    spec.ignore(&["ambassador_id", "ambassadorId", "docs", "v2ExplicitTLS", "v2BoolHeaders", "v2BoolQueryParameters", "status"]);
    if spec.bool("shadow") == Some(true) {
        spec.broken("shadow", "unsupported_field", "is not supported yet: a copy of traffic must not become a route".to_owned(), "remove the Mapping");
    }
    spec.unsupported(&[
        "resolver", "load_balancer", "stats_name", "v3StatsName", "dns_type", "respect_dns_ttl", "enable_ipv4",
        "enable_ipv6", "keepalive", "circuit_breakers", "health_checks", "v3health_checks", "outlier_detection",
        "add_linkerd_headers", "cors", "allow_upgrade", "use_websocket", "priority", "bypass_auth",
        "auth_context_extensions", "labels", "error_response_overrides", "bypass_error_response_overrides", "modules",
        "envoy_override",
    ]);
    let (findings, broken) = spec.finish();
    compiler.findings.extend(findings);
    let object = &document.object;
    let outcome = broken.map_or(outcome, |broken| Outcome::Unavailable(unavailable(broken)));
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
            outcome,
            edits,
        },
        labels: document.labels.clone(),
        hostname,
    })
}

fn unavailable(broken: Broken) -> Unavailable {
    Unavailable { reason: Reason::new(broken.code), message: broken.message.into() }
}

/// Compiles a pattern that has to match the whole text.
fn regex(spec: &mut Reader<'_>, field: &'static str, text: &str) -> Option<Arc<Regex>> {
    let config = Regex::config().nfa_size_limit(Some(MAX_REGEX_BYTES)).utf8_empty(true);
    match Regex::builder().configure(config).build(&format!("^(?:{text})$")) {
        Ok(regex) => Some(Arc::new(regex)),
        Err(error) => {
            let mut why = error.to_string();
            if let Some(cause) = std::error::Error::source(&error) {
                why = format!("{why}: {}", cause.to_string().lines().last().unwrap_or_default());
            }
            spec.broken(field, "bad_regex", format!("`{text}` is not a pattern: {why}"), "RE2 syntax; no look-around, no back-references");
            None
        }
    }
}

/// A pattern that may match anywhere.
fn search_regex(spec: &mut Reader<'_>, field: &'static str, text: &str) -> Option<Arc<Regex>> {
    regex(spec, field, text)?;
    Regex::new(text).ok().map(Arc::new)
}

fn path(spec: &mut Reader<'_>, prefix: &str) -> (PathMatch, Option<usize>) {
    let case_sensitive = spec.bool("case_sensitive").unwrap_or(true);
    let (by_regex, exact) = (spec.bool("prefix_regex").unwrap_or(false), spec.bool("prefix_exact").unwrap_or(false));
    let text: Arc<str> = if case_sensitive { prefix.into() } else { prefix.to_ascii_lowercase().into() };
    if by_regex {
        // A pattern that cannot be compiled keeps its place by its literal start.
        return match regex(spec, "prefix", prefix) {
            Some(regex) => (PathMatch::Regex(regex), None),
            None => {
                let literal = prefix.split(['.', '*', '+', '?', '(', '[', '{', '\\', '|', '^', '$']).next().unwrap_or_default();
                (PathMatch::Prefix { text: if literal.is_empty() { "/".into() } else { literal.into() }, case_sensitive: true }, None)
            }
        };
    }
    if exact { (PathMatch::Exact { text, case_sensitive }, None) } else { (PathMatch::Prefix { text, case_sensitive }, Some(prefix.len())) }
}

/// The Mapping's own host condition, and the glob that ties it to Hosts.
fn host(spec: &mut Reader<'_>, old: bool) -> (HostMatch, Option<HostGlob>) {
    let by_regex = spec.bool("host_regex").unwrap_or(false);
    let host = spec.text("host");
    if let Some(hostname) = spec.text("hostname") {
        let glob = HostGlob::parse(hostname);
        return (if glob == HostGlob::Any { HostMatch::Any } else { HostMatch::Glob(glob.clone()) }, Some(glob));
    }
    match host {
        Some(text) if by_regex => match regex(spec, "host", text) {
            Some(regex) => (HostMatch::Regex { regex, text: text.into() }, Some(HostGlob::Any)),
            None => (HostMatch::Any, Some(HostGlob::Any)),
        },
        Some("*") if old => (HostMatch::Any, Some(HostGlob::Any)),
        Some(text) => {
            if text.contains('*') {
                spec.broken("host", "unknown_value", format!("`{text}` contains *, which cannot match anything"), "use `hostname` for globs");
            }
            let glob = HostGlob::Exact(text.to_ascii_lowercase().into());
            (HostMatch::Glob(glob.clone()), Some(glob))
        }
        None if old => (HostMatch::Any, Some(HostGlob::Any)),
        None => (HostMatch::Any, None),
    }
}

/// A header condition on `:authority` acts like `host`.
fn authority_match(field: FieldMatch, otherwise: HostMatch) -> HostMatch {
    match field.value {
        TextMatch::Exact(text) => HostMatch::Glob(HostGlob::Exact(text.to_ascii_lowercase().into())),
        TextMatch::Regex { regex, text } => HostMatch::Regex { regex, text },
        TextMatch::Present => otherwise,
    }
}

fn method(spec: &mut Reader<'_>) -> Option<TextMatch> {
    let by_regex = spec.bool("method_regex").unwrap_or(false);
    let text = spec.text("method")?;
    if by_regex {
        return regex(spec, "method", text).map(|regex| TextMatch::Regex { regex, text: text.into() });
    }
    Some(TextMatch::Exact(text.to_ascii_uppercase().into()))
}

/// Conditions on headers or query parameters.
fn fields(spec: &mut Reader<'_>, (exact, by_regex): (&'static str, &'static str), headers: bool) -> Vec<FieldMatch> {
    let mut found = Vec::new();
    let named = |spec: &mut Reader<'_>, field: &'static str, name: &str| -> Option<Arc<str>> {
        if !headers {
            return Some(name.into());
        }
        let name = name.to_ascii_lowercase();
        if name != ":authority" && HeaderName::from_bytes(name.as_bytes()).is_err() {
            spec.broken(field, "unknown_value", format!("`{name}` is not a header name"), "letters, digits and dashes");
            return None;
        }
        Some(name.into())
    };
    for (name, node) in spec.map(exact) {
        let Some(name) = named(spec, exact, name) else { continue };
        let value = match (node.as_bool(), node.as_text()) {
            (Some(true), _) => TextMatch::Present,
            (Some(false), _) => continue,
            (None, Some(text)) => TextMatch::Exact(text.into()),
            (None, None) => {
                spec.broken(exact, "wrong_type", format!("{name}: is {}, not text", node.kind()), "write text");
                continue;
            }
        };
        found.push(FieldMatch { name, value });
    }
    for (name, node) in spec.map(by_regex) {
        let Some(name) = named(spec, by_regex, name) else { continue };
        let Some(text) = node.as_text() else {
            spec.broken(by_regex, "wrong_type", format!("{name}: is {}, not text", node.kind()), "write a pattern");
            continue;
        };
        let value = match text {
            ".*" => TextMatch::Present,
            _ => match regex(spec, by_regex, text) {
                Some(regex) => TextMatch::Regex { regex, text: text.into() },
                None => continue,
            },
        };
        found.push(FieldMatch { name, value });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

fn edits(spec: &mut Reader<'_>, prefix_len: Option<usize>, path: &PathMatch) -> Edits {
    let regex_rewrite = spec.child("regex_rewrite").and_then(|mut child| {
        let pair = (child.text("pattern"), child.text("substitution"));
        let compiled = match pair {
            (Some(pattern), Some(substitution)) => search_regex(&mut child, "pattern", pattern)
                .map(|pattern| PathEdit::Regex { pattern, substitution: substitution.into() }),
            _ => None,
        };
        spec.merge(child);
        compiled
    });
    // `rewrite: ""` and `rewrite: null` mean "leave it"; absent means "/".
    let rewrite = match spec.raw("rewrite") {
        None => Some("/"),
        Some(node) => node.as_text().filter(|text| !text.is_empty()),
    };
    if let Some(text) = rewrite.filter(|text| !text.starts_with('/')) {
        spec.broken("rewrite", "unknown_value", format!("`{text}` does not start with a slash"), "write a path, or \"\" for no rewrite");
    }
    let literal = match (rewrite, path, prefix_len) {
        (None, _, _) => PathEdit::Keep,
        (Some(text), PathMatch::Prefix { text: prefix, .. }, Some(_)) if *text == **prefix => PathEdit::Keep,
        (Some(text), PathMatch::Prefix { .. }, Some(len)) => PathEdit::Prefix { len, with: text.into() },
        (Some(text), _, _) => PathEdit::Replace(text.into()),
    };
    let authority = spec.text("host_rewrite").and_then(|text| {
        let value = HeaderValue::from_str(text).ok();
        if value.is_none() {
            spec.broken("host_rewrite", "unknown_value", format!("`{text}` is not a host"), "write a host name");
        }
        value
    });
    Edits {
        path: regex_rewrite.unwrap_or(literal),
        authority,
        remove_request: removed(spec, "remove_request_headers"),
        add_request: added(spec, "add_request_headers"),
        remove_response: removed(spec, "remove_response_headers"),
        add_response: added(spec, "add_response_headers"),
    }
}

fn removed(spec: &mut Reader<'_>, field: &'static str) -> Vec<HeaderName> {
    let names = spec.texts(field).unwrap_or_default();
    let mut read = Vec::new();
    for name in names {
        match HeaderName::from_bytes(name.as_bytes()) {
            Ok(name) => read.push(name),
            Err(_bad) => spec.broken(field, "unknown_value", format!("`{name}` is not a header name"), "letters, digits and dashes"),
        }
    }
    read
}

fn added(spec: &mut Reader<'_>, field: &'static str) -> Vec<HeaderEdit> {
    let mut read = Vec::new();
    for (name, node) in spec.map(field) {
        let value = node.as_text().or_else(|| node.get("value").and_then(Node::as_text));
        let append = node.get("append").and_then(Node::as_bool).unwrap_or(true);
        let Some(value) = value else {
            spec.broken(field, "wrong_type", format!("{name}: has no text `value`"), "write {value: text}");
            continue;
        };
        if value.replace("%%", "").contains('%') {
            spec.broken(field, "unsupported_field", format!("{name}: Envoy's %...% variables are not supported yet"), "write %% for a percent sign");
            continue;
        }
        let plain = value.replace("%%", "%");
        match (HeaderName::from_bytes(name.as_bytes()), HeaderValue::from_str(&plain)) {
            (Ok(name), Ok(value)) => read.push(HeaderEdit { name, value, append }),
            _ => spec.broken(field, "unknown_value", format!("{name}: is not a valid header"), "no control characters"),
        }
    }
    read
}

/// What the Mapping does: a redirect, or a cluster.
fn outcome(compiler: &mut Compiler<'_>, spec: &mut Reader<'_>, document: &Document) -> Outcome {
    let redirect = redirect(spec);
    let timing = (spec.millis("timeout_ms"), spec.millis("idle_timeout_ms"), retry(spec));
    let policy = ClusterPolicy {
        connect_timeout: spec.millis("connect_timeout_ms"),
        idle_timeout: spec
            .millis("cluster_idle_timeout_ms")
            .or(compiler.module.cluster_idle_timeout)
            .filter(|timeout| !timeout.is_zero())
            .unwrap_or(ClusterPolicy::default().idle_timeout),
        max_lifetime: spec.millis("cluster_max_connection_lifetime_ms").or(compiler.module.cluster_max_lifetime),
        ..ClusterPolicy::default()
    };
    let grpc = spec.bool("grpc").unwrap_or(false);
    let tag = spec.text("cluster_tag").unwrap_or_default();
    let auto_host = spec.bool("auto_host_rewrite").unwrap_or(false);
    let nothing = || Outcome::Unavailable(Unavailable { reason: Reason::new("bad_service"), message: "no service".into() });
    let Some(text) = spec.text("service") else {
        spec.broken("service", "bad_service", "is missing".to_owned(), "write host:port");
        return nothing();
    };
    let service = match ServiceText::parse(text) {
        Ok(service) => service,
        Err(why) => {
            spec.broken("service", "bad_service", why, "write [http(s)://]host[:port]");
            return nothing();
        }
    };
    let namespace = &document.object.namespace;
    let host = service.qualified(namespace, &compiler.settings.namespace);
    if let Some((path, code)) = redirect {
        let host = match service.port {
            Some(port) => format!("{}:{port}", service.host),
            None => service.host.clone(),
        };
        return Outcome::Redirect(RedirectPlan { host: host.into(), path, code });
    }
    if auto_host {
        spec.find("auto_host_rewrite", Severity::Notice, "unsupported_field", "is not supported yet; the client's Host is sent".to_owned(), "use host_rewrite");
    }
    let tls = match tls(compiler, spec, &service, namespace, &host) {
        Ok(tls) => tls,
        Err(()) => return nothing(),
    };
    let port = service.port.unwrap_or(if tls.is_some() { 443 } else { 80 });
    let cluster = cluster(compiler, (&host, port, namespace), tls, grpc, tag);
    let index = compiler.cluster(ClusterPlan { policy, ..cluster });
    let (timeout, idle_timeout, retry) = timing;
    Outcome::Forward { cluster: index, timeout: timeout.or(compiler.module.request_timeout), idle_timeout, retry }
}

fn redirect(spec: &mut Reader<'_>) -> Option<(RedirectPath, u16)> {
    let on = spec.bool("host_redirect").unwrap_or(false);
    let code = spec.int("redirect_response_code").unwrap_or(301);
    let path = spec.text("path_redirect").map(|text| RedirectPath::Replace(text.into()));
    let prefix = spec.text("prefix_redirect").map(|text| RedirectPath::Prefix(text.into()));
    let regex = spec.child("regex_redirect").and_then(|mut child| {
        let pair = (child.text("pattern"), child.text("substitution"));
        let compiled = match pair {
            (Some(pattern), Some(substitution)) => search_regex(&mut child, "pattern", pattern)
                .map(|pattern| RedirectPath::Regex { pattern, substitution: substitution.into() }),
            _ => None,
        };
        spec.merge(child);
        compiled
    });
    if !on {
        return None;
    }
    if !matches!(code, 301 | 302 | 303 | 307 | 308) {
        spec.broken("redirect_response_code", "unknown_value", format!("{code} is no redirect"), "write 301, 302, 303, 307 or 308");
    }
    let code = u16::try_from(code).unwrap_or(301);
    Some((path.or(prefix).or(regex).unwrap_or(RedirectPath::Keep), code))
}

fn retry(spec: &mut Reader<'_>) -> RetryPolicy {
    let Some(mut policy) = spec.child("retry_policy") else { return RetryPolicy::default() };
    let mut on = Vec::new();
    for text in policy.texts("retry_on").unwrap_or_default().into_iter().flat_map(|text| text.split(',')) {
        match text.trim() {
            "5xx" => on.push(RetryOn::ServerError),
            "gateway-error" => on.push(RetryOn::GatewayError),
            "connect-failure" => on.push(RetryOn::ConnectFailure),
            "retriable-4xx" => on.push(RetryOn::Retriable4xx),
            "refused-stream" => on.push(RetryOn::RefusedStream),
            other => policy.broken("retry_on", "unknown_value", format!("`{other}` cannot be meant"), "write 5xx, gateway-error, connect-failure, retriable-4xx or refused-stream"),
        }
    }
    let tries = policy.int("num_retries").and_then(|tries| u32::try_from(tries).ok()).unwrap_or(1);
    let per_try = policy.text("per_try_timeout").and_then(|text| match text.parse::<crate::cli::HumanDuration>() {
        Ok(duration) => Some(duration.0),
        Err(why) => {
            policy.broken("per_try_timeout", "unknown_value", why, "write 500ms or 5s");
            None
        }
    });
    spec.merge(policy);
    RetryPolicy { on, tries: tries.min(10), per_try }
}

/// The decision table of emissary.md 1.2, recommended column: an unusable context never becomes cleartext or weaker TLS.
fn tls(
    compiler: &mut Compiler<'_>,
    spec: &mut Reader<'_>,
    service: &ServiceText,
    namespace: &str,
    host: &str,
) -> Result<Option<ClientPlan>, ()> {
    let https = service.scheme == Some(Scheme::Https);
    let named = match spec.node("tls") {
        None => None,
        Some(node) => match (node.as_bool(), node.as_text()) {
            (Some(true), _) => return unverified(compiler, spec, None, host).map(Some),
            (Some(false), _) => None,
            (None, Some(text)) => Some(text).filter(|text| !text.is_empty()),
            (None, None) => {
                spec.broken("tls", "wrong_type", format!("is {}, not the name of a TLSContext", node.kind()), "write its name");
                return Err(());
            }
        },
    };
    let Some(name) = named else {
        return if https { unverified(compiler, spec, None, host).map(Some) } else { Ok(None) };
    };
    let found = compiler.contexts.find(name, namespace, compiler.settings);
    let (context, notice) = found.map_err(|why| {
        let hint = if name == "true" { "for TLS without a context write `service: https://...`" } else { "name a TLSContext that exists; nothing is sent in cleartext instead" };
        spec.broken("tls", "tls_context_missing", why, hint);
    })?;
    if let Some(notice) = notice {
        spec.find("tls", Severity::Notice, "tls_context_elsewhere", notice, "put it into the Mapping's namespace for Kubernetes");
    }
    if service.scheme == Some(Scheme::Http) {
        let message = format!("originates TLS by context {name} although the service says http://");
        spec.find("service", Severity::Warning, "tls_over_http", message, "write https://, or remove `tls`");
    }
    unverified(compiler, spec, Some(&context), host).map(Some)
}

/// The TLS of a context, with a word about an upstream that nobody verifies.
fn unverified(
    compiler: &Compiler<'_>,
    spec: &mut Reader<'_>,
    context: Option<&super::context::Context<'_>>,
    host: &str,
) -> Result<ClientPlan, ()> {
    let origination = compiler.originate(context, host).map_err(|broken| {
        spec.broken("tls", broken.code, broken.message, "mend the TLSContext; until then this Mapping answers 503");
    })?;
    if origination.unverified {
        let message = "the upstream is encrypted but not verified (no CA, no `spiffe`, no `verify`)".to_owned();
        let remedy = "give the TLSContext a ca_secret or a spiffe block, or `verify: full` for public names";
        let field = if context.is_some() { "tls" } else { "service" };
        if compiler.settings.require_verified_upstreams {
            spec.broken(field, "upstream_not_verified", message, remedy);
            return Err(());
        }
        spec.find(field, Severity::Warning, "upstream_not_verified", message, remedy);
    }
    Ok(origination.plan)
}

fn cluster(
    compiler: &Compiler<'_>,
    (host, port, namespace): (&str, u16, &str),
    tls: Option<ClientPlan>,
    grpc: bool,
    tag: &str,
) -> ClusterPlan {
    let tls = tls.map(|mut tls| {
        if grpc && !tls.alpn.contains(&b"h2".to_vec()) {
            tls.alpn = vec![b"h2".to_vec()];
        }
        tls
    });
    let key = TransportKey {
        service: ServiceRef { host: host.into(), port },
        protocol: if grpc { Protocol::Http2 } else { Protocol::Auto },
        tls: tls.as_ref().map(tls_key),
        tag: Tag(tag.into()),
    };
    let marks = [tls.as_ref().map(|tls| tls.context.as_deref().map_or("tls".to_owned(), |name| format!("tls={name}"))), grpc.then(|| "grpc".to_owned()), (!tag.is_empty()).then(|| tag.to_owned())];
    let marks: Vec<String> = marks.into_iter().flatten().collect();
    let shown = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    let name = if marks.is_empty() { format!("{shown}:{port}") } else { format!("{shown}:{port} ({})", marks.join(", ")) };
    ClusterPlan {
        endpoints: compiler.addresses.origin(host, port, namespace),
        key,
        name: name.into(),
        tls,
        policy: ClusterPolicy::default(),
    }
}

/// Names of sources, never contents.
fn tls_key(tls: &ClientPlan) -> TlsKey {
    let (verify, trust) = match &tls.verify {
        VerifyPlan::Nothing => ("none", None),
        VerifyPlan::Roots(source) => ("roots", Some(source.clone())),
        VerifyPlan::System => ("system", None),
        VerifyPlan::Spiffe { trust, .. } => ("spiffe", Some(trust.clone())),
    };
    TlsKey {
        identity: tls.identity.clone(),
        hint: tls.hint.clone(),
        trust,
        verify,
        peer: RuleRef(rule_name(tls).into()),
        sni: tls.sni.clone(),
        alpn: tls.alpn.clone(),
        versions: tls.versions,
        ciphers: tls.cipher_suites.iter().chain(&tls.groups).cloned().collect(),
        crl: tls.crl.clone(),
    }
}

/// The rule's name; the trust domains that a plain CA vouches for are part of the verifier, so they are part of the name.
fn rule_name(tls: &ClientPlan) -> String {
    let context = tls.context.as_deref().unwrap_or_default();
    match &tls.verify {
        VerifyPlan::Spiffe { trust_domains, .. } if !trust_domains.is_empty() => {
            let domains: Vec<String> = trust_domains.iter().map(ToString::to_string).collect();
            format!("{context} in {}", domains.join(","))
        }
        _ => context.to_owned(),
    }
}
