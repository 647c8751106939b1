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

/// A header of version 2: command, family, what follows.
fn version2(command: u8, family: u8, payload: &[u8]) -> Vec<u8> {
    let length = u16::try_from(payload.len()).unwrap().to_be_bytes();
    [b"\r\n\r\n\0\r\nQUIT\n", [command, family].as_slice(), &length, payload].concat()
}

const FOUR: [u8; 12] = [203, 0, 113, 9, 10, 0, 0, 1, 0x12, 0x34, 0, 80];

fn v2() -> Vec<u8> {
    version2(0x21, 0x11, &FOUR)
}

fn required() -> ListenerSpec {
    ListenerSpec { proxy_protocol: true, ..http() }
}

fn from(net: &str) -> Limits {
    Limits { proxy_protocol_from: vec![net.parse().unwrap()], ..Limits::default() }
}

#[tokio::test]
async fn a_required_header_names_the_client_and_nothing_else_may_come() {
    let rig = Rig::with(Table::new(upstream().await), from("127.0.0.0/8"), required());
    let extended = [FOUR.as_slice(), b"\x04\x00\x03abc\xea\x00\x05\x01vpce"].concat();
    let large = [FOUR.as_slice(), b"\x04\x07\xf1", &[0; 2033]].concat();
    let mapped = "PROXY TCP6 ::ffff:203.0.113.9 ::1 4660 80\r\n";
    let named = [
        b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(),
        mapped.as_bytes().to_vec(),
        v2(),
        version2(0x21, 0x11, &extended),
        version2(0x21, 0x11, &large),
    ];
    for header in named {
        let seen = rig.raw(&[&header, REQUEST].concat()).await;
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\n"), "{header:?}: {seen}");
    }
    // Who names nobody is the balancer itself, or a client without an address.
    let unnamed = [
        b"PROXY UNKNOWN\r\n".to_vec(),
        b"PROXY UNKNOWN 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(),
        version2(0x20, 0x00, &[]),
        version2(0x20, 0x11, &FOUR),
        version2(0x21, 0x00, &FOUR),
        version2(0x21, 0x31, &[0; 216]),
    ];
    for header in unnamed {
        let seen = rig.raw(&[&header, REQUEST].concat()).await;
        assert!(seen.contains("x-forwarded-for: 127.0.0.1\n"), "{header:?}: {seen}");
    }
    let refused = [
        REQUEST.to_vec(),
        b"PROXY TCP4 nonsense\r\n".to_vec(),
        [b"PROXY TCP4 ".as_slice(), &[b'1'; 100]].concat(),
        version2(0x21, 0x11, &[0; 2049])[..16].to_vec(),
        version2(0x21, 0x11, &FOUR[..10]),
        version2(0x21, 0x41, &FOUR),
        version2(0x22, 0x11, &FOUR),
        version2(0x31, 0x11, &FOUR),
    ];
    for (count, bytes) in (1..).zip(&refused) {
        assert_eq!(rig.raw(bytes).await, "", "{bytes:?}");
        assert_eq!(rig.total(Counter::BadProxyProtocol), count, "{bytes:?}");
    }
    until("each is recorded", || rig.failures("bad_proxy_protocol") == refused.len() as u64).await;
}

#[tokio::test]
async fn a_header_of_a_named_peer_is_optional_and_of_others_it_is_not_http() {
    let rig = Rig::with(Table::new(upstream().await), from("127.0.0.0/8"), http());
    assert!(rig.raw(&[&v2(), REQUEST].concat()).await.contains("x-forwarded-for: 203.0.113.9\n"));
    assert!(rig.raw(REQUEST).await.contains("x-forwarded-for: 127.0.0.1\n"));
    let rig = Rig::with(Table::new(upstream().await), from("10.0.0.0/8"), http());
    assert!(!rig.raw(&[&v2(), REQUEST].concat()).await.contains("203.0.113.9"));
}

#[tokio::test]
async fn nobody_is_believed_who_is_not_named() {
    for limits in [from("10.0.0.0/8"), Limits::default()] {
        let rig = Rig::with(Table::new(upstream().await), limits, required());
        assert_eq!(rig.raw(&[&v2(), REQUEST].concat()).await, "");
        assert_eq!(rig.raw(b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n").await, "");
        assert_eq!(rig.total(Counter::BadProxyProtocol), 2);
        until("it is recorded", || rig.failures("bad_proxy_protocol") == 2).await;
    }
}

#[tokio::test]
async fn a_header_may_be_split_anywhere() {
    let rig = Rig::with(Table::new(upstream().await), from("127.0.0.0/8"), required());
    for header in [b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(), v2()] {
        let bytes = [&header, REQUEST].concat();
        for at in 1..=header.len() {
            let mut client = rig.connect().await;
            client.set_nodelay(true).unwrap();
            client.write_all(&bytes[..at]).await.unwrap();
            // The two parts are read apart, or together: both must do.
            tokio::task::yield_now().await;
            client.write_all(&bytes[at..]).await.unwrap();
            let seen = to_end(&mut client).await;
            assert!(seen.contains("x-forwarded-for: 203.0.113.9\n"), "{at}: {seen}");
        }
    }
}

#[tokio::test]
async fn http2_follows_a_header_too() {
    let rig = Rig::with(Table::new(upstream().await), from("127.0.0.0/8"), required());
    for header in [b"PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n".to_vec(), v2()] {
        let mut client = rig.connect().await;
        client.write_all(&header).await.unwrap();
        let seen = text(h2(client).await.send_request(get2("/")).await.unwrap()).await;
        assert!(seen.contains("x-forwarded-for: 203.0.113.9\n"), "{seen}");
    }
}

#[tokio::test]
async fn a_header_that_does_not_come_is_not_waited_for_without_end() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..from("127.0.0.0/8") };
    let rig = Rig::with(Table::new(upstream().await), limits, required());
    for (cut, begun) in (1..).zip([b"".as_slice(), b"PROXY TCP4 203", &v2()[..20]]) {
        let mut client = rig.connect().await;
        client.write_all(begun).await.unwrap();
        assert_eq!(to_end(&mut client).await, "");
        until("it is counted", || rig.total(Counter::HandshakeTimeout) == cut).await;
    }
}

#[tokio::test]
async fn a_named_peer_that_waits_for_its_server_is_served() {
    let limits = Limits { handshake_timeout: Duration::from_millis(200), ..from("127.0.0.0/8") };
    let (rig, listener) = bytes_rig(limits).await;
    let mut client = rig.connect().await;
    let (mut server, _) = listener.accept().await.unwrap();
    server.write_all(b"220 hello").await.unwrap();
    drop(server);
    assert_eq!(to_end(&mut client).await, "220 hello");
    // One that has begun a header is no such client.
    let mut client = rig.connect().await;
    client.write_all(b"PROXY ").await.unwrap();
    assert_eq!(to_end(&mut client).await, "");
    assert_eq!(rig.total(Counter::HandshakeTimeout), 1);
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
