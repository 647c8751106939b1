//! One request from its head to its record: route, prepare, dispatch, answer.

use std::{
    cell::{Cell, RefCell},
    panic::AssertUnwindSafe,
    rc::{Rc, Weak},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use futures_util::FutureExt as _;
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, Version, header};
use http_body::Body as _;
use hyper::body::Incoming;
use tokio::time::{Instant, sleep_until};

use super::{
    body::OutBody,
    fields, framing, normalize,
    outcome::{Kept, Outcome},
    prepare, respond,
    stuck::{Deadline, Watch},
    timed::Phase,
    tunnel::Seam,
    upgrade::{Asked, Switch},
};
use crate::{
    ConnMeta, Error, Reason,
    message::{Answer, Broken, Fields, Head, ReqBody, ResBody, Tally, hygiene},
    net::Worker,
    observe::{Counter, Gauge, Record},
    registry::Entry,
    route::{Action, Decision, Dice, Route, Router, View},
    upstream::{Answered, Attempts},
};

/// What the requests of a connection share.
pub(super) struct Conn<R: Router> {
    pub(super) worker: Rc<Worker<R>>,
    pub(super) meta: Arc<ConnMeta>,
    pub(super) phase: Rc<Phase>,
    pub(super) entry: Rc<Entry>,
    /// Weak: what is left there holds the exchange, which holds this.
    pub(super) seam: Weak<Seam<R>>,
}

impl<R: Router> Conn<R> {
    /// A request that comes after the trust in its client was taken away: over HTTP/2 a client that means no good goes on
    /// asking until it is cut.
    fn removed(&self) -> Option<Answer> {
        let drain = self.entry.draining().then(|| self.entry.drain()).flatten()?;
        let removed = drain.reason == Reason::TRUST_REMOVED;
        removed.then(|| Answer::new(StatusCode::MISDIRECTED_REQUEST, drain.reason))
    }
}

/// One request under way. Dropping it writes its record, also when the client has vanished.
pub(super) struct Exchange<R: Router> {
    pub(super) conn: Rc<Conn<R>>,
    view: View<R>,
    start: Instant,
    method: http::Method,
    path: String,
    version: Version,
    dice: Dice,
    grpc: bool,
    pub(super) up: Rc<Tally>,
    pub(super) down: Rc<Tally>,
    watch: Rc<Watch>,
    /// Nothing more may be read from this connection.
    last: Cell<bool>,
    /// A tunnel follows.
    switched: Cell<bool>,
    ended: Cell<bool>,
    /// End of the whole request, and the idle limit; `None`: none.
    limits: Cell<(Option<Instant>, Option<Duration>)>,
    outcome: RefCell<Outcome>,
}

/// Serves one request.
pub(super) async fn serve<R: Router>(conn: Rc<Conn<R>>, request: Request<Incoming>) -> Response<OutBody<R>> {
    let exchange = Exchange::begin(conn, &request);
    let result = match exchange.conn.removed() {
        None => exchange.guarded(request).await,
        Some(answer) => Err(answer),
    };
    let mut response = match result {
        Ok(response) => response,
        Err(answer) => exchange.answer(answer),
    };
    let goes_on = exchange.version == Version::HTTP_2 || exchange.switched.get();
    if !goes_on && (exchange.last.get() || exchange.conn.entry.draining()) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    exchange.outcome.borrow_mut().status = response.status().as_u16();
    response
}

impl<R: Router> Exchange<R> {
    fn begin(conn: Rc<Conn<R>>, request: &Request<Incoming>) -> Rc<Self> {
        conn.phase.begin(request.version() == Version::HTTP_2);
        conn.worker.observe.gauge(Gauge::RequestsActive, 1);
        let grpc =
            request.headers().get(header::CONTENT_TYPE).is_some_and(|kind| respond::is_grpc(kind.as_bytes()));
        let client = conn.meta.client();
        // What a client sends into a tunnel that it does not get must not be read as requests.
        let last = request.method() == http::Method::CONNECT && request.version() != Version::HTTP_2;
        let watch = Watch::of_stream().unwrap_or_else(|| Rc::clone(&conn.phase.watch));
        let up = Tally::new();
        if request.body().is_end_stream() {
            up.end();
        }
        let exchange = Rc::new(Self {
            view: conn.worker.view(),
            conn,
            start: Instant::now(),
            method: request.method().clone(),
            path: request.uri().path_and_query().map_or_else(|| "*".to_owned(), ToString::to_string),
            version: request.version(),
            dice: Dice::new(fastrand::u8(..100)),
            grpc,
            up,
            down: Tally::new(),
            watch,
            last: Cell::new(last),
            switched: Cell::new(false),
            ended: Cell::new(false),
            limits: Cell::new((None, None)),
            outcome: RefCell::new(Outcome::new(client)),
        });
        let itself: Rc<dyn Deadline> = Rc::<Self>::clone(&exchange);
        exchange.watch.set(Rc::downgrade(&itself));
        exchange
    }

