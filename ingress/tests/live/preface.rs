//! The PROXY protocol on the real program: HTTP, HTTP over TLS, and TCPMappings, of peers that are named and of others.

use std::net::SocketAddr;

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};

use super::{
    harness::{Authority, Echo, Upstream, until},
    tcp::{Scene, connect_tls, host, mapping, object, rest, talk},
};

const V1: &[u8] = b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n";
const V2: &[u8] = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c\xcb\x00\x71\x09\x0a\x00\x00\x01\x12\x34\x00\x50";
const REQUEST: &[u8] = b"GET /x HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";

/// Free ports, for Listeners: each has its own.
fn ports<const N: usize>() -> [u16; N] {
    let held = std::array::from_fn::<_, N, _>(|_| std::net::TcpListener::bind("127.0.0.1:0").expect("port"));
    held.map(|held| held.local_addr().expect("address").port())
}

fn listener(name: &str, port: u16, stack: &str) -> String {
    let binding = "securityModel: XFP, hostBinding: {namespace: {from: ALL}}";
    object("Listener", name, &format!("port: {port}, protocolStack: {stack}, {binding}"))
}

async fn begin(addr: SocketAddr, header: &[u8]) -> TcpStream {
    let mut client = TcpStream::connect(addr).await.expect("connect");
    client.write_all(header).await.expect("header");
    client
}

async fn ask<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S) -> String {
    stream.write_all(REQUEST).await.expect("request");
    stream.flush().await.expect("flush");
    rest(stream).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_a_named_peer_is_believed_before_every_protocol() {
    let authority = Authority::new("preface");
    let (web, echo) = (Upstream::plain().await, Echo::plain("hello ").await);
    let passed = Echo::tls("passed ", &authority.leaf("through.example")).await;
    let [http, https, tcp, tls] = ports();
    let manifests = listener("http", http, "[PROXY, HTTP]")
        + &listener("https", https, "[PROXY, TLS, HTTP, TCP]")
        + &listener("tcp", tcp, "[PROXY, TCP]")
        + &listener("tls", tls, "[PROXY, TLS, TCP]")
        + &host(&authority, "web", "shop.example").replace(
            ", mappingSelector: {matchLabels: {no: thing}}",
            ", requestPolicy: {insecure: {action: Route}}",
        )
        + &host(&authority, "db", "db.example")
        + &object("Mapping", "m", &format!("hostname: shop.example, prefix: /, service: \"{}\"", web.addr))
        + &mapping("plain", &format!("port: {tcp}, service: \"{}\"", echo.addr))
        + &mapping("ended", &format!("port: {tls}, host: db.example, service: \"{}\"", echo.addr))
        + &mapping("passed", &format!("port: {tls}, host: through.example, service: \"{}\"", passed.addr));
    let scene = Scene::start(&manifests, &["--proxy-protocol-from", "127.0.0.0/8"]).await;
    let at = |name: &str| scene.ingress.listener(&format!("default/{name}"));
    for header in [V1, V2] {
        assert!(ask(begin(at("http"), header).await).await.starts_with("HTTP/1.1 200"));
        let client = connect_tls(begin(at("https"), header).await, &authority, "shop.example").await;
        assert!(ask(client.expect("TLS")).await.starts_with("HTTP/1.1 200"));
        assert_eq!(talk(begin(at("tcp"), header).await, "a").await, "hello a 1");
        let client = connect_tls(begin(at("tls"), header).await, &authority, "db.example").await;
        assert_eq!(talk(client.expect("ended here"), "bb").await, "hello bb 2");
        let client = connect_tls(begin(at("tls"), header).await, &authority, "through.example").await;
        assert_eq!(talk(client.expect("ended there"), "ccc").await, "passed ccc 3");
    }
    until("ten lines", async || scene.ingress.access_log().len() >= 10).await;
    for line in scene.ingress.access_log() {
        assert!(line["downstream"].as_str().is_some_and(|text| text.starts_with("203.0.113.9")), "{line}");
        assert_eq!(line["reason"], "ok", "{line}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_header_of_anybody_else_is_refused_under_its_reason() {
    let (web, echo) = (Upstream::plain().await, Echo::plain("").await);
    let [http, tcp] = ports();
    let manifests = listener("http", http, "[PROXY, HTTP]")
        + &listener("tcp", tcp, "[PROXY, TCP]")
        + &object("Mapping", "m", &format!("hostname: \"*\", prefix: /, service: \"{}\"", web.addr))
        + &mapping("plain", &format!("port: {tcp}, service: \"{}\"", echo.addr));
    for flags in [&["--proxy-protocol-from", "10.0.0.0/8"][..], &[]] {
        let scene = Scene::start(&manifests, flags).await;
        for (count, name) in (1..).zip(["http", "tcp"]) {
            let mut client = begin(scene.ingress.listener(&format!("default/{name}")), V1).await;
            // It may be closed before it has said everything.
            let _closed = client.write_all(REQUEST).await;
            let mut seen = Vec::new();
            let _reset = client.read_to_end(&mut seen).await;
            assert_eq!(seen, b"", "{name}");
            until("a line", async || scene.ingress.access_log().len() == count).await;
        }
        for line in scene.ingress.access_log() {
            assert_eq!(line["reason"], "bad_proxy_protocol", "{line}");
            let peer = line["downstream"].as_str().expect("downstream");
            assert!(peer.starts_with("127.0.0.1"), "nobody else is believed to be the client: {line}");
        }
        assert_eq!(scene.ingress.metric("selvedge_bad_proxy_protocol_total").await.to_string(), "2");
        let remedy = "--proxy-protocol-from";
        assert!(scene.ingress.log().iter().any(|line| line.to_string().contains(remedy)), "the log says it");
    }
    assert_eq!((echo.accepted(), web.open()), (0, 0));
}
