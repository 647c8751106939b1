//! The PROXY protocol in front of HTTP, and raw bytes by `Router::connection`.

use std::time::Duration;

use proxy::{
    limits::Limits,
    net::{Layer, ListenerSpec},
    observe::Counter,
    upstream::Protocol,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::support::*;

const REQUEST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn v2() -> Vec<u8> {
    let mut bytes = b"\r\n\r\n\0\r\nQUIT\n\x21\x11\x00\x0c".to_vec();
    bytes.extend([203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80]);
    bytes
}

#[tokio::test]
async fn a_required_header_names_the_client_and_nothing_else_may_come() {
    let spec = ListenerSpec { proxy_protocol: true, ..http() };
    let rig = Rig::with(Table::new(upstream().await), Limits::default(), spec);
    for header in [b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(), v2()] {
        let seen = rig.raw(&[&header, REQUEST].concat()).await;
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\n"), "{seen}");
    }
    assert_eq!(rig.raw(REQUEST).await, "");
    assert_eq!(rig.raw(b"PROXY TCP4 nonsense\r\n").await, "");
    assert_eq!(rig.total(Counter::BadProxyProtocol), 2);
}

#[tokio::test]
async fn a_header_of_a_named_peer_is_optional_and_of_others_it_is_not_http() {
    let from = |net: &str| Limits { proxy_protocol_from: vec![net.parse().unwrap()], ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), from("127.0.0.0/8"), http());
    assert!(rig.raw(&[&v2(), REQUEST].concat()).await.contains("x-forwarded-for: 203.0.113.9\n"));
    assert!(rig.raw(REQUEST).await.contains("x-forwarded-for: 127.0.0.1\n"));
    let rig = Rig::with(Table::new(upstream().await), from("10.0.0.0/8"), http());
    assert!(!rig.raw(&[&v2(), REQUEST].concat()).await.contains("203.0.113.9"));
    let required = ListenerSpec { proxy_protocol: true, ..http() };
    let rig = Rig::with(Table::new(upstream().await), from("10.0.0.0/8"), required);
    assert_eq!(rig.raw(&[&v2(), REQUEST].concat()).await, "");
}

async fn bytes_rig(limits: Limits) -> (Rig, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut table = Table::new(listener.local_addr().unwrap());
    table.routes[0] = route(listener.local_addr().unwrap(), Protocol::Tcp);
    (Rig::with(table, limits, ListenerSpec { layer: Layer::Tcp, ..http() }), listener)
}

#[tokio::test]
async fn bytes_are_relayed_and_a_half_closed_connection_stays_half_open() {
    let (rig, listener) = bytes_rig(Limits::default()).await;
    let mut client = rig.connect().await;
    client.write_all(b"ping").await.unwrap();
    client.shutdown().await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut seen = String::new();
    upstream.read_to_string(&mut seen).await.unwrap();
    assert_eq!(seen, "ping");
    upstream.write_all(b"pong").await.unwrap();
    drop(upstream);
    assert_eq!(to_end(&mut client).await, "pong");
    until("it is gone", || rig.server.registry().is_empty()).await;
}

#[tokio::test]
async fn a_reset_client_frees_the_upstream_at_once() {
    let (rig, listener) = bytes_rig(Limits::default()).await;
    let client = rig.connect().await;
    let (mut upstream, _) = listener.accept().await.unwrap();
    socket2::SockRef::from(&client).set_linger(Some(Duration::ZERO)).unwrap();
    drop(client);
    let mut rest = Vec::new();
    let ended = tokio::time::timeout(Duration::from_secs(5), upstream.read_to_end(&mut rest)).await;
    assert!(ended.is_ok(), "the upstream's connection was left open");
    until("recorded", || rig.failures("downstream_reset") == 1).await;
}

#[tokio::test]
async fn bytes_that_do_not_move_are_cut() {
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let (rig, listener) = bytes_rig(limits).await;
    let mut client = rig.connect().await;
    let (_upstream, _) = listener.accept().await.unwrap();
    assert_eq!(to_end(&mut client).await, "");
    until("recorded", || rig.failures("stream_idle_timeout") == 1).await;
    assert_eq!(rig.total(Counter::StreamIdleTimeout), 1);
}
