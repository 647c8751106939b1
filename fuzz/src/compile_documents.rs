//! Compiling documents of Emissary's kinds, whole and broken ones side by side.

use std::fmt::Write as _;

use arbitrary::{Result, Unstructured};
use http::HeaderMap;
use ingress::{plan::Outcome, report::Severity};
use proxy::route::{Action, Router as _};

use crate::manifests::{Ask, Compiled, ask, connect, documents};

/// Most documents of one input.
const MAX_DOCUMENTS: usize = 10;
/// A Mapping that nothing here has to do with, on a host of its own.
const NEIGHBOUR: &str = "---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: neighbour}
spec: {hostname: neighbour.test, prefix: /neighbour/, service: neighbour, precedence: 1000000}
";

/// Names and what may be written for each.
type Fields = &'static [(&'static str, &'static [&'static str])];

/// Fields of each kind that may stand together; each has one value or several, good ones and bad ones.
const MAPPING: Fields = &[
    ("prefix", &["/", "/a/", "/a/b", "\"/(\"", "[/a]", "\"\"", "a", "\"/\\u0001\""]),
    ("hostname", &["\"*\"", "a.example.com", "\"*.example.com\"", "\"a.*\"", "\"**\"", "\"\"", "7"]),
    (
        "service",
        &[
            "svc",
            "https://svc:8443",
            "http://10.0.0.1:80",
            "\"[::1]:80\"",
            "ftp://x",
            "\"\"",
            "\"a b\"",
            "svc.ns:99999",
        ],
    ),
    ("tls", &["ctx", "gone", "true", "\"\"", "{a: b}"]),
    ("prefix_regex", &["true", "maybe"]),
    ("prefix_exact", &["true"]),
    ("case_sensitive", &["false"]),
    ("host_regex", &["true"]),
    ("method", &["GET", "\"(\"", "\"\""]),
    ("method_regex", &["true"]),
    ("headers", &["{x-a: \"1\"}", "{x-a: true}", "{\":path\": a}", "[a]", "{\"b d\": x}"]),
    ("regex_headers", &["{x-a: \"[12]\"}", "{x-a: \"(\"}", "{x-a: \"((a{1000}){1000}){1000}\"}"]),
    ("query_parameters", &["{q: \"1\"}", "{q: [1]}"]),
    ("regex_query_parameters", &["{q: \".*\"}"]),
    ("precedence", &["-1", "5", "99999999999999999999", "often"]),
    ("weight", &["0", "50", "101", "-1", "\"50\""]),
    ("rewrite", &["\"\"", "/r/", "nowhere", "\"/a b\"", "\"/%zz\""]),
    (
        "regex_rewrite",
        &["{pattern: \"/(.)\", substitution: \"/\\\\1\"}", "{pattern: \"(\", substitution: x}", "{}"],
    ),
    ("host_rewrite", &["b.example.com", "\"a b\""]),
    ("auto_host_rewrite", &["true"]),
    ("host_redirect", &["true"]),
    ("path_redirect", &["/new", "\"\""]),
    ("prefix_redirect", &["/p/"]),
    ("regex_redirect", &["{pattern: \"/a\", substitution: /b}"]),
    ("redirect_response_code", &["302", "200"]),
    ("timeout_ms", &["3000", "0", "-1", "soon", "99999999999999999999"]),
    ("idle_timeout_ms", &["1"]),
    ("connect_timeout_ms", &["1", "0"]),
    (
        "retry_policy",
        &["{retry_on: 5xx, num_retries: 3}", "{retry_on: often}", "{per_try_timeout: soon}", "7"],
    ),
    (
        "add_request_headers",
        &["{x-b: c, x-c: {value: d, append: false}}", "{\"b d\": x}", "{x-b: \"a\\nb\"}"],
    ),
    ("remove_request_headers", &["[x-a]", "x-a", "[\"b d\"]"]),
    ("add_response_headers", &["{x-b: c}"]),
    ("remove_response_headers", &["x-a"]),
    ("shadow", &["true"]),
    ("grpc", &["true"]),
    ("labels", &["{a: [b]}"]),
    ("bypass_auth", &["true"]),
    ("ambassador_id", &["[default]", "other", "[]"]),
    ("allow_upgrade", &["[websocket]", "[CONNECT]", "[h2c]", "\"a b\""]),
    ("use_websocket", &["true", "7"]),
    ("timeout_mss", &["5"]),
];
const HOST: Fields = &[
    ("hostname", &["\"*\"", "a.example.com", "\"*.example.com\"", "\"a*b\"", "\"\"", "[a]"]),
    ("tlsSecret", &["{name: own}", "{name: gone}", "{}", "own"]),
    (
        "tls",
        &[
            "{ca_secret: roots, cert_required: true}",
            "{spiffe: {ids: [\"spiffe://td/**\"]}}",
            "{min_tls_version: v9}",
            "7",
        ],
    ),
    ("tlsContext", &["{name: ctx}", "{name: gone}"]),
    (
        "requestPolicy",
        &[
            "{insecure: {action: Route}}",
            "{insecure: {action: Redirect}}",
            "{insecure: {action: Reject}}",
            "{insecure: {action: Dance}}",
        ],
    ),
    ("mappingSelector", &["{matchLabels: {a: b}}", "[]"]),
    ("selector", &["{matchLabels: {a: b}}"]),
    ("previewUrl", &["{enabled: true}"]),
    ("acmeProvider", &["{authority: none}", "{authority: https://acme.test}"]),
];
const LISTENER: Fields = &[
    ("port", &["8080", "8443", "0", "70000", "http"]),
    ("protocol", &["HTTP", "HTTPS", "HTTPPROXY", "HTTPSPROXY", "TCP", "TLS", "UDP"]),
    ("protocolStack", &["[HTTP, TCP]", "[TLS, HTTP, TCP]", "[PROXY, TLS, HTTP, TCP]", "[TCP, HTTP]", "[]"]),
    ("securityModel", &["XFP", "SECURE", "INSECURE", "OPEN"]),
    ("l7Depth", &["1", "-1", "x"]),
    (
        "hostBinding",
        &[
            "{namespace: {from: ALL}}",
            "{namespace: {from: SELF}}",
            "{namespace: {from: MOON}}",
            "{selector: {matchLabels: {a: b}}}",
        ],
    ),
];
const CONTEXT: Fields = &[
    ("hosts", &["[a.example.com]", "[]", "x"]),
    ("secret", &["own", "gone", "own.shop", "[x]"]),
    ("ca_secret", &["roots", "gone"]),
    ("crl_secret", &["revoked"]),
    ("cert_required", &["true"]),
    ("sni", &["a.example.com", "\"a b\""]),
    (
        "spiffe",
        &[
            "{}",
            "{ids: [\"spiffe://td/a\"]}",
            "{ids: [\"spiffe://td/*a\"]}",
            "{trust_domains: [td]}",
            "{trust_domains: [TD/x]}",
        ],
    ),
    ("server_names", &["[a.example.com]", "[\"a b\"]"]),
    ("verify", &["full", "none", "chain_only", "perhaps"]),
    ("alpn_protocols", &["h2", "\"h2,http/1.1\"", "istio", "\"\""]),
    ("min_tls_version", &["v1.2", "v1.3", "v1.0"]),
    ("max_tls_version", &["v1.2"]),
    ("cipher_suites", &["[TLS_AES_128_GCM_SHA256]", "[x]"]),
    ("redirect_cleartext_from", &["8080"]),
    ("cert_chain_file", &["/nowhere/a.pem"]),
];
const MODULE: Fields = &[(
    "config",
    &[
        "{xff_num_trusted_hops: 1, use_remote_address: false}",
        "{merge_slashes: true, reject_requests_with_escaped_slashes: true}",
        "{server_name: \"a\\nb\"}",
        "{ip_allow: [{peer: 10.0.0.0/8}]}",
        "{cluster_idle_timeout_ms: -1, defaults: {httpmapping: {x: y}}}",
        "{prune_unreachable_routes: 3, regex_max_size: 0}",
        "[]",
    ],
)];
const SECRET: Fields = &[("x", &["y"])];
const TCP: Fields = &[
    ("port", &["9000", "8443", "0", "70000", "x"]),
    ("host", &["a.example.com", "\"*\"", "\"*.example.com\"", "\"a b\""]),
    ("address", &["127.0.0.1", "\"::\"", "x"]),
    ("service", &["svc:80", "https://svc:8443", "ftp://x", "\"\""]),
    ("tls", &["ctx", "gone", "true"]),
    ("weight", &["50", "101"]),
    ("idle_timeout_ms", &["1000", "soon"]),
    ("circuit_breakers", &["[]"]),
];
const OTHER: Fields = &[("auth_service", &["auth:80"]), ("service", &["svc"]), ("port", &["80"])];

