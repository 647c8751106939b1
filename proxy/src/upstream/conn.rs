//! One HTTP connection to an endpoint: how it begins, who drives it, and how it ends.

use std::{
    cell::{Cell, RefCell},
    future::poll_fn,
    pin::Pin,
    rc::{Rc, Weak},
    sync::Arc,
    task::Poll,
};

use futures_util::FutureExt as _;
use hyper::client::conn::{http1, http2};
use hyper_util::rt::TokioIo;
use identity::PeerRule;
use tokio::{sync::oneshot, task::JoinSet, time::Instant};

use super::{
    Endpoint, Protocol, Transport,
    connect::{ConnFacts, Connected, failed},
    stream::{Heard, Stream},
    tunnel::Tunnel,
};
use crate::{
    Error, Reason,
    message::{Cut, ReqBody},
    observe::{Counter, Gauge, WorkerObserve},
    registry::{Drain, Entry, Facts, Guard, Received, Registry, Role},
};

/// Header fields of an answer.
const MAX_ANSWER_FIELDS: usize = 256;
/// Header bytes of an HTTP/2 answer.
const MAX_ANSWER_BYTES: u32 = 64 * 1024;
/// What a stream and a connection may send before we take it: bounds memory for each slow client.
const STREAM_WINDOW: u32 = 256 * 1024;
const CONNECTION_WINDOW: u32 = 1024 * 1024;

/// hyper's side of an HTTP/2 connection; kept beside its task because it knows the peer's limit of streams. Gone once it
/// has ended, because it holds requests that were not sent, and only its end gives them back.
type Http2 = Rc<RefCell<Option<http2::Connection<TokioIo<Stream>, ReqBody, Tasks>>>>;

/// How requests get onto a connection.
pub(super) enum Sender {
    /// Exclusive until the answer is whole.
    Http1(http1::SendRequest<ReqBody>),
    /// Shared.
    Http2(http2::SendRequest<ReqBody>),
}

/// A connection as the pool knows it.
pub(super) struct Pooled {
    pub(super) facts: Arc<ConnFacts>,
    pub(super) heard: Arc<Heard>,
    pub(super) made: Instant,
    /// Not for new requests: a drain was ordered, or an answer was ambiguous.
    pub(super) retired: Cell<bool>,
    /// Why we have cut it, once we have.
    pub(super) cut: Cut,
    /// It lies in the pool and carries nothing (HTTP/1.1).
    pub(super) rests: Cell<bool>,
    /// Streams under way (HTTP/2).
    pub(super) streams: Cell<usize>,
    /// When the last request was sent.
    pub(super) last_used: Cell<Instant>,
    /// The rule that the peer was last compared with by the pool.
    pub(super) rule: RefCell<Option<Arc<PeerRule>>>,
    /// Held so that its address, by which the pool knows it, is not given to another.
    _transport: Arc<Transport>,
    http2: Option<Http2>,
    /// Who gets the bytes if the upstream switches protocols (HTTP/1.1).
    successor: Cell<Option<oneshot::Sender<Tunnel>>>,
}

impl Pooled {
    pub(super) fn new(
        endpoint: &Endpoint,
        facts: Arc<ConnFacts>,
        heard: Arc<Heard>,
        http2: Option<Http2>,
    ) -> Rc<Self> {
        let now = Instant::now();
        Rc::new(Self {
            facts,
            heard,
            made: now,
            retired: Cell::new(false),
            cut: Cut::default(),
            rests: Cell::new(false),
            streams: Cell::new(0),
            last_used: Cell::new(now),
            rule: RefCell::new(None),
            _transport: Arc::clone(&endpoint.transport),
            http2,
            successor: Cell::new(None),
        })
    }

    /// The next request asks for another protocol: where the bytes come out when the upstream has switched to it and the
    /// request was sent whole. To be asked before it is sent, because the connection may end HTTP before anyone has seen the
    /// answer.
    pub(super) fn await_switch(&self) -> oneshot::Receiver<Tunnel> {
        let (successor, switched) = oneshot::channel();
        self.successor.set(Some(successor));
        switched
    }

    /// The upstream stays with HTTP.
    pub(super) fn forget_switch(&self) {
        self.successor.set(None);
    }

    /// Whether the peer lets another stream be opened now.
    pub(super) fn has_room(&self) -> bool {
        let Some(http2) = &self.http2 else { return false };
        http2.borrow().as_ref().is_some_and(|http2| self.streams.get() < http2.current_max_send_streams())
    }

    /// Whether nothing runs on it.
    fn is_idle(&self) -> bool {
        if self.http2.is_some() { self.streams.get() == 0 } else { self.rests.get() }
    }
}

/// The tasks of one HTTP/2 connection, so that they can be ended together. Local to the worker.
#[derive(Clone, Default)]
pub(super) struct Tasks(Rc<RefCell<JoinSet<()>>>);

