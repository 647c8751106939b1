//! emissary.md 3.1, 4.2, 4.3: Hosts, Listeners, and names of Services.

use std::net::SocketAddr;

use identity::ClientAuth;
use proxy::upstream::EndpointOrigin;

use super::{Table, compiled, document, has, keys, mapping, outcome, rows, settings, usual};
use crate::plan::{InsecureAction, Outcome, Plan, RulePlan, SecurityModel, VerifyPlan};

fn host(name: &str, fields: &str) -> String {
    document("v3alpha1", "Host", name, fields)
}

fn labelled(name: &str, labels: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}, labels: {{{labels}}}}}\nspec: {{prefix: /, service: svc, {fields}}}\n"
    )
}

fn attached(plan: &Plan, host: &str) -> Vec<String> {
    let host = plan.hosts.iter().find(|found| &*found.name == host).expect(host);
    host.mappings.iter().map(|at| plan.mappings[*at].object.name.to_string()).collect()
}

#[test]
fn which_mappings_a_host_has() {
    let yaml = host("plain", "hostname: a.example")
        + &host("picky", "hostname: a.example\nmappingSelector: {matchLabels: {app: shop, tier: web}}")
        + &host("glob", "hostname: \"*.example\"")
        + &host("old", "hostname: b.example\nselector: {matchLabels: {app: shop}}")
        + &labelled("m1", "", "hostname: a.example")
        + &labelled("m2", "app: shop, tier: web", "")
        + &labelled("m3", "app: shop, tier: web", "hostname: \"*.example\"")
        + &labelled("m4", "app: shop", "hostname: \"*\"")
        + &labelled("m5", "", "")
        + &labelled("m6", "app: shop, tier: web", "hostname: b.example")
        + &labelled("m7", "", "host: \"a.*\", host_regex: true");
    let (plan, report) = usual(&yaml);
    assert_eq!(attached(&plan, "default/plain"), ["m1", "m3", "m4", "m7"]);
    assert_eq!(attached(&plan, "default/picky"), ["m2", "m3"]);
    assert_eq!(attached(&plan, "default/glob"), ["m1", "m3", "m4", "m6", "m7"]);
    assert_eq!(attached(&plan, "default/old"), ["m2", "m3", "m4", "m6"]);
    let lost: Vec<_> =
        report.findings.iter().filter(|finding| finding.code == "mapping_unattached").collect();
    assert_eq!(lost.len(), 1);
    assert_eq!(&*lost[0].object.as_ref().expect("object").name, "m5");
    assert!(has(&report, "warning duplicate_host spec.hostname"));
}

#[test]
fn without_hosts_everything_is_served_under_any_name() {
    let yaml = mapping("m", "prefix: /\nservice: svc");
    let (plan, report) = usual(&yaml);
    assert_eq!(plan.hosts.len(), 1);
    assert_eq!(plan.hosts[0].insecure, InsecureAction::Route);
    assert!(plan.hosts[0].tls.is_none());
    assert_eq!(plan.listeners.iter().map(|listener| &*listener.name).collect::<Vec<_>>(), ["http"]);
    assert_eq!(rows(&report), [""; 0]);
    let keys = Table { good: vec!["default/fallback-self-signed-cert#identity"], ..Table::default() };
    let (plan, _) = compiled(&yaml, &keys, &settings());
    assert!(plan.hosts[0].tls.is_some());
    assert_eq!(plan.listeners.iter().map(|listener| listener.bind.port()).collect::<Vec<_>>(), [8080, 8443]);
}

#[test]
fn a_host_whose_certificate_is_missing_fails_closed() {
    let yaml =
        host("h", "hostname: a.example\ntlsSecret: {name: gone}\nrequestPolicy: {insecure: {action: Route}}")
            + &host("any", "hostname: \"*\"\nrequestPolicy: {insecure: {action: Route}}")
            + &mapping("m", "prefix: /\nservice: svc");
    let (plan, report) = usual(&yaml);
    let failed = plan.hosts.iter().find(|host| &*host.name == "default/h").expect("stays");
    assert_eq!(failed.unavailable.as_ref().map(|why| why.reason.code()), Some("secret_missing"));
    assert!(has(&report, "error secret_missing spec.tlsSecret"));
    assert!(plan.hosts.iter().any(|host| &*host.name == "default/any" && host.unavailable.is_none()));
}