const KINDS: &[(&str, Fields)] = &[
    ("Mapping", MAPPING),
    ("Mapping", MAPPING),
    ("Mapping", MAPPING),
    ("Host", HOST),
    ("Listener", LISTENER),
    ("TLSContext", CONTEXT),
    ("Module", MODULE),
    ("Secret", SECRET),
    ("TCPMapping", TCP),
    ("RateLimitService", OTHER),
];

/// Fields of a Mapping that cannot be meant: the Mapping answers 503 or is left out, and a finding names it.
const BROKEN: &[&str] = &[
    "prefix: /x, service: svc, tls: nobody",
    "prefix: \"(\", prefix_regex: true, service: svc",
    "service: svc",
    "prefix: [/x], service: svc",
    "prefix: /x",
    "prefix: /x, service: ftp://x",
    "prefix: /x, service: svc, regex_headers: {a: \"(\"}",
    "prefix: /x, service: svc, retry_policy: {retry_on: often}",
    "prefix: /x, service: svc, timeout_ms: soon",
    "prefix: /x, service: svc, weight: 101",
    "prefix: /x, service: svc, host_redirect: true, redirect_response_code: 200",
    "prefix: /x, service: svc, add_request_headers: {\"b d\": x}",
    "prefix: /x, service: svc, host_rewrite: \"a b\"",
    "prefix: /x, service: svc, regex_rewrite: {pattern: \"(\", substitution: x}",
    "prefix: /x, service: svc, headers: [a]",
];

