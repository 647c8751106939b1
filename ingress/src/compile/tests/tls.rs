//! emissary.md 1.1 to 1.7: service texts, the TLS decision table, contexts, their namespaces.

use identity::{SourceRef, Versions};

use super::{Table, client, compiled, document, has, keys, mapping, outcome, rows, settings, usual};
use crate::plan::{RulePlan, VerifyPlan};

fn context(name: &str, fields: &str) -> String {
    document("v3alpha1", "TLSContext", name, fields)
}

#[test]
fn every_service_text_gives_its_cluster() {
    let table = [
        ("svc", "svc:80"),
        ("svc:8080", "svc:8080"),
        ("http://svc", "svc:80"),
        ("https://svc", "svc:443 (tls)"),
        ("https://svc:8443", "svc:8443 (tls)"),
        ("svc:443", "svc:443"),
        ("svc.ns", "svc.ns:80"),
        ("svc.ns.svc.cluster.local", "svc.ns.svc.cluster.local:80"),
        ("svc.ns.", "svc.ns.:80"),
        ("10.0.0.1:80", "10.0.0.1:80"),
        ("[fe80::1]", "[fe80::1]:80"),
        ("https://[::1]", "[::1]:443 (tls)"),
        ("localhost:9", "localhost:9"),
        ("HTTPS://Svc", "svc:443 (tls)"),
        ("svc/", "svc:80"),
        ("https://svc/path?q=1", "svc:443 (tls)"),
        ("https://user:pw@svc", "svc:443 (tls)"),
        ("svc#x", "svc:80"),
        ("svc:0", "svc:80"),
        ("svc_a", "svc_a:80"),
        ("_svc", "_svc:80"),
        ("ftp://svc", "503 bad_service"),
        ("grpc://svc", "503 bad_service"),
        ("h2c://svc", "503 bad_service"),
        ("svc:abc", "503 bad_service"),
        ("svc:80.invalid", "503 bad_service"),
        ("svc:70000", "503 bad_service"),
        ("svc:-1", "503 bad_service"),
        ("svc:443:443", "503 bad_service"),
        ("::1", "503 bad_service"),
        ("[::1", "503 bad_service"),
        ("", "503 bad_service"),
        ("https://", "503 bad_service"),
        ("[fe80::1%zone]", "503 bad_service"),
    ];
    for (text, expected) in table {
        let (plan, report) = usual(&mapping("m", &format!("prefix: /\nservice: \"{text}\"")));
        assert_eq!(outcome(&plan, "default/m"), expected, "{text}");
        assert_eq!(expected.starts_with("503"), has(&report, "error bad_service spec.service"), "{text}");
    }
}

#[test]
fn bare_names_are_meant_in_the_namespace_of_their_mapping() {
    for (service, expected) in [("svc", "svc.shop:80"), ("localhost", "localhost:80"), ("svc.x", "svc.x:80")]
    {
        let (plan, _) = usual(&mapping("shop/m", &format!("prefix: /\nservice: {service}")));
        assert_eq!(outcome(&plan, "shop/m"), expected);
    }
}

