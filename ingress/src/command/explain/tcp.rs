//! Questions about connections: which TCPMapping would take one, and who ends its TLS.

use std::net::IpAddr;

use http::Uri;
use proxy::{
    ConnMeta, Reason, TlsMeta,
    net::Layer,
    route::{Accept, Action, Dice, Hello, Router as _},
};
use serde_json::{Value, json};

use super::{MAX_LOST, Question, connection_on, refusal, tls, upstream};
use crate::route::Table;

/// Whether a question is about a connection: `TCP tcp://host:port`, or `tls://` with a server name.
pub(super) fn is_asked(question: &Question, uri: &Uri) -> bool {
    question.method.eq_ignore_ascii_case("tcp") || matches!(uri.scheme_str(), Some("tcp" | "tls"))
}

/// Explains one connection.
pub(super) fn answer(table: &Table, question: &Question, uri: &Uri) -> Result<Value, String> {
    let secure = match uri.scheme_str() {
        Some("tls") => true,
        Some("tcp") => question.sni.is_some(),
        _ => return Err("a connection is asked for as tcp://host:port, or tls://name:port".to_owned()),
    };
    let port = question.listener.or_else(|| uri.port_u16()).ok_or("the URL names no port")?;
    let address = uri.host().and_then(|host| host.trim_matches(['[', ']']).parse::<IpAddr>().ok());
    let mut on_port: Vec<_> = table.listeners().filter(|listener| listener.bind.port() == port).collect();
    on_port.sort_by_key(|listener| (Some(listener.bind.ip()) != address, listener.bind));
    let listener = on_port.first().ok_or_else(|| format!("no listener has port {port}"))?;
    let mut conn = connection_on(listener, question)?;
    let name =
        question.sni.clone().or_else(|| uri.host().map(str::to_owned)).map(|name| name.to_ascii_lowercase());
    let sni = name.filter(|name| secure && name.parse::<IpAddr>().is_err() && !name.starts_with('['));
    let hello = secure.then_some(Hello { sni: sni.as_deref(), alpn: &[] });
    match table.accept(&conn, hello.as_ref()) {
        Accept::Plain if listener.layer == Layer::Tcp => Ok(report(table, &conn, question, "clear")),
        Accept::Plain => Err(format!("listener {} serves HTTP: ask for an http:// URL", listener.name)),
        Accept::Terminate(_) => {
            Err(format!("listener {} serves HTTP under this name: ask for an https:// URL", listener.name))
        }
        accepted => Ok(over_tls(table, &mut conn, question, (sni.as_deref(), accepted))),
    }
}

/// Explains a connection whose `ClientHello` is not for HTTP.
pub(super) fn over_tls(
    table: &Table,
    conn: &mut ConnMeta,
    question: &Question,
    (sni, accepted): (Option<&str>, Accept),
) -> Value {
    conn.sni = sni.map(Into::into);
    match accepted {
        Accept::Refuse(reason) => refusal(&reason, question.dice),
        Accept::TerminateTcp(profile) => {
            if let Some(peer) = &conn.peer_id
                && let Err(denied) = profile.rule().check(Some(peer))
            {
                return refusal(&Reason::new(denied.code), question.dice);
            }
            conn.tls = Some(TlsMeta { version: "TLSv1.3", cipher: "", profile });
            report(table, conn, question, "terminated")
        }
        Accept::Passthrough | Accept::Plain | Accept::Terminate(_) => {
            report(table, conn, question, "passed_on")
        }
    }
}

fn report(table: &Table, conn: &ConnMeta, question: &Question, downstream: &str) -> Value {
    let dice = Dice::new(question.dice);
    let decision = table.connection(conn, dice);
    let mut found = refusal(&Reason::OK, dice.value());
    let Some(fields) = found.as_object_mut() else { return found };
    let mut set = |name: &str, value: Value| fields.insert(name.to_owned(), value);
    let host = conn.tls.as_ref().and_then(|_| table.tcp_host(&conn.listener, conn.sni.as_deref()));
    set("host", host.map_or("", |host| &host.name).into());
    let mapping = table.name(decision.why);
    set("mapping", mapping.into());
    set("downstream_tls", downstream.into());
    let lost = table.tcp_group(conn).filter(|one| *one.name != *mapping).take(MAX_LOST).map(|one| {
        let (start, end) = (one.share.start, one.share.end);
        let why = format!("the dice shows {}, its share is {start}..{end}", dice.value());
        json!({"mapping": &*one.name, "why": why})
    });
    set("lost", lost.collect());
    match &decision.action {
        Action::Forward(ix) | Action::Tunnel(ix) => {
            let cluster = &table.route(*ix).cluster;
            set("cluster", (*cluster.name).into());
            set("upstream", upstream(cluster).iter().map(ToString::to_string).collect());
            set("tls", tls(cluster));
            set("action", "relay".into());
        }
        Action::Close(reason) => {
            set("reason", reason.code().into());
        }
        Action::Respond(answer) => {
            set("reason", answer.reason.code().into());
        }
    }
    found
}
