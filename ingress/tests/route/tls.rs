//! Server profiles: which one the SNI chooses, who may use which Host over it, and what outlives a table.

use std::sync::Arc;

use identity::{ClientAuth, ServerProfile};
use ingress::publish::Publisher;
use proxy::{
    TlsMeta,
    route::Accept,
    upstream::{Clusters, Transport},
};

use crate::harness::{Ask, HTTP, ask, ask_on, compiled, connection, hello, host, mapping, published, table};

/// A `kubernetes.io/tls` Secret with a fresh certificate.
fn secret(name: &str, dns: &str) -> String {
    let pair = rcgen::generate_simple_self_signed([dns.to_owned()]).unwrap();
    format!(
        "\n---\napiVersion: v1\nkind: Secret\ntype: kubernetes.io/tls\nmetadata: {{name: {name}}}\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
        indented(&pair.cert.pem()),
        indented(&pair.signing_key.serialize_pem()),
    )
}

/// As a block of YAML below a field.
fn indented(pem: &str) -> String {
    pem.lines().fold(String::new(), |block, line| block + "    " + line + "\n")
}

/// A Secret with `ca.crt`.
fn ca(name: &str) -> String {
    let mut params = rcgen::CertificateParams::new(Vec::new()).unwrap();
    params.is_ca = rcgen::IsCa::Ca(rcgen::BasicConstraints::Unconstrained);
    let pem = params.self_signed(&rcgen::KeyPair::generate().unwrap()).unwrap().pem();
    let pem = indented(&pem);
    format!(
        "\n---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\nstringData:\n  ca.crt: |\n{pem}"
    )
}

fn https(name: &str, port: u16, label: &str) -> String {
    format!(
        "\n---\napiVersion: getambassador.io/v3alpha1\nkind: Listener\nmetadata: {{name: {name}}}\nspec: {{port: {port}, \
         protocol: HTTPS, securityModel: XFP, hostBinding: {{{label}}}}}\n"
    )
}

const ALL: &str = "namespace: {from: ALL}";

fn profile(accept: Accept) -> Arc<ServerProfile> {
    match accept {
        Accept::Terminate(profile) => profile,
        other => panic!("{other:?}"),
    }
}

fn refused(accept: &Accept) -> &str {
    match accept {
        Accept::Refuse(reason) => reason.code(),
        other => panic!("{other:?}"),
    }
}

fn two_hosts() -> String {
    https("https", 8443, ALL)
        + &secret("a", "a.example.com")
        + &secret("b", "b.example.com")
        + &host("a", "hostname: a.example.com, tlsSecret: {name: a}")
        + &host("b", "hostname: b.example.com, tlsSecret: {name: b}")
        + &mapping("m", "hostname: \"*\", prefix: /")
}

#[test]
fn the_sni_chooses_the_host_with_the_longest_name() {
    let manifests = two_hosts()
        + &secret("wild", "*.example.com")
        + &secret("any", "any.example.org")
        + &host("wild", "hostname: \"*.example.com\", tlsSecret: {name: wild}")
        + &host("any", "hostname: \"*\", tlsSecret: {name: any}");
    let table = table(&manifests);
    for (sni, expected) in [
        (Some("a.example.com"), "default/a"),
        (Some("b.example.com"), "default/b"),
        (Some("c.example.com"), "default/wild"),
        (Some("example.org"), "default/any"),
        (None, "default/any"),
    ] {
        assert_eq!(&*profile(hello(&table, 8443, sni)).spec().name, expected, "{sni:?}");
    }
}

#[test]
fn an_sni_of_no_host_is_refused() {
    let table = table(&two_hosts());
    assert_eq!(refused(&hello(&table, 8443, Some("c.example.com"))), "no_sni_profile");
}

#[test]
fn a_host_of_another_profile_is_misdirected() {
    let table = table(&two_hosts());
    let asked =
        |authority| ask(&table, &Ask { authority, port: 8443, sni: Some("a.example.com"), ..Ask::default() });
    assert_eq!(asked("a.example.com").reason, "forward");
    let found = asked("b.example.com");
    assert_eq!((found.status, found.reason.as_str()), (421, "misdirected_request"));
    assert_eq!(asked("c.example.com").reason, "no_host");
}

#[test]
fn a_host_without_tls_is_no_host_of_a_tls_connection() {
    let manifests = two_hosts()
        + &secret("wild", "*.example.com")
        + &host("wild", "hostname: \"*.example.com\", tlsSecret: {name: wild}")
        + &host("clear", "hostname: clear.example.com, requestPolicy: {insecure: {action: Route}}")
        + &mapping("clear", "hostname: clear.example.com, prefix: /clear/");
    let table = table(&manifests);
    let sni = Some("clear.example.com");
    assert_eq!(&*profile(hello(&table, 8443, sni)).spec().name, "default/wild");
    let asked = Ask { authority: "clear.example.com", target: "/clear/", port: 8443, sni, ..Ask::default() };
    // The Host with the certificate has the Mapping too, as its name is one of the Host's.
    assert_eq!(ask(&table, &asked).route, "clear");
    assert_eq!(ask(&table, &Ask { sni: None, ..asked }).reason, "forward");
}

