//! Step 9, dispatch: a pooled or fresh connection, the request sent, tried again where that is safe.

use std::{
    cell::Cell,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::Duration,
};

use arc_swap::ArcSwap;
use http::{Method, Request, Response, StatusCode, Uri, Version, header};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::TokioIo;
use identity::{PeerId, SpiffeId};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, timeout_at},
};

use super::{
    AddressPolicy, Cluster, Endpoint, Protocol, RetryOn, Transport, balance,
    cluster::Known,
    connect::{Connected, ConnFacts, Stream, connect, failed, is_alert},
    endpoint::Lease,
    pool::{Offer, PlaceKey, Pool, Pooled},
};
use crate::{
    Error, Reason, Retry,
    limits::Limits,
    message::{ReqBody, ResBody},
    net::LocalExecutor,
    observe::{Counter, Gauge, WorkerObserve},
    registry::{Facts, Guard, Received, Registry, Role},
    route::Route,
};

/// Streams on one HTTP/2 upstream connection before another is opened; the peer's own limit is 100 or more by custom.
const STREAMS_PER_CONNECTION: usize = 100;
/// Tries that are always safe (nothing was sent), besides the policy's.
const SAFE_TRIES: u32 = 3;
/// An endpoint that does not answer holds up the others no longer than this.
const NEXT_ENDPOINT_AFTER: Duration = Duration::from_millis(1000);

/// What the access log says about the upstream side of a request. Filled while it is tried.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// How many times a request was sent or a connection tried.
    pub count: u32,
    /// The last endpoint.
    pub upstream: Option<SocketAddr>,
    /// `TLSv1.3`...; `None`: cleartext.
    pub tls: Option<&'static str>,
    /// The upstream, as verified.
    pub peer: Option<Arc<PeerId>>,
    /// What we presented.
    pub local_id: Option<SpiffeId>,
    /// The text of the last error, for the program's log.
    pub failure: Option<String>,
}

/// A worker's upstream side: its pools. Not `Send`; one for each worker.
pub struct Upstream {
    pool: Rc<Pool>,
    limits: Arc<Limits>,
    addresses: Arc<ArcSwap<AddressPolicy>>,
    registry: Arc<Registry>,
    observe: Rc<WorkerObserve>,
}

/// A raw connection to an endpoint, for tunnels.
pub trait UpstreamIo: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> UpstreamIo for T {}

/// One connection with a request's worth of use.
enum Sender {
    Http1(http1::SendRequest<ReqBody>),
    Http2(http2::SendRequest<ReqBody>),
}

struct Ready {
    sender: Sender,
    conn: Rc<Pooled>,
    reused: bool,
}

impl Upstream {
    /// Pools of one worker. Every connection is registered, so that drain and revocation reach it.
    pub fn new(
        limits: Arc<Limits>,
        addresses: Arc<ArcSwap<AddressPolicy>>,
        registry: Arc<Registry>,
        observe: Rc<WorkerObserve>,
    ) -> Rc<Self> {
        Rc::new(Self { pool: Rc::default(), limits, addresses, registry, observe })
    }

    /// Picks an endpoint, takes or makes a connection, checks the peer's identity before the first byte, sends, and gives
    /// the head of the answer with its body. The request's URI is path and query, its authority the `host` field. Honours
    /// [`Error::retry`] and the route's policy. The deadline of the whole request is the caller's; connect deadlines and
    /// deadlines of single tries are kept here.
    ///
    /// Cancel-safe: dropping the future gives up the request and its connection.
    pub async fn send(
        &self,
        route: &Route,
        mut request: Request<ReqBody>,
        attempts: &mut Attempts,
    ) -> Result<Response<ResBody>, Error> {
        let cluster = &route.cluster;
        let replay = replayable(&request);
        let mut asked = 0;
        loop {
            attempts.count += 1;
            let copy = replay.then(|| copy(&request));
            let sent = self.try_once(route, request, attempts).await;
            let (failure, returned) = match sent {
                Ok(response) => match (&copy, wanted_again(route, response.status()) && asked < route.retry.tries) {
                    (Some(_), true) => (None, None),
                    _ => return Ok(response),
                },
                Err((error, returned)) => (Some(error), returned),
            };
            let again = match (&failure, &returned) {
                (None, _) => true,
                // The request came back whole: nothing of it was sent.
                (Some(_), Some(_)) => attempts.count <= SAFE_TRIES,
                (Some(error), None) => match error.retry() {
                    Retry::Unsent | Retry::Idempotent => copy.is_some() && attempts.count <= SAFE_TRIES,
                    Retry::Never => copy.is_some() && asked < route.retry.tries && policy_wants(route, error),
                },
            };
            let next = if again { returned.or(copy) } else { None };
            match (next, failure) {
                (Some(next), failure) => {
                    asked += 1;
                    attempts.failure = failure.map(|error| error.to_string());
                    self.observe.count(Counter::Retries);
                    request = *next;
                }
                (None, Some(error)) => return Err(error),
                (None, None) => return Err(no_endpoints(cluster, "a retry had nothing to send")),
            }
        }
    }

