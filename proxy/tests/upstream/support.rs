//! A worker's upstream side without a worker, and upstreams that do exactly what a test says.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper_util::rt::TokioIo;
use proxy::{
    Error,
    limits::Limits,
    message::{ReqBody, ResBody, Tally},
    observe::{AccessLog, Counter, Observe},
    registry::{Registry, Role},
    route::{Route, Upgrades},
    upstream::{
        AddressPolicy, Attempts, Cluster, Clusters, EndpointOrigin, Protocol, RetryPolicy, RuleRef,
        ServiceRef, Tag, TlsKey, Transport, TransportKey, Upstream,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    sync::oneshot,
};

/// Runs a test as a worker would, and ends it when it hangs.
pub(crate) fn local<F: Future<Output = ()>>(test: F) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build_local(tokio::runtime::LocalOptions::default())
        .expect("runtime");
    runtime.block_on(async {
        tokio::time::timeout(Duration::from_secs(30), test).await.expect("the test hangs");
    });
}

/// Waits for something that other tasks bring about.
pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(10), reached).await.is_ok(), "{what}");
}

/// A worker's upstream side.
pub(crate) struct Rig {
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) observe: Arc<Observe>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) clusters: Clusters,
    pub(crate) addresses: Arc<ArcSwap<AddressPolicy>>,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let observe = Observe::new(AccessLog::Off);
        let registry = Registry::new();
        let policy = AddressPolicy { allow_loopback: true, ..AddressPolicy::default() };
        let addresses = Arc::new(ArcSwap::from_pointee(policy));
        let upstream = Upstream::new(
            Arc::new(Limits::default()),
            Arc::clone(&addresses),
            Arc::clone(&registry),
            observe.worker(),
        );
        Self { upstream, observe, registry, clusters: Clusters::new(None), addresses }
    }

    pub(crate) fn cluster(&self, protocol: Protocol, addrs: &[SocketAddr]) -> Arc<Cluster> {
        self.clusters.get(
            &key(protocol, None),
            &"test".into(),
            &EndpointOrigin::Static(addrs.to_vec()),
            || Transport::Plain,
        )
    }

    /// Sends and reads the answer to its end.
    pub(crate) async fn ask(
        &self,
        route: &Route,
        request: Request<ReqBody>,
    ) -> (Result<Answer, Error>, Attempts) {
        let mut attempts = Attempts::default();
        let answer = match self.upstream.send(route, request, &mut attempts).await {
            Ok(response) => Ok(Answer::read(response).await),
            Err(error) => Err(error),
        };
        (answer, attempts)
    }

    pub(crate) async fn get(&self, route: &Route) -> Answer {
        self.ask(route, get("/")).await.0.expect("an answer")
    }

    pub(crate) fn open(&self) -> usize {
        self.registry.count(Role::Upstream)
    }

    pub(crate) fn total(&self, counter: Counter) -> u64 {
        self.observe.total(counter)
    }
}

/// An answer, read to its end.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: u16,
    /// `None`: it was cut.
    pub(crate) body: Option<Bytes>,
}

impl Answer {
    pub(crate) async fn read(response: Response<ResBody>) -> Self {
        let status = response.status().as_u16();
        let body = response.into_body().collect().await.ok().map(http_body_util::Collected::to_bytes);
        Self { status, body }
    }

    pub(crate) fn text(&self) -> &str {
        std::str::from_utf8(self.body.as_deref().expect("a whole body")).expect("text")
    }
}

pub(crate) fn key(protocol: Protocol, tls: Option<TlsKey>) -> TransportKey {
    let service = ServiceRef { host: "orders.shop".into(), port: 80 };
    TransportKey { service, protocol, tls, tag: Tag::default() }
}

/// A TLS key; its content does not matter to the pool.
pub(crate) fn tls_key(alpn: &[&[u8]]) -> TlsKey {
    TlsKey {
        identity: None,
        hint: None,
        trust: None,
        verify: "spiffe",
        peer: RuleRef("rule".into()),
        sni: None,
        alpn: alpn.iter().map(|name| name.to_vec()).collect(),
        versions: identity::Versions { tls12: true, tls13: true },
        ciphers: Vec::new(),
        crl: None,
    }
}

pub(crate) fn route(cluster: &Arc<Cluster>) -> Route {
    retrying(cluster, RetryPolicy::default())
}

pub(crate) fn retrying(cluster: &Arc<Cluster>, retry: RetryPolicy) -> Route {
    Route {
        cluster: Arc::clone(cluster),
        timeout: None,
        idle_timeout: None,
        retry,
        upgrades: Upgrades::default(),
    }
}

pub(crate) fn get(path: &str) -> Request<ReqBody> {
    Request::get(path).header("host", "orders.shop").body(ReqBody::Empty).expect("request")
}

/// A request with a body from a real client connection.
pub(crate) async fn post(body: &'static [u8]) -> Request<ReqBody> {
    let full = Full::new(Bytes::from_static(body));
    let mut request = with_body(full).await;
    request.headers_mut().insert("content-length", body.len().into());
    request
}

