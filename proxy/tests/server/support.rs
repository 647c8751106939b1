//! A server with a router of the test's own, upstreams and clients on loopback.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proxy::{
    ConnMeta, Reason,
    limits::Limits,
    message::{Answer, Edits, Head},
    net::{Layer, ListenerSpec, Server, Settings},
    observe::{AccessLog, Counter, Observe},
    route::{
        Accept, Action, Decision, Dice, EditsIx, Hello, HttpPolicy, Route, RouteId, RouteIx, Router, Upgrades,
    },
    upstream::{
        AddressPolicy, Clusters, EndpointOrigin, Protocol, RetryPolicy, ServiceRef, Tag, Transport,
        TransportKey,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

type Decide = Box<dyn Fn(&Head<'_>) -> Option<Action> + Send + Sync>;
type Admit = Box<dyn Fn(&ConnMeta, Option<&Hello<'_>>) -> Accept + Send + Sync>;

/// A table of a test: everything goes to route 0, unless `decide` says otherwise.
pub(crate) struct Table {
    pub(crate) decide: Decide,
    pub(crate) accept: Admit,
    pub(crate) routes: Vec<Route>,
    pub(crate) edits: Edits,
    pub(crate) policy: HttpPolicy,
}

impl Table {
    pub(crate) fn new(upstream: SocketAddr) -> Self {
        Self {
            decide: Box::new(|_| None),
            accept: Box::new(|_, _| Accept::Plain),
            routes: vec![route(upstream, Protocol::Http1)],
            edits: Edits::default(),
            policy: HttpPolicy::default(),
        }
    }
}

impl Router for Table {
    fn accept(&self, conn: &ConnMeta, hello: Option<&Hello<'_>>) -> Accept {
        (self.accept)(conn, hello)
    }

    fn connection(&self, _: &ConnMeta, _: Dice) -> Decision {
        decision(Action::Tunnel(RouteIx(0)))
    }

    fn request(&self, head: &Head<'_>, _: Dice) -> Decision {
        decision((self.decide)(head).unwrap_or(Action::Forward(RouteIx(0))))
    }

    fn route(&self, ix: RouteIx) -> &Route {
        &self.routes[ix.0 as usize]
    }

    fn edits(&self, _: EditsIx) -> &Edits {
        &self.edits
    }

    fn name(&self, _: RouteId) -> &'static str {
        "test/rule"
    }

    fn http(&self, _: &ConnMeta) -> &HttpPolicy {
        &self.policy
    }
}

pub(crate) fn decision(action: Action) -> Decision {
    Decision { action, edits: EditsIx(0), shadows: proxy::route::Shadows::default(), why: RouteId::Rule(0) }
}

pub(crate) fn answer(status: u16, reason: Reason) -> Action {
    Action::Respond(Box::new(Answer::new(StatusCode::from_u16(status).unwrap(), reason)))
}

pub(crate) fn route(upstream: SocketAddr, protocol: Protocol) -> Route {
    let service = ServiceRef { host: upstream.ip().to_string().into(), port: upstream.port() };
    let key = TransportKey { service, protocol, tls: None, tag: Tag::default() };
    let origin = EndpointOrigin::Static(vec![upstream]);
    let cluster = Clusters::new(None).get(&key, &"upstream".into(), &origin, || Transport::Plain);
    Route {
        cluster,
        timeout: None,
        idle_timeout: None,
        retry: RetryPolicy::default(),
        upgrades: Upgrades::default(),
    }
}

/// A running server with one listener.
pub(crate) struct Rig {
    pub(crate) server: Arc<Server<Table>>,
    pub(crate) observe: Arc<Observe>,
    pub(crate) addr: SocketAddr,
}

pub(crate) fn http() -> ListenerSpec {
    ListenerSpec {
        name: "http".into(),
        bind: "127.0.0.1:0".parse().unwrap(),
        tls: false,
        proxy_protocol: false,
        layer: Layer::Http,
    }
}

impl Rig {
    pub(crate) fn start(table: Table) -> Self {
        Self::with(table, Limits::default(), http())
    }

    pub(crate) fn with(table: Table, limits: Limits, spec: ListenerSpec) -> Self {
        Self::observed(Observe::new(AccessLog::Off), table, limits, spec)
    }

    /// With an access log that the test reads.
    pub(crate) fn logging(table: Table) -> (Self, Lines) {
        Self::logging_with(table, Limits::default())
    }

    pub(crate) fn logging_with(table: Table, limits: Limits) -> (Self, Lines) {
        let lines = Lines::default();
        let observe = Observe::logging_to(AccessLog::Json, lines.clone());
        (Self::observed(observe, table, limits, http()), lines)
    }

    fn observed(observe: Arc<Observe>, table: Table, limits: Limits, spec: ListenerSpec) -> Self {
        let policy = AddressPolicy { allow_loopback: true, ..AddressPolicy::default() };
        let addresses = Arc::new(ArcSwap::from_pointee(policy));
        let settings = Settings { workers: 2, limits, allow_dev_identity: false };
        let clusters = table.routes.iter().map(|route| Arc::clone(&route.cluster)).collect();
        let table = Arc::new(table);
        let server = Server::start(settings, addresses, Arc::clone(&observe), Arc::clone(&table)).unwrap();
        // Connections to clusters that nobody has published are let go of, once a second.
        server.publish(table, clusters);
        let opened = server.set_listeners(vec![spec]).remove(0).unwrap();
        Self { server, observe, addr: opened.1 }
    }

    pub(crate) fn total(&self, counter: Counter) -> u64 {
        self.observe.total(counter)
    }

    /// The value of a series, as `/metrics` shows it.
    pub(crate) fn shown(&self, series: &str) -> u64 {
        let metrics = self.observe.render();
        let value =
            metrics.lines().find_map(|line| line.strip_prefix(series)?.strip_prefix(' ')?.parse().ok());
        value.unwrap_or_else(|| panic!("{series} is not in {metrics}"))
    }

    /// How many requests and connections ended with a reason, as `/metrics` shows it.
    pub(crate) fn failures(&self, reason: &str) -> u64 {
        let wanted = format!("reason=\"{reason}\"");
        let text = self.observe.render();
        let line = text.lines().find(|line| line.starts_with("selvedge_failures") && line.contains(&wanted));
        line.map_or(0, |line| line.rsplit(' ').next().unwrap().parse().unwrap())
    }

    pub(crate) async fn connect(&self) -> TcpStream {
        TcpStream::connect(self.addr).await.unwrap()
    }

    /// Sends bytes and reads until the proxy closes.
    pub(crate) async fn raw(&self, bytes: &[u8]) -> String {
        let mut stream = self.connect().await;
        stream.write_all(bytes).await.unwrap();
        to_end(&mut stream).await
    }

    pub(crate) async fn h1(&self) -> H1 {
        h1(self.connect().await).await
    }

    pub(crate) async fn h2(&self) -> H2 {
        h2(self.connect().await).await
    }
}

/// What the access log has written.
#[derive(Clone, Default)]
pub(crate) struct Lines(Arc<Mutex<Vec<u8>>>);

impl std::io::Write for Lines {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        self.0.lock().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

impl Lines {
    /// The next line, taken out.
    pub(crate) async fn next(&self) -> serde_json::Value {
        until("a line is written", || self.0.lock().contains(&b'\n')).await;
        let mut bytes = self.0.lock();
        let end = bytes.iter().position(|byte| *byte == b'\n').unwrap();
        let line: Vec<u8> = bytes.drain(..=end).collect();
        serde_json::from_slice(&line).unwrap()
    }
}

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;
pub(crate) type H1 = hyper::client::conn::http1::SendRequest<Body>;
pub(crate) type H2 = hyper::client::conn::http2::SendRequest<Body>;

pub(crate) async fn h1<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static>(
    io: S,
) -> H1 {
    let (sender, running) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(running);
    sender
}

pub(crate) async fn h2<S: tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static>(
    io: S,
) -> H2 {
    let builder = hyper::client::conn::http2::Builder::new(TokioExecutor::new());
    let (sender, running) = builder.handshake(TokioIo::new(io)).await.unwrap();
    tokio::spawn(running);
    sender
}

pub(crate) fn empty() -> Body {
    Full::default().boxed_unsync()
}

/// `chunks` chunks of 64 KiB, then trailers if there are any.
pub(crate) fn chunks(count: usize, trailers: Option<HeaderMap>) -> Body {
    let data = (0..count).map(|_| Frame::data(Bytes::from(vec![b'x'; 64 * 1024])));
    let frames = data.chain(trailers.map(Frame::trailers)).map(Ok);
    StreamBody::new(futures_util::stream::iter(frames)).boxed_unsync()
}

pub(crate) fn get(path: &str) -> Request<Body> {
    Request::get(path).header("host", "example.org").body(empty()).unwrap()
}

/// For HTTP/2, which wants an absolute target.
pub(crate) fn get2(path: &str) -> Request<Body> {
    Request::get(format!("http://example.org{path}")).body(empty()).unwrap()
}

pub(crate) async fn text(response: Response<Incoming>) -> String {
    String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
}

/// Everything until the peer closes; a reset is a way to close, too.
pub(crate) async fn to_end(stream: &mut TcpStream) -> String {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    let _reset = read.expect("the proxy keeps the connection open");
    String::from_utf8_lossy(&bytes).into_owned()
}

/// Reads until the text holds what is wanted.
pub(crate) async fn read_until(stream: &mut TcpStream, wanted: &str) -> String {
    let mut bytes = Vec::new();
    loop {
        let read = tokio::time::timeout(Duration::from_secs(20), stream.read_buf(&mut bytes)).await;
        let count = read.expect("nothing more comes").expect("read");
        let text = String::from_utf8_lossy(&bytes).into_owned();
        if text.contains(wanted) {
            return text;
        }
        assert!(count > 0, "closed before {wanted:?}: {text:?}");
    }
}

pub(crate) async fn until(what: &str, holds: impl Fn() -> bool) {
    let reached = async {
        while !holds() {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    };
    assert!(tokio::time::timeout(Duration::from_secs(20), reached).await.is_ok(), "{what}");
}

/// An upstream that does what the path says, in HTTP/1.1 and in HTTP/2 with prior knowledge.
pub(crate) async fn upstream() -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let service =
                    hyper::service::service_fn(|request| async { Ok::<_, Infallible>(act(request).await) });
                let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                drop(auto.serve_connection(TokioIo::new(stream), service).await);
            });
        }
    });
    addr
}

