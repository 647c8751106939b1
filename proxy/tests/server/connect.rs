//! CONNECT, and WebSocket over HTTP/2 (RFC 8441).

use std::time::Duration;

use base64::Engine as _;
use http::{Method, Request, Response, StatusCode, Version};
use hyper::{body::Incoming, ext::Protocol, upgrade::Upgraded};
use hyper_util::rt::TokioIo;
use proxy::{limits::Limits, net::Drained, observe::Counter, registry::Role};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    support::*,
    upgrades::{Scripted, allowing, head, silent},
};

const TARGET: &str = "CONNECT elsewhere.example:443 HTTP/1.1\r\nhost: elsewhere.example:443\r\n\r\n";
const OPENED: &str = "HTTP/1.1 200 Connection established\r\ncontent-length: 3\r\n\r\n";

#[tokio::test]
async fn connect_is_refused_unless_it_is_allowed_and_nothing_behind_it_is_a_request() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["websocket"]));
    let answers = rig.raw(format!("{TARGET}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
    assert!(answers.starts_with("HTTP/1.1 403 ") && answers.ends_with("upgrade_not_allowed\n"), "{answers}");
    assert!(answers.contains("connection: close") && answers.matches("HTTP/1.1").count() == 1, "{answers}");
    assert_eq!(rig.server.registry().count(Role::Upstream), 0);
    // The name of the method is no protocol.
    let rig = Rig::start(allowing(scripted.addr(), &["CONNECT"]));
    let upgrade = "GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade, close\r\nupgrade: connect\r\n\r\n";
    assert!(rig.raw(upgrade.as_bytes()).await.starts_with("HTTP/1.1 403 "));
}

#[tokio::test]
async fn a_tunnel_of_connect_goes_to_the_cluster_and_not_where_the_client_says() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["CONNECT"]));
    let mut client = rig.connect().await;
    client.write_all(format!("{TARGET}early").as_bytes()).await.unwrap();
    let (mut server, asked, rest) = scripted.accept().await;
    assert!(asked.starts_with("CONNECT elsewhere.example:443 HTTP/1.1\r\n"), "{asked}");
    assert!(asked.contains("host: elsewhere.example:443") && rest.is_empty(), "{asked} {rest}");
    silent(&mut server).await;
    server.write_all(format!("{OPENED}first").as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut server, "early").await, "early");
    let answer = read_until(&mut client, "first").await;
    assert!(answer.starts_with("HTTP/1.1 200 ") && !answer.contains("close"), "{answer}");
    assert!(!answer.contains("content-length") && answer.ends_with("\r\n\r\nfirst"), "{answer}");
    drop(client);
    assert_eq!(to_end(&mut server).await, "");
    drop(server);
    let line = lines.next().await;
    assert_eq!((&line["method"], &line["status"]), (&"CONNECT".into(), &200.into()), "{line}");
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &5.into()), "{line}");
}

#[tokio::test]
async fn an_upstream_that_refuses_a_tunnel_ends_the_connection() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["CONNECT"]));
    let mut client = rig.connect().await;
    client.write_all(format!("{TARGET}GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await.unwrap();
    let (mut server, ..) = scripted.accept().await;
    server.write_all(b"HTTP/1.1 407 No\r\ncontent-length: 2\r\n\r\nno").await.unwrap();
    let answer = to_end(&mut client).await;
    assert!(answer.starts_with("HTTP/1.1 407 ") && answer.ends_with("\r\n\r\nno"), "{answer}");
    assert!(answer.contains("connection: close\r\n"), "{answer}");
    silent(&mut server).await;
    // 101 is no answer to CONNECT.
    let mut client = rig.connect().await;
    client.write_all(TARGET.as_bytes()).await.unwrap();
    head(&mut server).await;
    server.write_all(b"HTTP/1.1 101 No\r\nconnection: upgrade\r\nupgrade: connect\r\n\r\n").await.unwrap();
    assert!(to_end(&mut client).await.starts_with("HTTP/1.1 502 "));
}

#[tokio::test]
async fn a_connect_that_can_be_read_in_two_ways_is_refused() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["CONNECT"]));
    for head in [
        "CONNECT a HTTP/1.1\r\nhost: a",
        "CONNECT a: HTTP/1.1\r\nhost: a:",
        "CONNECT /x HTTP/1.1\r\nhost: a:80",
        "CONNECT http://a:80/ HTTP/1.1\r\nhost: a:80",
        "CONNECT a:80 HTTP/1.1\r\nhost: b:80",
        "CONNECT a:80 HTTP/1.1\r\nx: y",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\nhost: a:80",
        "CONNECT u@a:80 HTTP/1.1\r\nhost: u@a:80",
        "CONNECT a:80 HTTP/1.0\r\nhost: a:80",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\ncontent-length: 1",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\ntransfer-encoding: chunked",
    ] {
        let answer = rig.raw(format!("{head}\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        assert!(
            answer.starts_with("HTTP/1.1 400 ") || answer.starts_with("HTTP/1.0 400 "),
            "{head}: {answer}"
        );
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{head}: {answer}");
    }
    assert_eq!(rig.server.registry().count(Role::Upstream), 0);
}

