//! TCPMappings: what each form of them becomes, which listener has them, and how they share.

use proxy::net::Layer;

use super::{Plan, compiled, document, has, keys, mapping, rows, settings, usual};
use crate::plan::{Cleartext, ListenerPlan, Outcome, TcpMappingPlan};

fn tcp(name: &str, fields: &str) -> String {
    document("v3alpha1", "TCPMapping", name, fields)
}

fn find<'a>(plan: &'a Plan, name: &str) -> &'a TcpMappingPlan {
    plan.tcp_mappings.iter().find(|mapping| &*mapping.name == name).expect(name)
}

/// What became of it: its cluster's name, or the code it closes connections with.
fn outcome(plan: &Plan, name: &str) -> String {
    match &find(plan, name).outcome {
        Outcome::Forward { cluster, .. } => plan.clusters[*cluster].name.to_string(),
        Outcome::Redirect(_) => panic!("a redirect"),
        Outcome::Unavailable(why) => why.reason.code().to_owned(),
    }
}

fn listener<'a>(plan: &'a Plan, name: &str) -> &'a ListenerPlan {
    let names: Vec<_> = plan.listeners.iter().map(|listener| &*listener.name).collect();
    plan.listeners.iter().find(|listener| &*listener.name == name).unwrap_or_else(|| panic!("{names:?}"))
}

const CONTEXT: &str = "---
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: ctx, namespace: default}
spec: {hosts: [], secret: own, ca_secret: roots, sni: db.internal}
";

/// Version, fields, what becomes of it, finding.
const FORMS: &[(&str, &str, &str, &str)] = &[
    ("v3alpha1", "service: svc:5432", "svc:5432 (tcp)", ""),
    ("v3alpha1", "service: svc", "svc:80 (tcp)", ""),
    ("v3alpha1", "service: https://svc", "svc:443 (tls, tcp)", "warning upstream_not_verified spec.service"),
    ("v3alpha1", "service: svc:5432\ntls: ctx", "svc:5432 (tls=default/ctx, tcp)", ""),
    (
        "v3alpha1",
        "service: svc:5432\ntls: ctx\ncluster_tag: blue",
        "svc:5432 (tls=default/ctx, tcp, blue)",
        "",
    ),
    (
        "v2",
        "service: svc:5432\ntls: true",
        "svc:5432 (tls, tcp)",
        "warning upstream_not_verified spec.service",
    ),
    ("v1", "service: svc:5432\ntls: ctx", "svc:5432 (tls=default/ctx, tcp)", ""),
    ("v3alpha1", "service: svc:5432\ntls: gone", "tls_context_missing", "error tls_context_missing spec.tls"),
    (
        "v3alpha1",
        "service: http://svc\ntls: ctx",
        "svc:443 (tls=default/ctx, tcp)",
        "warning tls_over_http spec.service",
    ),
    ("v3alpha1", "service: ftp://svc", "bad_service", "error bad_service spec.service"),
    ("v3alpha1", "tls: ctx", "bad_service", "error bad_service spec.service"),
    (
        "v3alpha1",
        "service: svc\nidle_timeout_ms: soon",
        "unknown_value",
        "error unknown_value spec.idle_timeout_ms",
    ),
    ("v3alpha1", "service: svc\nweight: 101", "unknown_value", "error unknown_value spec.weight"),
    ("v3alpha1", "service: svc\nhost: 10.0.0.1", "unknown_value", "error unknown_value spec.host"),
    ("v3alpha1", "service: svc\nhost: a.*.b", "unknown_value", "error unknown_value spec.host"),
    (
        "v3alpha1",
        "service: svc\nresolver: endpoint",
        "svc:80 (tcp)",
        "warning unsupported_field spec.resolver",
    ),
    (
        "v3alpha1",
        "service: svc\ncircuit_breakers: [{max_connections: 1}]",
        "svc:80 (tcp)",
        "warning unsupported_field spec.circuit_breakers",
    ),
    ("v3alpha1", "service: svc\nprefix: /", "svc:80 (tcp)", "warning unknown_field spec.prefix"),
];

