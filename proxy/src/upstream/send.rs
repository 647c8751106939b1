//! Steps 8 and 9: pick an endpoint and dispatch to it, on a pooled or fresh connection, again where that is safe.

use std::{cell::RefCell, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use arc_swap::ArcSwap;
use http::{HeaderValue, Request, Response, StatusCode, Version, header};
use hyper::{body::Incoming, client::conn::TrySendError};
use identity::{PeerId, SpiffeId};
use tokio::{
    task::JoinSet,
    time::{Instant, timeout_at},
};

use super::{
    AddressPolicy, Cluster, Endpoint,
    conn::{Opener, Pooled, Sender},
    connect::ConnFacts,
    dial::{Dial, Tried, endpoints, no_endpoints},
    endpoint::Lease,
    failure::Sent,
    outgoing::{Asks, Outgoing, absolute_form},
    pool::{self, Offer, PlaceKey, Pool},
    retry::{Again, Budget, Resend},
    tunnel::Answered,
};
use crate::{
    Error, Reason,
    limits::Limits,
    message::{AtEnd, ReqBody, ResBody},
    observe::{Counter, WorkerObserve},
    registry::Registry,
    route::Route,
};

/// What the access log says about the upstream side of a request. Filled while it is tried.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// How many times a request was sent or a connection tried.
    pub count: u32,
    /// The last endpoint.
    pub upstream: Option<SocketAddr>,
    /// `TLSv1.3`...; `None`: cleartext.
    pub tls: Option<&'static str>,
    /// The upstream, as verified; the one that was refused, if its chain was verified and its identity is not the one expected.
    pub peer: Option<Arc<PeerId>>,
    /// What we presented.
    pub local_id: Option<SpiffeId>,
    /// The text of the last error, for the program's log.
    pub failure: Option<String>,
}

/// A worker's upstream side: its pools. Not `Send`; one for each worker.
pub struct Upstream {
    pub(super) pool: Rc<Pool>,
    /// The tasks that drive connections: ended with the worker.
    pub(super) driving: RefCell<JoinSet<()>>,
    limits: Arc<Limits>,
    pub(super) addresses: Arc<ArcSwap<AddressPolicy>>,
    pub(super) registry: Arc<Registry>,
    pub(super) observe: Rc<WorkerObserve>,
}

