//! `ClientHello`s in any pieces, and those that we could not answer ourselves: they go on to whom they are meant for.

use std::{
    io,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
};

use identity::{ClientAuth, PeerRule};
use proxy::{Reason, limits::Limits, observe::Counter, route::Accept, upstream::Protocol};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _, ReadBuf},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::{TlsConnector, rustls};

use super::{
    support::*,
    tls::{Guarded, believing, https},
};

/// A listener that ends TLS for `ended.example`, passes `inner.example` on to `behind`, and knows no other name.
fn rig(guarded: &Guarded, behind: std::net::SocketAddr) -> Rig {
    let mut table = Table::new(behind);
    table.routes[0] = route(behind, Protocol::Tcp);
    let profile = Arc::clone(&guarded.profile);
    table.accept = Box::new(move |_, hello| match hello.and_then(|hello| hello.sni) {
        Some("inner.example") => Accept::Passthrough,
        Some("ended.example") => Accept::TerminateTcp(Arc::clone(&profile)),
        _ => Accept::Refuse(Reason::NO_SNI_PROFILE),
    });
    Rig::with(table, Limits::default(), https())
}

/// Every byte is written, and sent, alone.
struct Bytewise(TcpStream);

impl AsyncRead for Bytewise {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_read(cx, buf)
    }
}

impl AsyncWrite for Bytewise {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.0).poll_write(cx, &buf[..buf.len().min(1)])
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.0).poll_shutdown(cx)
    }
}

#[tokio::test]
async fn a_handshake_may_come_in_any_pieces_and_records() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let inner = guarded.start(upstream().await);
    // Both answer HTTP in the end: the one that is passed on to, and the one that gets what was inside.
    let (passes, ends) = (rig(&guarded, inner.addr), rig(&guarded, upstream().await));
    for (rig, name) in [(&passes, "inner.example"), (&ends, "ended.example")] {
        for fragment in [None, Some(32), Some(200)] {
            let mut config = rustls::ClientConfig::clone(&believing("http/1.1", None));
            config.max_fragment_size = fragment;
            let tcp = rig.connect().await;
            tcp.set_nodelay(true).unwrap();
            let sni = rustls::pki_types::ServerName::try_from(name).unwrap();
            let client = TlsConnector::from(Arc::new(config)).connect(sni, Bytewise(tcp)).await;
            let mut client = client.unwrap();
            let group = client.get_ref().1.negotiated_key_exchange_group().unwrap().name();
            assert_eq!(group, rustls::NamedGroup::X25519MLKEM768, "a hello of more than 1200 bytes");
            client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
            client.flush().await.unwrap();
            let mut answer = Vec::new();
            let _end = within("an answer", client.read_to_end(&mut answer)).await;
            assert!(answer.starts_with(b"HTTP/1.1 200"), "{name} {fragment:?}");
        }
    }
    assert_eq!((passes.total(Counter::Handshakes), inner.total(Counter::Handshakes)), (0, 3));
    assert_eq!(ends.total(Counter::Handshakes), 3);
}

/// What hangs is said, not waited for.
async fn within<T>(what: &str, comes: impl Future<Output = T>) -> T {
    tokio::time::timeout(std::time::Duration::from_mins(1), comes).await.expect(what)
}

/// A hello of TLS 1.0 without any of today's extensions, in records of so many bytes.
fn old_hello(name: &str, record: usize) -> Vec<u8> {
    let sized = |bytes: &[u8]| [&u16::try_from(bytes.len()).unwrap().to_be_bytes(), bytes].concat();
    let list = [b"\0".as_slice(), &sized(name.as_bytes())].concat();
    let extensions = [b"\0\0".as_slice(), &sized(&sized(&list))].concat();
    let body = [&[3, 1], [7; 32].as_slice(), &[0, 0, 2, 0, 47, 1, 0], &sized(&extensions)].concat();
    let length = u32::try_from(body.len()).unwrap().to_be_bytes();
    let message = [&[1], &length[1..], &body].concat();
    message.chunks(record).flat_map(|part| [&[22, 3, 1], sized(part).as_slice()].concat()).collect()
}

#[tokio::test]
async fn a_hello_that_only_its_server_understands_is_passed_on_whole() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let behind = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = rig(&guarded, behind.local_addr().unwrap());
    for record in [1, 40, 1000] {
        let sent = [old_hello("Inner.Example", record).as_slice(), b"and more"].concat();
        let tcp = rig.connect().await;
        tcp.set_nodelay(true).unwrap();
        let mut client = Bytewise(tcp);
        client.write_all(&sent).await.unwrap();
        let (mut server, _) = within("it is passed on", behind.accept()).await.unwrap();
        client.shutdown().await.unwrap();
        let mut seen = Vec::new();
        server.read_to_end(&mut seen).await.unwrap();
        assert_eq!(seen, sent);
        server.write_all(b"old answer").await.unwrap();
        drop(server);
        assert_eq!(to_end(&mut client.0).await, "old answer");
    }
    assert_eq!(rig.total(Counter::HandshakeFailed), 0);
}

#[tokio::test]
async fn who_would_have_to_be_answered_here_gets_an_alert() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let rig = rig(&guarded, "127.0.0.1:1".parse().unwrap());
    // No handshake at all, one that promises more than any has, and one without end.
    let junk = [b"\x16\x03\x01\0\x04\x02\0\0\0".as_slice(), b"\x16\x03\x01\0\x04\x01\xff\xff\xff"];
    let hellos = ["ended.example", "other.example", "127.0.0.1"].map(|name| old_hello(name, 30));
    for (failed, sent) in (1..).zip(hellos.iter().map(Vec::as_slice).chain(junk)) {
        let mut client = rig.connect().await;
        client.write_all(sent).await.unwrap();
        let mut alert = Vec::new();
        client.read_to_end(&mut alert).await.unwrap();
        assert_eq!((alert.len(), &alert[..2], &alert[3..6]), (7, &[21, 3][..], &[0, 2, 2][..]), "{alert:?}");
        until("it is counted", || rig.total(Counter::HandshakeFailed) == failed).await;
    }
}
