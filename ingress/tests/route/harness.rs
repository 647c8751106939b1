//! A table from manifests, and requests to it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use http::{HeaderMap, HeaderName, HeaderValue};
use ingress::{
    compile::{CompileSettings, Input, compile, wants},
    keyring::Keyring,
    publish::Publisher,
    report::{Report, Severity},
    route::Table,
};
use proxy::{
    ConnMeta, TlsMeta,
    message::{Fields, Head, Scheme},
    route::{Accept, Action, Decision, Dice, Hello, Router as _},
    upstream::Clusters,
};

/// What was decided, as the access log and the client see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outcome {
    /// `route` of the access log, without the namespace.
    pub(crate) route: String,
    /// 0 when the request goes upstream.
    pub(crate) status: u16,
    /// `reason` of the access log; `forward` when the upstream has to answer first.
    pub(crate) reason: String,
    pub(crate) location: String,
}

/// A request, cleartext on the first listener unless said otherwise.
#[derive(Clone, Debug)]
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    /// Path with query.
    pub(crate) target: &'a str,
    pub(crate) headers: &'a [(&'a str, &'a str)],
    pub(crate) dice: u8,
    pub(crate) port: u16,
    /// Over TLS, with this server name.
    pub(crate) sni: Option<&'a str>,
}

impl Default for Ask<'_> {
    fn default() -> Self {
        Self {
            method: "GET",
            authority: "a.example.com",
            target: "/",
            headers: &[],
            dice: 0,
            port: 8080,
            sni: None,
        }
    }
}

/// A `Listener` for cleartext on 8080 that binds every Host.
pub(crate) const HTTP: &str = "
---
apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: http}
spec: {port: 8080, protocol: HTTP, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
";

/// A Mapping of v3alpha1 from its name and the fields of its `spec` in flow style.
pub(crate) fn mapping(name: &str, spec: &str) -> String {
    let service = if spec.contains("service:") { "" } else { ", service: \"upstream:8080\"" };
    format!(
        "\n---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\nspec: {{{spec}{service}}}\n"
    )
}

/// A Host of v3alpha1, alike.
pub(crate) fn host(name: &str, spec: &str) -> String {
    format!(
        "\n---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {{name: {name}}}\nspec: {{{spec}}}\n"
    )
}

/// The table of some manifests, with what compile has to say about them.
pub(crate) fn compiled(manifests: &str) -> (Arc<Table>, Report) {
    let mut publisher = Publisher::new(Clusters::new(None));
    let (table, report, _keyring) = published(&mut publisher, manifests);
    (table, report)
}

/// As [`compiled`], with a publisher that may have published before.
pub(crate) fn published(publisher: &mut Publisher, manifests: &str) -> (Arc<Table>, Report, Keyring) {
    let settings = CompileSettings {
        ambassador_id: "default".to_owned(),
        namespace: "default".to_owned(),
        single_namespace: false,
        require_verified_upstreams: false,
        one_tenant: true,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        http_port: 8080,
        https_port: 8443,
        resolve: Vec::new(),
    };
    let (documents, errors) =
        resource::parse(&Arc::new(PathBuf::from("test.yaml")), manifests, &settings.namespace).expect("YAML");
    let documents: Vec<_> = documents.into_iter().map(Arc::new).collect();
    let mut keyring = Keyring::new(None, false);
    keyring.update(&wants(&documents, &settings), &documents, SystemTime::now());
    let input = Input { documents: &documents, errors: &errors, keys: &keyring, settings: &settings };
    let (plan, report) = compile(&input);
    (publisher.table(plan, &keyring).0, report, keyring)
}

/// The table of manifests that have no error.
pub(crate) fn table(manifests: &str) -> Arc<Table> {
    let (table, report) = compiled(manifests);
    let errors: Vec<_> =
        report.findings.iter().filter(|finding| finding.severity == Severity::Error).collect();
    assert!(errors.is_empty(), "{errors:#?}");
    table
}

/// A connection to the listener on a port, before TLS.
pub(crate) fn connection(table: &Table, port: u16) -> ConnMeta {
    let listener =
        table.listeners().find(|listener| listener.bind.port() == port).expect("a listener on this port");
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, port));
    ConnMeta {
        listener: Arc::clone(&listener.name),
        listener_port: port,
        peer: here,
        local: here,
        original_dst: None,
        proxy_protocol_source: None,
        sni: None,
        alpn: None,
        tls: None,
        peer_id: None,
    }
}

/// What the listener on a port does with a `ClientHello`.
pub(crate) fn hello(table: &Table, port: u16, sni: Option<&str>) -> Accept {
    table.accept(&connection(table, port), Some(&Hello { sni, alpn: &[] }))
}

/// Decides.
pub(crate) fn ask(table: &Table, ask: &Ask<'_>) -> Outcome {
    let mut conn = connection(table, ask.port);
    if let Some(sni) = ask.sni {
        let Accept::Terminate(profile) = hello(table, ask.port, Some(sni)) else {
            panic!("{sni} is not terminated")
        };
        conn.sni = Some(sni.into());
        conn.tls = Some(TlsMeta { version: "TLSv1.3", cipher: "", profile });
    }
    ask_on(table, ask, &conn)
}

/// Decides on a given connection.
pub(crate) fn ask_on(table: &Table, ask: &Ask<'_>, conn: &ConnMeta) -> Outcome {
    let mut fields = HeaderMap::new();
    for (name, value) in ask.headers {
        fields
            .append(HeaderName::from_bytes(name.as_bytes()).unwrap(), HeaderValue::from_str(value).unwrap());
    }
    let (path, query) = match ask.target.split_once('?') {
        Some((path, query)) => (path, Some(query)),
        None => (ask.target, None),
    };
    let head = Head {
        method: ask.method,
        scheme: if conn.tls.is_some() { Scheme::Https } else { Scheme::Http },
        authority: ask.authority,
        path,
        query,
        fields: Fields::Typed(&fields),
        conn,
    };
    outcome(table, &table.request(&head, Dice::new(ask.dice)))
}

fn outcome(table: &Table, decision: &Decision) -> Outcome {
    let route = table.name(decision.why).rsplit('/').next().unwrap_or_default().to_owned();
    let mut outcome = Outcome { route, status: 0, reason: "forward".to_owned(), location: String::new() };
    match &decision.action {
        Action::Forward(_) | Action::Tunnel(_) => {}
        Action::Close(reason) => reason.code().clone_into(&mut outcome.reason),
        Action::Respond(answer) => {
            outcome.status = answer.status.as_u16();
            answer.reason.code().clone_into(&mut outcome.reason);
            let location = answer.headers.iter().find(|(name, _)| *name == http::header::LOCATION);
            outcome.location =
                location.map_or(String::new(), |(_, value)| value.to_str().unwrap().to_owned());
        }
    }
    outcome
}

/// Name of the Mapping that takes a GET.
pub(crate) fn route(table: &Table, authority: &str, target: &str) -> String {
    ask(table, &Ask { authority, target, ..Ask::default() }).route
}