#[test]
fn the_decision_table() {
    let table = [
        ("svc", "", "svc:80", ""),
        ("svc", "tls: ctx", "svc:443 (tls=default/ctx)", ""),
        ("svc:80", "tls: ctx", "svc:80 (tls=default/ctx)", ""),
        ("http://svc", "", "svc:80", ""),
        ("http://svc", "tls: ctx", "svc:443 (tls=default/ctx)", "warning tls_over_http spec.service"),
        ("https://svc", "", "svc:443 (tls)", "warning upstream_not_verified spec.service"),
        ("https://svc", "tls: ctx", "svc:443 (tls=default/ctx)", ""),
        ("svc", "tls: gone", "503 tls_context_missing", "error tls_context_missing spec.tls"),
        ("http://svc", "tls: gone", "503 tls_context_missing", "error tls_context_missing spec.tls"),
        ("https://svc", "tls: gone", "503 tls_context_missing", "error tls_context_missing spec.tls"),
        ("svc", "tls: broken", "503 secret_missing", "error secret_missing spec.tls"),
        ("https://svc", "tls: broken", "503 secret_missing", "error secret_missing spec.tls"),
        ("svc", "tls: true", "svc:443 (tls)", "warning upstream_not_verified spec.service"),
        ("http://svc", "tls: true", "svc:443 (tls)", "warning tls_over_http spec.service"),
        ("https://svc", "tls: false", "svc:443 (tls)", ""),
        ("https://svc", "tls: \"\"", "svc:443 (tls)", ""),
        ("https://svc", "tls: null", "svc:443 (tls)", ""),
        ("svc", "tls: false", "svc:80", ""),
        ("svc", "tls: \"true\"", "503 tls_context_missing", "error tls_context_missing spec.tls"),
        ("svc", "tls: [ctx]", "503 wrong_type", "error wrong_type spec.tls"),
    ];
    let contexts = context("ctx", "secret: own\nca_secret: roots") + &context("broken", "secret: gone");
    for (service, tls, expected, finding) in table {
        let mapping = document("v2", "Mapping", "m", &format!("prefix: /\nservice: {service}\n{tls}"));
        let (plan, report) = usual(&(mapping + &contexts));
        assert_eq!(outcome(&plan, "default/m"), expected, "{service} {tls}");
        assert!(has(&report, finding), "{service} {tls}: {:?}", rows(&report));
    }
}

#[test]
fn an_unverified_upstream_is_an_error_where_that_is_wanted() {
    let strict = super::CompileSettings { require_verified_upstreams: true, ..settings() };
    let yaml = mapping("plain", "prefix: /a\nservice: https://svc")
        + &mapping("bare", "prefix: /b\nservice: svc\ntls: bare")
        + &mapping("good", "prefix: /c\nservice: svc\ntls: good")
        + &mapping("clear", "prefix: /d\nservice: svc")
        + &context("bare", "sni: x")
        + &context("good", "ca_secret: roots");
    let (plan, report) = compiled(&yaml, &keys(), &strict);
    assert_eq!(outcome(&plan, "default/plain"), "503 upstream_not_verified");
    assert_eq!(outcome(&plan, "default/bare"), "503 upstream_not_verified");
    assert_eq!(outcome(&plan, "default/good"), "svc:443 (tls=default/good)");
    assert_eq!(outcome(&plan, "default/clear"), "svc:80");
    assert!(has(&report, "error upstream_not_verified spec.tls"));
    let (plan, report) = usual(&yaml);
    assert_eq!(outcome(&plan, "default/bare"), "svc:443 (tls=default/bare)");
    assert!(has(&report, "warning upstream_not_verified spec.tls"));
}

#[test]
fn what_makes_a_context_unusable() {
    let table = [
        ("sni: x", ""),
        ("ca_secret: roots", ""),
        ("min_tls_version: v1.3", ""),
        ("hosts: []\nsecret: own", ""),
        ("secret: gone", "secret_missing"),
        ("secret: keyless", "secret_no_key"),
        ("secret: own\nca_secret: gone", "secret_missing"),
        ("secret: own\ncrl_secret: gone", "secret_missing"),
        ("secret: own\ncert_chain_file: /a.pem\nprivate_key_file: /a.key", "tls_settings"),
        ("cert_chain_file: /a.pem", "tls_settings"),
        ("private_key_file: /a.key", "tls_settings"),
        ("ca_secret: roots\ncacert_chain_file: /ca.pem", "tls_settings"),
        ("redirect_cleartext_from: often", "wrong_type"),
        ("min_tls_version: 1.3", "unknown_value"),
        ("min_tls_version: v1.3\nmax_tls_version: v1.2", "tls_settings"),
        ("max_tls_version: v1.1", "tls_settings"),
        ("cipher_suites: [RC4-MD5]", "tls_settings"),
        ("cipher_suites: [RC4-MD5, ECDHE-RSA-AES128-GCM-SHA256]", ""),
        ("ecdh_curves: [X25519, P-521]", ""),
        ("verify: perhaps", "unknown_value"),
        ("server_names: [\"https://x\"]", "unknown_value"),
        ("spiffe: {ids: [\"http://x\"]}", "bad_spiffe_id"),
        ("spiffe: {ids: [\"spiffe://td/**/x\"]}", "bad_spiffe_id"),
        ("spiffe: {ids: [\"spiffe://td/x\"]}", "no_spiffe_socket"),
        ("secret: own\nca_secret: roots\nspiffe: {}", "tls_settings"),
        ("secret: own\nca_secret: roots\nspiffe: {trust_domains: [td]}", ""),
    ];
    let keys = Table { bad: [("default/keyless#identity", "secret_no_key")].into(), ..keys() };
    for (fields, code) in table {
        let yaml = mapping("m", "prefix: /\nservice: https://svc\ntls: ctx") + &context("ctx", fields);
        let (plan, report) = compiled(&yaml, &keys, &settings());
        let expected =
            if code.is_empty() { "svc:443 (tls=default/ctx)".to_owned() } else { format!("503 {code}") };
        assert_eq!(outcome(&plan, "default/m"), expected, "{fields}: {:?}", rows(&report));
        assert_eq!(!code.is_empty(), has(&report, &format!("error {code} spec.tls")), "{fields}");
    }
}

