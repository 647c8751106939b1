//! `explain`: which Mapping a request or connection would take, decided by the very table that `run` would publish.

mod tcp;

use std::{
    io::{self, Write},
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
};

use http::{HeaderMap, HeaderName, HeaderValue, Uri, Version};
use identity::{ChainHash, PeerId, SpiffeId};
use proxy::{
    ConnMeta, Reason, TlsMeta,
    http::{authority, normalize_path, switches},
    message::{Fields, Head, Scheme, hygiene},
    route::{Accept, Action, Decision, Dice, Hello, Router as _},
    upstream::{Cluster, Transport},
};
use serde_json::{Value, json};

use super::offline::Offline;
use crate::{
    cli::{DecisionSettings, ExplainArgs, Output},
    plan::ListenerPlan,
    route::Table,
};

/// Most candidates that are listed as lost.
const MAX_LOST: usize = 50;

/// A question.
#[derive(Clone, Debug, Default)]
pub struct Question {
    /// Method.
    pub method: String,
    /// `http://host[:port]/path?query`, or a path; for a connection `tcp://host:port` or `tls://name:port`.
    pub url: String,
    /// Header fields.
    pub headers: Vec<(String, String)>,
    /// Port of the listener.
    pub listener: Option<u16>,
    /// Server name.
    pub sni: Option<String>,
    /// The client's SPIFFE ID.
    pub peer: Option<String>,
    /// The dice.
    pub dice: u8,
}

/// Runs the command; gives its exit status.
pub fn run(
    args: &ExplainArgs,
    manifests: &[PathBuf],
    decision: &DecisionSettings,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let complain = |why: String| writeln!(io::stderr(), "selvedge-ingress explain: {why}").map(|()| 2);
    let headers = args.headers.iter().map(|line| match line.split_once(':') {
        Some((name, value)) => Ok((name.trim().to_owned(), value.trim().to_owned())),
        None => Err(format!("`{line}` is not a header; write 'name: value'")),
    });
    let headers = match headers.collect::<Result<Vec<_>, _>>() {
        Ok(headers) => headers,
        Err(why) => return complain(why),
    };
    let offline = match Offline::load(manifests, decision) {
        Ok(offline) => offline,
        Err(error) => return complain(error.to_string()),
    };
    let question = Question {
        method: args.method.clone(),
        url: args.url.clone(),
        headers,
        listener: args.listener,
        sni: args.sni.clone(),
        peer: args.peer.clone(),
        dice: args.dice.unwrap_or(0),
    };
    match (answer(&offline.table(), &question), args.output) {
        (Err(why), _) => complain(why),
        (Ok(found), Output::Json) => writeln!(out, "{found:#}").map(|()| 0),
        (Ok(found), Output::Text) => write!(out, "{}", text(&found)).map(|()| 0),
    }
}

/// Explains one request; the error says what is wrong with the question.
pub fn answer(table: &Table, question: &Question) -> Result<Value, String> {
    let uri: Uri =
        question.url.parse().map_err(|error| format!("`{}` is not a URL: {error}", question.url))?;
    if tcp::is_asked(question, &uri) {
        return tcp::answer(table, question, &uri);
    }
    let mut headers = HeaderMap::new();
    for (name, value) in &question.headers {
        let name =
            HeaderName::from_bytes(name.as_bytes()).map_err(|error| format!("header `{name}`: {error}"))?;
        let value = HeaderValue::from_str(value).map_err(|error| format!("header {name}: {error}"))?;
        headers.append(name, value);
    }
    let https = uri.scheme_str() == Some("https");
    if uri.authority().is_none() && !headers.contains_key("host") {
        headers.insert("host", HeaderValue::from_static("localhost"));
    }
    let authority = match authority(Version::HTTP_11, &uri, &headers) {
        Ok(authority) => authority,
        Err(reject) => return Ok(refusal(&reject.reason, question.dice)),
    };
    let mut conn = connection(table, question, &uri, https)?;
    if https && let Some(otherwise) = accept(table, &mut conn, question, &authority) {
        return Ok(otherwise);
    }
    let policy = table.http(&conn);
    let raw = if uri.path().is_empty() { "/" } else { uri.path() };
    let path = match normalize_path(raw, policy.merge_slashes, policy.reject_escaped_slashes) {
        Ok(path) => path,
        Err(reject) => return Ok(refusal(&reject.reason, question.dice)),
    };
    // As the data plane does before it asks: what a client must not decide is gone.
    hygiene::strip_client_controls(&mut headers);
    let head = Head {
        method: &question.method,
        scheme: if https { Scheme::Https } else { Scheme::Http },
        authority: &authority,
        path: &path,
        query: uri.query(),
        fields: Fields::Typed(&headers),
        conn: &conn,
    };
    let dice = Dice::new(question.dice);
    let decision = table.request(&head, dice);
    Ok(report(table, &head, &decision, dice))
}

