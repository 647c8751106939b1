//! Rows of WebSocket and TCP, of clients and to upstreams: bytes that go on until they are cut.

use std::{
    net::SocketAddr,
    sync::Arc,
    time::{Duration, Instant},
};

use rustls::sign::CertifiedKey;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    task::JoinHandle,
};

use super::{
    super::harness::{
        Authority, Echo, Ingress, Upstream,
        client::{MaybeTls, Target},
        until,
    },
    case::Case,
    scene::mapping,
};

/// How a tunnel is opened.
struct Way {
    target: Target,
    /// Host and path of a WebSocket; `None`: TCP.
    upgrade: Option<(&'static str, &'static str)>,
}

impl Way {
    /// A tunnel that has echoed something; what was answered instead, if anything.
    async fn open(&self) -> Result<MaybeTls, String> {
        let mut stream = self.target.connect().await.ok_or("no connection")?;
        if let Some((host, path)) = self.upgrade {
            let request = format!(
                "GET {path} HTTP/1.1\r\nhost: {host}\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
                 sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await.map_err(|error| error.to_string())?;
            let mut head = String::new();
            while !head.ends_with("\r\n\r\n") {
                let byte = stream.read_u8().await.map_err(|error| format!("{head}{error}"))?;
                head.push(char::from(byte));
            }
            if !head.starts_with("HTTP/1.1 101 ") {
                let mut body = String::new();
                let read = stream.read_to_string(&mut body);
                // A connection that is kept open has said all of it by then.
                let _late = tokio::time::timeout(Duration::from_secs(1), read).await;
                return Err(head + &body);
            }
        }
        echoes(&mut stream).await.then_some(stream).ok_or_else(|| "it does not echo".to_owned())
    }
}

async fn echoes(stream: &mut MaybeTls) -> bool {
    let mut heard = [0; 4];
    let exchange = async {
        stream.write_all(b"ping").await?;
        stream.flush().await?;
        stream.read_exact(&mut heard).await
    };
    exchange.await.is_ok() && heard == *b"ping"
}

/// One kind in one direction.
struct Row {
    name: &'static str,
    doomed: Way,
    kept: Way,
    /// The Mapping or TCPMapping of the doomed.
    route: &'static str,
    reason: &'static str,
    outbound: bool,
}

/// The upstreams of all rows.
pub(super) struct Tunnels {
    ws: Option<[Upstream; 2]>,
    tcp: Option<[Echo; 2]>,
    plain: Echo,
}

/// Tunnels that are open while trust is taken away.
pub(super) struct Open {
    row: Row,
    /// Ends when it is cut.
    doomed: JoinHandle<Instant>,
    kept: MaybeTls,
}

fn tcp_mapping(name: &str, address: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: TCPMapping\nmetadata: {{name: {name}}}\n\
         spec: {{port: 0, address: {address}, {fields}}}\n"
    )
}

impl Tunnels {
    pub(super) async fn new(case: &Case) -> Self {
        let plain = Echo::plain("").await;
        if case.before.outbound.is_empty() {
            return Self { ws: None, tcp: None, plain };
        }
        let doomed = case.doomed.as_ref().expect("upstreams present something");
        let alpn = b"http/1.1";
        let ws = [Upstream::tls(doomed, alpn).await, Upstream::tls(&case.kept, alpn).await];
        let tcp = [Echo::presenting(doomed).await, Echo::presenting(&case.kept).await];
        Self { ws: Some(ws), tcp: Some(tcp), plain }
    }

    pub(super) fn mappings(&self, case: &Case) -> String {
        let kept = if case.apart.is_some() { "kept-h1" } else { "h1" };
        let mut text = String::new();
        if let (Some([doomed, stays]), Some([bytes, more])) = (&self.ws, &self.tcp) {
            let https = |upstream: &Upstream| format!("https://{}", upstream.addr);
            text += &mapping("ws-doomed", "/ws/doomed/", &https(doomed), "h1");
            text += &mapping("ws-kept", "/ws/kept/", &https(stays), kept);
            let tls = |addr: SocketAddr, context: &str| format!("service: \"{addr}\", tls: {context}");
            text += &tcp_mapping("tcp-doomed", "127.0.0.2", &tls(bytes.addr, "h1"));
            text += &tcp_mapping("tcp-kept", "127.0.0.3", &tls(more.addr, kept));
        }
        if !case.before.inbound.is_empty() {
            for name in ["shop", "kept"] {
                let fields = format!("host: {name}.example, service: \"{}\"", self.plain.addr);
                text += &tcp_mapping(&format!("tcp-in-{name}"), "127.0.0.4", &fields);
            }
        }
        text
    }

