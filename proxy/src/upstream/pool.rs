//! Pooled connections of one worker: HTTP/1.1 as an idle stack, HTTP/2 shared by streams.
//!
//! A connection is not used for a new request once its profile has newer material, its own certificate is about to end, or
//! its drain was ordered: what runs on it finishes, then it closes. So a rotation loses nothing.

use std::{
    cell::RefCell,
    collections::{HashMap, VecDeque},
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::client::conn::{http1, http2};
use identity::PeerRule;
use tokio::{sync::oneshot, time::Instant};

use super::{
    Cluster, Endpoint, Protocol, Transport,
    conn::{Pooled, Sender},
};
use crate::message::ReqBody;

/// Idle HTTP/1.1 connections kept for one endpoint; more are closed as they come back.
const MAX_IDLE: usize = 1024;

/// An idle HTTP/1.1 connection.
struct Idle {
    sender: http1::SendRequest<ReqBody>,
    conn: Rc<Pooled>,
    since: Instant,
}

/// An HTTP/2 connection.
struct Shared {
    sender: http2::SendRequest<ReqBody>,
    conn: Rc<Pooled>,
}

/// Connections of one endpoint by one transport.
#[derive(Default)]
struct Place {
    idle: Vec<Idle>,
    shared: Vec<Shared>,
    /// Connections being made that may turn out to be shared.
    opening: usize,
    /// What the last connection spoke.
    http2: Option<bool>,
    /// Requests that wait for a stream or for a connection being made.
    waiting: VecDeque<oneshot::Sender<()>>,
}

impl Place {
    fn wake_all(&mut self) {
        for waiting in self.waiting.drain(..) {
            // Whoever has gone away meanwhile needs no stream.
            let _gone = waiting.send(());
        }
    }

    fn wake_one(&mut self) {
        while let Some(waiting) = self.waiting.pop_front() {
            if waiting.send(()).is_ok() {
                return;
            }
        }
    }
}

/// Where a connection goes: cluster, address and transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlaceKey {
    /// Clusters do not share connections: a `cluster_tag` separates them on purpose, and protocols differ.
    cluster: usize,
    addr: SocketAddr,
    transport: usize,
}

impl PlaceKey {
    pub(super) fn of(cluster: &Arc<Cluster>, endpoint: &Endpoint) -> Self {
        Self {
            cluster: Arc::as_ptr(cluster).addr(),
            addr: endpoint.addr,
            transport: Arc::as_ptr(&endpoint.transport).addr(),
        }
    }
}

/// What the pool offers for a request.
pub(super) enum Offer {
    /// A connection that is there.
    Reuse(Sender, Rc<Pooled>),
    /// Make one; the token tells the pool when that is over.
    Open(Opening),
    /// Wait until this says that something changed, then ask again.
    Wait(oneshot::Receiver<()>),
}

/// A connection being made that others wait for.
pub(super) struct Opening {
    /// `None`: nobody waits for it (HTTP/1.1).
    shared: Option<(Rc<Pool>, PlaceKey)>,
}

impl Drop for Opening {
    fn drop(&mut self) {
        if let Some((pool, key)) = &self.shared
            && let Some(place) = pool.places.borrow_mut().get_mut(key)
        {
            place.opening = place.opening.saturating_sub(1);
            place.wake_all();
        }
    }
}

/// A stream under way on an HTTP/2 connection; its end lets the next request in.
pub(super) struct Stream {
    conn: Rc<Pooled>,
    pool: Rc<Pool>,
    key: PlaceKey,
}

impl Stream {
    pub(super) fn new(pool: &Rc<Pool>, key: PlaceKey, conn: Rc<Pooled>) -> Self {
        conn.streams.set(conn.streams.get() + 1);
        Self { conn, pool: Rc::clone(pool), key }
    }
}