#[test]
fn every_form_of_a_service_and_its_tls() {
    for (version, fields, wanted, finding) in FORMS {
        let (plan, report) =
            usual(&(document(version, "TCPMapping", "t", &format!("port: 6000\n{fields}")) + CONTEXT));
        assert_eq!(outcome(&plan, "default/t"), *wanted, "{fields}");
        assert!(has(&report, finding), "{fields}: {:?}", rows(&report));
        assert_eq!(rows(&report).is_empty(), finding.is_empty(), "{fields}: {:?}", rows(&report));
    }
}

#[test]
fn what_has_no_place_is_left_out_and_the_rest_is_read() {
    for fields in [
        "service: svc",
        "port: x\nservice: svc",
        "port: 70000\nservice: svc",
        "port: 1\nservice: svc\nhost: [a]",
        "port: 1\nservice: svc\naddress: here",
    ] {
        let (plan, report) = usual(&tcp("t", fields));
        assert!(plan.tcp_mappings.is_empty() && !rows(&report).is_empty(), "{fields}: {:?}", rows(&report));
    }
    let strict = super::CompileSettings { require_verified_upstreams: true, ..settings() };
    let (plan, _) = compiled(&tcp("t", "port: 1\nservice: https://svc"), &keys(), &strict);
    assert_eq!(outcome(&plan, "default/t"), "upstream_not_verified");
    for (text, millis) in [("\"1500\"", Some(1500)), ("1500", Some(1500)), ("0", Some(0)), ("~", None)] {
        let (plan, report) = usual(&tcp("t", &format!("port: 1\nservice: svc\nidle_timeout_ms: {text}")));
        let Outcome::Forward { idle_timeout, .. } = find(&plan, "default/t").outcome else {
            panic!("{:?}", rows(&report))
        };
        assert_eq!(idle_timeout.map(|idle| idle.as_millis()), millis, "{text}");
    }
}

fn listening(protocol: &str) -> String {
    let fields =
        format!("port: 8443\n{protocol}\nsecurityModel: XFP\nhostBinding: {{namespace: {{from: ALL}}}}");
    document("v3alpha1", "Listener", "l", &fields)
}

#[test]
fn http_and_tcp_share_a_port_only_where_the_server_name_tells_them_apart() {
    let (named, all) = ("port: 8443\nservice: svc\nhost: db.test", "port: 8443\nservice: svc");
    let table = [
        ("protocol: HTTPS", named, (Layer::Http, true), "svc:80 (tcp)", ""),
        ("protocolStack: [PROXY, TLS, HTTP, TCP]", named, (Layer::Http, true), "svc:80 (tcp)", ""),
        ("protocol: HTTPS", all, (Layer::Http, true), "tcp_conflict", "error tcp_conflict spec.port"),
        ("protocol: HTTP", named, (Layer::Http, false), "tcp_conflict", "error tcp_conflict spec.port"),
        ("protocol: HTTP", all, (Layer::Http, false), "tcp_conflict", "error tcp_conflict spec.port"),
        ("protocol: TCP", named, (Layer::Tcp, true), "svc:80 (tcp)", ""),
        ("protocol: TCP", all, (Layer::Tcp, false), "svc:80 (tcp)", ""),
        ("protocol: TLS", all, (Layer::Tcp, true), "svc:80 (tcp)", ""),
        ("protocolStack: [PROXY, TCP]", all, (Layer::Tcp, false), "svc:80 (tcp)", ""),
        ("protocolStack: [PROXY, TLS, TCP]", named, (Layer::Tcp, true), "svc:80 (tcp)", ""),
    ];
    for (protocol, fields, (layer, tls), wanted, finding) in table {
        let (plan, report) = usual(&(listening(protocol) + &tcp("t", fields)));
        let found = listener(&plan, "default/l");
        assert_eq!(plan.listeners.len(), 1, "{protocol} {fields}");
        assert_eq!((found.layer, found.tls), (layer, tls), "{protocol} {fields}");
        assert_eq!(found.proxy_protocol, protocol.contains("PROXY"), "{protocol}");
        let refused = found.cleartext == Cleartext::Refused;
        assert_eq!(refused, protocol.contains("TLS") && layer == Layer::Tcp, "{protocol}");
        assert_eq!(outcome(&plan, "default/t"), wanted, "{protocol} {fields}");
        assert_eq!(found.tcp.is_empty(), wanted == "tcp_conflict", "{protocol} {fields}");
        assert!(has(&report, finding), "{protocol} {fields}: {:?}", rows(&report));
        assert_eq!(rows(&report).is_empty(), finding.is_empty(), "{protocol} {fields}: {:?}", rows(&report));
    }
    let (_, report) = usual(&listening("protocol: TCP"));
    assert!(has(&report, "warning no_effect spec.port"), "{:?}", rows(&report));
    let host = document("v3alpha1", "Host", "h", "hostname: db.test\ntlsSecret: {name: own}");
    let both = listening("protocol: HTTPS") + &host + &mapping("m", "prefix: /\nservice: web");
    let (_, report) = usual(&(both + &tcp("t", named)));
    assert_eq!(rows(&report), ["32 notice tcp_conflict spec.host"]);
}

