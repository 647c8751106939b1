//! Upstreams of bytes: they echo, and count who came.

use std::{
    io,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
};

use rustls::{
    RootCertStore, ServerConfig,
    server::WebPkiClientVerifier,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};
use tokio_rustls::TlsAcceptor;

use super::{Authority, Pair};

/// A server that sends a greeting, echoes to the end, and says how many bytes those were.
pub(crate) struct Echo {
    pub(crate) addr: SocketAddr,
    /// Connections of which the handshake, if there is one, was done.
    greeted: Arc<AtomicU64>,
    accepted: Arc<AtomicU64>,
    /// Bytes of clients.
    heard: Arc<AtomicU64>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Echo {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Echo {
    /// Cleartext.
    pub(crate) async fn plain(greeting: &'static str) -> Self {
        Self::start(greeting, None).await
    }

    /// TLS without client certificates.
    pub(crate) async fn tls(greeting: &'static str, own: &Pair) -> Self {
        Self::over(greeting, &own.certified()).await
    }

    /// TLS without client certificates and without a greeting.
    pub(crate) async fn presenting(own: &Arc<CertifiedKey>) -> Self {
        Self::over("", own).await
    }

    async fn over(greeting: &'static str, own: &Arc<CertifiedKey>) -> Self {
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(own)));
        let config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(own);
        Self::start(greeting, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// TLS that requires a client certificate of an authority.
    pub(crate) async fn mutual(greeting: &'static str, own: &Pair, clients: &Authority) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(clients.der().clone()).expect("authority");
        let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("verifier");
        let config = ServerConfig::builder().with_client_cert_verifier(verifier);
        let config = config.with_single_cert(vec![own.der.clone()], own.private_key()).expect("certificate");
        Self::start(greeting, Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    async fn start(greeting: &'static str, tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let [greeted, accepted, heard] = std::array::from_fn(|_| Arc::<AtomicU64>::default());
        let counts = (Arc::clone(&greeted), Arc::clone(&accepted), Arc::clone(&heard));
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                counts.1.fetch_add(1, Relaxed);
                let (tls, greeted, heard) = (tls.clone(), Arc::clone(&counts.0), Arc::clone(&counts.2));
                tokio::spawn(async move {
                    // Clients come and go.
                    let _ended = serve(stream, tls, greeting, (&greeted, &heard)).await;
                });
            }
        });
        Self { addr, greeted, accepted, heard, accepting }
    }

    pub(crate) fn greeted(&self) -> u64 {
        self.greeted.load(Relaxed)
    }

    pub(crate) fn heard(&self) -> u64 {
        self.heard.load(Relaxed)
    }

    pub(crate) fn accepted(&self) -> u64 {
        self.accepted.load(Relaxed)
    }
}

async fn serve(
    stream: TcpStream,
    tls: Option<TlsAcceptor>,
    greeting: &str,
    counts: (&AtomicU64, &AtomicU64),
) -> io::Result<()> {
    match tls {
        None => echo(stream, greeting, counts).await,
        Some(tls) => echo(tls.accept(stream).await?, greeting, counts).await,
    }
}

async fn echo<S: AsyncRead + AsyncWrite + Unpin>(
    mut stream: S,
    greeting: &str,
    (greeted, heard): (&AtomicU64, &AtomicU64),
) -> io::Result<()> {
    greeted.fetch_add(1, Relaxed);
    stream.write_all(greeting.as_bytes()).await?;
    stream.flush().await?;
    let (mut bytes, mut total) = (vec![0; 16 * 1024], 0);
    loop {
        let count = stream.read(&mut bytes).await?;
        if count == 0 {
            break;
        }
        total += count;
        heard.fetch_add(count as u64, Relaxed);
        stream.write_all(&bytes[..count]).await?;
        stream.flush().await?;
    }
    stream.write_all(format!(" {total}").as_bytes()).await?;
    stream.shutdown().await
}
