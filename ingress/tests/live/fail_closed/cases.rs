//! The table: what can be broken in a Mapping and in what it names.

use super::super::harness::{Authority, Pair, certs::secret};

/// Key material that cases share.
pub(super) struct World {
    pub(super) authority: Authority,
    pair: Pair,
    stranger: Pair,
    expired: Pair,
    early: Pair,
}

/// What becomes of a Mapping that is broken from the start.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum Place {
    /// It keeps its place and answers 503.
    Kept,
    /// It has no place: named, and absent.
    LeftOut,
}

/// What becomes of one that was good before.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(super) enum After {
    LastGood,
    Refused,
    LeftOut,
}

pub(super) struct Case {
    /// Of the Mapping, its context, its file; the prefix is `/NAME/`.
    pub(super) name: &'static str,
    pub(super) code: &'static str,
    /// Kind of the resource that `check` names; empty for a file.
    pub(super) object: &'static str,
    pub(super) field: &'static str,
    /// What the named line has in it.
    pub(super) line: &'static str,
    pub(super) broken: String,
    pub(super) place: Place,
    pub(super) after: After,
}

impl World {
    pub(super) fn new() -> Self {
        let authority = Authority::new("fail closed");
        let leaf = || authority.leaf("ingress.internal");
        let (pair, stranger) = (leaf(), leaf());
        let (expired, early) = (authority.expired("ingress.internal"), authority.early("ingress.internal"));
        Self { authority, pair, stranger, expired, early }
    }

    /// Documents that several cases name.
    pub(super) fn shared(&self) -> String {
        let own = secret("own", &[("tls.crt", &self.pair.cert), ("tls.key", &self.pair.key)]);
        own + &secret("roots", &[("ca.crt", &self.authority.pem())])
    }
}

fn document(kind: &str, namespace: &str, name: &str, fields: &str) -> String {
    let fields: Vec<_> = fields.lines().map(|line| format!("  {line}\n")).collect();
    let fields = fields.concat();
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{fields}"
    )
}

fn context(name: &str, fields: &str) -> String {
    document("TLSContext", "default", name, &format!("hosts: []\nsni: app.internal\n{fields}"))
}

/// A Mapping at `/NAME/` with TLS under the context of its name.
fn mapping(name: &str) -> String {
    with_fields(name, &format!("service: {{T}}\ntls: {name}"))
}

fn with_fields(name: &str, fields: &str) -> String {
    document("Mapping", "default", name, &format!("hostname: \"*\"\nprefix: /{name}/\n{fields}"))
}

/// What a case looks like while nothing is broken.
pub(super) fn good(world: &World, name: &str) -> String {
    keys(name, &world.pair.cert, &world.pair.key) + &under(name, world)
}

/// The Secret of a case.
fn keys(name: &str, cert: &str, key: &str) -> String {
    secret(&format!("{name}-own"), &[("tls.crt", cert), ("tls.key", key)])
}

/// CA, context and Mapping of a case.
fn under(name: &str, world: &World) -> String {
    secret(&format!("{name}-ca"), &[("ca.crt", &world.authority.pem())])
        + &context(name, &format!("secret: {name}-own\nca_secret: {name}-ca"))
        + &mapping(name)
}

/// All cases.
pub(super) fn all(world: &World) -> Vec<Case> {
    [bytes(world), references(world), settings(world), conditions(), edits(), mappings(), paths(world)]
        .into_iter()
        .flatten()
        .collect()
}

/// Key material that cannot be used: the Mapping that needs it is refused, unless an earlier one was good.
fn bytes(world: &World) -> Vec<Case> {
    let case = |name: &'static str, code, secrets: String| Case {
        name,
        code,
        object: "Mapping",
        field: "spec.tls",
        line: "tls:",
        broken: secrets + &under(name, world),
        place: Place::Kept,
        after: After::LastGood,
    };
    let own = |name: &'static str, code, cert: &str, key: &str| case(name, code, keys(name, cert, key));
    let (pair, garbage) = (&world.pair, "not PEM\n");
    let torn = format!("{}\nAAAA\n-----END CERTIFICATE-----\n", "-----BEGIN CERTIFICATE-----");
    let malformed =
        "---\napiVersion: v1\nkind: Secret\nmetadata: {name: bad-base64-own}\ndata: {tls.crt: \"%%%\"}\n";
    let ca = |name: &'static str, code, text: &str| Case {
        broken: keys(name, &pair.cert, &pair.key)
            + &secret(&format!("{name}-ca"), &[("ca.crt", text)])
            + &context(name, &format!("secret: {name}-own\nca_secret: {name}-ca"))
            + &mapping(name),
        ..case(name, code, String::new())
    };
    vec![
        case("no-key", "secret_no_key", secret("no-key-own", &[("tls.crt", &pair.cert)])),
        case("no-cert", "secret_no_certificate", secret("no-cert-own", &[("tls.key", &pair.key)])),
        case("opaque", "secret_no_certificate", secret("opaque-own", &[("password", "x")])),
        case("bad-base64", "secret_malformed", malformed.to_owned()),
        own("mismatched", "key_mismatch", &world.stranger.cert, &pair.key),
        own("expired", "certificate_expired", &world.expired.cert, &world.expired.key),
        own("early", "certificate_not_yet_valid", &world.early.cert, &world.early.key),
        own("garbage-cert", "bad_certificate", garbage, &pair.key),
        own("torn-cert", "bad_certificate", &torn, &pair.key),
        own("garbage-key", "bad_key", &pair.cert, garbage),
        own("swapped", "bad_certificate", &pair.key, &pair.cert),
        ca("garbage-ca", "ca_unusable", garbage),
    ]
}