    /// A panic is this request's alone: it gets 500, and what others have on this worker goes on. Nothing that it may have
    /// left half done outlives it, but the connection: that ends.
    async fn guarded(self: &Rc<Self>, request: Request<Incoming>) -> Result<Response<OutBody<R>>, Answer> {
        let routed = AssertUnwindSafe(self.route(request)).catch_unwind().await;
        routed.unwrap_or_else(|_panic| {
            self.last.set(true);
            Err(Answer::new(StatusCode::INTERNAL_SERVER_ERROR, Reason::INTERNAL))
        })
    }

    /// Steps 4 to 9.
    async fn route(self: &Rc<Self>, mut request: Request<Incoming>) -> Result<Response<OutBody<R>>, Answer> {
        let view = self.view.clone();
        let meta = &self.conn.meta;
        let policy = view.http(meta);
        let refuse = |reject: framing::Reject| self.refuse(reject);
        self.bounded(request.headers())?;
        let authority = self.understood(&request).map_err(refuse)?;
        self.outcome.borrow_mut().authority.clone_from(&authority);
        if self.version == Version::HTTP_2 {
            fields::join_cookies(request.headers_mut());
        }
        let uri = request.uri().clone();
        let raw_path = if uri.path().is_empty() { "/" } else { uri.path() };
        let path =
            normalize::path(raw_path, policy.merge_slashes, policy.reject_escaped_slashes).map_err(refuse)?;
        let (asked, stream) = Asked::take(&mut request);
        // A connection that ends after this request, because of its framing, carries nothing else.
        let ambiguous = self.last.get() && asked != Asked::Connect;
        let asked = if ambiguous { Asked::Http } else { asked };
        hygiene::strip_client_controls(request.headers_mut());
        let client = fields::client(request.headers(), meta, policy);
        let request_id = fields::request_id(request.headers_mut(), policy.preserve_request_id);
        {
            let mut outcome = self.outcome.borrow_mut();
            outcome.client = client;
            outcome.request_id = request_id;
            fields::trace_id(request.headers()).clone_into(&mut outcome.trace_id);
        }
        let scheme = fields::scheme(request.headers(), meta.tls.is_some(), policy);
        let decision = view.request(
            &Head {
                method: request.method().as_str(),
                scheme,
                authority: &authority,
                path: &path,
                query: uri.query(),
                fields: Fields::Typed(request.headers()),
                conn: meta,
            },
            self.dice,
        );
        self.outcome.borrow_mut().why = decision.why;
        let route = Self::admit(&view, &decision)?;
        let to = asked.admit(route).inspect_err(|_refused| {
            self.conn.worker.observe.count(Counter::UpgradesRefused);
        })?;
        let switch = to.map(|to| Switch::new(to, stream));
        let target = prepare::Target {
            authority: &authority,
            path: &path,
            query: uri.query(),
            scheme,
            conn: meta,
            client: client.ip(),
            policy,
            edits: view.edits(decision.edits),
            switch: switch.as_ref(),
        };
        self.forward(request, route, &target).await.map_err(|error| self.failed(&error))
    }

    /// Refuses what can be read in two ways or is not offered; gives the authority.
    fn understood(&self, request: &Request<Incoming>) -> Result<String, framing::Reject> {
        framing::request(self.version, request.headers())?;
        let fragment = self.conn.phase.has_fragment();
        self.one_length(request.headers())?;
        if fragment {
            return Err(framing::Reject::fragment());
        }
        let extended = request.extensions().get::<hyper::ext::Protocol>().is_some();
        if request.method() == http::Method::CONNECT && !extended {
            return framing::connect(self.version, request.uri(), request.headers());
        }
        framing::target(request.uri())?;
        framing::authority(self.version, request.uri(), request.headers())
    }