/// A connection that may carry a request now.
struct Ready {
    sender: Sender,
    conn: Rc<Pooled>,
    endpoint: Endpoint,
    lease: Lease,
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
        Rc::new(Self {
            pool: Rc::default(),
            driving: RefCell::default(),
            limits,
            addresses,
            registry,
            observe,
        })
    }

    /// Picks an endpoint, takes or makes a connection, checks the peer's identity before the first byte, sends, and gives
    /// the head of the answer with its body. The request's URI is path and query, its authority the `host` field. A request
    /// with an `upgrade` field asks for another protocol: the caller has made sure that it may. Honours
    /// [`Error::retry`], the route's policy and the cluster's budget. The deadline of the whole request is the caller's; connect deadlines and
    /// deadlines of single tries are kept here.
    ///
    /// Cancel-safe: dropping the future gives up the request and its connection.
    pub async fn dispatch(
        &self,
        route: &Route,
        request: Request<ReqBody>,
        attempts: &mut Attempts,
    ) -> Result<Answered, Error> {
        let mut outgoing = Outgoing::new(request);
        let mut budget = Budget::new(&route.retry);
        // Of the try under way, if it is not the first.
        let mut resend = None;
        loop {
            attempts.count += 1;
            match self.attempt(route, &mut outgoing, attempts).await {
                Ok(Answered::Whole(response))
                    if outgoing.can_repeat()
                        && budget.wants_again(response.status())
                        && self.may_resend(route, &mut resend) => {}
                Ok(answered) => {
                    outgoing.seal();
                    return Ok(answered);
                }
                Err(error) => {
                    attempts.failure = Some(error.to_string());
                    let again = outgoing.can_repeat()
                        && match budget.allows(&error, outgoing.is_idempotent()) {
                            Again::No => false,
                            Again::Free => true,
                            Again::Budgeted => self.may_resend(route, &mut resend),
                        };
                    if !again {
                        return Err(error);
                    }
                }
            }
            self.observe.count(Counter::Retries);
        }
    }

    /// Asks the cluster's budget for another sending; the last one has ended.
    fn may_resend<'a>(&self, route: &'a Route, resend: &mut Option<Resend<'a>>) -> bool {
        *resend = None;
        *resend = route.cluster.resend();
        if resend.is_none() {
            self.observe.count(Counter::RetriesRefused);
        }
        resend.is_some()
    }

    /// Lets go of connections that may not be used any longer. The worker calls it every second.
    pub fn sweep(&self, clusters: &[Arc<Cluster>]) {
        self.pool.sweep(clusters);
        let mut driving = self.driving.borrow_mut();
        while driving.try_join_next().is_some() {}
    }

    /// Retires every idle connection; those in use close after their present streams: drain.
    pub fn drain(&self) {
        self.pool.clear();
    }

    pub(super) fn search<'a>(&self, cluster: &'a Arc<Cluster>) -> Search<'a> {
        let timeout = cluster.policy.load().connect_timeout.unwrap_or(self.limits.connect_timeout);
        Search { cluster, timeout, deadline: Instant::now() + timeout, http1: false }
    }

    async fn attempt(
        &self,
        route: &Route,
        outgoing: &mut Outgoing,
        attempts: &mut Attempts,
    ) -> Result<Answered, Error> {
        let ready = self.ready(&route.cluster, outgoing.asks() != Asks::Http, attempts).await?;
        attempts.note(Some(ready.endpoint.addr), &ready.conn.facts);
        if !ready.conn.facts.verified && ready.conn.facts.tls.is_some() {
            self.observe.count(Counter::UpstreamNotVerified);
        }
        // A fresh HTTP/1.1 connection cannot have been closed for being idle: nothing need be kept for another sending.
        let keep = ready.reused || matches!(ready.sender, Sender::Http2(_)) || !route.retry.on.is_empty();
        let Some(request) = outgoing.take(keep) else {
            return Err(Error::Limit(Reason::INTERNAL));
        };
        let exchange = self.exchange(&route.cluster, ready, request, outgoing);
        match route.retry.per_try.filter(|limit| !limit.is_zero()) {
            None => exchange.await,
            Some(limit) => tokio::time::timeout(limit, exchange).await.unwrap_or_else(|_late| {
                self.observe.count(Counter::UpstreamTimeout);
                Err(Error::Timeout { reason: Reason::UPSTREAM_TIMEOUT, after: limit })
            }),
        }
    }

    /// A connection: pooled, or made now. `http1`: one of HTTP/1.1.
    async fn ready(
        &self,
        cluster: &Arc<Cluster>,
        http1: bool,
        attempts: &mut Attempts,
    ) -> Result<Ready, Error> {
        let search = Search { http1, ..self.search(cluster) };
        let endpoints = endpoints(cluster, search.deadline).await?;
        let mut tried = Tried::default();
        let mut last = None;
        while let Some(first) = tried.next(&endpoints) {
            // Counted while it connects, too: a burst must not go to one endpoint.
            let lease = Lease::new(&first.load);
            let opening = match self.pool.take(cluster, first, http1) {
                Offer::Reuse(sender, conn) => {
                    self.observe.count(Counter::UpstreamReuses);
                    return Ok(Ready { sender, conn, endpoint: first.clone(), lease, reused: true });
                }
                Offer::Wait(changed) => {
                    drop(lease);
                    if timeout_at(search.deadline, changed).await.is_err() {
                        return Err(Error::Limit(Reason::OVERFLOW));
                    }
                    continue;
                }
                Offer::Open(opening) => opening,
            };
            let opened = self.open(&search, &endpoints, first, &mut tried).await;
            drop(opening);
            attempts.note(tried.last, &tried.facts);
            match opened {
                Ok((sender, conn, endpoint)) => {
                    let lease = if endpoint.addr == first.addr { lease } else { Lease::new(&endpoint.load) };
                    return Ok(Ready { sender, conn, endpoint, lease, reused: false });
                }
                Err(error) if Dial::others_may_help(&error) => last = Some(error),
                Err(error) => return Err(error),
            }
        }
        Err(last.unwrap_or_else(|| no_endpoints(cluster)))
    }

    /// A fresh connection to `first`, or to another one if that keeps us waiting; offered to later requests if it can be
    /// shared.
    async fn open(
        &self,
        search: &Search<'_>,
        endpoints: &[Endpoint],
        first: &Endpoint,
        tried: &mut Tried,
    ) -> Result<(Sender, Rc<Pooled>, Endpoint), Error> {
        let cluster = search.cluster;
        let addresses = self.addresses.load_full();
        let dial = search.with(self, &addresses);
        let (connected, endpoint) = dial.run(endpoints, first, tried).await?;
        let opener = Opener {
            registry: &self.registry,
            observe: &self.observe,
            driving: &self.driving,
            cluster: &cluster.name,
            protocol: cluster.key.protocol,
        };
        let speaking = timeout_at(search.deadline, opener.open(&endpoint, connected)).await;
        let (sender, conn) = speaking.unwrap_or_else(|_late| Err(dial.late(endpoints, &[endpoint.addr])))?;
        if !search.http1 {
            self.pool.opened(PlaceKey::of(cluster, &endpoint), &sender, &conn);
        }
        Ok((sender, conn, endpoint))
    }

    /// One request on one connection.
    async fn exchange(
        &self,
        cluster: &Arc<Cluster>,
        ready: Ready,
        mut request: Request<ReqBody>,
        outgoing: &mut Outgoing,
    ) -> Result<Answered, Error> {
        let Ready { sender, conn, endpoint, lease, reused } = ready;
        conn.last_used.set(Instant::now());
        let (http2, asks) = (matches!(sender, Sender::Http2(_)), outgoing.asks());
        let sent =
            Sent { upstream: endpoint.addr, conn: &conn, reused, heard_before: conn.heard.bytes(), http2 };
        let mut failed = |mut error: TrySendError<Request<ReqBody>>| {
            let returned = error.take_message();
            let failure = sent.failed(&error.into_error(), returned.is_some());
            if let Some(request) = returned {
                outgoing.give_back(request);
            }
            failure
        };
        let key = PlaceKey::of(cluster, &endpoint);
        let pool = Rc::clone(&self.pool);
        let (response, at_end): (Response<Incoming>, AtEnd) = match sender {
            Sender::Http1(mut sender) => {
                *request.version_mut() = Version::HTTP_11;
                frame_body(&mut request);
                let switched = (asks != Asks::Http).then(|| conn.await_switch());
                conn.heard.await_head();
                let response = sender.try_send_request(request).await.map_err(&mut failed)?;
                conn.heard.head_came();
                if is_ambiguous(&response) {
                    conn.retired.set(true);
                }
                if let Some(met) = asks.is_met(response.status()) {
                    return sent.switched(response, switched.filter(|_| met), lease).await;
                }
                conn.forget_switch();
                let conn = Rc::clone(&conn);
                let give_back = move || {
                    drop(lease);
                    pool.give_back(key, sender, conn);
                };
                (response, Box::new(give_back))
            }
            Sender::Http2(mut sender) => {
                let stream = pool::Stream::new(&pool, key, Rc::clone(&conn));
                request = absolute_form(request, conn.facts.tls.is_some())?;
                let response = sender.try_send_request(request).await.map_err(&mut failed)?;
                (response, Box::new(move || drop((lease, stream))))
            }
        };
        let cut = Rc::clone(&conn.cut);
        Ok(Answered::Whole(response.map(|body| ResBody::new(body, http2, at_end, cut))))
    }
}