impl Drop for Stream {
    fn drop(&mut self) {
        self.conn.streams.set(self.conn.streams.get().saturating_sub(1));
        if let Some(place) = self.pool.places.borrow_mut().get_mut(&self.key) {
            place.wake_one();
        }
    }
}

/// The pool of one worker.
#[derive(Default)]
pub(super) struct Pool {
    places: RefCell<HashMap<PlaceKey, Place, foldhash::fast::RandomState>>,
}

impl Pool {
    /// The best connection that may be used now, or what to do to get one. `http1`: of HTTP/1.1 alone.
    pub(super) fn take(self: &Rc<Self>, cluster: &Arc<Cluster>, endpoint: &Endpoint, http1: bool) -> Offer {
        let key = PlaceKey::of(cluster, endpoint);
        let mut places = self.places.borrow_mut();
        let place = places.entry(key).or_default();
        let usable = Usable::now(cluster, endpoint);
        place.shared.retain(|shared| !shared.sender.is_closed() && usable.allows(&shared.conn));
        let open = place.shared.iter().filter(|shared| !http1 && shared.conn.has_room());
        if let Some(least) = open.min_by_key(|shared| shared.conn.streams.get()) {
            return Offer::Reuse(Sender::Http2(least.sender.clone()), Rc::clone(&least.conn));
        }
        if let Some(idle) = place.take_idle(&usable) {
            return Offer::Reuse(Sender::Http1(idle.sender), idle.conn);
        }
        let may_be_shared = match (cluster.key.protocol, place.http2) {
            (Protocol::Http2, _) | (Protocol::Auto, Some(true)) => true,
            (Protocol::Auto, None) => offers_http2(&endpoint.transport),
            (Protocol::Auto, Some(false)) | (Protocol::Http1 | Protocol::Tcp, _) => false,
        };
        if http1 || !may_be_shared {
            return Offer::Open(Opening { shared: None });
        }
        // One at a time: a burst must not open a connection for each request.
        if place.opening > 0 || place.shared.len() >= cluster.policy.load().max_h2_connections.max(1) {
            let (wake, woken) = oneshot::channel();
            place.waiting.push_back(wake);
            return Offer::Wait(woken);
        }
        place.opening += 1;
        Offer::Open(Opening { shared: Some((Rc::clone(self), key)) })
    }

    /// An HTTP/1.1 connection comes back after a whole response.
    pub(super) fn give_back(&self, key: PlaceKey, sender: http1::SendRequest<ReqBody>, conn: Rc<Pooled>) {
        if sender.is_closed() || conn.retired.get() {
            return;
        }
        let idle = Idle { sender, conn, since: Instant::now() };
        let mut places = self.places.borrow_mut();
        let place = places.entry(key).or_default();
        if place.idle.len() < MAX_IDLE {
            idle.conn.rests.set(true);
            place.idle.push(idle);
        }
    }

    /// What a new connection speaks; an HTTP/2 one is offered to later requests.
    pub(super) fn opened(&self, key: PlaceKey, sender: &Sender, conn: &Rc<Pooled>) {
        let mut places = self.places.borrow_mut();
        let place = places.entry(key).or_default();
        place.http2 = Some(matches!(sender, Sender::Http2(_)));
        if let Sender::Http2(sender) = sender {
            place.shared.push(Shared { sender: sender.clone(), conn: Rc::clone(conn) });
        }
    }

    /// Lets go of what may not be used any longer, without waiting for a request to find it.
    pub(super) fn sweep(&self, clusters: &[Arc<Cluster>]) {
        let mut usable: HashMap<PlaceKey, Usable> = HashMap::new();
        for cluster in clusters {
            for endpoint in cluster.endpoints().iter() {
                usable.insert(PlaceKey::of(cluster, endpoint), Usable::now(cluster, endpoint));
            }
        }
        self.places.borrow_mut().retain(|key, place| {
            let Some(usable) = usable.get(key) else {
                place.wake_all();
                return false;
            };
            place.idle.retain(|idle| {
                !idle.sender.is_closed() && usable.allows(&idle.conn) && usable.rested(idle.since)
            });
            place.shared.retain(|shared| !shared.sender.is_closed() && usable.keeps(shared));
            place.opening > 0
                || !place.idle.is_empty()
                || !place.shared.is_empty()
                || place.waiting.iter().any(|waiting| !waiting.is_closed())
        });
    }

