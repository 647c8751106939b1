//! From manifests to a table, and requests to it.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use ingress::{
    compile::{CompileSettings, Input, compile, conditions::conditions, wants},
    keyring::{KeyRef, Keyring},
    plan::Plan,
    publish::Publisher,
    report::Report,
    route::Table,
};
use proxy::{
    ConnMeta,
    message::{Fields, Head, Scheme},
    route::{Action, Decision, Dice, Hello, Router as _},
    upstream::Clusters,
};
use resource::{Document, SourceError, parse, parse_each};

/// A Listener for cleartext on 8080 that binds every Host.
pub(crate) const HTTP: &str = "---
apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: http}
spec: {port: 8080, protocol: HTTP, securityModel: XFP, hostBinding: {namespace: {from: ALL}}}
";

const REASONS: &str = include_str!("../../docs/reasons.md");

/// Manifests, read and compiled.
pub(crate) struct Compiled {
    pub(crate) plan: Plan,
    pub(crate) report: Report,
    keyring: Keyring,
}

fn settings() -> CompileSettings {
    CompileSettings {
        ambassador_id: "default".to_owned(),
        namespace: "default".to_owned(),
        single_namespace: false,
        require_verified_upstreams: false,
        one_tenant: true,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        http_port: 8080,
        https_port: 8443,
        resolve: Vec::new(),
    }
}

/// Reads a text as the program reads a file: as a whole, or document by document when it is no YAML.
pub(crate) fn documents(text: &str) -> (Vec<Arc<Document>>, Vec<SourceError>) {
    let path = Arc::new(PathBuf::from("it.yaml"));
    let (documents, errors) =
        parse(&path, text, "default").unwrap_or_else(|_not_yaml| parse_each(&path, text, "default"));
    (documents.into_iter().map(Arc::new).collect(), errors)
}

impl Compiled {
    /// Compiles. What holds for every report is asserted.
    pub(crate) fn new(documents: &[Arc<Document>], errors: &[SourceError]) -> Self {
        let settings = settings();
        let mut wanted = wants(documents, &settings);
        // Files of the machine are no part of the input.
        wanted.retain(|key| matches!(key, KeyRef::Secret { .. }));
        let mut keyring = Keyring::new(None, false);
        keyring.update(&wanted, documents, SystemTime::now());
        let input = Input { documents, errors, keys: &keyring, settings: &settings };
        let (plan, report) = compile(&input);
        let (again, same) = compile(&input);
        assert_eq!(report, same, "two compiles say different things");
        assert_eq!(format!("{plan:?}"), format!("{again:?}"), "two compiles make different plans");
        for finding in &report.findings {
            assert!(
                REASONS.contains(&format!("| `{}` |", finding.code)),
                "{} is not documented",
                finding.code
            );
            assert!(!finding.message.is_empty() && !finding.remedy.is_empty(), "{finding}");
            let line = finding.to_string();
            assert!(!line.contains(['\n', '\r', '\u{1b}']), "{line:?}");
            assert!(finding.to_json().is_object());
        }
        for (_, conditions) in conditions(&plan, &report) {
            assert!(!conditions.is_empty());
        }
        Self { plan, report, keyring }
    }

    /// Publishes.
    pub(crate) fn table(self) -> Arc<Table> {
        Publisher::new(Clusters::new(None)).table(self.plan, &self.keyring).0
    }
}

/// Opens connections on every listener, with these server names and none: before TLS and, where bytes are relayed, behind it.
pub(crate) fn connect(table: &Table, names: &[&str]) {
    for listener in table.listeners() {
        let here = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.bind.port()));
        let mut conn = ConnMeta::new(Arc::clone(&listener.name), here.port(), here, here);
        for sni in names.iter().copied().map(Some).chain([None]) {
            let hello = Hello { sni, alpn: &[] };
            let accepted = [(); 2].map(|()| format!("{:?}", table.accept(&conn, Some(&hello))));
            assert_eq!(accepted.first(), accepted.last());
            conn.sni = sni.map(Into::into);
            let decided = [(); 2].map(|()| format!("{:?}", table.connection(&conn, Dice::new(42))));
            assert_eq!(decided.first(), decided.last());
        }
        let _without_tls = table.accept(&conn, None);
    }
}

/// A request on the listener at a port; the first one if there is none there.
pub(crate) struct Ask<'a> {
    pub(crate) method: &'a str,
    pub(crate) authority: &'a str,
    pub(crate) path: &'a str,
    pub(crate) query: Option<&'a str>,
    pub(crate) fields: &'a http::HeaderMap,
    pub(crate) dice: u8,
}

/// Asks twice: a table is pure. `None`: nothing listens.
pub(crate) fn ask(table: &Table, ask: &Ask<'_>) -> Option<Decision> {
    let listener = table.listeners().find(|listener| listener.bind.port() == 8080);
    let listener = listener.or_else(|| table.listeners().next())?;
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.bind.port()));
    let conn = ConnMeta::new(Arc::clone(&listener.name), here.port(), here, here);
    let head = Head {
        method: ask.method,
        scheme: Scheme::Http,
        authority: ask.authority,
        path: ask.path,
        query: ask.query,
        fields: Fields::Typed(ask.fields),
        conn: &conn,
    };
    let dice = Dice::new(ask.dice);
    let decision = table.request(&head, dice);
    let again = table.request(&head, dice);
    assert_eq!(format!("{decision:?}"), format!("{again:?}"), "a table decides by more than the request");
    if let Action::Forward(route) | Action::Tunnel(route) = decision.action {
        assert!(!table.route(route).cluster.name.is_empty());
        let _path_or_not = table.edits(decision.edits).path.target(ask.path, ask.query);
    }
    let _lost = table.lost(&head, dice, 8);
    Some(decision)
}