/// One search for a connection, and when it has to end.
pub(super) struct Search<'a> {
    cluster: &'a Arc<Cluster>,
    timeout: Duration,
    pub(super) deadline: Instant,
    http1: bool,
}

impl Search<'_> {
    pub(super) fn with<'a>(&'a self, upstream: &'a Upstream, addresses: &'a AddressPolicy) -> Dial<'a> {
        let Self { cluster, timeout, deadline, http1 } = *self;
        Dial { cluster, addresses, observe: &upstream.observe, timeout, deadline, http1 }
    }
}

/// A body of unknown length is chunked whatever the method: hyper would leave the body of a GET behind without a word.
fn frame_body(request: &mut Request<ReqBody>) {
    let known =
        matches!(request.body(), ReqBody::Empty) || request.headers().contains_key(header::CONTENT_LENGTH);
    if !known {
        request.headers_mut().insert(header::TRANSFER_ENCODING, HeaderValue::from_static("chunked"));
    }
}

/// What follows on a connection after such an answer could be read in two ways.
fn is_ambiguous(response: &Response<Incoming>) -> bool {
    let fields = response.headers();
    response.status() == StatusCode::SWITCHING_PROTOCOLS
        || (fields.contains_key(header::TRANSFER_ENCODING) && fields.contains_key(header::CONTENT_LENGTH))
}

impl Attempts {
    /// Where the last try went, and what its connection was made with, as far as that came.
    pub(super) fn note(&mut self, upstream: Option<SocketAddr>, facts: &ConnFacts) {
        self.upstream = upstream;
        self.tls = facts.tls;
        self.peer.clone_from(&facts.peer);
        self.local_id.clone_from(&facts.local_id);
    }
}