/// An extended CONNECT.
fn websocket(path: &str) -> Request<Body> {
    let mut request = get2(path);
    *request.method_mut() = Method::CONNECT;
    *request.version_mut() = Version::HTTP_2;
    request.extensions_mut().insert(Protocol::from_static("websocket"));
    request.headers_mut().insert("sec-websocket-version", "13".parse().unwrap());
    request
}

/// The answer of an upstream of WebSocket to a head.
fn accepting(asked: &str) -> String {
    let key = asked.lines().find_map(|line| line.strip_prefix("sec-websocket-key: ")).expect("a key");
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    let accept = base64::engine::general_purpose::STANDARD.encode(hash);
    format!(
        "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: {accept}\r\nsec-websocket-protocol: chat\r\n\r\n"
    )
}

async fn answered(client: &mut H2, request: Request<Body>) -> Response<Incoming> {
    client.ready().await.unwrap();
    let sent = tokio::time::timeout(Duration::from_secs(20), client.send_request(request)).await;
    sent.expect("no answer").unwrap()
}

/// A tunnel on a stream, with its upstream.
async fn tunnel(client: &mut H2, scripted: &Scripted) -> (TokioIo<Upgraded>, TcpStream) {
    let (answer, server) = tokio::join!(answered(client, websocket("/chat?room=1")), async {
        let (mut server, asked, rest) = scripted.accept().await;
        assert!(asked.starts_with("GET /chat?room=1 HTTP/1.1\r\n") && rest.is_empty(), "{asked} {rest}");
        for field in
            ["host: example.org", "connection: upgrade", "upgrade: websocket", "sec-websocket-version: 13"]
        {
            assert!(asked.lines().any(|line| line == field), "{field} in {asked}");
        }
        server.write_all(accepting(&asked).as_bytes()).await.unwrap();
        server
    });
    assert_eq!(answer.status(), StatusCode::OK);
    assert_eq!(answer.headers()["sec-websocket-protocol"], "chat");
    for field in ["connection", "upgrade", "sec-websocket-accept", "content-length"] {
        assert!(!answer.headers().contains_key(field), "{field}");
    }
    (TokioIo::new(hyper::upgrade::on(answer).await.unwrap()), server)
}

async fn hears(io: &mut (impl tokio::io::AsyncRead + Unpin), wanted: &str) {
    let mut bytes = vec![0; wanted.len()];
    let read = tokio::time::timeout(Duration::from_secs(20), io.read_exact(&mut bytes)).await;
    read.expect("nothing comes").expect("closed");
    assert_eq!(String::from_utf8_lossy(&bytes), wanted);
}

async fn ends(io: &mut (impl tokio::io::AsyncRead + Unpin)) {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), io.read_to_end(&mut bytes)).await;
    // A reset is an end, too.
    let _reset = read.expect("it stays open");
    assert_eq!(bytes, b"");
}

#[tokio::test]
async fn websockets_over_http2_become_upgrades_and_share_their_connection() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["websocket"]));
    let mut client = rig.h2().await;
    let (mut first, mut first_server) = tunnel(&mut client, &scripted).await;
    let (mut second, mut second_server) = tunnel(&mut client, &scripted).await;
    for text in ["one", "two", "three"] {
        for (io, server) in [(&mut first, &mut first_server), (&mut second, &mut second_server)] {
            io.write_all(text.as_bytes()).await.unwrap();
            hears(server, text).await;
            server.write_all(text.as_bytes()).await.unwrap();
            hears(io, text).await;
        }
    }
    first.shutdown().await.unwrap();
    ends(&mut first_server).await;
    first_server.write_all(b"half").await.unwrap();
    hears(&mut first, "half").await;
    drop(first_server);
    ends(&mut first).await;
    let line = lines.next().await;
    assert_eq!(
        (&line["reason"], &line["status"], &line["protocol"]),
        (&"ok".into(), &200.into(), &"HTTP/2".into())
    );
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&11.into(), &15.into()), "{line}");
    // A client that gives up a stream.
    drop(second);
    ends(&mut second_server).await;
    drop(second_server);
    lines.next().await;
    assert_eq!(rig.total(Counter::Upgrades), 2);
    until("no tunnel is left", || rig.server.registry().count(Role::Upstream) == 0).await;
    assert!(rig.observe.render().lines().any(|line| line == "selvedge_requests_active 0"));
}