type Out = UnsyncBoxBody<Bytes, hyper::Error>;

async fn act(request: Request<Incoming>) -> Response<Out> {
    let path = request.uri().path().to_owned();
    let whole = |text: String| Full::new(Bytes::from(text)).map_err(|never| match never {}).boxed_unsync();
    match path.as_str() {
        "/echo" => Response::new(request.into_body().boxed_unsync()),
        "/early" => {
            let mut response = Response::new(whole("early".to_owned()));
            *response.status_mut() = StatusCode::FORBIDDEN;
            response
        }
        "/count" => {
            let body = request.into_body().collect().await.unwrap();
            let trailers = body.trailers().map(|trailers| format!("{trailers:?}")).unwrap_or_default();
            Response::new(whole(format!("{} {trailers}", body.to_bytes().len())))
        }
        "/big" => Response::new(chunks(1024, None).map_err(|never| match never {}).boxed_unsync()),
        "/stall" => {
            use futures_util::StreamExt as _;
            let first = futures_util::stream::iter([Ok(Frame::data(Bytes::from_static(b"first")))]);
            Response::new(StreamBody::new(first.chain(futures_util::stream::pending())).boxed_unsync())
        }
        "/never" => std::future::pending().await,
        "/grpc" => {
            let mut trailers = HeaderMap::new();
            trailers.insert("grpc-status", HeaderValue::from_static("7"));
            let mut response =
                Response::new(chunks(1, Some(trailers)).map_err(|never| match never {}).boxed_unsync());
            response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
            response
        }
        _ => {
            let mut seen = format!("{} {}\n", request.method(), request.uri());
            for (name, value) in request.headers() {
                seen += &[name.as_str(), ": ", &String::from_utf8_lossy(value.as_bytes()), "\n"].concat();
            }
            let mut response = Response::new(whole(seen));
            response.headers_mut().insert("x-upstream", HeaderValue::from_static("yes"));
            response.headers_mut().insert("keep-alive", HeaderValue::from_static("timeout=5"));
            response
        }
    }
}
