//! One bad resource never stops another; findings name their line; the manifests of Emissary's pages compile as they are.

use std::fmt::Write as _;

use super::{Table, compiled, document, documents, find, has, keys, mapping, outcome, rows, settings, usual};
use crate::{
    compile::{CODES, conditions::conditions, wants},
    keyring::KeyRef,
    plan::{Outcome, Plan},
};

#[test]
fn a_broken_mapping_leaves_its_neighbours_alone() {
    let broken = [
        "prefix: /x\nservice: svc\ntls: gone",
        "prefix: \"(\"\nprefix_regex: true\nservice: svc",
        "service: svc",
        "prefix: [/x]\nservice: svc",
        "prefix: /x",
        "prefix: /x\nservice: ftp://x",
        "prefix: /x\nservice: svc\nregex_headers: {a: \"(\"}",
        "prefix: /x\nservice: svc\nretry_policy: {retry_on: often}",
        "prefix: /x\nservice: svc\nretry_policy: {per_try_timeout: soon}",
        "prefix: /x\nservice: svc\ntimeout_ms: -1",
        "prefix: /x\nservice: svc\ntimeout_ms: soon",
        "prefix: /x\nservice: svc\nweight: 101",
        "prefix: /x\nservice: svc\nhost_redirect: true\nredirect_response_code: 200",
        "prefix: /x\nservice: svc\nadd_request_headers: {\"b d\": x}",
        "prefix: /x\nservice: svc\nhost_rewrite: \"a b\"",
        "prefix: /x\nservice: svc\nregex_rewrite: {pattern: \"(\", substitution: x}",
        "prefix: /x\nservice: svc\nshadow: true",
        "prefix: /x\nservice: svc\nheaders: [a]",
    ];
    let neighbour = mapping("good", "prefix: /good/\nservice: good");
    let alone = format!("{:?}", find(&usual(&neighbour).0, "default/good"));
    for fields in broken {
        let (plan, report) = usual(&(mapping("bad", fields) + &neighbour));
        assert_eq!(
            alone.replace("cluster: 0", ""),
            format!("{:?}", find(&plan, "default/good")).replace("cluster: 0", "").replace("cluster: 1", "")
        );
        assert_eq!(outcome(&plan, "default/good"), "good:80", "{fields}");
        let bad = plan.mappings.iter().find(|mapping| &*mapping.name == "default/bad");
        assert!(bad.is_none_or(|bad| matches!(bad.outcome, Outcome::Unavailable(_))), "{fields}");
        let errors: Vec<_> =
            report.findings.iter().filter(|finding| finding.severity == super::Severity::Error).collect();
        assert!(!errors.is_empty(), "{fields}");
        for finding in &report.findings {
            assert_eq!(&*finding.object.as_ref().expect("object").name, "bad", "{fields}");
            assert!(CODES.contains(&finding.code), "{}", finding.code);
        }
    }
}

#[test]
fn findings_name_the_line_of_the_field() {
    let yaml = "apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata:
  name: m
spec:
  hostname: \"*\"
  prefix: /
  service: svc
  timeout_mss: 5
  retry_policy:
    num_retries: 2
    retry_on: often
  cors: {origins: [a]}
---
kind: Mapping
apiVersion: getambassador.io/v3alpha1
metadata: {name: lost}
spec:
  hostname: \"*\"
  service: svc
";
    let (_, report) = usual(yaml);
    assert_eq!(
        rows(&report),
        [
            "9 warning unknown_field spec.timeout_mss",
            "12 error unknown_value spec.retry_policy.retry_on",
            "13 warning unsupported_field spec.cors",
            "19 error missing_prefix spec.prefix",
        ]
    );
    assert_eq!(report.findings[0].remedy, "did you mean `timeout_ms`?");
    assert_eq!(
        report.findings[0].origin,
        resource::Origin::File { path: std::sync::Arc::new("all.yaml".into()), line: 1 }
    );
}

#[test]
fn protection_that_is_not_built_refuses_instead_of_opening() {
    let yaml = mapping("guarded", "prefix: /a\nservice: svc")
        + &mapping("open", "prefix: /b\nservice: svc\nbypass_auth: true")
        + &mapping("moved", "prefix: /c\nservice: x.y\nhost_redirect: true");
    let auth = document("v3alpha1", "AuthService", "auth", "auth_service: auth");
    let (plan, report) = usual(&(yaml.clone() + &auth));
    assert_eq!(outcome(&plan, "default/guarded"), "503 auth_unsupported");
    assert_eq!(outcome(&plan, "default/open"), "svc:80");
    assert_eq!(outcome(&plan, "default/moved"), "redirect 301 x.y");
    assert!(has(&report, "error auth_unsupported spec"));
    let module = document("v3alpha1", "Module", "ambassador", "config: {ip_deny: [{peer: 10.0.0.0/8}]}");
    let (plan, report) = usual(&(yaml + &module));
    assert_eq!(outcome(&plan, "default/open"), "503 address_rules_unsupported");
    assert!(has(&report, "error address_rules_unsupported spec.config.ip_deny"));
}