#[test]
fn hosts_of_one_profile_may_share_connections() {
    let manifests = https("https", 8443, ALL)
        + &secret("shared", "*.example.com")
        + &host("a", "hostname: a.example.com, tlsSecret: {name: shared}")
        + &host("b", "hostname: b.example.com, tlsSecret: {name: shared}")
        + &mapping("m", "hostname: \"*\", prefix: /");
    let found = ask(
        &table(&manifests),
        &Ask { authority: "b.example.com", port: 8443, sni: Some("a.example.com"), ..Ask::default() },
    );
    assert_eq!(found.reason, "forward");
}

#[test]
fn two_listeners_serve_any_name_with_different_client_certificate_rules() {
    let labelled = |name: &str, spec: &str| {
        host(name, &format!("hostname: \"*\", {spec}"))
            .replace("metadata: {", &format!("metadata: {{labels: {{listener: {name}}}, "))
    };
    let manifests = https("open", 8443, "selector: {matchLabels: {listener: open}}")
        + &https("closed", 9443, "selector: {matchLabels: {listener: closed}}")
        + &secret("cert", "a.example.com")
        + &ca("clients")
        + &labelled("open", "tlsSecret: {name: cert}")
        + &labelled("closed", "tlsSecret: {name: cert}, tls: {cert_required: true, ca_secret: clients}")
        + &mapping("m", "hostname: \"*\", prefix: /");
    let table = table(&manifests);
    let (open, closed) = (
        profile(hello(&table, 8443, Some("a.example.com"))),
        profile(hello(&table, 9443, Some("a.example.com"))),
    );
    assert_eq!((open.spec().client_auth, closed.spec().client_auth), (ClientAuth::Off, ClientAuth::Required));
    for port in [8443, 9443] {
        assert_eq!(ask(&table, &Ask { port, sni: Some("a.example.com"), ..Ask::default() }).route, "m");
    }
    // What came in without a certificate is not served where one is required.
    let mut conn = connection(&table, 9443);
    conn.tls = Some(TlsMeta { version: "TLSv1.3", cipher: "", profile: open });
    assert_eq!(ask_on(&table, &Ask { port: 9443, ..Ask::default() }, &conn).status, 421);
}

#[test]
fn a_host_without_its_secret_is_refused_and_never_served_by_another() {
    let manifests = HTTP.to_owned()
        + &https("https", 8443, ALL)
        + &secret("any", "any.example.org")
        + &host("any", "hostname: \"*\", tlsSecret: {name: any}, requestPolicy: {insecure: {action: Route}}")
        + &host("a", "hostname: a.example.com, tlsSecret: {name: missing}")
        + &mapping("m", "hostname: \"*\", prefix: /");
    let (table, report) = compiled(&manifests);
    let accept = hello(&table, 8443, Some("a.example.com"));
    let code = refused(&accept);
    assert!(report.findings.iter().any(|finding| finding.code == code), "{code}: {:#?}", report.findings);
    let cleartext = ask(&table, &Ask::default());
    assert_eq!((cleartext.status, cleartext.reason.as_str()), (503, code));
    assert_eq!(ask(&table, &Ask { authority: "b.example.com", ..Ask::default() }).route, "m");
}

#[test]
fn edits_leave_clusters_and_profiles_alone() {
    let secrets = secret("cert", "a.example.com") + &secret("client", "client.example.com");
    let manifests = |address: &str, timeout: u32, prefix: &str| {
        https("https", 8443, ALL)
            + &secrets
            + &host("a", "hostname: a.example.com, tlsSecret: {name: cert}")
            + "\n---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {name: up}\nspec: {hosts: [], secret: client}\n"
            + "\n---\napiVersion: v1\nkind: Service\nmetadata: {name: shop}\nspec: {ports: [{name: https, port: 443}]}\n"
            + &format!(
                "\n---\napiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\naddressType: IPv4\nmetadata: {{name: shop-1, labels: {{kubernetes.io/service-name: shop}}}}\n\
                 ports: [{{name: https, port: 8443}}]\nendpoints: [{{addresses: [\"{address}\"]}}]\n"
            )
            + &mapping(
                "m",
                &format!(
                    "hostname: \"*\", prefix: {prefix}, service: \"https://shop\", tls: up, connect_timeout_ms: {timeout}"
                ),
            )
    };
    let mut publisher = Publisher::new(Clusters::new(None));
    let (first, _, _first_keys) = published(&mut publisher, &manifests("192.0.2.1", 1000, "/a/"));
    let before = publisher.clusters();
    let server = profile(hello(&first, 8443, Some("a.example.com")));
    let (second, _, _second_keys) = published(&mut publisher, &manifests("192.0.2.2", 2000, "/b/"));
    let after = publisher.clusters();

    let ([old], [new]) = (&*before, &*after) else { panic!("{before:?} {after:?}") };
    assert!(Arc::ptr_eq(old, new), "the cluster was made anew");
    assert!(
        matches!((&*old.transport, &*new.transport), (Transport::Tls(a), Transport::Tls(b)) if Arc::ptr_eq(&a.profile, &b.profile))
    );
    let addresses: Vec<_> = new.endpoints().iter().map(|endpoint| endpoint.addr.to_string()).collect();
    assert_eq!(addresses, ["192.0.2.2:8443"]);
    assert_eq!(new.policy.load().connect_timeout, Some(std::time::Duration::from_secs(2)));
    assert!(
        Arc::ptr_eq(&server, &profile(hello(&second, 8443, Some("a.example.com")))),
        "the server profile was made anew"
    );
}