#[test]
fn verification_names_and_sni_by_default() {
    let roots = || VerifyPlan::Roots(SourceRef::new("default/roots#trust"));
    let names = |names: &[&str]| RulePlan::Names(names.iter().map(|name| (*name).to_owned()).collect());
    let table = [
        (
            "https://svc.shop",
            "sni: other.example",
            VerifyPlan::Nothing,
            RulePlan::Anyone,
            Some("other.example"),
        ),
        ("https://svc.shop", "ca_secret: roots", roots(), names(&["svc.shop"]), Some("svc.shop")),
        ("https://svc.shop.", "ca_secret: roots", roots(), names(&["svc.shop"]), Some("svc.shop")),
        ("https://10.0.0.1", "ca_secret: roots", roots(), names(&["10.0.0.1"]), None),
        ("https://[::1]", "ca_secret: roots", roots(), names(&["::1"]), None),
        ("https://svc", "ca_secret: roots\nsni: a.b", roots(), names(&["a.b"]), Some("a.b")),
        (
            "https://svc",
            "ca_secret: roots\nsni: a.b\nserver_names: [c.d]",
            roots(),
            names(&["c.d"]),
            Some("a.b"),
        ),
        ("https://svc", "ca_secret: roots\nverify: chain_only", roots(), RulePlan::Anyone, Some("svc")),
        ("https://svc", "ca_secret: roots\nverify: none", VerifyPlan::Nothing, RulePlan::Anyone, Some("svc")),
        ("https://svc.shop", "verify: full", VerifyPlan::System, names(&["svc.shop"]), Some("svc.shop")),
    ];
    for (service, fields, verify, rule, sni) in table {
        let yaml =
            mapping("m", &format!("prefix: /\nservice: {service}\ntls: ctx")) + &context("ctx", fields);
        let (plan, _) = usual(&yaml);
        let tls = client(&plan, "default/m");
        assert_eq!((&tls.verify, &tls.rule, tls.sni.as_deref()), (&verify, &rule, sni), "{service} {fields}");
        assert_eq!(tls.identity, None);
    }
}

#[test]
fn a_least_version_alone_is_enough() {
    let yaml = mapping("m", "prefix: /\nservice: svc\ntls: ctx")
        + &context(
            "ctx",
            "secret: own\nca_secret: roots\ncrl_secret: revoked\nmin_tls_version: v1.3\nalpn_protocols: \"h2, http/1.1\"",
        );
    let (plan, report) = usual(&yaml);
    let tls = client(&plan, "default/m");
    assert_eq!(tls.versions, Versions { tls12: false, tls13: true });
    assert_eq!(tls.alpn, [b"h2".to_vec(), b"http/1.1".to_vec()]);
    assert_eq!(tls.identity, Some(SourceRef::new("default/own#identity")));
    assert_eq!(tls.crl, Some(SourceRef::new("default/revoked#crl")));
    assert_eq!(rows(&report), [""; 0]);
}

