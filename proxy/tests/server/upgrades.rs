//! Upgrades of HTTP/1.1: what is forwarded when, what an answer may say, and the tunnel that follows.

use std::{net::SocketAddr, time::Duration};

use proxy::{
    Reason,
    limits::Limits,
    net::Drained,
    observe::Counter,
    registry::{Order, Role},
    route::Upgrades,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

use super::support::*;

/// An upstream of which the test plays every byte.
pub(crate) struct Scripted(TcpListener);

impl Scripted {
    pub(crate) async fn bind() -> Self {
        Self(TcpListener::bind("127.0.0.1:0").await.unwrap())
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.0.local_addr().unwrap()
    }

    /// The next connection, with its first head and what came behind it.
    pub(crate) async fn accept(&self) -> (TcpStream, String, String) {
        let accepted = tokio::time::timeout(Duration::from_secs(20), self.0.accept()).await;
        let mut stream = accepted.expect("nobody connects").unwrap().0;
        let (head, rest) = head(&mut stream).await;
        (stream, head, rest)
    }
}

/// A head, and what came behind it.
pub(crate) async fn head(stream: &mut TcpStream) -> (String, String) {
    let text = read_until(stream, "\r\n\r\n").await;
    let (head, rest) = text.split_once("\r\n\r\n").unwrap();
    (head.to_owned(), rest.to_owned())
}

pub(crate) fn allowing(upstream: SocketAddr, names: &[&str]) -> Table {
    let mut table = Table::new(upstream);
    table.routes[0].upgrades = Upgrades::new(names);
    table
}

fn ask(protocol: &str) -> String {
    format!("GET /chat HTTP/1.1\r\nhost: a\r\nconnection: keep-alive, Upgrade\r\nupgrade: {protocol}\r\n\r\n")
}

const SWITCHED: &str =
    "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nx-up: 1\r\n\r\n";
const PLAIN: &str = "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nplain";

/// Nothing comes for a while.
pub(crate) async fn silent(stream: &mut TcpStream) {
    let mut byte = [0];
    let read = tokio::time::timeout(Duration::from_millis(100), stream.read(&mut byte)).await;
    assert!(read.is_err(), "{read:?} {byte:?}");
}

/// A tunnel with both of its ends.
async fn tunnel(rig: &Rig, scripted: &Scripted) -> (TcpStream, TcpStream) {
    let mut client = rig.connect().await;
    client.write_all(ask("websocket").as_bytes()).await.unwrap();
    let (mut server, ..) = scripted.accept().await;
    server.write_all(SWITCHED.as_bytes()).await.unwrap();
    let (answer, rest) = head(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 101 "), "{answer}");
    assert_eq!(rest, "");
    (client, server)
}

async fn echo(client: &mut TcpStream, server: &mut TcpStream) {
    client.write_all(b"ping").await.unwrap();
    read_until(server, "ping").await;
    server.write_all(b"pong").await.unwrap();
    read_until(client, "pong").await;
}

#[tokio::test]
async fn nothing_behind_the_request_passes_before_the_upstream_has_switched() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["WebSocket"]));
    let mut client = rig.connect().await;
    let smuggled = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    client.write_all(format!("{}{smuggled}", ask("websocket")).as_bytes()).await.unwrap();
    let (mut server, asked, rest) = scripted.accept().await;
    assert!(asked.contains("\r\nconnection: upgrade") && asked.contains("\r\nupgrade: websocket"), "{asked}");
    assert_eq!(rest, "");
    silent(&mut server).await;
    server.write_all(format!("{SWITCHED}first").as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut server, smuggled).await, smuggled);
    let answer = read_until(&mut client, "first").await;
    for field in ["connection: upgrade\r\n", "upgrade: websocket\r\n", "x-up: 1\r\n", "server: selvedge\r\n"]
    {
        assert!(answer.contains(field), "{field} in {answer}");
    }
    assert!(!answer.contains("content-length") && !answer.contains("close"), "{answer}");
    echo(&mut client, &mut server).await;
    client.shutdown().await.unwrap();
    assert_eq!(to_end(&mut server).await, "", "the client's end is passed on");
    server.write_all(b"and still").await.unwrap();
    read_until(&mut client, "and still").await;
    drop(server);
    assert_eq!(to_end(&mut client).await, "");
    let line = lines.next().await;
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"ok".into()), "{line}");
    let bytes = (smuggled.len() + 4, "first".len() + "pong".len() + "and still".len());
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&bytes.0.into(), &bytes.1.into()), "{line}");
    assert_eq!(rig.total(Counter::Upgrades), 1);
    until("nothing is open", || rig.server.registry().is_empty()).await;
    let metrics = rig.observe.render();
    for gauge in ["selvedge_tunnels_active 0", "selvedge_requests_active 0", "selvedge_upstream_open 0"] {
        assert!(metrics.lines().any(|line| line == gauge), "{gauge} in {metrics}");
    }
}