    /// Opens a tunnel of each kind for the doomed and their neighbours.
    pub(super) async fn begin(&self, case: &Case, ingress: &Ingress, own: &Authority) -> Vec<Open> {
        let mut rows = Vec::new();
        if self.ws.is_some() {
            let http = |path| Way { target: ingress.http().into(), upgrade: Some(("out.example", path)) };
            let tcp = |name| Way { target: ingress.listener(name).into(), upgrade: None };
            let row = |name, doomed, kept, route| Row {
                name,
                doomed,
                kept,
                route,
                reason: case.reasons.1,
                outbound: true,
            };
            rows.push(row(
                "WebSocket to upstreams",
                http("/ws/doomed/x"),
                http("/ws/kept/x"),
                "default/ws-doomed",
            ));
            let (doomed, kept) = (tcp("tcp-127.0.0.2-0"), tcp("tcp-127.0.0.3-0"));
            rows.push(row("TCP to upstreams", doomed, kept, "default/tcp-doomed"));
        }
        if !case.before.inbound.is_empty() {
            let kept_host = if case.apart.is_some() { "kept.example" } else { "shop.example" };
            let target = |listener, host, alpn: &'static [u8], key: Option<&Arc<CertifiedKey>>| {
                Target::presenting(ingress.listener(listener), own, alpn, key).named(host)
            };
            let ways = |listener, alpn: &'static [u8], path: Option<&'static str>| {
                let way = |host, key| Way {
                    target: target(listener, host, alpn, key),
                    upgrade: path.map(|path| (host, path)),
                };
                (way("shop.example", case.doomed.as_ref()), way(kept_host, Some(&case.kept)))
            };
            let row = |name, (doomed, kept), route| Row {
                name,
                doomed,
                kept,
                route,
                reason: case.reasons.0,
                outbound: false,
            };
            rows.push(row("WebSocket of clients", ways("https", b"http/1.1", Some("/in/ws")), "default/in"));
            // Bytes have no protocol that ALPN could name.
            rows.push(row("TCP of clients", ways("tcp-127.0.0.4-0", b"", None), "default/tcp-in-shop"));
        }
        let mut open = Vec::new();
        for row in rows {
            let mut doomed = row.doomed.open().await.unwrap_or_else(|why| panic!("{}: {why}", row.name));
            let kept = row.kept.open().await.unwrap_or_else(|why| panic!("{}: {why}", row.name));
            let doomed = tokio::spawn(async move {
                let mut rest = Vec::new();
                // A reset is an end, too.
                let _end = doomed.read_to_end(&mut rest).await;
                Instant::now()
            });
            open.push(Open { row, doomed, kept });
        }
        open
    }
}

impl Open {
    /// Everything that has to hold after the change; gives the row, for what comes when it is undone.
    pub(super) async fn check(mut self, ingress: &Ingress, (began, case): (Instant, &Case)) -> Recovering {
        let (name, (when, cut)) = (self.row.name, &case.cut);
        let reason = self.row.reason;
        if self.row.outbound {
            until(&format!("{name}: a new one is refused: {reason}"), async || {
                let Err(answer) = self.row.doomed.open().await else { return false };
                answer.trim_end().ends_with(reason) || self.logged(ingress, reason)
            })
            .await;
        } else {
            until(&format!("{name}: a new one is refused"), async || self.row.doomed.open().await.is_err())
                .await;
        }
        let at = (&mut self.doomed).await.expect("ended");
        eprintln!("{name}: cut after {:?}", at - began);
        assert!(when.contains(&(at - began)), "{name}: {:?}", at - began);
        until(&format!("{name}: a line with {cut}"), async || self.logged(ingress, cut)).await;
        assert!(echoes(&mut self.kept).await, "{name}: a neighbour's tunnel was cut");
        assert!(self.row.kept.open().await.is_ok(), "{name}: a neighbour is refused");
        Recovering(self.row)
    }

    /// Whether the access log has a line of the doomed with a reason.
    fn logged(&self, ingress: &Ingress, reason: &str) -> bool {
        ingress.access_log().iter().any(|line| line["route"] == self.row.route && line["reason"] == reason)
    }
}

/// A row whose change is going to be undone.
pub(super) struct Recovering(Row);

impl Recovering {
    pub(super) async fn recovers(&self) {
        until(&format!("{}: trusted again", self.0.name), async || self.0.doomed.open().await.is_ok()).await;
    }
}