    /// A fresh connection for bytes, identity checked.
    pub async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        attempts: &mut Attempts,
    ) -> Result<Box<dyn UpstreamIo>, Error> {
        attempts.count += 1;
        let (connected, _, _) = self.dial(cluster, attempts).await?;
        Ok(match connected.stream {
            Stream::Plain(stream) => Box::new(stream),
            Stream::Tls(stream) => stream,
        })
    }

    /// Lets go of connections that may not be used any longer. The worker calls it every second.
    pub fn sweep(&self, clusters: &[Arc<Cluster>]) {
        self.pool.sweep(clusters);
    }

    /// Retires every idle connection; those in use close after their present streams: drain.
    pub fn drain(&self) {
        self.pool.clear();
    }

    async fn try_once(
        &self,
        route: &Route,
        request: Request<ReqBody>,
        attempts: &mut Attempts,
    ) -> Result<Response<ResBody>, (Error, Option<Box<Request<ReqBody>>>)> {
        let (ready, endpoint) = match self.ready(&route.cluster, attempts).await {
            Ok(ready) => ready,
            Err(error) => {
                // Nothing was sent; other endpoints were tried already.
                let retried = policy_wants(route, &error);
                return Err((error, retried.then(|| Box::new(request))));
            }
        };
        let lease = Lease::new(&endpoint.load);
        note(attempts, endpoint.addr, &ready.conn.facts);
        if !ready.conn.facts.verified && ready.conn.facts.tls.is_some() {
            self.observe.count(Counter::UpstreamNotVerified);
        }
        let exchange = self.exchange(ready, &endpoint, request, lease);
        match route.retry.per_try.filter(|limit| !limit.is_zero()) {
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_late| {
                Err((Error::Timeout { reason: Reason::UPSTREAM_TIMEOUT, after: limit }, None))
            }),
        }
    }

    /// One request on one connection.
    async fn exchange(
        &self,
        ready: Ready,
        endpoint: &Endpoint,
        request: Request<ReqBody>,
        lease: Lease,
    ) -> Result<Response<ResBody>, (Error, Option<Box<Request<ReqBody>>>)> {
        let Ready { sender, conn, reused } = ready;
        conn.used.set(conn.used.get() + 1);
        let secure = matches!(&*endpoint.transport, Transport::Tls(_));
        let context = Context { addr: endpoint.addr, reused };
        match sender {
            Sender::Http1(mut sender) => {
                let sent = sender.try_send_request(request).await;
                let response = sent.map_err(|error| context.unsent(error))?;
                let (pool, key) = (Rc::clone(&self.pool), PlaceKey::of(endpoint));
                let at_end = Box::new(move || {
                    drop(lease);
                    pool.give_back(key, sender, conn);
                });
                Ok(response.map(|body| ResBody::new(body, at_end)))
            }
            Sender::Http2(mut sender) => {
                let stream = StreamCount::new(Rc::clone(&conn));
                let request = absolute(request, secure).map_err(|error| (error, None))?;
                let sent = sender.try_send_request(request).await;
                let response: Response<Incoming> = sent.map_err(|error| context.unsent(error))?;
                let at_end = Box::new(move || {
                    drop(lease);
                    drop(stream);
                });
                Ok(response.map(|body| ResBody::new(body, at_end)))
            }
        }
    }

    /// A connection: pooled, or made now.
    async fn ready(&self, cluster: &Arc<Cluster>, attempts: &mut Attempts) -> Result<(Ready, Endpoint), Error> {
        let deadline = Instant::now() + self.connect_timeout(cluster);
        let endpoints = self.endpoints(cluster, deadline).await?;
        if let Some(endpoint) = balance::pick(&endpoints, &[]) {
            loop {
                let (sender, conn) = match self.pool.take(cluster, endpoint, STREAMS_PER_CONNECTION) {
                    Offer::Nothing => break,
                    Offer::Http1(mut sender, conn) => match sender.ready().await {
                        Ok(()) => (Sender::Http1(sender), conn),
                        Err(_closed_meanwhile) => continue,
                    },
                    Offer::Http2(sender, conn) => (Sender::Http2(sender), conn),
                };
                self.observe.count(Counter::UpstreamReuses);
                return Ok((Ready { sender, conn, reused: true }, endpoint.clone()));
            }
        }
        let (connected, endpoint, opening) = self.dial(cluster, attempts).await?;
        let ready = self.handshake(cluster, &endpoint, connected).await;
        drop(opening);
        Ok((ready?, endpoint))
    }

    fn connect_timeout(&self, cluster: &Cluster) -> Duration {
        cluster.policy.load().connect_timeout.unwrap_or(self.limits.connect_timeout)
    }

    /// The endpoints, once they are known.
    async fn endpoints(&self, cluster: &Cluster, deadline: Instant) -> Result<Arc<Vec<Endpoint>>, Error> {
        let endpoints = cluster.endpoints();
        if !endpoints.is_empty() {
            return Ok(endpoints);
        }
        let mut known = cluster.known();
        let state = timeout_at(deadline, known.wait_for(|known| *known != Known::Pending)).await;
        match state {
            Ok(Ok(state)) => match &*state {
                Known::Failed(why) => Err(dns_failed(cluster, why)),
                Known::Yes | Known::Pending => Ok(cluster.endpoints()),
            },
            Ok(Err(_cluster_gone)) => Ok(cluster.endpoints()),
            Err(_late) => Err(dns_failed(cluster, "the name was not resolved in time")),
        }
    }

    /// Connects to the least loaded endpoint, to the next one when that fails, within the connect deadline.
    async fn dial(
        &self,
        cluster: &Arc<Cluster>,
        attempts: &mut Attempts,
    ) -> Result<(Connected, Endpoint, Opening), Error> {
        let after = self.connect_timeout(cluster);
        let deadline = Instant::now() + after;
        let endpoints = self.endpoints(cluster, deadline).await?;
        let mut tried = Vec::new();
        let mut last = no_endpoints(cluster, "no endpoint is known");
        while let Some(endpoint) = balance::pick(&endpoints, &tried) {
            tried.push(endpoint.addr);
            attempts.upstream = Some(endpoint.addr);
            if let Some(why) = self.addresses.load().refuses(endpoint.addr) {
                let message = format!("the address {why}; --allow-upstream lets it be one");
                last = failed(endpoint.addr, Reason::ADDRESS_REFUSED, message);
                continue;
            }
            let others = tried.len() < endpoints.len();
            let until = if others { deadline.min(Instant::now() + NEXT_ENDPOINT_AFTER) } else { deadline };
            let opening = Opening::new(&self.pool, endpoint);
            match timeout_at(until, connect(endpoint)).await {
                Ok(Ok(connected)) => {
                    endpoint.load.reached();
                    self.observe.count(Counter::UpstreamConnections);
                    if connected.facts.tls.is_some() {
                        self.observe.count(Counter::UpstreamHandshakes);
                    }
                    return Ok((connected, endpoint.clone(), opening));
                }
                Ok(Err(error @ Error::Identity { .. })) => return Err(error),
                Ok(Err(error)) => last = error,
                Err(_late) => {
                    self.observe.count(Counter::ConnectTimeout);
                    last = failed(endpoint.addr, Reason::CONNECT_TIMEOUT, format!("no connection after {after:?}"));
                }
            }
            endpoint.load.failed();
            self.observe.count(Counter::UpstreamConnectFailures);
        }
        Err(last)
    }

    /// Speaks HTTP on a fresh connection; its task is owned by the connection's registry entry and ends with it.
    async fn handshake(
        &self,
        cluster: &Arc<Cluster>,
        endpoint: &Endpoint,
        connected: Connected,
    ) -> Result<Ready, Error> {
        let addr = endpoint.addr;
        let protocol = cluster.key.protocol;
        let secure = connected.facts.tls.is_some();
        let h2 = connected.h2 || (protocol == Protocol::Http2 && !secure);
        if protocol == Protocol::Http2 && !h2 {
            let message = "the upstream does not speak HTTP/2 (ALPN h2 was not chosen)".to_owned();
            return Err(failed(addr, Reason::UPSTREAM_PROTOCOL, message));
        }
        let conn = Rc::new(Pooled {
            facts: Arc::clone(&connected.facts),
            made: Instant::now(),
            retired: Cell::new(false),
            streams: Cell::new(0),
            used: Cell::new(0),
        });
        let io = TokioIo::new(connected.stream);
        let broken = |error: hyper::Error| failed(addr, Reason::UPSTREAM_PROTOCOL, error.to_string());
        let sender = if h2 {
            let mut builder = http2::Builder::new(LocalExecutor);
            builder
                .initial_stream_window_size(256 * 1024)
                .initial_connection_window_size(1024 * 1024)
                .max_header_list_size(64 * 1024);
            let (sender, running) = builder.handshake(io).await.map_err(broken)?;
            self.pool.share(PlaceKey::of(endpoint), sender.clone(), Rc::clone(&conn));
            self.run(cluster, endpoint, &conn, running);
            Sender::Http2(sender)
        } else {
            let mut builder = http1::Builder::new();
            builder.max_headers(256);
            let (sender, running) = builder.handshake(io).await.map_err(broken)?;
            self.run(cluster, endpoint, &conn, running);
            Sender::Http1(sender)
        };
        Ok(Ready { sender, conn, reused: false })
    }

    /// Drives a connection until it ends, or until a drain's deadline.
    fn run<C>(&self, cluster: &Cluster, endpoint: &Endpoint, conn: &Rc<Pooled>, running: C)
    where
        C: Future<Output = Result<(), hyper::Error>> + 'static,
    {
        let mut facts = Facts::new(Role::Upstream, Arc::clone(&cluster.name));
        facts.peer = conn.facts.peer.clone();
        facts.guard = matches!(&*endpoint.transport, Transport::Tls(_))
            .then(|| Guard::Client { transport: Arc::clone(&endpoint.transport), rule: endpoint.peer.clone() });
        let entry = self.registry.register(facts);
        let (conn, observe) = (Rc::clone(conn), Rc::clone(&self.observe));
        tokio::task::spawn_local(async move {
            observe.gauge(Gauge::UpstreamOpen, 1);
            let mut running = Box::pin(running);
            let mut cut = None;
            loop {
                let deadline = async {
                    match cut {
                        Some(at) => tokio::time::sleep_until(at).await,
                        None => std::future::pending().await,
                    }
                };
                tokio::select! {
                    ended = &mut running => {
                        if let Err(error) = ended {
                            tracing::debug!(%error, "upstream connection ended");
                        }
                        break;
                    }
                    received = entry.ordered() => if let Received::Drain(drain) = received {
                        conn.retired.set(true);
                        cut = Some(drain.deadline);
                    },
                    () = deadline => break,
                }
            }
            observe.gauge(Gauge::UpstreamOpen, -1);
        });
    }
}

