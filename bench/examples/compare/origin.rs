//! The origin: answers every request with the same 1 KiB, over TLS 1.3 with a verified client certificate.

use std::{
    cell::Cell,
    net::{Ipv4Addr, SocketAddr},
    rc::Rc,
    sync::Arc,
};

use anyhow::Context as _;
use rustls::{
    RootCertStore, ServerConfig,
    crypto::{CryptoProvider, aws_lc_rs},
    server::WebPkiClientVerifier,
    version::TLS13,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    task::spawn_local,
};
use tokio_rustls::TlsAcceptor;

use crate::certs::Certs;

/// Bytes of the answer's body.
pub(crate) const BODY_BYTES: usize = 1024;

/// The body: no run of one byte, so that a piece that is missing shows.
pub(crate) fn body() -> Vec<u8> {
    (0..BODY_BYTES)
        .map(|at| b"0123456789abcdefghijklmnopqrstuvwxyz".get(at * 7 % 36).copied().unwrap_or(b'-'))
        .collect()
}

/// A running origin and what it has seen.
#[derive(Debug)]
pub(crate) struct Origin {
    pub(crate) addr: SocketAddr,
    handshakes: Rc<Cell<u64>>,
    requests: Rc<Cell<u64>>,
}

impl Origin {
    /// Listens on a port that the system chooses.
    pub(crate) async fn start(certs: &Certs) -> anyhow::Result<Self> {
        let acceptor = TlsAcceptor::from(Arc::new(config(certs)?));
        let listener =
            TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.context("the origin cannot listen")?;
        let origin =
            Self { addr: listener.local_addr()?, handshakes: Rc::default(), requests: Rc::default() };
        let (handshakes, requests) = (Rc::clone(&origin.handshakes), Rc::clone(&origin.requests));
        let mut answer =
            format!("HTTP/1.1 200 OK\r\ncontent-type: text/plain\r\ncontent-length: {BODY_BYTES}\r\n\r\n")
                .into_bytes();
        answer.extend_from_slice(&body());
        let answer: Rc<[u8]> = answer.into();
        spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (acceptor, answer) = (acceptor.clone(), Rc::clone(&answer));
                let (handshakes, requests) = (Rc::clone(&handshakes), Rc::clone(&requests));
                spawn_local(async move {
                    // A proxy that goes away is no event.
                    let _ended = serve(acceptor, stream, &answer, &handshakes, &requests).await;
                });
            }
        });
        Ok(origin)
    }

    /// Handshakes since the start.
    pub(crate) fn handshakes(&self) -> u64 {
        self.handshakes.get()
    }

    /// Requests since the start.
    pub(crate) fn requests(&self) -> u64 {
        self.requests.get()
    }
}

/// Equal terms for all: one cipher suite, one group.
fn config(certs: &Certs) -> anyhow::Result<ServerConfig> {
    let provider = Arc::new(CryptoProvider {
        cipher_suites: vec![aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256],
        kx_groups: vec![aws_lc_rs::kx_group::X25519],
        ..aws_lc_rs::default_provider()
    });
    let mut roots = RootCertStore::empty();
    roots.add(certs.authority.clone())?;
    let clients =
        WebPkiClientVerifier::builder_with_provider(Arc::new(roots), Arc::clone(&provider)).build()?;
    let mut config = ServerConfig::builder_with_provider(provider)
        .with_protocol_versions(&[&TLS13])?
        .with_client_cert_verifier(clients)
        .with_single_cert(vec![certs.origin.clone()], certs.origin_key.clone_key())?;
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

async fn serve(
    acceptor: TlsAcceptor,
    stream: TcpStream,
    answer: &[u8],
    handshakes: &Cell<u64>,
    requests: &Cell<u64>,
) -> anyhow::Result<()> {
    stream.set_nodelay(true)?;
    let mut stream = acceptor.accept(stream).await?;
    handshakes.set(handshakes.get() + 1);
    let mut head = Vec::with_capacity(4096);
    loop {
        if stream.read_buf(&mut head).await? == 0 {
            return Ok(());
        }
        // The load asks without a body and waits for the answer: what ends with an empty line is one request.
        if head.ends_with(b"\r\n\r\n") {
            head.clear();
            requests.set(requests.get() + 1);
            stream.write_all(answer).await?;
            stream.flush().await?;
        }
    }
}
