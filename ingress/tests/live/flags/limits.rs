//! Limits and timeouts of clients: each takes effect, and its counter says so.

use std::net::TcpListener;

use http_body_util::BodyExt as _;
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::{
    super::harness::{
        Authority, Echo, Upstream,
        client::{self, Http1, empty},
        until,
    },
    Scene, host, mapping, object, raw, to_end,
};

const WHOLE: &str = "GET /app/x HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n";

fn get(path: &str) -> http::Request<client::Body> {
    http::Request::get(path).header("host", "shop.example").body(empty()).expect("request")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_that_does_not_end_is_cut_by_the_header_timeout() {
    let scene = Scene::start(&["--header-timeout", "200ms"]).await;
    raw(scene.ingress.http(), b"GET /app/x HTTP/1.1\r\nhost").await;
    scene.counts("selvedge_header_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_connection_without_a_request_is_closed_by_the_idle_timeout() {
    let scene = Scene::start(&["--idle-timeout", "200ms"]).await;
    assert_eq!(raw(scene.ingress.http(), b"").await, "");
    scene.counts("selvedge_idle_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_handshake_that_does_not_end_is_cut_by_the_handshake_timeout() {
    let host = host(&Authority::new("flags"));
    let scene = Scene::with(&host, &["--handshake-timeout", "200ms"], &[]).await;
    assert_eq!(raw(scene.ingress.listener("https"), b"\x16\x03\x01").await, "");
    scene.counts("selvedge_handshake_timeout_total", 1.0).await;
}

/// It takes connections, as the kernel does for it, and says nothing.
fn deaf() -> (TcpListener, String) {
    let listener = TcpListener::bind("127.0.0.1:0").expect("bind");
    let service = format!("https://{}", listener.local_addr().expect("address"));
    (listener, service)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_does_not_shake_hands_is_given_up_by_the_connect_timeout() {
    let (_deaf, service) = deaf();
    let scene = Scene::with(&mapping("deaf", &service, ""), &["--connect-timeout", "200ms"], &[]).await;
    assert_eq!(scene.get("/deaf/x").await, 503);
    assert_eq!(scene.ingress.access("/deaf/x").await["reason"], "upstream_connect_timeout");
    scene.counts("selvedge_connect_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_does_not_come_is_given_up_by_the_upstream_timeout() {
    let scene = Scene::start(&["--upstream-timeout", "200ms"]).await;
    assert_eq!(scene.get("/app/stuck").await, 504);
    scene.counts("selvedge_upstream_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_stream_without_bytes_is_cut_by_the_stream_idle_timeout() {
    let scene = Scene::start(&["--stream-idle-timeout", "200ms", "--upstream-timeout", "0s"]).await;
    let response = Http1::new(scene.ingress.http()).send(get("/app/drip")).await.expect("a head");
    assert!(response.into_body().collect().await.is_err(), "it looks whole");
    scene.counts("selvedge_stream_idle_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_a_resource_wins_over_its_flag() {
    let (_deaf, service) = deaf();
    let upstream = Upstream::plain().await;
    let addr = upstream.addr.to_string();
    let fields = mapping("deaf", &service, ", connect_timeout_ms: 200")
        + &mapping("short", &addr, ", timeout_ms: 200")
        + &mapping("still", &addr, ", timeout_ms: 0, idle_timeout_ms: 200");
    let scene = Scene::with(&fields, &[], &[]).await;
    assert_eq!(scene.get("/short/stuck").await, 504);
    scene.counts("selvedge_upstream_timeout_total", 1.0).await;
    let response = Http1::new(scene.ingress.http()).send(get("/still/drip")).await.expect("a head");
    assert!(response.into_body().collect().await.is_err(), "it looks whole");
    scene.counts("selvedge_stream_idle_timeout_total", 1.0).await;
    assert_eq!(scene.get("/deaf/x").await, 503);
    scene.counts("selvedge_connect_timeout_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_the_module_wins_over_its_flag() {
    let config = "config: {cluster_request_timeout_ms: 200, listener_idle_timeout_ms: 300}";
    let scene = Scene::with(&object("Module", "ambassador", config), &[], &[]).await;
    assert_eq!(scene.get("/app/stuck").await, 504);
    scene.counts("selvedge_upstream_timeout_total", 1.0).await;
    let mut kept = TcpStream::connect(scene.ingress.http()).await.expect("connect");
    kept.write_all(b"GET /app/x HTTP/1.1\r\nhost: shop.example\r\n\r\n").await.expect("write");
    assert!(to_end(&mut kept).await.starts_with("HTTP/1.1 200"));
    let name = "selvedge_idle_timeout_total";
    until("the idle connection is counted", async || scene.ingress.metric(name).await > 0.5).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_field_of_a_tcp_mapping_wins_over_its_flag() {
    let echo = Echo::plain("").await;
    let tcp = |port: u16| {
        let fields = format!("port: {port}, service: \"{}\", idle_timeout_ms: \"200\"", echo.addr);
        object("TCPMapping", "tcp", &fields)
    };
    let port = free_port();
    let scene = Scene::with(&tcp(port), &[], &[]).await;
    assert_eq!(raw(scene.ingress.listener(&format!("tcp-{port}")), b"").await, "");
    scene.counts("selvedge_stream_idle_timeout_total", 1.0).await;
}

/// A port that nobody had a moment ago.
pub(super) fn free_port() -> u16 {
    let held = TcpListener::bind("127.0.0.1:0").expect("a free port");
    held.local_addr().expect("address").port()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_no_more_bytes_than_allowed() {
    let scene = Scene::start(&["--max-header-bytes", "8KiB"]).await;
    for (length, status) in [(4 * 1024, "200"), (16 * 1024, "431")] {
        let head = format!("{WHOLE}x: {}\r\n\r\n", "y".repeat(length));
        let seen = raw(scene.ingress.http(), head.as_bytes()).await;
        assert_eq!(seen.get(9..12), Some(status), "{length}: {seen}");
    }
    scene.counts("selvedge_headers_too_large_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_head_has_no_more_fields_than_allowed() {
    let scene = Scene::start(&["--max-headers", "10"]).await;
    for (count, status) in [(8, "200"), (20, "431")] {
        let head = format!("{WHOLE}{}\r\n", "x: 1\r\n".repeat(count));
        let seen = raw(scene.ingress.http(), head.as_bytes()).await;
        assert_eq!(seen.get(9..12), Some(status), "{count}: {seen}");
    }
    scene.counts("selvedge_headers_too_large_total", 1.0).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_connections_than_allowed() {
    let scene = Scene::start(&["--max-connections", "1"]).await;
    let mut held = Http1::new(scene.ingress.http());
    assert_eq!(held.ask(get("/app/x")).await.expect("an answer").0, 200);
    assert_eq!(raw(scene.ingress.http(), b"").await, "");
    scene.counts("selvedge_max_connections_total", 1.0).await;
    assert_eq!(held.ask(get("/app/x")).await.expect("an answer").0, 200);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_handshakes_than_allowed() {
    let host = host(&Authority::new("flags"));
    let flags = ["--max-handshakes", "1", "--handshake-timeout", "5m"];
    let scene = Scene::with(&host, &flags, &[]).await;
    let connect = async || {
        let mut stream = TcpStream::connect(scene.ingress.listener("https")).await.expect("connect");
        stream.write_all(b"\x16\x03\x01").await.expect("write");
        stream
    };
    // Whichever of them is taken first, the other one is refused.
    let (mut one, mut two) = (connect().await, connect().await);
    tokio::select! {
        _ended = to_end(&mut one) => {}
        _ended = to_end(&mut two) => {}
    }
    scene.counts("selvedge_max_handshakes_total", 1.0).await;
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n\0\0\0\x04\0\0\0\0\0";

/// `GET /app/stuck` of `a` on a stream, in HPACK without Huffman.
fn stuck(stream: u32) -> Vec<u8> {
    let block = b"\x82\x86\x41\x01a\x04\x0a/app/stuck";
    let length = u8::try_from(block.len()).expect("short");
    [&[0, 0, length, 1, 5], &stream.to_be_bytes()[..], block].concat()
}

fn cancel(stream: u32) -> Vec<u8> {
    [b"\0\0\x04\x03\0", &stream.to_be_bytes()[..], &8_u32.to_be_bytes()].concat()
}

fn streams(count: usize) -> impl Iterator<Item = u32> {
    (1..).step_by(2).take(count)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_no_more_streams_than_allowed() {
    let scene = Scene::start(&["--max-streams", "2"]).await;
    let mut client = TcpStream::connect(scene.ingress.http()).await.expect("connect");
    let four: Vec<u8> = streams(4).flat_map(stuck).collect();
    client.write_all(&[PREFACE, &four].concat()).await.expect("write");
    scene.counts("selvedge_max_streams_total", 2.0).await;
    until("two are served", async || scene.upstream.seen.held.lock().len() == 2).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_resets_more_than_allowed_loses_its_connection() {
    let scene = Scene::start(&["--max-resets", "5"]).await;
    // Fewer than the default allows.
    let all: Vec<u8> = streams(50).flat_map(|stream| [stuck(stream), cancel(stream)].concat()).collect();
    raw(scene.ingress.http(), &[PREFACE, &all].concat()).await;
    scene.counts("selvedge_max_resets_total", 1.0).await;
}