#[tokio::test]
async fn an_upstream_may_stay_with_http_and_what_came_behind_is_the_next_request() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["websocket"]));
    let mut client = rig.connect().await;
    let next = "GET /next HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    client.write_all(format!("{}{next}", ask("websocket")).as_bytes()).await.unwrap();
    let (mut server, asked, rest) = scripted.accept().await;
    assert!(asked.starts_with("GET /chat ") && rest.is_empty(), "{asked} {rest}");
    server.write_all(PLAIN.as_bytes()).await.unwrap();
    let (asked, _) = head(&mut server).await;
    assert!(asked.starts_with("GET /next ") && !asked.contains("upgrade"), "{asked}");
    server.write_all(PLAIN.as_bytes()).await.unwrap();
    let answers = to_end(&mut client).await;
    assert_eq!(answers.matches("HTTP/1.1 200 OK").count(), 2, "{answers}");
    for path in ["/chat", "/next"] {
        let line = lines.next().await;
        assert_eq!((&line["path"], &line["status"]), (&path.into(), &200.into()), "{line}");
    }
    assert_eq!(rig.total(Counter::Upgrades), 0);
}

#[tokio::test]
async fn a_protocol_that_is_not_allowed_is_refused_and_the_connection_goes_on() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["websocket"]));
    let mut client = rig.connect().await;
    for protocol in ["spdy/3.1", "websocket/13", "TLS/1.0, h2c"] {
        client.write_all(ask(protocol).as_bytes()).await.unwrap();
        let answer = read_until(&mut client, "upgrade_not_allowed\n").await;
        assert!(answer.starts_with("HTTP/1.1 403 ") && !answer.contains("close"), "{protocol}: {answer}");
    }
    assert_eq!((rig.total(Counter::UpgradesRefused), rig.failures("upgrade_not_allowed")), (3, 3));
    client.write_all(ask("spdy/3.1, WEBSOCKET").as_bytes()).await.unwrap();
    let (mut server, asked, _) = scripted.accept().await;
    assert!(asked.contains("\r\nupgrade: WEBSOCKET"), "only what is allowed is offered: {asked}");
    server.write_all(SWITCHED.as_bytes()).await.unwrap();
    read_until(&mut client, " 101 ").await;
}

#[tokio::test]
async fn what_is_no_upgrade_for_us_is_an_ordinary_request() {
    let rig = Rig::start(allowing(upstream().await, &["websocket", "h2c"]));
    for (what, request) in [
        (
            "h2c",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, http2-settings, close\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABk\r\n\r\n",
        ),
        (
            "not named by connection",
            "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nupgrade: websocket\r\n\r\n",
        ),
        ("HTTP/1.0", "GET / HTTP/1.0\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n"),
    ] {
        let answer = rig.raw(request.as_bytes()).await;
        assert!(answer.contains(" 200 OK") && answer.contains("GET /\n"), "{what}: {answer}");
        let (_, seen) = answer.split_once("\r\n\r\n").unwrap();
        assert!(!seen.contains("upgrade") && !seen.contains("http2-settings"), "{what}: {seen}");
    }
}

#[tokio::test]
async fn a_switch_that_nobody_asked_for_is_a_failure_and_its_connection_is_not_used_again() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["websocket", "spdy/3.1"]));
    let other = SWITCHED.replace("websocket", "spdy/3.1");
    let (none, two) =
        (SWITCHED.replace("upgrade: websocket\r\n", ""), SWITCHED.replace("websocket", "websocket, x"));
    let plain = "GET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned();
    let asked = ask("websocket");
    for (request, answer) in [(&plain, SWITCHED), (&asked, &other), (&asked, &none), (&asked, &two)] {
        let mut client = rig.connect().await;
        client.write_all(request.as_bytes()).await.unwrap();
        let (mut server, ..) = scripted.accept().await;
        // What comes behind must not be taken for the answer to anything.
        server.write_all(format!("{answer}{PLAIN}").as_bytes()).await.unwrap();
        let refused = read_until(&mut client, "upstream_protocol\n").await;
        assert!(refused.starts_with("HTTP/1.1 502 "), "{answer}: {refused}");
        assert_eq!(to_end(&mut server).await, "");
        client.write_all(plain.as_bytes()).await.unwrap();
        let (mut fresh, ..) = scripted.accept().await;
        fresh
            .write_all(PLAIN.replace("content-length", "connection: close\r\ncontent-length").as_bytes())
            .await
            .unwrap();
        assert!(read_until(&mut client, "plain").await.starts_with("HTTP/1.1 200 "));
    }
    assert_eq!(rig.failures("upstream_protocol"), 4);
    until("no connection is left", || rig.server.registry().count(Role::Upstream) == 0).await;
}