#[test]
fn a_port_without_a_listener_gets_a_bare_one() {
    let yaml = tcp("a", "port: 6000\nservice: svc")
        + &tcp("b", "port: 6000\nservice: svc\nhost: b.test")
        + &tcp("c", "port: 6001\naddress: 127.0.0.9\nservice: svc")
        + &tcp("d", "port: 8080\nservice: svc")
        + &tcp("e", "port: 6001\naddress: 127.0.0.8\nservice: svc");
    let (plan, report) = usual(&yaml);
    let bare = listener(&plan, "tcp-6000");
    assert_eq!((bare.layer, bare.tls, bare.tcp.len()), (Layer::Tcp, true, 2));
    assert_eq!(listener(&plan, "tcp-127.0.0.9-6001").bind.to_string(), "127.0.0.9:6001");
    assert_eq!(listener(&plan, "tcp-127.0.0.8-6001").bind.to_string(), "127.0.0.8:6001");
    // The default listener serves HTTP there.
    assert_eq!(outcome(&plan, "default/d"), "tcp_conflict");
    assert_eq!(rows(&report), ["29 error tcp_conflict spec.port"]);
    let everywhere = super::CompileSettings { bind: "::".parse().expect("address"), ..settings() };
    let yaml = tcp("a", "port: 6000\nservice: svc")
        + &tcp("b", "port: 6000\naddress: 127.0.0.9\nservice: svc")
        + &tcp("c", "port: 6000\naddress: 0.0.0.0\nservice: svc\nhost: c.test");
    let (plan, report) = compiled(&yaml, &keys(), &everywhere);
    assert_eq!(outcome(&plan, "default/b"), "tcp_conflict");
    assert_eq!(rows(&report), ["14 error tcp_conflict spec.address"]);
    assert_eq!(listener(&plan, "tcp-6000").tcp.len(), 2);
}

#[test]
fn weights_share_the_connections_of_one_port_and_name() {
    let table = [
        (["weight: 70", "weight: 30"], [0..70, 70..100], ""),
        (["weight: 10", "cluster_tag: x"], [0..10, 10..100], ""),
        (["weight: 0", "cluster_tag: x"], [0..0, 0..100], ""),
        (["weight: 30", "weight: 20"], [0..60, 60..100], "notice no_effect spec.weight"),
        (["weight: 60", "weight: 70"], [0..60, 60..100], "error weights_exceed_100 spec.weight"),
        (["cluster_tag: x", "cluster_tag: y"], [0..50, 50..100], "warning tcp_conflict spec.weight"),
        (["host: a.test", "host: b.test"], [0..100, 0..100], ""),
        (["host: A.test", "host: a.test"], [0..50, 50..100], "warning tcp_conflict spec.weight"),
    ];
    for ([a, b], shares, finding) in table {
        let yaml = tcp("a", &format!("port: 6000\nservice: one\n{a}"))
            + &tcp("b", &format!("port: 6000\nservice: two\n{b}"));
        let (plan, report) = usual(&yaml);
        let found = ["default/a", "default/b"].map(|name| find(&plan, name).share.clone());
        assert_eq!(found, shares, "{a} {b}");
        assert!(has(&report, finding), "{a} {b}: {:?}", rows(&report));
        assert_eq!(rows(&report).is_empty(), finding.is_empty(), "{a} {b}: {:?}", rows(&report));
    }
}