    /// Lets go of everything: what runs finishes.
    pub(super) fn clear(&self) {
        self.places.borrow_mut().retain(|_, place| {
            place.wake_all();
            place.idle.clear();
            place.shared.clear();
            place.opening > 0
        });
    }
}

impl Place {
    /// Last in, first out: the warmest connection, and the others can grow old. One whose last request is still being sent
    /// (the upstream answered early) is passed over.
    fn take_idle(&mut self, usable: &Usable) -> Option<Idle> {
        let mut at = self.idle.len();
        while at > 0 {
            at -= 1;
            let Some(idle) = self.idle.get(at) else { continue };
            let good = !idle.sender.is_closed() && usable.allows(&idle.conn) && usable.rested(idle.since);
            if good && !idle.sender.is_ready() {
                continue;
            }
            let idle = self.idle.remove(at);
            if good {
                idle.conn.rests.set(false);
                return Some(idle);
            }
        }
        None
    }
}

/// Whether ALPN may choose HTTP/2.
fn offers_http2(transport: &Transport) -> bool {
    match transport {
        Transport::Plain => false,
        Transport::Tls(tls) => tls.profile.spec().alpn.iter().any(|name| name == b"h2"),
    }
}

/// Which connections of a place may carry a new request at this moment.
struct Usable {
    generation: Option<u64>,
    rule: Option<Arc<PeerRule>>,
    now: SystemTime,
    idle_timeout: Duration,
    max_lifetime: Option<Duration>,
}

impl Usable {
    fn now(cluster: &Cluster, endpoint: &Endpoint) -> Self {
        let policy = cluster.policy.load();
        let (generation, rule) = match &*endpoint.transport {
            Transport::Plain => (None, None),
            Transport::Tls(tls) => {
                // Without usable material nothing may be used: 0 is no generation.
                let generation = tls.profile.current().map_or(0, |current| current.generation);
                let rule = endpoint.peer.clone().unwrap_or_else(|| tls.rule.load_full());
                (Some(generation), Some(rule))
            }
        };
        Self {
            generation,
            rule,
            now: SystemTime::now(),
            idle_timeout: policy.idle_timeout,
            max_lifetime: policy.max_lifetime,
        }
    }

    fn allows(&self, conn: &Pooled) -> bool {
        let fresh = conn.facts.retire_at.is_none_or(|end| self.now < end);
        let young = self.max_lifetime.is_none_or(|max| conn.made.elapsed() < max);
        !conn.retired.get() && conn.facts.generation == self.generation && fresh && young && self.knows(conn)
    }

    /// The peer was compared with the rule that holds now. An address may have got another workload, or the rule was
    /// edited: then it is compared again.
    fn knows(&self, conn: &Pooled) -> bool {
        let Some(rule) = &self.rule else { return true };
        let mut held = conn.rule.borrow_mut();
        if held.as_ref().is_some_and(|held| Arc::ptr_eq(held, rule)) {
            return true;
        }
        let allowed = rule.check(conn.facts.peer.as_deref()).is_ok();
        if allowed {
            *held = Some(Arc::clone(rule));
        }
        allowed
    }

    /// Shared connections rest when no stream is under way; what is under way is never cut by the pool.
    fn keeps(&self, shared: &Shared) -> bool {
        let in_use = shared.conn.streams.get() > 0;
        self.allows(&shared.conn) && (in_use || self.rested(shared.conn.last_used.get()))
    }

    fn rested(&self, since: Instant) -> bool {
        self.idle_timeout.is_zero() || since.elapsed() < self.idle_timeout
    }
}