/// A good Secret, a Mapping, and a context between them that is not as it should be.
fn under_context(world: &World, (name, code): (&'static str, &'static str), context: &str) -> Case {
    Case {
        name,
        code,
        object: "Mapping",
        field: "spec.tls",
        line: "tls:",
        broken: keys(name, &world.pair.cert, &world.pair.key) + context + &mapping(name),
        place: Place::Kept,
        after: After::Refused,
    }
}

/// References that lead nowhere: a changed document has no last good state.
fn references(world: &World) -> Vec<Case> {
    let case = |name, code, context: &str| under_context(world, (name, code), context);
    let fields =
        |name, code, fields: &str| case(name, code, &context(name, &format!("ca_secret: roots\n{fields}")));
    let two = |name| {
        document("TLSContext", "a", name, "hosts: []") + &document("TLSContext", "b", name, "hosts: []")
    };
    let other = good(world, "other-tls").replace("tls: other-tls", "tls: nobody");
    vec![
        // The context of the good state is deleted by this edit, and has its grace.
        Case { after: After::LastGood, ..case("wrong-tls", "tls_context_missing", "") },
        Case { broken: other, line: "tls: nobody", ..case("other-tls", "tls_context_missing", "") },
        case("in-two-namespaces", "tls_context_missing", &two("in-two-namespaces")),
        fields("no-secret", "secret_missing", "secret: nowhere"),
        case("no-ca", "secret_missing", &context("no-ca", "secret: own\nca_secret: nowhere")),
        fields("no-crl", "secret_missing", "secret: own\ncrl_secret: nowhere"),
        fields("no-files", "file_missing", "cert_chain_file: nowhere.crt\nprivate_key_file: nowhere.key"),
        case("no-socket", "no_spiffe_socket", &context("no-socket", "spiffe: {}")),
    ]
}

/// Settings that cannot be meant: the context itself is named, at the field that is wrong, and so is the Mapping.
fn settings(world: &World) -> Vec<Case> {
    let case = |name, code, (field, line): (&'static str, &'static str), fields: &str| Case {
        object: "TLSContext",
        field,
        line,
        ..under_context(world, (name, code), &context(name, &format!("ca_secret: roots\n{fields}")))
    };
    let value = |name, field, line: &'static str| case(name, "unknown_value", (field, line), line);
    let port = context("sni-port", "ca_secret: roots").replace("app.internal", "app.internal:443");
    vec![
        Case {
            object: "TLSContext",
            field: "spec.sni",
            line: "sni: app.internal:443",
            ..under_context(world, ("sni-port", "unknown_value"), &port)
        },
        value("enum-version", "spec.min_tls_version", "min_tls_version: v9"),
        value("enum-verify", "spec.verify", "verify: maybe"),
        case(
            "versions-crossed",
            "tls_settings",
            ("spec.max_tls_version", "max_tls_version: v1.2"),
            "min_tls_version: v1.3\nmax_tls_version: v1.2",
        ),
        case(
            "no-suite",
            "tls_settings",
            ("spec.cipher_suites", "cipher_suites: [NONE]"),
            "cipher_suites: [NONE]",
        ),
        case("bad-id", "bad_spiffe_id", ("spec.spiffe.ids", "ids: [none]"), "spiffe:\n  ids: [none]"),
        case("half", "tls_settings", ("spec.cert_chain_file", "tls.crt"), "cert_chain_file: tls.crt"),
        case("secret-list", "wrong_type", ("spec.secret", "secret: [own]"), "secret: [own]"),
    ]
}