/// A request whose body is `body` as it comes out of a server connection.
pub(crate) async fn with_body<B>(body: B) -> Request<ReqBody>
where
    B: http_body::Body<Data = Bytes> + 'static,
    B::Error: std::error::Error + Send + Sync,
{
    let (client, server) = tokio::io::duplex(1 << 20);
    let (found, taken) = oneshot::channel();
    let found = RefCell::new(Some(found));
    let service = hyper::service::service_fn(move |request: Request<hyper::body::Incoming>| {
        let sent = found.take().map(|found| found.send(request.into_body()).is_ok());
        assert_eq!(sent, Some(true));
        std::future::pending::<Result<Response<Full<Bytes>>, std::io::Error>>()
    });
    let serving = hyper::server::conn::http1::Builder::new().serve_connection(TokioIo::new(server), service);
    tokio::task::spawn_local(async move { drop(serving.await) });
    let (mut sender, running) =
        hyper::client::conn::http1::handshake(TokioIo::new(client)).await.expect("handshake");
    tokio::task::spawn_local(async move { drop(running.await) });
    let request = Request::post("/").header("host", "x").body(body).expect("request");
    let sending = sender.send_request(request);
    tokio::task::spawn_local(async move {
        drop(sending.await);
        drop(sender);
    });
    let incoming = taken.await.expect("a body");
    let body = ReqBody::Incoming(incoming, Tally::new());
    Request::post("/").header("host", "orders.shop").body(body).expect("request")
}

/// An HTTP/1.1 upstream of which a test plays every byte.
pub(crate) struct Scripted {
    listener: TcpListener,
}

impl Scripted {
    pub(crate) async fn bind() -> Self {
        Self { listener: TcpListener::bind("127.0.0.1:0").await.expect("bind") }
    }

    pub(crate) fn addr(&self) -> SocketAddr {
        self.listener.local_addr().expect("addr")
    }

    pub(crate) async fn accept(&self) -> Peer {
        Peer { stream: self.listener.accept().await.expect("accept").0 }
    }

    /// Nobody has connected.
    pub(crate) async fn untouched(&self) -> bool {
        tokio::time::timeout(Duration::from_millis(50), self.listener.accept()).await.is_err()
    }
}

/// One connection of a scripted upstream.
pub(crate) struct Peer {
    stream: TcpStream,
}

impl Peer {
    pub(crate) fn of(stream: TcpStream) -> Self {
        Self { stream }
    }

    pub(crate) fn stream(&mut self) -> &mut TcpStream {
        &mut self.stream
    }

    /// Reads one request, with a body by content-length, as text. Empty when the client closed.
    pub(crate) async fn request(&mut self) -> String {
        let mut bytes = Vec::new();
        loop {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            if let Some((head, body)) = text.split_once("\r\n\r\n") {
                let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
                let length: usize = length.map_or(0, |length| length.parse().expect("length"));
                if body.len() >= length {
                    return text;
                }
            }
            if self.stream.read_buf(&mut bytes).await.unwrap_or(0) == 0 {
                return String::from_utf8(bytes).expect("text");
            }
        }
    }

    pub(crate) async fn write(&mut self, text: &str) {
        self.stream.write_all(text.as_bytes()).await.expect("write");
    }

    /// Reads a request and answers it.
    pub(crate) async fn answer(&mut self, body: &str) -> String {
        let request = self.request().await;
        self.write(&format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", body.len())).await;
        request
    }

    /// The client has closed; anything it sent before is thrown away.
    pub(crate) async fn closed(&mut self) {
        let mut rest = Vec::new();
        // A reset is a way to close, too.
        let _ended = self.stream.read_to_end(&mut rest).await;
    }
}

/// An upstream that answers `name` to everything, on kept-alive connections; counts them.
pub(crate) struct Friendly {
    pub(crate) addr: SocketAddr,
    pub(crate) connections: Rc<std::cell::Cell<usize>>,
}

impl Friendly {
    pub(crate) async fn start(bind: &str, name: &'static str) -> std::io::Result<Self> {
        let listener = TcpListener::bind(bind).await?;
        let addr = listener.local_addr()?;
        let connections = Rc::new(std::cell::Cell::new(0));
        let count = Rc::clone(&connections);
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                count.set(count.get() + 1);
                tokio::task::spawn_local(async move {
                    let mut peer = Peer { stream };
                    while !peer.request().await.is_empty() {
                        let answer =
                            format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{name}", name.len());
                        if peer.stream.write_all(answer.as_bytes()).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Ok(Self { addr, connections })
    }
}

/// An address where nobody listens, for as long as the socket is held.
pub(crate) fn nobody() -> (SocketAddr, tokio::net::TcpSocket) {
    let socket = tokio::net::TcpSocket::new_v4().expect("socket");
    // So that the address can be bound again once connections to it have ended.
    socket.set_reuseaddr(true).expect("reuse");
    socket.bind("127.0.0.1:0".parse().expect("addr")).expect("bind");
    (socket.local_addr().expect("addr"), socket)
}