#[tokio::test]
async fn the_body_of_a_request_comes_before_the_tunnel() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["tcp"]));
    let body = "x".repeat(200_000);
    let framings = [
        (format!("content-length: {}\r\n\r\n{body}", body.len()), body.clone()),
        (format!("transfer-encoding: chunked\r\n\r\n30d40\r\n{body}\r\n0\r\n\r\n"), String::new()),
    ];
    for (framed, whole) in framings {
        let mut client = rig.connect().await;
        let request = "POST /exec HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: tcp\r\n";
        let sent = format!("{request}{framed}in the tunnel");
        let (mut reading, mut writing) = client.split();
        let (_, (mut server, read)) = tokio::join!(writing.write_all(sent.as_bytes()), async {
            let (mut server, _, mut read) = scripted.accept().await;
            // It switches before it has read the body, as RFC 9110 7.8 lets it.
            server.write_all(SWITCHED.replace("websocket", "tcp").as_bytes()).await.unwrap();
            if !read.ends_with("in the tunnel") {
                read += &read_until(&mut server, "in the tunnel").await;
            }
            (server, read)
        });
        assert!(read.ends_with("in the tunnel"));
        assert!(whole.is_empty() || read == format!("{whole}in the tunnel"), "{} bytes", read.len());
        let mut answer = Vec::new();
        server.write_all(b"out of it").await.unwrap();
        while !answer.ends_with(b"out of it") {
            assert!(reading.read_buf(&mut answer).await.unwrap() > 0);
        }
        assert!(answer.starts_with(b"HTTP/1.1 101 "));
    }
}

#[tokio::test]
async fn a_tunnel_outlives_the_request_timeout_and_ends_when_it_rests_for_too_long() {
    let scripted = Scripted::bind().await;
    let mut table = allowing(scripted.addr(), &["websocket"]);
    let timeout = Duration::from_millis(300);
    table.routes[0].timeout = Some(timeout);
    table.routes[0].idle_timeout = Some(timeout * 4);
    let (rig, lines) = Rig::logging(table);
    let (mut client, mut server) = tunnel(&rig, &scripted).await;
    let began = std::time::Instant::now();
    while began.elapsed() < timeout * 6 {
        echo(&mut client, &mut server).await;
        tokio::time::sleep(timeout / 4).await;
    }
    assert_eq!(to_end(&mut client).await, "");
    assert_eq!(to_end(&mut server).await, "");
    let line = lines.next().await;
    assert_eq!((&line["status"], &line["reason"]), (&101.into(), &"stream_idle_timeout".into()), "{line}");
    assert_eq!(rig.total(Counter::StreamIdleTimeout), 1);
    // An upstream that does not answer is late as any other.
    let mut client = rig.connect().await;
    client.write_all(ask("websocket").as_bytes()).await.unwrap();
    let late = read_until(&mut client, "upstream_timeout\n").await;
    assert!(late.starts_with("HTTP/1.1 504 "), "{late}");
}

#[tokio::test]
async fn a_drain_lets_a_tunnel_finish_and_cuts_it_at_its_deadline() {
    let scripted = Scripted::bind().await;
    let limits = Limits { drain_timeout: Duration::from_secs(2), ..Limits::default() };
    let (rig, lines) = Rig::logging_with(allowing(scripted.addr(), &["websocket"]), limits);
    let (mut client, mut server) = tunnel(&rig, &scripted).await;
    let (mut other, mut others) = tunnel(&rig, &scripted).await;
    let server_of = std::sync::Arc::clone(&rig.server);
    let draining = tokio::spawn(async move { server_of.drain().await });
    until("every connection has its order", || rig.server.registry().is_draining()).await;
    echo(&mut client, &mut server).await;
    drop((other.shutdown().await, others.shutdown().await));
    assert_eq!(to_end(&mut other).await + &to_end(&mut others).await, "");
    assert_eq!(lines.next().await["reason"], "ok", "it has ended within the drain");
    assert_eq!(draining.await.unwrap(), Drained::Cut(1));
    assert_eq!(to_end(&mut client).await + &to_end(&mut server).await, "");
    assert_eq!(lines.next().await["reason"], "drain_timeout");
}

#[tokio::test]
async fn an_order_for_either_side_reaches_a_tunnel() {
    for role in [Role::Upstream, Role::Downstream] {
        let scripted = Scripted::bind().await;
        let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["websocket"]));
        let (mut client, mut server) = tunnel(&rig, &scripted).await;
        let registry = rig.server.registry();
        assert_eq!((registry.count(Role::Upstream), registry.count(Role::Downstream)), (1, 1));
        let order = Order::Drain { reason: Reason::TRUST_REMOVED, deadline: Duration::from_millis(200) };
        assert_eq!(registry.order(&order, |facts| facts.role == role), 1);
        assert_eq!(to_end(&mut client).await + &to_end(&mut server).await, "");
        assert_eq!(lines.next().await["reason"], "trust_removed", "{role:?}");
        until("nothing is open", || registry.is_empty()).await;
    }
}

#[tokio::test]
async fn a_client_that_resets_and_an_upstream_that_resets_end_the_other_side() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["websocket"]));
    for (reset_client, reason) in [(true, "downstream_reset"), (false, "upstream_reset")] {
        let (mut client, mut server) = tunnel(&rig, &scripted).await;
        let (broken, other) = if reset_client { (client, &mut server) } else { (server, &mut client) };
        broken.set_zero_linger().unwrap();
        drop(broken);
        assert_eq!(to_end(other).await, "");
        assert_eq!(lines.next().await["reason"], reason);
    }
}