#[test]
fn who_may_connect_to_a_host() {
    let table = [
        ("tlsSecret: {name: own}", ClientAuth::Off, None, RulePlan::Anyone, ""),
        (
            "tlsSecret: {name: own}\ntls: {ca_secret: roots}",
            ClientAuth::Optional,
            Some("roots"),
            RulePlan::Anyone,
            "",
        ),
        (
            "tlsSecret: {name: own}\ntls: {cert_required: true, ca_secret: roots}",
            ClientAuth::Required,
            Some("roots"),
            RulePlan::Anyone,
            "",
        ),
        (
            "tls: {spiffe: {}}",
            ClientAuth::Required,
            Some("spiffe"),
            RulePlan::OwnTrustDomain(identity::SourceRef::new("spiffe")),
            "",
        ),
        (
            "tlsSecret: {name: own}\ntlsContext: {name: ctx}",
            ClientAuth::Required,
            Some("roots"),
            RulePlan::Anyone,
            "",
        ),
    ];
    let keys = Table { spiffe: true, ..keys() };
    for (fields, auth, verify, rule, _) in table {
        let context = document("v2", "TLSContext", "ctx", "cert_required: true\nca_secret: roots");
        let yaml = host("h", fields) + if fields.contains("tlsContext") { &context } else { "" };
        let (plan, report) = compiled(&yaml, &keys, &settings());
        let tls = plan.hosts[0].tls.as_ref().unwrap_or_else(|| panic!("{fields}: {:?}", rows(&report)));
        let verified = tls.verify.as_ref().map(|verify| match verify {
            VerifyPlan::Roots(_) => "roots",
            VerifyPlan::Spiffe { .. } => "spiffe",
            _ => "other",
        });
        assert_eq!((tls.client_auth, verified, &tls.rule), (auth, verify, &rule), "{fields}");
        assert_eq!(rows(&report), [""; 0], "{fields}");
    }
    for (fields, code) in [
        ("tlsSecret: {name: own}\ntls: {cert_required: true}", "ca_missing"),
        ("tls: {cert_required: true, ca_secret: roots}", "tls_settings"),
        ("tlsSecret: {name: own}\ntlsContext: {name: gone}", "tls_context_missing"),
        ("tlsSecret: {name: own}\ntls: {min_tls_version: one}", "unknown_value"),
        ("requestPolicy: {insecure: {action: Ignore}}", "unknown_value"),
        ("tls: {spiffe: {}}", "no_spiffe_socket"),
    ] {
        let (plan, report) = usual(&host("h", fields));
        let why =
            plan.hosts[0].unavailable.as_ref().unwrap_or_else(|| panic!("{fields}: {:?}", rows(&report)));
        assert_eq!(why.reason.code(), code, "{fields}");
    }
}

#[test]
fn two_listeners_serve_one_hostname_with_different_rules() {
    let listener = |name: &str, port: u16, label: &str| {
        document(
            "v3alpha1",
            "Listener",
            name,
            &format!(
                "port: {port}\nprotocol: HTTPS\nsecurityModel: XFP\nhostBinding: {{namespace: {{from: ALL}}, selector: {{matchLabels: {{edge: {label}}}}}}}"
            ),
        )
    };
    let labelled = |name: &str, label: &str, tls: &str| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {{name: {name}, labels: {{edge: {label}}}}}\nspec: {{hostname: \"*\", tlsSecret: {{name: own}}{tls}}}\n"
        )
    };
    let yaml = listener("inner", 1, "inner")
        + &listener("outer", 2, "outer")
        + &labelled("inner", "inner", ", tls: {cert_required: true, ca_secret: roots}")
        + &labelled("outer", "outer", "")
        + &mapping("m", "prefix: /\nservice: svc");
    let (plan, report) = usual(&yaml);
    assert_eq!(rows(&report), [""; 0]);
    let auth: Vec<_> = plan
        .listeners
        .iter()
        .map(|listener| {
            assert_eq!(listener.hosts.len(), 1);
            let host = &plan.hosts[listener.hosts[0]];
            assert_eq!(host.mappings, [0]);
            (&*listener.name, host.tls.as_ref().expect("TLS").client_auth)
        })
        .collect();
    assert_eq!(auth, [("default/inner", ClientAuth::Required), ("default/outer", ClientAuth::Off)]);
}