#[test]
fn spiffe_takes_what_is_missing_from_the_workload_api() {
    let keys = Table { spiffe: true, ..keys() };
    let workload = || SourceRef::new("spiffe");
    let yaml = mapping("m", "prefix: /\nservice: svc\ntls: ctx")
        + &context("ctx", "spiffe: {ids: [\"spiffe://td/a\", \"spiffe://td/ns/**\"], hint: edge}");
    let (plan, report) = compiled(&yaml, &keys, &settings());
    let tls = client(&plan, "default/m");
    assert_eq!(tls.identity, Some(workload()));
    assert_eq!(tls.hint.as_deref(), Some("edge"));
    assert_eq!(tls.verify, VerifyPlan::Spiffe { trust: workload(), trust_domains: Vec::new() });
    assert!(
        matches!(&tls.rule, RulePlan::Spiffe { ids, trust_domains } if ids.len() == 2 && trust_domains.is_empty())
    );
    assert_eq!(rows(&report), [""; 0]);
    let yaml = mapping("m", "prefix: /\nservice: svc\ntls: ctx") + &context("ctx", "secret: own\nspiffe: {}");
    let (plan, _) = compiled(&yaml, &keys, &settings());
    let tls = client(&plan, "default/m");
    assert_eq!(tls.identity, Some(SourceRef::new("default/own#identity")));
    assert_eq!(tls.rule, RulePlan::OwnTrustDomain(workload()));
}

#[test]
fn contexts_are_found_near_first() {
    let here = || context("shop/up", "secret: here");
    let own = || context("default/up", "secret: own");
    let far = || context("team/up", "secret: far");
    let table = [
        (here() + &own() + &far(), "up", "tls=shop/up", ""),
        (own() + &far(), "up", "tls=default/up", ""),
        (far(), "up", "tls=team/up", "notice tls_context_elsewhere spec.tls"),
        (here() + &far(), "up.team", "tls=team/up", ""),
        (context("shop/up.team", "secret: here") + &far(), "up.team", "tls=shop/up.team", ""),
        (
            far() + &context("other/up", ""),
            "up",
            "503 tls_context_missing",
            "error tls_context_missing spec.tls",
        ),
        (String::new(), "up", "503 tls_context_missing", "error tls_context_missing spec.tls"),
    ];
    let keys = Table {
        good: vec!["default/own#identity", "shop/here#identity", "team/far#identity"],
        ..Table::default()
    };
    for (contexts, text, expected, finding) in table {
        let yaml = mapping("shop/m", &format!("prefix: /\nservice: svc\ntls: {text}")) + &contexts;
        let (plan, report) = compiled(&yaml, &keys, &settings());
        let found = outcome(&plan, "shop/m");
        assert!(found.contains(expected), "{text} {expected}: {found}");
        assert!(has(&report, finding), "{text}: {:?}", rows(&report));
    }
    let strict = super::CompileSettings { one_tenant: false, ..settings() };
    for text in ["up", "up.team"] {
        let yaml = mapping("shop/m", &format!("prefix: /\nservice: svc\ntls: {text}")) + &far();
        assert_eq!(outcome(&compiled(&yaml, &keys, &strict).0, "shop/m"), "503 tls_context_missing");
    }
}

#[test]
fn secrets_belong_to_the_namespace_of_their_context() {
    let keys = Table { good: vec!["a/s#identity", "a/s.b#identity", "b/s#identity"], ..Table::default() };
    let module =
        document("v3alpha1", "Module", "ambassador", "config: {defaults: {tls_secret_namespacing: false}}");
    let table = [
        ("secret: s", "", "a/s#identity"),
        ("secret: s.b", "", "b/s#identity"),
        ("secret: s.b\nsecret_namespacing: false", "", "a/s.b#identity"),
        ("secret: s.b", &*module, "a/s.b#identity"),
        ("secret: s.b\nsecret_namespacing: true", &*module, "b/s#identity"),
    ];
    for (fields, module, expected) in table {
        let yaml = mapping("a/m", "prefix: /\nservice: svc\ntls: ctx") + &context("a/ctx", fields) + module;
        let (plan, _) = compiled(&yaml, &keys, &settings());
        assert_eq!(client(&plan, "a/m").identity, Some(SourceRef::new(expected)), "{fields}");
    }
}