#[test]
fn what_is_not_read_is_named() {
    let yaml = document("v3alpha1", "ConsulResolver", "c", "address: x")
        + &document("v3alpha1", "RateLimitService", "r", "service: x")
        + &document("v9", "Mapping", "future", "prefix: /")
        + &document("v3alpha1", "Module", "tls", "config: {}")
        + &mapping("m", "prefix: /\nservice: one")
        + &mapping("m", "prefix: /\nservice: two");
    let (plan, report) = usual(&yaml);
    assert_eq!(outcome(&plan, "default/m"), "one:80");
    assert_eq!(plan.mappings.len(), 1);
    for row in [
        "error unsupported_kind spec",
        "warning unsupported_kind spec",
        "error unknown_version spec",
        "warning no_effect spec",
        "error duplicate_object spec",
    ] {
        assert!(has(&report, row), "{row}: {:?}", rows(&report));
    }
}

#[test]
fn conditions_say_what_the_report_says() {
    let yaml = mapping("good", "prefix: /a\nservice: svc")
        + &mapping("bad", "prefix: /b\nservice: svc\ntls: gone")
        + &mapping("open", "prefix: /c\nservice: https://svc");
    let (plan, report) = usual(&yaml);
    let text: Vec<_> = conditions(&plan, &report)
        .into_iter()
        .map(|(object, conditions)| {
            let held = conditions.iter().map(|one| format!(" {}={}:{}", one.kind, one.holds, one.reason));
            format!("{}{}", object.name, held.collect::<String>())
        })
        .collect();
    assert_eq!(
        text,
        [
            "bad Accepted=false:tls_context_missing ResolvedRefs=false:tls_context_missing Programmed=false:tls_context_missing",
            "good Accepted=true:ok ResolvedRefs=true:ok Programmed=true:ok",
            "open Accepted=true:ok ResolvedRefs=true:ok Programmed=true:ok UpstreamNotVerified=true:upstream_not_verified",
        ]
    );
}

#[test]
fn wanted_key_material() {
    let yaml =
        document("v2", "TLSContext", "ctx", "secret: own\nca_secret: roots.other\ncrl_secret: revoked")
            + &document("v3alpha1", "Host", "h", "tlsSecret: {name: server}\ntls: {ca_secret: clients}");
    let names: Vec<_> = wants(&documents(&yaml), &settings())
        .into_iter()
        .map(|key| match key {
            KeyRef::Secret { namespace, name, usage } => format!("{namespace}/{name} {usage:?}"),
            KeyRef::Files(files) => format!("{files:?}"),
        })
        .collect();
    assert_eq!(
        names,
        [
            "default/clients Trust",
            "default/own Identity",
            "default/revoked Crl",
            "default/server Identity",
            "other/roots Trust",
        ]
    );
}

/// The pages' manifests, byte for byte.
const BASIC: &str = include_str!("seeds/basic.yaml");
const CONTEXT: &str = include_str!("seeds/context.yaml");
const V2: &str = include_str!("seeds/v2.yaml");

fn shown(plan: &Plan) -> String {
    let mut text = String::new();
    for mapping in &plan.mappings {
        writeln!(text, "{mapping:#?}").expect("text");
    }
    for cluster in &plan.clusters {
        writeln!(text, "{cluster:#?}").expect("text");
    }
    text
}

#[test]
fn the_manifests_of_emissarys_pages() {
    let keys = Table {
        good: vec!["default/self-signed-cert#identity", "default/upstream-certs#identity"],
        ..keys()
    };
    for (name, yaml) in [("basic", BASIC), ("context", CONTEXT), ("v2", V2)] {
        let (plan, report) = compiled(yaml, &keys, &settings());
        assert!(
            rows(&report).iter().all(|row| row.contains("warning upstream_not_verified")),
            "{:?}",
            rows(&report)
        );
        insta::assert_snapshot!(name, shown(&plan));
    }
}

/// Many Hosts and Mappings are attached through indexes: the cost grows with what belongs together, not with all pairs.
#[test]
fn thousands_of_hosts_and_mappings_are_attached_each_to_its_own() {
    let many = 2000;
    let yaml: String = (0..many)
        .map(|at| {
            document("v3alpha1", "Host", &format!("h{at}"), &format!("hostname: h{at}.example"))
                + &document(
                    "v3alpha1",
                    "Mapping",
                    &format!("m{at}"),
                    &format!("hostname: h{at}.example\nprefix: /\nservice: svc"),
                )
        })
        .collect();
    let (plan, _) = usual(&yaml);
    assert_eq!((plan.hosts.len(), plan.mappings.len(), plan.clusters.len()), (many, many, 1));
    for host in &plan.hosts {
        let [mapping] = host.mappings.as_slice() else { panic!("{}: {:?}", host.name, host.mappings) };
        assert_eq!(
            host.hostname.text(),
            format!("{}.example", plan.mappings[*mapping].object.name.replace('m', "h"))
        );
    }
}

/// One finding is one line, and no value of a manifest speaks to the terminal.
#[test]
fn control_characters_of_manifests_are_escaped() {
    let yaml = mapping("m", "prefix: /\nservice: \"a\\nb\\e[31m\\u009b\\u0085\"\n\"x\\ty\": 1");
    let (_, report) = usual(&yaml);
    assert_eq!(report.findings.len(), 2);
    for finding in &report.findings {
        let line = finding.to_string();
        assert!(!line.chars().any(char::is_control), "{line:?}");
    }
    let text = report.findings.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
    assert!(text.contains("a\\nb\\u{1b}[31m") && text.contains("x\\ty"), "{text}");
}
