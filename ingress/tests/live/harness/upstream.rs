//! Upstreams that count what reaches them, down to the byte.

use std::{
    collections::BTreeMap,
    convert::Infallible,
    io,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::Bytes;
use futures_util::StreamExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Collected, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use rustls::{
    RootCertStore, ServerConfig,
    server::{ClientHello, ResolvesServerCert, WebPkiClientVerifier},
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::{TcpListener, TcpStream},
    sync::watch,
};
use tokio_rustls::TlsAcceptor;

use super::{Authority, Pair};

/// What an upstream has seen.
#[derive(Default)]
pub(crate) struct Seen {
    pub(crate) connections: AtomicU64,
    pub(crate) handshakes: AtomicU64,
    /// Bytes above TLS, or all of them without it.
    pub(crate) bytes: AtomicU64,
    pub(crate) requests: AtomicU64,
    /// When each client certificate was first presented, by serial number.
    pub(crate) serials: Mutex<BTreeMap<String, Instant>>,
    pub(crate) server_names: Mutex<Vec<String>>,
    /// Connections that are open.
    pub(crate) open: AtomicI64,
    /// Requests that wait for the gate, or for ever, by path.
    pub(crate) held: Mutex<Vec<String>>,
    gate: watch::Sender<bool>,
}

/// The certificate that is presented now.
#[derive(Debug)]
struct Own(Mutex<Arc<CertifiedKey>>);

impl ResolvesServerCert for Own {
    fn resolve(&self, _hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        Some(Arc::clone(&self.0.lock()))
    }
}

/// An HTTP server on a free port of 127.0.0.1; ends when dropped.
pub(crate) struct Upstream {
    pub(crate) addr: SocketAddr,
    pub(crate) seen: Arc<Seen>,
    own: OnceLock<Arc<Own>>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for Upstream {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl Upstream {
    /// TLS that requires a client certificate of an authority.
    pub(crate) async fn mutual(own: &Pair, clients: &Authority) -> Self {
        Self::requiring(&own.certified(), only(clients)).await
    }

    /// TLS that requires a client certificate under these roots.
    pub(crate) async fn requiring(own: &Arc<CertifiedKey>, roots: RootCertStore) -> Self {
        let own = Arc::new(Own(Mutex::new(Arc::clone(own))));
        let started = Self::start(Some(requiring(&own, roots))).await;
        started.own.set(own).expect("set once");
        started
    }

    /// Rotates its own certificate.
    pub(crate) fn present(&self, own: Arc<CertifiedKey>) {
        *self.own.get().expect("an upstream that requires certificates").0.lock() = own;
    }

    /// TLS that asks clients for nothing.
    pub(crate) async fn tls(own: &Arc<CertifiedKey>, alpn: &[u8]) -> Self {
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(own)));
        let mut config = ServerConfig::builder().with_no_client_auth().with_cert_resolver(own);
        config.alpn_protocols = vec![alpn.to_vec()];
        Self::start(Some(TlsAcceptor::from(Arc::new(config)))).await
    }

    /// Cleartext.
    pub(crate) async fn plain() -> Self {
        Self::start(None).await
    }

    async fn start(tls: Option<TlsAcceptor>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let seen = Arc::new(Seen::default());
        let told = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                told.connections.fetch_add(1, Relaxed);
                let (tls, seen) = (tls.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    seen.open.fetch_add(1, Relaxed);
                    connection(stream, tls, Arc::clone(&seen)).await;
                    seen.open.fetch_sub(1, Relaxed);
                });
            }
        });
        Self { addr, seen, own: OnceLock::new(), accepting }
    }

    pub(crate) fn has_seen(&self, serial: &str) -> bool {
        self.seen.serials.lock().contains_key(serial)
    }

    /// Connections that are open.
    pub(crate) fn open(&self) -> i64 {
        self.seen.open.load(Relaxed)
    }

    /// Whether a request with this path waits.
    pub(crate) fn holds(&self, path: &str) -> bool {
        self.seen.held.lock().iter().any(|held| held == path)
    }

    /// Answers the requests that wait for it.
    pub(crate) fn open_gate(&self) {
        self.seen.gate.send_replace(true);
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.seen.bytes.load(Relaxed)
    }
}

/// HTTP over TLS that requires a client certificate of an authority.
pub(crate) fn mutual(own: &Pair, clients: &Authority) -> TlsAcceptor {
    requiring(&Arc::new(Own(Mutex::new(own.certified()))), only(clients))
}

fn only(authority: &Authority) -> RootCertStore {
    let mut roots = RootCertStore::empty();
    roots.add(authority.der().clone()).expect("authority");
    roots
}

fn requiring(own: &Arc<Own>, roots: RootCertStore) -> TlsAcceptor {
    let verifier = WebPkiClientVerifier::builder(Arc::new(roots)).build().expect("verifier");
    let own: Arc<dyn ResolvesServerCert> = Arc::<Own>::clone(own);
    let mut config = ServerConfig::builder().with_client_cert_verifier(verifier).with_cert_resolver(own);
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    TlsAcceptor::from(Arc::new(config))
}