/// The bytes choose documents.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let mut bytes = Unstructured::new(bytes);
    let mut text = NEIGHBOUR.to_owned();
    let mut broken = Vec::new();
    while text.matches("\nkind: ").count() <= MAX_DOCUMENTS {
        let number = text.len();
        let Ok(chosen) = document(&mut bytes, number) else { break };
        if chosen.broken {
            broken.push(format!("x{number}"));
        }
        text += &chosen.text;
    }
    let (documents, errors) = documents(&text);
    assert!(errors.is_empty(), "the grammar writes YAML: {errors:?}\n{text}");
    let compiled = Compiled::new(&documents, &errors);
    for name in &broken {
        let mut findings = compiled.report.findings.iter();
        let named = findings.any(|finding| {
            finding.severity == Severity::Error
                && finding.object.as_ref().is_some_and(|object| *object.name == **name)
        });
        assert!(named, "nothing is said of {name} in\n{text}");
        let mut plans = compiled.plan.mappings.iter().filter(|mapping| *mapping.object.name == **name);
        assert!(
            plans.all(|plan| matches!(plan.outcome, Outcome::Unavailable(_))),
            "{name} serves in\n{text}"
        );
    }
    let kept = compiled.plan.mappings.iter().any(|mapping| {
        &*mapping.name == "default/neighbour" && matches!(mapping.outcome, Outcome::Forward { .. })
    });
    // The Module's address rules and its errors are everybody's.
    let all_are_refused = text.contains("ip_allow");
    assert!(kept || all_are_refused, "the neighbour is lost in\n{text}");
    let table = compiled.table();
    connect(&table, &["a.example.com", "neighbour.test"]);
    let fields = HeaderMap::new();
    for (authority, path) in [
        ("neighbour.test", "/neighbour/x"),
        ("a.example.com", "/a/b"),
        ("b.example.com", "/"),
        ("10.0.0.1:80", "/x"),
    ] {
        let asked = Ask { method: "GET", authority, path, query: Some("q=1"), fields: &fields, dice: 42 };
        let Some(decision) = ask(&table, &asked) else { continue };
        if let Action::Forward(_) = decision.action {
            let name = table.name(decision.why);
            assert!(!broken.iter().any(|broken| name.ends_with(broken.as_str())), "{name} serves");
        }
    }
}

struct Chosen {
    text: String,
    broken: bool,
}

fn document(bytes: &mut Unstructured<'_>, number: usize) -> Result<Chosen> {
    let pick = bytes.bytes(1)?.first().copied().unwrap_or_default();
    if pick % 4 == 3 {
        let fields = bytes.choose(BROKEN)?;
        let text = format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: x{number}}}\n\
             spec: {{hostname: \"*\", {fields}}}\n"
        );
        return Ok(Chosen { text, broken: true });
    }
    let (kind, fields) = *bytes.choose(KINDS)?;
    if kind == "Secret" {
        return Ok(Chosen { text: secret(bytes.choose(&["own", "roots", "revoked"])?), broken: false });
    }
    let version = bytes.choose(&["v3alpha1", "v3alpha1", "v2", "v1", "v0", "v9"])?;
    let names = ["ctx", "ambassador", "m", "shop/ctx", "n"];
    let chosen = *bytes.choose(&names)?;
    let (namespace, name) = chosen.split_once('/').unwrap_or(("default", chosen));
    let mut text = format!(
        "---\napiVersion: getambassador.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n"
    );
    let mut written: Vec<&str> = Vec::new();
    for _ in 0..bytes.int_in_range(0..=8)? {
        let (field, values) = bytes.choose(fields)?;
        if !written.contains(field) {
            written.push(field);
            let _infallible = writeln!(text, "  {field}: {}", bytes.choose(values)?);
        }
    }
    Ok(Chosen { text, broken: false })
}

/// A Secret with PEM that is nothing, which must not matter to others.
fn secret(name: &str) -> String {
    let pem = "-----BEGIN CERTIFICATE-----\\nAAAA\\n-----END CERTIFICATE-----\\n";
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData: {{tls.crt: \"{pem}\", ca.crt: \"{pem}\"}}\n"
    )
}