#[test]
fn clusters_are_shared_by_key_alone() {
    let yaml = mapping("a", "prefix: /a\nservice: https://svc\ntls: one\ntimeout_ms: 1")
        + &mapping("b", "prefix: /b\nservice: svc:443\ntls: one\ntimeout_ms: 2")
        + &mapping("c", "prefix: /c\nservice: https://svc\ntls: two")
        + &mapping("d", "prefix: /d\nservice: https://svc")
        + &mapping("e", "prefix: /e\nservice: https://svc\ngrpc: true")
        + &mapping("f", "prefix: /f\nservice: https://svc\ncluster_tag: apart")
        + &context("one", "secret: own\nca_secret: roots")
        + &context("two", "ca_secret: roots");
    let (plan, _) = usual(&yaml);
    assert_eq!(outcome(&plan, "default/a"), outcome(&plan, "default/b"));
    assert_eq!(plan.clusters.len(), 5);
    let mut names: Vec<_> = plan.clusters.iter().map(|cluster| &cluster.name).collect();
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5);
}

/// What cannot be sent as SNI is not left out in silence.
#[test]
fn a_bad_server_name_to_send_is_refused() {
    for (sni, good) in [
        ("a.b", true),
        ("A-1.b_c.", true),
        ("a b", false),
        ("foo:443", false),
        ("*.foo", false),
        ("", false),
        ("10.0.0.1", false),
        ("::1", false),
        ("https://a.b", false),
    ] {
        for fields in ["", "\nca_secret: roots"] {
            let yaml = mapping("m", "prefix: /\nservice: svc\ntls: ctx")
                + &context("ctx", &format!("sni: \"{sni}\"{fields}"));
            let (plan, report) = usual(&yaml);
            assert_eq!(outcome(&plan, "default/m") == "503 unknown_value", !good, "{sni}");
            assert_eq!(has(&report, "error unknown_value spec.sni"), !good, "{sni}: {:?}", rows(&report));
        }
    }
}

/// A typing error must not let less be verified than was meant.
#[test]
fn an_unknown_field_of_a_security_block_refuses() {
    let keys = Table { spiffe: true, ..keys() };
    for (fields, field) in [
        ("spiffe: {id: [\"spiffe://td/a\"]}", "spec.spiffe.id"),
        ("spiffe: {trust_domain: td}", "spec.spiffe.trust_domain"),
        ("ca_secrets: roots", "spec.ca_secrets"),
        ("ca_secret: roots\nverfy: full", "spec.verfy"),
        ("secret: own\nserver_name: x", "spec.server_name"),
    ] {
        let yaml = mapping("m", "prefix: /\nservice: https://svc\ntls: ctx") + &context("ctx", fields);
        let (plan, report) = compiled(&yaml, &keys, &settings());
        assert_eq!(outcome(&plan, "default/m"), "503 unknown_field", "{fields}");
        assert!(has(&report, &format!("error unknown_field {field}")), "{fields}: {:?}", rows(&report));
    }
    for (fields, field) in [
        ("tlsSecret: {name: own}\ntls: {cert_require: true, ca_secret: roots}", "spec.tls.cert_require"),
        ("tlsSecret: {name: own}\ntls: {spiffe: {ids: [], hints: x}}", "spec.tls.spiffe.hints"),
        ("tlsSecret: {nam: own}", "spec.tlsSecret.nam"),
        ("tlsSecret: {name: own}\ntlsContext: {names: ctx}", "spec.tlsContext.names"),
    ] {
        let (plan, report) = compiled(&document("v3alpha1", "Host", "h", fields), &keys, &settings());
        assert!(has(&report, &format!("error unknown_field {field}")), "{fields}: {:?}", rows(&report));
        assert!(plan.hosts[0].unavailable.is_some(), "{fields}");
    }
}