#[test]
fn listeners() {
    let listener = |name: &str, fields: &str| document("v3alpha1", "Listener", name, fields);
    let yaml = listener(
        "a",
        "port: 1\nprotocol: HTTPSPROXY\nsecurityModel: SECURE\nl7Depth: 2\nhostBinding: {namespace: {from: SELF}}",
    ) + &listener("b", "port: 1\nprotocol: HTTP\nsecurityModel: XFP")
        + &listener("c", "port: 2\nprotocolStack: [TLS, HTTP]\nsecurityModel: INSECURE")
        + &listener("d", "port: 3\nprotocol: TCP\nsecurityModel: XFP")
        + &listener("e", "port: 4\nsecurityModel: XFP")
        + &listener("f", "port: 5\nprotocol: HTTP\nsecurityModel: MAYBE")
        + &host("h", "requestPolicy: {insecure: {action: Route}}")
        + &host("other/h", "hostname: o\nrequestPolicy: {insecure: {action: Route, additionalPort: 9}}")
        + &host("other/i", "hostname: i\nrequestPolicy: {insecure: {action: Route, additionalPort: 1}}");
    let (plan, report) = usual(&yaml);
    let names: Vec<_> = plan.listeners.iter().map(|listener| &*listener.name).collect();
    assert_eq!(names, ["default/a", "default/c", "default/d"]);
    let a = &plan.listeners[0];
    assert!(a.tls && a.proxy_protocol && a.http.trust_forwarded_proto);
    assert_eq!((a.security, a.http.trusted_hops, a.hosts.len()), (SecurityModel::Secure, 2, 1));
    let c = &plan.listeners[1];
    assert!(c.tls && !c.proxy_protocol && !c.http.trust_forwarded_proto);
    for row in [
        "error duplicate_listener spec.port",
        "error unknown_value spec.protocol",
        "error unknown_value spec.securityModel",
        "warning no_effect spec.requestPolicy",
    ] {
        assert!(has(&report, row), "{row}: {:?}", rows(&report));
    }
    // One of the Host with a port of its own, one of the Listener for TCP that nobody uses.
    assert_eq!(report.findings.iter().filter(|finding| finding.code == "no_effect").count(), 2);
}

#[test]
fn names_resolve_as_in_the_cluster() {
    let cluster = "---
apiVersion: v1
kind: Service
metadata: {name: svc, namespace: shop}
spec: {ports: [{name: web, port: 80, targetPort: 8080}, {name: admin, port: 81}]}
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata: {name: svc-1, namespace: shop, labels: {kubernetes.io/service-name: svc}}
ports: [{name: web, port: 8080}]
endpoints:
- {addresses: [10.0.0.2], conditions: {ready: true}}
- {addresses: [10.0.0.1]}
- {addresses: [10.0.0.3], conditions: {ready: false}}
---
apiVersion: v1
kind: Service
metadata: {name: away, namespace: shop}
spec: {type: ExternalName, externalName: example.org}
";
    let fixed = |addresses: &[&str]| {
        EndpointOrigin::Static(addresses.iter().map(|text| text.parse().expect(text)).collect())
    };
    let web = || fixed(&["10.0.0.1:8080", "10.0.0.2:8080"]);
    let table = [
        ("svc", web(), ""),
        ("svc.shop", web(), ""),
        ("svc.shop.svc:80", web(), ""),
        ("svc.shop.svc.cluster.local", web(), ""),
        ("svc:8080", web(), ""),
        ("svc:81", fixed(&[]), ""),
        ("svc:99", fixed(&[]), "warning service_port_missing spec.service"),
        ("away", EndpointOrigin::Dns, "warning service_port_missing spec.service"),
        ("svc.other", EndpointOrigin::Dns, ""),
        ("given", fixed(&["127.0.0.1:1"]), ""),
        ("given:2", fixed(&["127.0.0.1:2"]), ""),
        ("10.0.0.9", EndpointOrigin::Dns, ""),
    ];
    let address = |text: &str| -> Vec<SocketAddr> { vec![text.parse().expect(text)] };
    let resolve = vec![
        ("given".to_owned(), None, address("127.0.0.1:1")),
        ("given".to_owned(), Some(2), address("127.0.0.1:2")),
    ];
    let settings = super::CompileSettings { resolve, ..settings() };
    for (service, origin, finding) in table {
        let yaml = mapping("shop/m", &format!("prefix: /\nservice: \"{service}\"")) + cluster;
        let (plan, report) = compiled(&yaml, &keys(), &settings);
        assert!(
            matches!(super::find(&plan, "shop/m").outcome, Outcome::Forward { .. }),
            "{}",
            outcome(&plan, "shop/m")
        );
        assert_eq!(plan.clusters[0].endpoints, origin, "{service}");
        assert!(
            has(&report, finding) && finding.is_empty() == rows(&report).is_empty(),
            "{service}: {:?}",
            rows(&report)
        );
    }
}