/// A Mapping with fields that cannot be meant. The service is the one without TLS: nothing may reach it either.
fn refused(
    name: &'static str,
    (code, field, line): (&'static str, &'static str, &'static str),
    more: &str,
) -> Case {
    Case {
        name,
        code,
        object: "Mapping",
        field,
        line,
        broken: with_fields(name, &format!("service: {{P}}\n{more}")),
        place: Place::Kept,
        after: After::Refused,
    }
}

/// One field whose value cannot be meant.
fn value(name: &'static str, field: &'static str, line: &'static str) -> Case {
    refused(name, ("unknown_value", field, line), line)
}

/// What a Mapping matches.
fn conditions() -> Vec<Case> {
    vec![
        refused(
            "header-regex",
            ("bad_regex", "spec.regex_headers", "regex_headers"),
            "regex_headers: {x-a: \"(\"}",
        ),
        refused(
            "method-regex",
            ("bad_regex", "spec.method", "method: \"GET|((\""),
            "method: \"GET|((\"\nmethod_regex: true",
        ),
        refused("host-switch", ("wrong_type", "spec.host_regex", "host_regex: 5"), "host_regex: 5"),
        value("header-name", "spec.headers", "headers: {\"x a\": b}"),
        value("method-blank", "spec.method", "method: \"G ET\""),
    ]
}

/// What a Mapping changes.
fn edits() -> Vec<Case> {
    vec![
        refused(
            "rewrite-regex",
            ("bad_regex", "spec.regex_rewrite.pattern", "pattern"),
            "regex_rewrite:\n  pattern: \"(\"\n  substitution: x",
        ),
        value("host-rewrite", "spec.host_rewrite", "host_rewrite: \"a b\""),
        value("rewrite", "spec.rewrite", "rewrite: nowhere"),
        value("rewrite-blank", "spec.rewrite", "rewrite: \"/a b\""),
        value("rewrite-query", "spec.rewrite", "rewrite: \"/x?y=1\""),
        refused(
            "rewrite-url",
            ("unknown_value", "spec.regex_rewrite.substitution", "substitution: http://evil"),
            "regex_rewrite:\n  pattern: /rewrite-url/(.*)\n  substitution: http://evil/\\1",
        ),
        refused(
            "rewrite-group",
            ("unknown_value", "spec.regex_rewrite.substitution", "substitution: /"),
            "regex_rewrite:\n  pattern: /(a)\n  substitution: /\\9",
        ),
        value(
            "response-length",
            "spec.add_response_headers",
            "add_response_headers: {content-length: {value: \"3\", append: false}}",
        ),
        value(
            "request-coding",
            "spec.add_request_headers",
            "add_request_headers: {Transfer-Encoding: chunked}",
        ),
        value("request-host", "spec.add_request_headers", "add_request_headers: {host: other.internal}"),
        value("response-close", "spec.remove_response_headers", "remove_response_headers: [connection]"),
    ]
}

/// What else a Mapping says.
fn mappings() -> Vec<Case> {
    let mut cases = vec![
        refused("tls-list", ("wrong_type", "spec.tls", "tls: [x]"), "tls: [x]"),
        refused("grpc-maybe", ("wrong_type", "spec.grpc", "grpc: maybe"), "grpc: maybe"),
        refused("timeout-text", ("wrong_type", "spec.timeout_ms", "timeout_ms: soon"), "timeout_ms: soon"),
        refused("shadow", ("unsupported_field", "spec.shadow", "shadow: true"), "shadow: true"),
        value("weight", "spec.weight", "weight: 200"),
        refused(
            "retry-on",
            ("unknown_value", "spec.retry_policy.retry_on", "retry_on: sometimes"),
            "retry_policy:\n  retry_on: sometimes",
        ),
        refused(
            "redirect-code",
            ("unknown_value", "spec.redirect_response_code", "redirect_response_code: 299"),
            "host_redirect: true\nredirect_response_code: 299",
        ),
    ];
    for (name, line) in
        [("scheme", "service: ftp://{P}"), ("port", "service: app:port"), ("host", "service: \"a b\"")]
    {
        let broken = with_fields(name, line);
        let line = line.split("{P}").next().unwrap_or_default();
        cases.push(Case { line, broken, ..refused(name, ("bad_service", "spec.service", ""), "") });
    }
    cases
}

/// Where the path itself, or the whole file, is what is broken.
fn paths(world: &World) -> Vec<Case> {
    let case = |name: &'static str, code, (object, field, line), broken: String| Case {
        name,
        code,
        object,
        field,
        line,
        broken,
        place: Place::LeftOut,
        after: After::LeftOut,
    };
    let whole = |name: &'static str, fields: &str| document("Mapping", "default", name, fields);
    let torn = good(world, "torn-file") + "  headers: {\n";
    // Its Mapping has no place; what stands before it in the file has one.
    let twice = good(world, "twice") + "  tls: twice\n";
    vec![
        Case {
            place: Place::Kept,
            after: After::Refused,
            ..case(
                "path-regex",
                "bad_regex",
                ("Mapping", "spec.prefix", "prefix: /path-regex/("),
                whole(
                    "path-regex",
                    "hostname: \"*\"\nprefix: /path-regex/(\nprefix_regex: true\nservice: {P}",
                ),
            )
        },
        case(
            "no-prefix",
            "missing_prefix",
            ("Mapping", "spec.prefix", ""),
            whole("no-prefix", "hostname: \"*\"\nservice: {P}"),
        ),
        Case { after: After::LastGood, ..case("torn-file", "unreadable", ("", "", ""), torn) },
        Case { after: After::LastGood, ..case("twice", "unreadable", ("", "", "  tls: twice"), twice) },
    ]
}