/// The connection that the request would come in on.
fn connection(table: &Table, question: &Question, uri: &Uri, https: bool) -> Result<ConnMeta, String> {
    let wanted = question.listener.or_else(|| uri.port_u16());
    let mut listeners: Vec<_> = table.listeners().collect();
    listeners.sort_by(|a, b| (a.bind.port(), &a.name).cmp(&(b.bind.port(), &b.name)));
    let by_port = listeners.iter().find(|listener| Some(listener.bind.port()) == wanted);
    let by_scheme = || listeners.iter().find(|listener| listener.tls == https);
    let found = match (by_port, question.listener) {
        (Some(found), _) => Some(found),
        (None, Some(port)) => return Err(format!("no Listener has port {port}")),
        (None, None) => by_scheme().or_else(|| listeners.first()),
    };
    connection_on(found.ok_or("there is no Listener")?, question)
}

fn connection_on(listener: &ListenerPlan, question: &Question) -> Result<ConnMeta, String> {
    Ok(ConnMeta {
        listener: Arc::clone(&listener.name),
        listener_port: listener.bind.port(),
        peer: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0),
        local: SocketAddr::new(Ipv4Addr::LOCALHOST.into(), listener.bind.port()),
        original_dst: None,
        proxy_protocol_source: None,
        sni: None,
        alpn: None,
        tls: None,
        peer_id: question.peer.as_deref().map(peer).transpose()?,
    })
}

fn peer(text: &str) -> Result<Arc<PeerId>, String> {
    let id = SpiffeId::new(text).map_err(|error| format!("`{text}` is not a SPIFFE ID: {error}"))?;
    Ok(Arc::new(PeerId {
        spiffe_id: Some(id),
        verified: true,
        chain: Arc::from([]),
        hash: ChainHash([0; 32]),
        serial: String::new(),
        not_after: std::time::SystemTime::now(),
    }))
}

/// The TLS side; the answer if the handshake would be refused, or not lead to HTTP.
fn accept(table: &Table, conn: &mut ConnMeta, question: &Question, authority: &str) -> Option<Value> {
    let host = authority.rsplit_once(':').map_or(authority, |(host, _)| host);
    let name = question.sni.clone().unwrap_or_else(|| host.to_owned()).to_ascii_lowercase();
    let sni = name.parse::<IpAddr>().is_err().then_some(&*name);
    match table.accept(conn, Some(&Hello { sni, alpn: &[] })) {
        Accept::Terminate(profile) => {
            if let Some(peer) = &conn.peer_id
                && let Err(denied) = profile.rule().check(Some(peer))
            {
                return Some(refusal(&Reason::new(denied.code), question.dice));
            }
            conn.sni = sni.map(Into::into);
            conn.tls = Some(TlsMeta { version: "TLSv1.3", cipher: "", profile });
            None
        }
        Accept::Plain => None,
        otherwise => Some(tcp::over_tls(table, conn, question, (sni, otherwise))),
    }
}

fn refusal(reason: &Reason, dice: u8) -> Value {
    json!({
        "host": "", "mapping": "", "lost": [], "cluster": "", "upstream": [], "upstream_path": "", "dice": dice,
        "upgrade": [], "tls": null, "action": "close", "reason": reason.code(),
    })
}