/// A connection being made; counted so that a burst does not open one HTTP/2 connection for each request.
struct Opening {
    pool: Rc<Pool>,
    key: PlaceKey,
}

impl Opening {
    fn new(pool: &Rc<Pool>, endpoint: &Endpoint) -> Self {
        let key = PlaceKey::of(endpoint);
        pool.opening(key, 1);
        Self { pool: Rc::clone(pool), key }
    }
}

impl Drop for Opening {
    fn drop(&mut self) {
        self.pool.opening(self.key, -1);
    }
}

/// A stream under way on an HTTP/2 connection.
struct StreamCount(Rc<Pooled>);

impl StreamCount {
    fn new(conn: Rc<Pooled>) -> Self {
        conn.streams.set(conn.streams.get() + 1);
        Self(conn)
    }
}

impl Drop for StreamCount {
    fn drop(&mut self) {
        self.0.streams.set(self.0.streams.get().saturating_sub(1));
    }
}

/// Where and how a request was sent, for its error.
struct Context {
    addr: SocketAddr,
    reused: bool,
}

impl Context {
    /// The error of a request, with the request if nothing of it was sent.
    fn unsent(
        &self,
        mut error: hyper::client::conn::TrySendError<Request<ReqBody>>,
    ) -> (Error, Option<Box<Request<ReqBody>>>) {
        let returned = error.take_message().map(Box::new);
        (self.classify(&error.into_error()), returned)
    }