    /// Refuses a chunked request that also has a length. Where the bytes of the head are not at hand, the connection ends
    /// after it, so that nothing behind it can be read in two ways (RFC 9112 6.3).
    fn one_length(&self, fields: &HeaderMap) -> Result<(), framing::Reject> {
        let phase = &self.conn.phase;
        let chunked = self.version == Version::HTTP_11 && fields.contains_key(header::TRANSFER_ENCODING);
        let verdict = chunked.then(|| phase.has_length());
        phase.forget_head();
        match verdict {
            Some(Some(true)) => Err(framing::Reject::framing("both Content-Length and Transfer-Encoding")),
            Some(None) => {
                self.last.set(true);
                Ok(())
            }
            None | Some(Some(false)) => Ok(()),
        }
    }

    /// The number of fields and, for HTTP/2, their bytes: hyper holds both for HTTP/1.1 alone. Cookie crumbs count one by one.
    fn bounded(&self, fields: &HeaderMap) -> Result<(), Answer> {
        let worker = &self.conn.worker;
        let limits = &worker.shared.limits;
        let bytes = if self.version == Version::HTTP_2 { framing::bytes(&self.path, fields) } else { 0 };
        if bytes <= limits.max_header_bytes && fields.len() <= limits.max_headers {
            return Ok(());
        }
        worker.observe.count(Counter::HeadersTooLarge);
        Err(Answer::new(StatusCode::REQUEST_HEADER_FIELDS_TOO_LARGE, Reason::HEADERS_TOO_LARGE))
    }

