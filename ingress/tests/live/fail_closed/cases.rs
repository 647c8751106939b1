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
    [bytes(world), contexts(world), mappings(), paths(world)].into_iter().flatten().collect()
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

/// References and settings of a context: a changed document has no last good state.
fn contexts(world: &World) -> Vec<Case> {
    let keys = |name: &str| keys(name, &world.pair.cert, &world.pair.key);
    let case = |name: &'static str, code, context: String| Case {
        name,
        code,
        object: "Mapping",
        field: "spec.tls",
        line: "tls:",
        broken: keys(name) + &context + &mapping(name),
        place: Place::Kept,
        after: After::Refused,
    };
    let fields = |name: &'static str, code, fields: &str| {
        case(name, code, context(name, &format!("ca_secret: roots\n{fields}")))
    };
    // The context itself is named, at the field that is wrong.
    let at = |field: &'static str, line: &'static str, case: Case| Case {
        object: "TLSContext",
        field,
        line,
        ..case
    };
    let two = |name| {
        document("TLSContext", "a", name, "hosts: []") + &document("TLSContext", "b", name, "hosts: []")
    };
    vec![
        case("wrong-tls", "tls_context_missing", String::new()),
        case("in-two-namespaces", "tls_context_missing", two("in-two-namespaces")),
        fields("no-secret", "secret_missing", "secret: nowhere"),
        case("no-ca", "secret_missing", context("no-ca", "secret: own\nca_secret: nowhere")),
        fields("no-crl", "secret_missing", "secret: own\ncrl_secret: nowhere"),
        fields("no-files", "file_missing", "cert_chain_file: nowhere.crt\nprivate_key_file: nowhere.key"),
        case("no-socket", "no_spiffe_socket", context("no-socket", "spiffe: {}")),
        at(
            "spec.min_tls_version",
            "min_tls_version: v9",
            fields("enum-version", "unknown_value", "secret: own\nmin_tls_version: v9"),
        ),
        at(
            "spec.verify",
            "verify: maybe",
            fields("enum-verify", "unknown_value", "secret: own\nverify: maybe"),
        ),
        at(
            "spec.max_tls_version",
            "max_tls_version: v1.2",
            fields("versions-crossed", "tls_settings", "min_tls_version: v1.3\nmax_tls_version: v1.2"),
        ),
        at(
            "spec.cipher_suites",
            "cipher_suites: [NONE]",
            fields("no-suite", "tls_settings", "secret: own\ncipher_suites: [NONE]"),
        ),
        at("spec.spiffe.ids", "ids: [none]", fields("bad-id", "bad_spiffe_id", "spiffe:\n  ids: [none]")),
        at(
            "spec.cert_chain_file",
            "cert_chain_file:",
            fields("half", "tls_settings", "cert_chain_file: tls.crt"),
        ),
        at("spec.secret", "secret: [own]", fields("secret-list", "wrong_type", "secret: [own]")),
    ]
}

/// Values of a Mapping that cannot be meant. The service is the one without TLS: nothing may reach it either.
fn mappings() -> Vec<Case> {
    let case = |name: &'static str,
                (code, field, line): (&'static str, &'static str, &'static str),
                more: &str| Case {
        name,
        code,
        object: "Mapping",
        field,
        line,
        broken: with_fields(name, &format!("service: {{P}}\n{more}")),
        place: Place::Kept,
        after: After::Refused,
    };
    let value = |name, field, line| case(name, ("unknown_value", field, line), line);
    let mut cases = vec![
        case(
            "header-regex",
            ("bad_regex", "spec.regex_headers", "regex_headers"),
            "regex_headers: {x-a: \"(\"}",
        ),
        case(
            "rewrite-regex",
            ("bad_regex", "spec.regex_rewrite.pattern", "pattern"),
            "regex_rewrite:\n  pattern: \"(\"\n  substitution: x",
        ),
        case("tls-list", ("wrong_type", "spec.tls", "tls: [x]"), "tls: [x]"),
        case("grpc-maybe", ("wrong_type", "spec.grpc", "grpc: maybe"), "grpc: maybe"),
        case("timeout-text", ("wrong_type", "spec.timeout_ms", "timeout_ms: soon"), "timeout_ms: soon"),
        case("shadow", ("unsupported_field", "spec.shadow", "shadow: true"), "shadow: true"),
        value("weight", "spec.weight", "weight: 200"),
        value("host-rewrite", "spec.host_rewrite", "host_rewrite: \"a b\""),
        value("rewrite", "spec.rewrite", "rewrite: nowhere"),
        case(
            "retry-on",
            ("unknown_value", "spec.retry_policy.retry_on", "retry_on: sometimes"),
            "retry_policy:\n  retry_on: sometimes",
        ),
        case(
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
        cases.push(Case { line, broken, ..case(name, ("bad_service", "spec.service", ""), "") });
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
    let torn = good(world, "torn-file") + "---\napiVersion: getambassador.io/v3alpha1\nkind: [\n";
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
    ]
}