async fn connection(stream: TcpStream, tls: Option<TlsAcceptor>, seen: Arc<Seen>) {
    let _only_slower = stream.set_nodelay(true);
    let Some(tls) = tls else {
        return serve(Counted { inner: stream, seen }, String::new()).await;
    };
    let Ok(stream) = tls.accept(stream).await else { return };
    seen.handshakes.fetch_add(1, Relaxed);
    let session = stream.get_ref().1;
    let serial = session.peer_certificates().map(|chain| serial(chain[0].as_ref())).unwrap_or_default();
    seen.serials.lock().entry(serial.clone()).or_insert_with(Instant::now);
    seen.server_names.lock().extend(session.server_name().map(str::to_owned));
    serve(Counted { inner: stream, seen }, serial).await;
}

/// The serial number of a certificate.
pub(crate) fn serial(der: &[u8]) -> String {
    let (_, certificate) = x509_parser::parse_x509_certificate(der).expect("X.509");
    format!("{:X}", certificate.tbs_certificate.serial)
}

async fn serve<S: AsyncRead + AsyncWrite + Unpin + Send + 'static>(stream: Counted<S>, serial: String) {
    let seen = Arc::clone(&stream.seen);
    let service = service_fn(move |request| {
        seen.requests.fetch_add(1, Relaxed);
        let (serial, seen) = (serial.clone(), Arc::clone(&seen));
        async move { Ok::<_, Infallible>(answer(request, &serial, &seen).await) }
    });
    let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
    // Clients come and go.
    let _ended = auto.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
}

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// Says which certificate the connection came with; what the path ends with decides how.
async fn answer(request: Request<Incoming>, serial: &str, seen: &Seen) -> Response<Body> {
    let path = request.uri().path().to_owned();
    if request.headers().contains_key("upgrade") {
        return switch(request);
    }
    match path.rsplit('/').next() {
        Some("held") => {
            seen.held.lock().push(path.clone());
            let mut gate = seen.gate.subscribe();
            // The gate lives as long as what is seen.
            let _open = gate.wait_for(|open| *open).await;
        }
        Some("stuck") => {
            seen.held.lock().push(path);
            return std::future::pending().await;
        }
        Some("drip") => {
            seen.held.lock().push(path);
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"drop")))]);
            return Response::new(
                StreamBody::new(first.chain(futures_util::stream::pending())).boxed_unsync(),
            );
        }
        _ => {}
    }
    if request
        .headers()
        .get("content-type")
        .is_some_and(|kind| kind.as_bytes().starts_with(b"application/grpc"))
    {
        return grpc(request, &path).await;
    }
    let mut response = Response::new(Full::from(format!("{serial} {path}")).boxed_unsync());
    if path.ends_with("/close") {
        response.headers_mut().insert("connection", HeaderValue::from_static("close"));
    }
    if path.ends_with("/slow") {
        tokio::time::sleep(SLOW).await;
    }
    response
}

/// Switches to what is asked for, and echoes it.
fn switch(request: Request<Incoming>) -> Response<Body> {
    let mut response = Response::new(Full::default().boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields = response.headers_mut();
    fields.insert("connection", HeaderValue::from_static("upgrade"));
    fields.insert("upgrade", request.headers()["upgrade"].clone());
    tokio::spawn(async move {
        let Ok(stream) = hyper::upgrade::on(request).await else { return };
        let (mut read, mut write) = tokio::io::split(TokioIo::new(stream));
        // Clients come and go.
        let _ended = tokio::io::copy(&mut read, &mut write).await;
    });
    response
}

/// Long enough to be in flight when something happens.
const SLOW: Duration = Duration::from_millis(100);
/// Messages of a gRPC server stream.
pub(crate) const MESSAGES: usize = 20;

/// A unary call echoes; a server stream sends [`MESSAGES`], each a quarter of [`SLOW`] after the other; a long one ten times as
/// many. All end in trailers.
async fn grpc(request: Request<Incoming>, path: &str) -> Response<Body> {
    let count = match path.rsplit('/').next() {
        Some("Stream") => MESSAGES,
        Some("Long") => 10 * MESSAGES,
        _ => 1,
    };
    let sent = request.into_body().collect().await.map(Collected::to_bytes).unwrap_or_default();
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from_static("0"));
    let frames = futures_util::stream::unfold(0, move |at| {
        let (sent, trailers) = (sent.clone(), trailers.clone());
        async move {
            if at > 0 && at < count {
                tokio::time::sleep(SLOW / 4).await;
            }
            let frame = match at.cmp(&count) {
                std::cmp::Ordering::Less => Frame::data(sent),
                std::cmp::Ordering::Equal => Frame::trailers(trailers),
                std::cmp::Ordering::Greater => return None,
            };
            Some((Ok(frame), at + 1))
        }
    });
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// Counts what is read.
struct Counted<S> {
    inner: S,
    seen: Arc<Seen>,
}

impl<S: AsyncRead + Unpin> AsyncRead for Counted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let polled = Pin::new(&mut self.inner).poll_read(cx, buf);
        self.seen.bytes.fetch_add((buf.filled().len() - before) as u64, Relaxed);
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Counted<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