    /// Step 6: go on, or a final answer.
    fn admit<'a>(view: &'a View<R>, decision: &Decision) -> Result<&'a Route, Answer> {
        match &decision.action {
            Action::Forward(ix) => Ok(view.route(*ix)),
            Action::Respond(answer) => Err(Answer::clone(answer)),
            Action::Close(reason) => Err(Answer::new(StatusCode::FORBIDDEN, reason.clone())),
            // A tunnel wants an upgrade, which HTTP does not offer yet.
            Action::Tunnel(_) => Err(Answer::new(StatusCode::FORBIDDEN, Reason::BAD_REQUEST)),
        }
    }

    /// Steps 7 to 9, under the request's deadlines.
    async fn forward(
        self: &Rc<Self>,
        request: Request<Incoming>,
        route: &Route,
        target: &prepare::Target<'_>,
    ) -> Result<Response<OutBody<R>>, Error> {
        let process = &self.conn.worker.shared.limits;
        let some = |limit: Duration| (!limit.is_zero()).then_some(limit);
        let timeout = some(route.timeout.unwrap_or(process.upstream_timeout));
        let idle = some(route.idle_timeout.unwrap_or(process.stream_idle_timeout));
        self.limits.set((timeout.map(|timeout| self.start + timeout), idle));
        self.watch.changed();
        self.outcome.borrow_mut().cluster = Some(Arc::clone(&route.cluster.name));
        let body = |incoming: Incoming| {
            if incoming.is_end_stream() {
                ReqBody::Empty
            } else {
                ReqBody::Incoming(incoming, Rc::clone(&self.up))
            }
        };
        let request = prepare::upstream_request(request, body, target)?;
        let mut kept = Kept { attempts: Attempts::default(), outcome: &self.outcome };
        let sending = self.conn.worker.upstream.dispatch(route, request, &mut kept.attempts);
        let sent = self.within_deadlines(sending).await;
        drop(kept);
        match sent.map_err(|error| self.client_failure().unwrap_or(error))? {
            Answered::Whole(response) => self.relay(response, target),
            Answered::Switched(answer, tunnel) => self.switch(answer, tunnel, target),
        }
    }

    fn relay(
        self: &Rc<Self>,
        response: Response<ResBody>,
        target: &prepare::Target<'_>,
    ) -> Result<Response<OutBody<R>>, Error> {
        if framing::message(response.version(), response.headers()).is_err() {
            return Err(self.misspoken("an answer with ambiguous framing"));
        }
        let tunnel_wanted = target.switch.is_some_and(|switch| switch.stream.is_some());
        if tunnel_wanted && response.status().is_success() {
            // Over HTTP/2 that would mean that it has switched.
            return Err(self.misspoken("it answered a success and did not switch protocols"));
        }
        let (mut parts, body) = response.into_parts();
        prepare::response_fields(&mut parts.headers, target.edits, target.policy);
        self.note_trailers(&parts.headers);
        let mut out = Response::new(OutBody::upstream(body, Rc::clone(self)));
        *out.status_mut() = parts.status;
        *out.headers_mut() = parts.headers;
        Ok(out)
    }

    /// The upstream's answer is no HTTP.
    pub(super) fn misspoken(&self, what: &str) -> Error {
        let upstream = self.outcome.borrow().cluster.as_deref().unwrap_or_default().to_owned();
        let (reason, retry) = (Reason::UPSTREAM_PROTOCOL, crate::Retry::Never);
        Error::Upstream { upstream, reason, retry, message: what.to_owned() }
    }

    /// Waits for the head of the answer.
    async fn within_deadlines<T>(&self, sending: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
        tokio::pin!(sending);
        loop {
            let Some((at, reason)) = self.next_deadline() else { return sending.await };
            tokio::select! {
                sent = &mut sending => return sent,
                () = sleep_until(at) => {
                    // Bytes of the request may have moved the idle deadline meanwhile.
                    if self.next_deadline().is_some_and(|(at, _)| at <= Instant::now()) {
                        self.count_timeout(&reason);
                        return Err(Error::Timeout { reason, after: self.start.elapsed() });
                    }
                }
            }
        }
    }

    /// What the client's body did to the exchange with the upstream: that fails with it, by no fault of the upstream's.
    fn client_failure(&self) -> Option<Error> {
        match self.up.broken()? {
            Broken::Cut => Some(Error::DownstreamClosed),
            Broken::Malformed => {
                self.conn.worker.observe.count(Counter::BadFraming);
                // Where the next request begins cannot be known.
                self.last.set(true);
                let message = "the chunks of the body cannot be read".to_owned();
                Some(Error::Downstream { reason: Reason::BAD_FRAMING, message })
            }
        }
    }

    /// The upstream's answer has failed on its way, perhaps because we have cut its connection; gives the reason.
    pub(super) fn cut(&self, by_us: Option<Reason>) -> Reason {
        let reason = match (by_us, self.client_failure()) {
            (Some(reason), _) => reason,
            (None, Some(error)) => error.reason(),
            (None, None) => Reason::UPSTREAM_RESET,
        };
        self.fail(&reason);
        reason
    }

    fn count_timeout(&self, reason: &Reason) {
        let counter = if *reason == Reason::STREAM_IDLE {
            Counter::StreamIdleTimeout
        } else {
            Counter::UpstreamTimeout
        };
        self.conn.worker.observe.count(counter);
    }

    fn refuse(&self, reject: framing::Reject) -> Answer {
        if reject.reason == Reason::BAD_FRAMING {
            self.conn.worker.observe.count(Counter::BadFraming);
        }
        tracing::debug!(reason = reject.reason.code(), "request refused: {}", reject.message);
        let mut answer = Answer::new(reject.status, reject.reason);
        // What follows on this connection could be read in two ways.
        answer.headers.push((header::CONNECTION, HeaderValue::from_static("close")));
        answer
    }

    fn failed(&self, error: &Error) -> Answer {
        let why = self.outcome.borrow().why;
        tracing::warn!(route = self.view.name(why), reason = error.reason().code(), "{error}");
        respond::of_error(error)
    }

    fn answer(self: &Rc<Self>, answer: Answer) -> Response<OutBody<R>> {
        self.outcome.borrow_mut().reason = answer.reason.clone();
        // The upstream's time is over; what is left is the client's to read.
        self.limits.set((None, self.limits.get().1));
        self.down.add(0);
        let (mut response, mut body) = respond::response(answer, self.grpc);
        if self.method == http::Method::HEAD && !body.is_empty() {
            // It says what GET would get (RFC 9110 9.3.2). hyper leaves the body out over HTTP/1.1 alone; as DATA frames
            // it breaks the stream.
            response.headers_mut().insert(header::CONTENT_LENGTH, body.len().into());
            body = Bytes::new();
        }
        let mut response = response.map(|()| OutBody::full(body, Rc::clone(self)));
        let policy = self.view.http(&self.conn.meta);
        response.headers_mut().insert(header::SERVER, prepare::server_name(policy));
        if self.version == Version::HTTP_2 {
            response.headers_mut().remove(header::CONNECTION);
        }
        self.note_trailers(response.headers());
        response
    }

    /// Counts bytes of the response.
    pub(super) fn sent(&self, bytes: usize) {
        self.down.add(bytes);
    }

    /// Keeps the gRPC status, which comes in the trailers or, alone, in the head.
    pub(super) fn note_trailers(&self, fields: &HeaderMap) {
        if self.grpc
            && let Some(Ok(status)) = fields.get("grpc-status").map(HeaderValue::to_str)
        {
            self.outcome.borrow_mut().grpc_status = status.parse().ok();
        }
    }

    /// The request is over as far as its own deadline goes: a tunnel follows, which ends when it rests for too long.
    pub(super) fn begin_tunnel(&self) {
        self.switched.set(true);
        self.limits.set((None, self.limits.get().1));
        self.down.add(0);
        self.watch.changed();
    }

    /// How long a tunnel may rest; zero: for ever.
    pub(super) fn idle_limit(&self) -> Duration {
        self.limits.get().1.unwrap_or_default()
    }

    /// The tunnel has ended.
    pub(super) fn tunnelled(&self, reason: Reason) {
        self.outcome.borrow_mut().reason = reason;
        self.ended.set(true);
    }

    /// The response has ended whole.
    pub(super) fn finish(&self) {
        self.ended.set(true);
    }

    /// Why an exchange that did not end ended: we have cut its connection, or the client has gone.
    fn cause(&self) -> Reason {
        if std::thread::panicking() {
            return Reason::INTERNAL;
        }
        let drain = self.conn.entry.drain().filter(|drain| drain.deadline <= Instant::now());
        drain.map_or(Reason::DOWNSTREAM_RESET, |drain| drain.reason)
    }
}