#[tokio::test]
async fn a_stream_that_is_reset_or_whose_connection_is_gone_ends_its_upstream() {
    let scripted = Scripted::bind().await;
    let (rig, lines) = Rig::logging(allowing(scripted.addr(), &["websocket"]));
    for whole in [false, true] {
        let (mut client, running) = h2::client::handshake(rig.connect().await).await.unwrap();
        let running = tokio::spawn(running);
        until("our settings are there", || client.is_extended_connect_protocol_enabled()).await;
        client = client.ready().await.unwrap();
        let mut request =
            Request::builder().method("CONNECT").uri("http://example.org/chat").body(()).unwrap();
        request.extensions_mut().insert(h2::ext::Protocol::from_static("websocket"));
        let (answer, mut stream) = client.send_request(request, false).unwrap();
        let (mut server, asked, _) = scripted.accept().await;
        server.write_all(accepting(&asked).as_bytes()).await.unwrap();
        assert_eq!(answer.await.unwrap().status(), 200);
        if whole {
            running.abort();
        } else {
            stream.send_reset(h2::Reason::CANCEL);
        }
        ends(&mut server).await;
        // It says nothing more, and keeps its side open: the tunnel is over nevertheless.
        let line = lines.next().await;
        assert_eq!(line["reason"], "downstream_reset", "{line}");
        until("its connection is closed", || rig.server.registry().count(Role::Upstream) == 0).await;
        drop(client);
    }
}

#[tokio::test]
async fn over_http2_a_success_means_that_the_upstream_has_switched() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["websocket"]));
    let mut client = rig.h2().await;
    for (answer, status, body) in [
        ("HTTP/1.1 403 No\r\ncontent-length: 2\r\n\r\nno", 403, "no"),
        (
            "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nno",
            502,
            "upstream protocol error: upstream_protocol\n",
        ),
        (
            "HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\nsec-websocket-accept: x\r\n\r\n",
            502,
            "upstream protocol error: upstream_protocol\n",
        ),
        (
            "HTTP/1.1 101 S\r\nconnection: upgrade\r\nupgrade: websocket\r\n\r\n",
            502,
            "upstream protocol error: upstream_protocol\n",
        ),
    ] {
        let (found, _server) = tokio::join!(answered(&mut client, websocket("/")), async {
            let (mut server, ..) = scripted.accept().await;
            let closing =
                answer.replacen("\r\n", "\r\nconnection: close\r\n", usize::from(!answer.contains(" 101 ")));
            server.write_all(closing.as_bytes()).await.unwrap();
            server
        });
        assert_eq!(found.status().as_u16(), status, "{answer}");
        assert_eq!(text(found).await, body);
    }
    let mut request = websocket("/");
    request.extensions_mut().insert(Protocol::from_static("connect-udp"));
    let refused = answered(&mut client, request).await;
    assert_eq!(refused.status(), 403);
    assert_eq!(text(refused).await, "upgrade_not_allowed\n");
}

#[tokio::test]
async fn connect_over_http2_is_the_same_tunnel() {
    let scripted = Scripted::bind().await;
    let rig = Rig::start(allowing(scripted.addr(), &["CONNECT"]));
    let mut client = rig.h2().await;
    let connect = || Request::builder().method("CONNECT").uri("elsewhere.example:443").body(empty()).unwrap();
    let (answer, mut server) = tokio::join!(answered(&mut client, connect()), async {
        let (mut server, asked, _) = scripted.accept().await;
        assert!(asked.starts_with("CONNECT elsewhere.example:443 HTTP/1.1\r\n"), "{asked}");
        server.write_all(OPENED.as_bytes()).await.unwrap();
        server
    });
    assert_eq!(answer.status(), 200);
    let mut io = TokioIo::new(hyper::upgrade::on(answer).await.unwrap());
    io.write_all(b"there").await.unwrap();
    hears(&mut server, "there").await;
    server.write_all(b"back").await.unwrap();
    hears(&mut io, "back").await;
    let refused = Rig::start(allowing(scripted.addr(), &["websocket"]));
    assert_eq!(answered(&mut refused.h2().await, connect()).await.status(), 403);
}

#[tokio::test]
async fn a_drain_cuts_the_tunnels_of_streams_at_its_deadline() {
    let scripted = Scripted::bind().await;
    let limits = Limits { drain_timeout: Duration::from_secs(2), ..Limits::default() };
    let (rig, lines) = Rig::logging_with(allowing(scripted.addr(), &["websocket"]), limits);
    let mut client = rig.h2().await;
    let (mut io, mut server) = tunnel(&mut client, &scripted).await;
    let draining = std::sync::Arc::clone(&rig.server);
    let draining = tokio::spawn(async move { draining.drain().await });
    until("every connection has its order", || rig.server.registry().is_draining()).await;
    io.write_all(b"still").await.unwrap();
    hears(&mut server, "still").await;
    assert_eq!(draining.await.unwrap(), Drained::Cut(1));
    ends(&mut server).await;
    ends(&mut io).await;
    assert_eq!(lines.next().await["reason"], "drain_timeout");
}