    fn classify(&self, error: &hyper::Error) -> Error {
        let upstream = self.addr.to_string();
        let message = causes(error);
        if !self.reused && is_alert(error) {
            let reason = Reason::new("upstream_refused_certificate");
            return Error::Upstream { upstream, reason, retry: Retry::Never, message };
        }
        let h2 = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
        let refused = h2.and_then(h2::Error::reason) == Some(h2::Reason::REFUSED_STREAM);
        let (reason, retry) = if refused {
            (Reason::UPSTREAM_RESET, Retry::Unsent)
        } else if error.is_parse() {
            (Reason::UPSTREAM_PROTOCOL, Retry::Never)
        } else if self.reused {
            (Reason::UPSTREAM_RESET, Retry::Idempotent)
        } else {
            (Reason::UPSTREAM_RESET, Retry::Never)
        };
        Error::Upstream { upstream, reason, retry, message }
    }
}

/// An error with its causes: hyper prints one level only.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text.push_str(": ");
        text.push_str(&cause.to_string());
        source = cause.source();
    }
    text
}

fn note(attempts: &mut Attempts, addr: SocketAddr, facts: &ConnFacts) {
    attempts.upstream = Some(addr);
    attempts.tls = facts.tls;
    attempts.peer.clone_from(&facts.peer);
    attempts.local_id.clone_from(&facts.local_id);
}

