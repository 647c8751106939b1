//! Pooled connections of one worker: HTTP/1.1 as an idle stack, HTTP/2 shared by streams.
//!
//! A connection is not used for a new request once its profile has newer material, its own certificate is about to end, or
//! its drain was ordered: what runs on it finishes, then it closes. So a rotation loses nothing.

use std::{
    cell::{Cell, RefCell},
    collections::HashMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper::client::conn::{http1, http2};
use tokio::time::Instant;

use super::{Cluster, Endpoint, Transport, connect::ConnFacts};
use crate::message::ReqBody;

/// Own certificates that end within this are not used for new requests.
const RETIRE_BEFORE_END: Duration = Duration::from_secs(2);

/// A connection as the pool knows it.
#[derive(Debug)]
pub(super) struct Pooled {
    pub(super) facts: Arc<ConnFacts>,
    pub(super) made: Instant,
    /// A drain was ordered.
    pub(super) retired: Cell<bool>,
    /// Streams under way (HTTP/2).
    pub(super) streams: Cell<usize>,
    /// Requests that were sent.
    pub(super) used: Cell<u64>,
}

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
    /// HTTP/2 connections being made.
    opening: usize,
}

/// Where a connection goes: address and transport.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(super) struct PlaceKey {
    addr: SocketAddr,
    transport: usize,
}

impl PlaceKey {
    pub(super) fn of(endpoint: &Endpoint) -> Self {
        Self { addr: endpoint.addr, transport: Arc::as_ptr(&endpoint.transport).addr() }
    }
}

/// What the pool offers for a request.
pub(super) enum Offer {
    /// An idle HTTP/1.1 connection.
    Http1(http1::SendRequest<ReqBody>, Rc<Pooled>),
    /// A stream on an HTTP/2 connection.
    Http2(http2::SendRequest<ReqBody>, Rc<Pooled>),
    /// Nothing: make one.
    Nothing,
}

/// The pool of one worker.
#[derive(Default)]
pub(super) struct Pool {
    places: RefCell<HashMap<PlaceKey, Place, foldhash::fast::RandomState>>,
}

impl Pool {
    /// The best connection that may be used now.
    pub(super) fn take(&self, cluster: &Cluster, endpoint: &Endpoint, max_streams: usize) -> Offer {
        let mut places = self.places.borrow_mut();
        let Some(place) = places.get_mut(&PlaceKey::of(endpoint)) else { return Offer::Nothing };
        let usable = Usable::now(cluster, &endpoint.transport);
        place.shared.retain(|shared| !shared.sender.is_closed() && usable.allows(&shared.conn));
        let least = place.shared.iter().min_by_key(|shared| shared.conn.streams.get());
        if let Some(shared) = least {
            let policy = cluster.policy.load();
            let full = shared.conn.streams.get() >= max_streams;
            let room = place.shared.len() + place.opening < policy.max_h2_connections;
            if !(full && room) {
                return Offer::Http2(shared.sender.clone(), Rc::clone(&shared.conn));
            }
            return Offer::Nothing;
        }
        // Last in, first out: the warmest connection, and the others can grow old.
        while let Some(idle) = place.idle.pop() {
            if !idle.sender.is_closed() && usable.allows(&idle.conn) && usable.rested(idle.since) {
                return Offer::Http1(idle.sender, idle.conn);
            }
        }
        Offer::Nothing
    }

    /// An HTTP/1.1 connection comes back after a whole response.
    pub(super) fn give_back(&self, key: PlaceKey, sender: http1::SendRequest<ReqBody>, conn: Rc<Pooled>) {
        if sender.is_closed() || conn.retired.get() {
            return;
        }
        let idle = Idle { sender, conn, since: Instant::now() };
        self.places.borrow_mut().entry(key).or_default().idle.push(idle);
    }

    /// Offers a new HTTP/2 connection to later requests.
    pub(super) fn share(&self, key: PlaceKey, sender: http2::SendRequest<ReqBody>, conn: Rc<Pooled>) {
        self.places.borrow_mut().entry(key).or_default().shared.push(Shared { sender, conn });
    }

    /// Counts an HTTP/2 connection being made, so that a burst does not open one for each request.
    pub(super) fn opening(&self, key: PlaceKey, by: isize) {
        let mut places = self.places.borrow_mut();
        let place = places.entry(key).or_default();
        place.opening = place.opening.saturating_add_signed(by);
    }

    /// Lets go of what may not be used any longer, without waiting for a request to find it.
    pub(super) fn sweep(&self, clusters: &[Arc<Cluster>]) {
        let mut usable: HashMap<PlaceKey, Usable> = HashMap::new();
        for cluster in clusters {
            for endpoint in cluster.endpoints().iter() {
                usable.insert(PlaceKey::of(endpoint), Usable::now(cluster, &endpoint.transport));
            }
        }
        self.places.borrow_mut().retain(|key, place| {
            let Some(usable) = usable.get(key) else { return false };
            place.idle.retain(|idle| {
                !idle.sender.is_closed() && usable.allows(&idle.conn) && usable.rested(idle.since)
            });
            place.shared.retain(|shared| !shared.sender.is_closed() && usable.allows(&shared.conn));
            place.opening > 0 || !place.idle.is_empty() || !place.shared.is_empty()
        });
    }

    /// Lets go of everything: what runs finishes.
    pub(super) fn clear(&self) {
        self.places.borrow_mut().clear();
    }
}

/// Which connections of a place may carry a new request at this moment.
struct Usable {
    generation: Option<u64>,
    now: SystemTime,
    idle_timeout: Duration,
    max_lifetime: Option<Duration>,
}

impl Usable {
    fn now(cluster: &Cluster, transport: &Transport) -> Self {
        let policy = cluster.policy.load();
        let generation = match transport {
            Transport::Plain => None,
            // Without usable material nothing may be used: 0 is no generation.
            Transport::Tls(tls) => Some(tls.profile.current().map_or(0, |current| current.generation)),
        };
        Self {
            generation,
            now: SystemTime::now(),
            idle_timeout: policy.idle_timeout,
            max_lifetime: policy.max_lifetime,
        }
    }

    fn allows(&self, conn: &Pooled) -> bool {
        let fresh = conn.facts.own_not_after.is_none_or(|end| self.now + RETIRE_BEFORE_END.min(half_left(end, self.now)) < end);
        let young = self.max_lifetime.is_none_or(|max| conn.made.elapsed() < max);
        !conn.retired.get() && conn.facts.generation == self.generation && fresh && young
    }

    fn rested(&self, since: Instant) -> bool {
        self.idle_timeout.is_zero() || since.elapsed() < self.idle_timeout
    }
}

/// Certificates of a second's life would otherwise never be used.
fn half_left(end: SystemTime, now: SystemTime) -> Duration {
    end.duration_since(now).unwrap_or_default() / 2
}