impl<F: Future<Output = ()> + 'static> hyper::rt::Executor<F> for Tasks {
    fn execute(&self, future: F) {
        let mut tasks = self.0.borrow_mut();
        while tasks.try_join_next().is_some() {}
        tasks.spawn_local(future);
    }
}

impl Tasks {
    async fn ended(&self) {
        poll_fn(|cx| {
            let mut tasks = self.0.borrow_mut();
            while let Poll::Ready(next) = tasks.poll_join_next(cx) {
                if next.is_none() {
                    return Poll::Ready(());
                }
            }
            Poll::Pending
        })
        .await;
    }
}

/// Ends what is left of a connection with the task that drives it.
#[derive(Default)]
struct Owned {
    tasks: Tasks,
    http2: Option<Http2>,
}

impl Drop for Owned {
    fn drop(&mut self) {
        self.tasks.0.borrow_mut().abort_all();
        if let Some(http2) = &self.http2 {
            *http2.borrow_mut() = None;
        }
    }
}

/// What opening and driving a connection needs from the worker.
pub(super) struct Opener<'a> {
    pub(super) registry: &'a Arc<Registry>,
    pub(super) observe: &'a Rc<WorkerObserve>,
    /// Owns the tasks that drive connections.
    pub(super) driving: &'a RefCell<JoinSet<()>>,
    pub(super) cluster: &'a Arc<str>,
    pub(super) protocol: Protocol,
}

impl Opener<'_> {
    /// Speaks HTTP on a fresh connection. An HTTP/2 connection is ready when the peer's SETTINGS are there: until then its
    /// limit of streams is unknown, and in TLS 1.3 so is whether it accepted our certificate. The deadline is the caller's.
    pub(super) async fn open(
        &self,
        endpoint: &Endpoint,
        connected: Connected,
    ) -> Result<(Sender, Rc<Pooled>), Error> {
        let secure = connected.facts.tls.is_some();
        if connected.h2 || (self.protocol == Protocol::Http2 && !(secure && connected.offered_alpn)) {
            return self.open_http2(endpoint, connected).await;
        }
        if self.protocol == Protocol::Http2 {
            let message = "the upstream does not speak HTTP/2 (ALPN h2 was not chosen)".to_owned();
            return Err(failed(endpoint.addr, Reason::UPSTREAM_PROTOCOL, message));
        }
        let heard = Arc::clone(connected.stream.heard());
        let conn = Pooled::new(endpoint, connected.facts, heard, None);
        let entry = self.register(endpoint, &conn.facts)?;
        let mut builder = http1::Builder::new();
        builder.max_headers(MAX_ANSWER_FIELDS);
        let broken =
            |error: hyper::Error| failed(endpoint.addr, Reason::UPSTREAM_PROTOCOL, error.to_string());
        let (sender, running) = builder.handshake(TokioIo::new(connected.stream)).await.map_err(broken)?;
        self.drive(self.driven(entry, &conn).http1(running));
        Ok((Sender::Http1(sender), conn))
    }

    async fn open_http2(
        &self,
        endpoint: &Endpoint,
        connected: Connected,
    ) -> Result<(Sender, Rc<Pooled>), Error> {
        let heard = Arc::clone(connected.stream.heard());
        let mut owned = Owned::default();
        let mut builder = http2::Builder::new(owned.tasks.clone());
        builder
            .initial_stream_window_size(STREAM_WINDOW)
            .initial_connection_window_size(CONNECTION_WINDOW)
            .max_header_list_size(MAX_ANSWER_BYTES);
        let opened = match builder.handshake(TokioIo::new(connected.stream)).await {
            Ok((sender, running)) => prefaced(running, &heard).await.map(|running| (sender, running)),
            Err(error) => Err(error.to_string()),
        };
        let (sender, running) = opened.map_err(|what| {
            let reason = if heard.refused_certificate() {
                Reason::UPSTREAM_REFUSED_CERTIFICATE
            } else {
                Reason::UPSTREAM_PROTOCOL
            };
            failed(endpoint.addr, reason, format!("no HTTP/2 from the upstream: {what}"))
        })?;
        let running = Rc::new(RefCell::new(Some(running)));
        let conn = Pooled::new(endpoint, connected.facts, heard, Some(Rc::clone(&running)));
        let entry = self.register(endpoint, &conn.facts)?;
        let polled = poll_fn(move |cx| {
            let mut slot = running.borrow_mut();
            let Some(running) = slot.as_mut() else { return Poll::Ready(Ok(())) };
            let polled = Pin::new(running).poll(cx);
            if polled.is_ready() {
                *slot = None;
            }
            polled
        });
        owned.http2.clone_from(&conn.http2);
        self.drive(self.driven(entry, &conn).http2(owned, polled));
        Ok((Sender::Http2(sender), conn))
    }

    /// Puts a connection into the registry. A sweep may have passed since its handshake: the rule is asked once more, and if
    /// material has changed, the trust too.
    pub(super) fn register(&self, endpoint: &Endpoint, made: &ConnFacts) -> Result<Entry, Error> {
        let mut facts = Facts::new(Role::Upstream, Arc::clone(self.cluster));
        facts.peer.clone_from(&made.peer);
        let Transport::Tls(tls) = &*endpoint.transport else { return Ok(self.registry.register(facts)) };
        let guard = Guard::Client { transport: Arc::clone(&endpoint.transport), rule: endpoint.peer.clone() };
        facts.guard = Some(guard.clone());
        let entry = self.registry.register(facts);
        let generation = tls.profile.current().ok().map(|current| current.generation);
        let peer = made.peer.as_deref();
        let held = if generation == made.generation { guard.admits(peer) } else { guard.recheck(peer) };
        held.map_err(|reason| failed(endpoint.addr, reason, "refused by newer trust".to_owned()))?;
        Ok(entry)
    }

    fn driven(&self, entry: Entry, conn: &Rc<Pooled>) -> Driven {
        Driven {
            entry,
            conn: Rc::downgrade(conn),
            cut: Rc::clone(&conn.cut),
            observe: Rc::clone(self.observe),
            open: Open::new(Rc::clone(self.observe)),
        }
    }

    /// Owns a task that drives a connection.
    fn drive(&self, driving: impl Future<Output = ()> + 'static) {
        let mut all = self.driving.borrow_mut();
        while all.try_join_next().is_some() {}
        all.spawn_local(driving);
    }
}