fn report(table: &Table, head: &Head<'_>, decision: &Decision, dice: Dice) -> Value {
    let mut found = refusal(&Reason::OK, dice.value());
    let Some(fields) = found.as_object_mut() else { return found };
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    set("host", table.host_of(head.conn, head.authority).map_or("", |host| &host.name).into());
    set("mapping", table.name(decision.why).into());
    let lost = table.lost(head, dice, MAX_LOST);
    set("lost", lost.iter().map(|lost| json!({"mapping": &*lost.mapping, "why": lost.why})).collect());
    match &decision.action {
        Action::Forward(ix) | Action::Tunnel(ix) => {
            let route = table.route(*ix);
            let cluster = &route.cluster;
            set("upgrade", route.upgrades.names().collect());
            set("cluster", (*cluster.name).into());
            set("upstream", upstream(cluster).iter().map(ToString::to_string).collect());
            set("tls", tls(cluster));
            let refused = match head.fields {
                Fields::Typed(headers) => {
                    let method = head.method.parse().unwrap_or_default();
                    switches(&method, Version::HTTP_11, headers, route).err()
                }
                Fields::Raw(_) => None,
            };
            match table.edits(decision.edits).path.target(head.path, head.query) {
                _ if let Some(refused) = refused => {
                    set("action", format!("respond {}", refused.status.as_u16()).into());
                    set("reason", refused.reason.code().into());
                }
                Ok((target, _)) => {
                    set("upstream_path", target.as_str().into());
                    set("action", "forward".into());
                }
                Err(_no_path) => {
                    set("action", "respond 500".into());
                    set("reason", Reason::BAD_REWRITE.code().into());
                }
            }
        }
        Action::Respond(answer) => {
            set("action", format!("respond {}", answer.status.as_u16()).into());
            set("reason", answer.reason.code().into());
            if let Some((_, location)) =
                answer.headers.iter().find(|(name, _)| *name == http::header::LOCATION)
            {
                set("upstream_path", String::from_utf8_lossy(location.as_bytes()).into());
            }
        }
        Action::Close(reason) => {
            set("reason", reason.code().into());
        }
    }
    found
}

/// The addresses of a cluster. Literal ones and localhost are known where nothing is looked up, as in `explain`.
fn upstream(cluster: &Cluster) -> Vec<SocketAddr> {
    let known: Vec<_> = cluster.endpoints().iter().map(|endpoint| endpoint.addr).collect();
    let service = &cluster.key.service;
    match service.host.parse::<IpAddr>() {
        _ if !known.is_empty() => known,
        Ok(ip) => vec![SocketAddr::new(ip, service.port)],
        Err(_name) if &*service.host == "localhost" => {
            let both: [IpAddr; 2] = [Ipv4Addr::LOCALHOST.into(), Ipv6Addr::LOCALHOST.into()];
            both.map(|ip| SocketAddr::new(ip, service.port)).to_vec()
        }
        Err(_name) => known,
    }
}

/// The TLS identity and peer rule of a cluster.
pub(crate) fn tls(cluster: &Cluster) -> Value {
    let (Transport::Tls(tls), Some(key)) = (&*cluster.transport, &cluster.key.tls) else {
        return Value::Null;
    };
    let text = |name: &Option<identity::SourceRef>| name.as_ref().map_or("", |name| name.as_str()).to_owned();
    let alpn: Vec<_> = key.alpn.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect();
    let trust = match key.verify {
        "none" => "not verified".to_owned(),
        "system" => "system".to_owned(),
        _ => text(&key.trust),
    };
    json!({
        "origin": &*key.peer.0,
        "sni": key.sni.as_deref().unwrap_or_default(),
        "identity": text(&key.identity),
        "trust": trust,
        "peer": tls.rule.load().to_string(),
        "min": if key.versions.tls12 { "v1.2" } else { "v1.3" },
        "max": if key.versions.tls13 { "v1.3" } else { "v1.2" },
        "alpn": alpn,
    })
}

/// For people.
fn text(found: &Value) -> String {
    let mut lines = Vec::new();
    let plain = |value: &Value| match value {
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().filter_map(Value::as_str).collect::<Vec<_>>().join(", "),
        other => other.to_string(),
    };
    for name in [
        "host",
        "mapping",
        "action",
        "reason",
        "downstream_tls",
        "cluster",
        "upstream",
        "upstream_path",
        "upgrade",
        "dice",
    ] {
        let value = found.get(name).map(plain).unwrap_or_default();
        if !value.is_empty() {
            lines.push(format!("{name:14} {value}\n"));
        }
    }
    if let Some(tls) = found.get("tls").and_then(Value::as_object) {
        for (name, value) in tls.iter().filter(|(_, value)| !plain(value).is_empty()) {
            lines.push(format!("tls {name:10} {}\n", plain(value)));
        }
    }
    for row in found.get("lost").and_then(Value::as_array).into_iter().flatten() {
        let part = |name: &str| row.get(name).map(plain).unwrap_or_default();
        lines.push(format!("lost           {}: {}\n", part("mapping"), part("why")));
    }
    lines.concat()
}