/// Only a request without a body, by a method that may run twice, is ever sent again after it may have been received.
fn replayable(request: &Request<ReqBody>) -> bool {
    let idempotent = matches!(
        *request.method(),
        Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
    );
    idempotent && matches!(request.body(), ReqBody::Empty)
}

fn copy(request: &Request<ReqBody>) -> Box<Request<ReqBody>> {
    let mut copy = Request::new(ReqBody::Empty);
    copy.method_mut().clone_from(request.method());
    copy.uri_mut().clone_from(request.uri());
    copy.headers_mut().clone_from(request.headers());
    Box::new(copy)
}

fn wanted_again(route: &Route, status: StatusCode) -> bool {
    route.retry.on.iter().any(|on| match on {
        RetryOn::ServerError => status.is_server_error(),
        RetryOn::GatewayError => matches!(status.as_u16(), 502..=504),
        RetryOn::Retriable4xx => status == StatusCode::CONFLICT,
        RetryOn::ConnectFailure | RetryOn::RefusedStream => false,
    })
}

fn policy_wants(route: &Route, error: &Error) -> bool {
    let connect = matches!(error, Error::Connect { .. });
    route.retry.on.iter().any(|on| match on {
        RetryOn::ServerError | RetryOn::GatewayError => true,
        RetryOn::ConnectFailure => connect,
        RetryOn::Retriable4xx => false,
        RetryOn::RefusedStream => error.retry() == Retry::Unsent && !connect,
    })
}

/// HTTP/2 wants scheme and authority in the target.
fn absolute(mut request: Request<ReqBody>, secure: bool) -> Result<Request<ReqBody>, Error> {
    let host = request.headers_mut().remove(header::HOST);
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or("localhost");
    let target = request.uri().path_and_query().map_or("/", http::uri::PathAndQuery::as_str);
    let target = if target == "*" { "/" } else { target };
    let uri = Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|error| Error::Downstream { reason: Reason::BAD_HOST, message: error.to_string() })?;
    *request.uri_mut() = uri;
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}

fn no_endpoints(cluster: &Cluster, why: &str) -> Error {
    let upstream = cluster.name.to_string();
    Error::Connect { upstream, reason: Reason::NO_ENDPOINTS, message: why.to_owned() }
}

fn dns_failed(cluster: &Cluster, why: &str) -> Error {
    let upstream = cluster.name.to_string();
    Error::Connect { upstream, reason: Reason::UPSTREAM_DNS, message: why.to_owned() }
}