/// A connection as the task that drives it holds it.
struct Driven {
    entry: Entry,
    conn: Weak<Pooled>,
    cut: Cut,
    observe: Rc<WorkerObserve>,
    open: Open,
}

impl Driven {
    /// Waits for the end of the connection; `None`: it is to be cut, as the deadline of a drain has passed, or as it is idle and
    /// nothing more may be asked on it.
    async fn until_cut<T>(&self, running: impl Future<Output = T>) -> Option<T> {
        let mut running = Box::pin(running);
        let mut drain: Option<Drain> = None;
        loop {
            let deadline = async {
                match &drain {
                    Some(drain) => tokio::time::sleep_until(drain.deadline).await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                ended = &mut running => return Some(ended),
                received = self.entry.ordered() => if let Received::Drain(ordered) = received {
                    if let Some(conn) = self.conn.upgrade() {
                        conn.retired.set(true);
                        if ordered.at_once() && conn.is_idle() {
                            return None;
                        }
                    }
                    drain = Some(ordered);
                },
                () = deadline => {
                    self.observe.count(Counter::DrainCut);
                    // Said before the connection is dropped, which fails what runs on it.
                    let why = || self.entry.drain().map_or(Reason::DRAIN_TIMEOUT, |drain| drain.reason);
                    self.cut.get_or_init(why);
                    return None;
                }
            }
        }
    }

    /// Drives an HTTP/1.1 connection to its end; what an upstream that switched protocols sends from then on is the successor's.
    async fn http1(self, mut running: http1::Connection<TokioIo<Stream>, ReqBody>) {
        match self.until_cut(&mut running).await {
            None => return,
            Some(Err(error)) => return tracing::debug!(%error, "upstream connection ended"),
            Some(Ok(())) => {}
        }
        let Some(successor) = self.conn.upgrade().and_then(|conn| conn.successor.take()) else { return };
        let parts = running.into_parts();
        // Nobody waits for it any longer: it closes.
        let _gone = successor.send(Tunnel::new(parts.read_buf, parts.io.into_inner(), self.entry, self.open));
    }

    /// Drives an HTTP/2 connection until it and its streams have ended.
    async fn http2(self, owned: Owned, running: impl Future<Output = Result<(), hyper::Error>>) {
        let running = async {
            if let Err(error) = running.await {
                tracing::debug!(%error, "upstream connection ended");
            }
            owned.tasks.ended().await;
        };
        let _ended_or_cut = self.until_cut(running).await;
        drop(self.open);
    }
}

/// Waits for the peer's first frame, which has to be SETTINGS (RFC 9113, 3.4).
async fn prefaced<C>(mut running: C, heard: &Heard) -> Result<C, String>
where
    C: Future<Output = Result<(), hyper::Error>> + Unpin,
{
    let ended = tokio::select! {
        biased;
        () = heard.first_byte() => (&mut running).now_or_never(),
        ended = &mut running => Some(ended),
    };
    match (heard.failure(), ended) {
        (_, None) => Ok(running),
        (Some(failure), Some(_)) => Err(failure.to_owned()),
        (None, Some(Err(error))) => Err(error.to_string()),
        (None, Some(Ok(()))) => Err("the connection was closed, or what came is not HTTP/2".to_owned()),
    }
}

/// Counts an open connection.
pub(super) struct Open(Rc<WorkerObserve>);

impl Open {
    pub(super) fn new(observe: Rc<WorkerObserve>) -> Self {
        observe.gauge(Gauge::UpstreamOpen, 1);
        Self(observe)
    }
}

impl Drop for Open {
    fn drop(&mut self) {
        self.0.gauge(Gauge::UpstreamOpen, -1);
    }
}