/// A Listener whose layers cannot be read does not serve: least of all in cleartext.
#[test]
fn protocol_stacks() {
    let table = [
        ("protocolStack: [HTTP]", Some((false, false)), ""),
        ("protocolStack: [HTTP, TCP]", Some((false, false)), ""),
        ("protocolStack: [TLS, HTTP, TCP]", Some((true, false)), ""),
        ("protocolStack: [PROXY, HTTP]", Some((false, true)), ""),
        ("protocolStack: [PROXY, TLS, HTTP, TCP]", Some((true, true)), ""),
        (
            "protocolStack: [TLS, HTTP]\nprotocol: HTTP",
            Some((true, false)),
            "warning no_effect spec.protocol",
        ),
        ("protocolStack: [TLS, FOO]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [FOO]\nprotocol: HTTPS", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: []", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: foo", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: {a: b}", None, "error wrong_type spec.protocolStack"),
        ("protocolStack: [HTTP, TLS]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [HTTP, HTTP]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [TLS, TLS, HTTP]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [tls, http]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [TLS]", None, "error unknown_value spec.protocolStack"),
        ("protocolStack: [TCP, HTTP]", None, "error unknown_value spec.protocolStack"),
        ("protocol: UDP", None, "error unsupported_field spec.protocol"),
        ("protocolStack: [TLS, HTTP, UDP]", None, "error unsupported_field spec.protocolStack"),
        ("protocol: [HTTPS]", None, "error wrong_type spec.protocol"),
    ];
    for (fields, served, finding) in table {
        let fields = format!("port: 8080\nsecurityModel: XFP\n{fields}");
        let (plan, report) = usual(&document("v3alpha1", "Listener", "l", &fields));
        let found = plan.listeners.first().map(|listener| (listener.tls, listener.proxy_protocol));
        assert_eq!(found, served, "{fields}");
        assert!(has(&report, finding), "{fields}: {:?}", rows(&report));
        assert_eq!(rows(&report).is_empty(), finding.is_empty(), "{fields}: {:?}", rows(&report));
    }
}

/// A Host's own termination wins over a context with the same name in `hosts`, and the context says so.
#[test]
fn a_context_beside_a_host_of_its_name_is_overruled_by_name() {
    let context = |hosts: &str| {
        let fields = format!("hosts: {hosts}\nsecret: own\nca_secret: roots\ncert_required: true");
        document("v3alpha1", "TLSContext", "strict", &fields)
    };
    let host = |fields: &str| {
        document("v3alpha1", "Host", "h", &format!("hostname: a.test\ntlsSecret: {{name: own}}\n{fields}"))
    };
    let required = |plan: &Plan, name: &str| {
        let found = plan.hosts.iter().find(|host| host.hostname.text() == name).expect("host");
        found.tls.as_ref().expect("TLS").client_auth == ClientAuth::Required
    };
    let (plan, report) = usual(&(context("[a.test, b.test]") + &host("")));
    assert!(!required(&plan, "a.test") && required(&plan, "b.test"));
    let [finding] = report.findings.as_slice() else { panic!("{:?}", rows(&report)) };
    assert!(has(&report, "warning no_effect spec.hosts"));
    for named in ["default/strict", "default/h", "`a.test`", "client certificate"] {
        assert!(finding.message.contains(named), "{named}: {}", finding.message);
    }
    for name in ["strict", "strict.default"] {
        let (plan, report) = usual(&(context("[a.test]") + &host(&format!("tlsContext: {{name: {name}}}"))));
        assert!(required(&plan, "a.test"), "{name}");
        assert_eq!(rows(&report), [""; 0], "{name}");
    }
    let (plan, report) = usual(&context("[a.test]"));
    assert!(required(&plan, "a.test"));
    assert_eq!(rows(&report), [""; 0]);
}