impl<R: Router> Deadline for Exchange<R> {
    fn next_deadline(&self) -> Option<(Instant, Reason)> {
        let (end, idle) = self.limits.get();
        let active = self.up.active().max(self.down.active());
        let idle = idle.map(|idle| (active + idle, Reason::STREAM_IDLE));
        let end = end.map(|end| (end, Reason::UPSTREAM_TIMEOUT));
        [end, idle].into_iter().flatten().min_by_key(|(at, _)| *at)
    }

    /// The response was cut.
    fn fail(&self, reason: &Reason) {
        if matches!(reason.code(), "upstream_timeout" | "stream_idle_timeout") {
            self.count_timeout(reason);
        }
        self.ended.set(true);
        self.limits.set((None, None));
        self.outcome.borrow_mut().reason = reason.clone();
    }
}

impl<R: Router> Drop for Exchange<R> {
    fn drop(&mut self) {
        self.conn.phase.end(self.up.whole());
        self.conn.worker.observe.gauge(Gauge::RequestsActive, -1);
        let outcome = self.outcome.borrow();
        let vanished = !self.ended.get() && outcome.reason == Reason::OK;
        if self.version == Version::HTTP_2 {
            if self.ended.get() {
                self.conn.phase.resets.answered();
            } else if vanished {
                self.conn.phase.resets.gave_up(self.start.elapsed());
            }
        }
        self.conn.worker.observe.record(&Record {
            conn: &self.conn.meta,
            method: self.method.as_str(),
            authority: &outcome.authority,
            path: &self.path,
            protocol: framing::protocol(self.version),
            status: outcome.status,
            grpc_status: outcome.grpc_status,
            reason: if vanished { self.cause() } else { outcome.reason.clone() },
            duration: self.start.elapsed(),
            bytes_in: self.up.bytes(),
            bytes_out: self.down.bytes(),
            client: outcome.client,
            route: self.view.name(outcome.why),
            cluster: outcome.cluster.as_deref().unwrap_or_default(),
            attempts: &outcome.attempts,
            dice: self.dice,
            request_id: &outcome.request_id,
            trace_id: &outcome.trace_id,
        });
    }
}
