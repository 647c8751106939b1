//! The deadlines, orders and end of one connection that speaks HTTP.

use std::{
    future::poll_fn,
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll, ready},
    time::Duration,
};

use bytes::Bytes;
use http::Version;
use tokio::{
    io::{AsyncRead, ReadBuf},
    time::{Instant, Sleep, sleep_until},
};

use super::{frames::Flood, framing, timed::Phase};
use crate::{
    ConnMeta, Reason,
    net::Worker,
    observe::{Counter, Gauge, Refused, WorkerObserve},
    registry::{Drain, Entry, Received},
    route::Router,
};

/// Between the two GOAWAYs of a drain: clients open no new stream after the first, and what is on its way comes within this
/// time (RFC 9113 6.8).
const GOAWAY_NOTICE: Duration = Duration::from_secs(1);

/// Between requests of HTTP/1.1 hyper's state is kept for this long; parking after every request would cost more than it saves.
const PARK_AFTER: Duration = Duration::from_secs(1);

/// How long a connection may rest, and how long its parts may take.
pub(super) struct Deadlines {
    pub(super) idle: Duration,
    pub(super) header: Duration,
    /// From a drain's order on: see [`Limits::last_request_within`](crate::limits::Limits).
    pub(super) last_request: Duration,
}

/// A drain, when this connection learned of it, and whether hyper did.
pub(super) struct Ordered {
    drain: Drain,
    since: Instant,
    said_goodbye: bool,
}

impl Ordered {
    fn now(drain: Drain) -> Self {
        Self { drain, since: Instant::now(), said_goodbye: false }
    }

    /// Another order for the same connection: its time began with the first.
    fn again(before: Option<Self>, drain: Drain) -> Self {
        match before {
            Some(before) => Self { drain, ..before },
            None => Self::now(drain),
        }
    }
}

/// What a connection waits for besides its bytes, from its first request to its end: one timer for all its deadlines, and
/// the drain that was ordered.
pub(super) struct Clock {
    timer: Pin<Box<Sleep>>,
    drain: Option<Ordered>,
}

/// Drives a connection under its deadlines and orders.
pub(super) struct Driver<R> {
    pub(super) phase: Rc<Phase>,
    pub(super) entry: Rc<Entry>,
    pub(super) deadlines: Deadlines,
    pub(super) meta: Arc<ConnMeta>,
    pub(super) worker: Rc<Worker<R>>,
    pub(super) h2: bool,
}

/// How the HTTP of a connection ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Over {
    /// hyper is done with it: what was to be written is, and what hyper has read and not used can be had of it.
    Done,
    /// It failed, or a deadline or an order has cut it.
    Cut,
    /// It has rested for a while between two requests (HTTP/1.1): the next one needs nothing that hyper knows.
    Resting,
}

/// Why a parked connection is parked no longer.
#[derive(Debug)]
pub(super) enum Woken {
    /// The client has said something.
    Said(Bytes),
    /// The client has gone, or its last chance during a drain has passed: the connection ends in good order.
    Goodbye,
    /// It failed, or a deadline or an order has cut it.
    Cut,
}

impl<R: Router> Driver<R> {
    /// The clock of a connection that begins.
    pub(super) fn clock(&self) -> Clock {
        let drain = self.entry.drain().map(Ordered::now);
        if self.h2 && drain.is_some() {
            self.phase.announce_end(h2::Reason::NO_ERROR);
        }
        Clock { timer: Box::pin(sleep_until(self.next(drain.as_ref()))), drain }
    }

    /// Drives a connection until its HTTP is over, or rests.
    pub(super) async fn run<C>(
        &self,
        clock: &mut Clock,
        mut running: Pin<&mut C>,
        goodbye: impl Fn(Pin<&mut C>),
    ) -> Over
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let Clock { timer, drain } = clock;
        loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    return match ended {
                        Ok(()) => Over::Done,
                        Err(error) => {
                            self.note(&error);
                            Over::Cut
                        }
                    };
                }
                received = self.entry.ordered() => if let Received::Drain(ordered) = received {
                    if self.h2 && drain.is_none() {
                        self.phase.announce_end(h2::Reason::NO_ERROR);
                    }
                    *drain = Some(Ordered::again(drain.take(), ordered));
                },
                () = self.phase.resets.flooded() => {
                    self.calm(running).await;
                    return Over::Cut;
                }
                () = Rearm { timer: &mut *timer, wanted: || self.next_or_park(drain.as_ref()) } => {
                    if self.is_over(drain.as_ref()) {
                        return Over::Cut;
                    }
                    if self.park_at(drain.as_ref()).is_some_and(|at| at <= Instant::now()) {
                        return Over::Resting;
                    }
                    if let Some(drain) = drain
                        && self.goodbye_at(drain).is_some_and(|at| at <= Instant::now())
                    {
                        goodbye(running.as_mut());
                        drain.said_goodbye = true;
                    }
                }
            }
        }
    }

    /// Waits for the next bytes of a connection without hyper, under the same deadlines and orders. Reads like any reader
    /// would, so that nothing that TLS has decrypted already can lie unnoticed.
    pub(super) async fn park<S>(&self, clock: &mut Clock, stream: &mut S) -> Woken
    where
        S: AsyncRead + Unpin,
    {
        self.phase.park();
        let _parked = Parked::new(&self.worker.observe);
        let Clock { timer, drain } = clock;
        loop {
            tokio::select! {
                biased;
                said = first_bytes(stream) => return match said {
                    Ok(bytes) if bytes.is_empty() => Woken::Goodbye,
                    Ok(bytes) => Woken::Said(bytes),
                    Err(_reset) => Woken::Cut,
                },
                received = self.entry.ordered() => if let Received::Drain(ordered) = received {
                    *drain = Some(Ordered::again(drain.take(), ordered));
                },
                () = Rearm { timer: &mut *timer, wanted: || self.next(drain.as_ref()) } => {
                    if self.is_over(drain.as_ref()) {
                        return Woken::Cut;
                    }
                    let goodbye = drain.as_ref().and_then(|drain| self.goodbye_at(drain));
                    if goodbye.is_some_and(|at| at <= Instant::now()) {
                        return Woken::Goodbye;
                    }
                }
            }
        }
    }

    /// When the connection has rested for long enough to be parked. Not during a drain, which ends it soon.
    fn park_at(&self, drain: Option<&Ordered>) -> Option<Instant> {
        let may = !self.h2 && drain.is_none() && self.phase.may_park();
        may.then(|| self.phase.idle_since() + PARK_AFTER)
    }

    fn next_or_park(&self, drain: Option<&Ordered>) -> Instant {
        let next = self.next(drain);
        self.park_at(drain).map_or(next, |at| next.min(at))
    }

    /// Ends a connection whose client opens streams only to reset them. hyper cannot say so, so that the I/O does when it
    /// is polled, if the client takes it at once.
    async fn calm<C: Future>(&self, mut running: Pin<&mut C>) {
        self.phase.announce_end(h2::Reason::ENHANCE_YOUR_CALM);
        poll_fn(|cx| Poll::Ready(running.as_mut().poll(cx).is_ready())).await;
        self.refuse(Counter::MaxResets, "too many early resets");
    }

    /// Whether a deadline ends the connection; it is counted.
    fn is_over(&self, drain: Option<&Ordered>) -> bool {
        let now = Instant::now();
        let (phase, observe) = (&self.phase, &self.worker.observe);
        if let Some(drain) = drain.filter(|drain| drain.drain.deadline <= now) {
            self.worker.cut(&drain.drain);
            return true;
        }
        if phase.watch.cut_if_due() {
            return true;
        }
        if phase.head_since().is_some_and(|since| since + self.deadlines.header <= now) {
            observe.count(Counter::HeaderTimeout);
            self.refused(0, Reason::HEADER_TIMEOUT);
            return true;
        }
        let idle = phase.is_idle() && phase.idle_since() + self.deadlines.idle <= now;
        if idle {
            observe.count(Counter::IdleTimeout);
        }
        idle
    }

    /// When something has to be looked at next.
    fn next(&self, drain: Option<&Ordered>) -> Instant {
        let mut next = if self.phase.is_idle() {
            self.phase.idle_since() + self.deadlines.idle
        } else {
            Instant::now() + self.deadlines.idle.max(Duration::from_secs(1))
        };
        if let Some(due) = self.phase.watch.due() {
            next = next.min(due);
        }
        if let Some(since) = self.phase.head_since() {
            next = next.min(since + self.deadlines.header);
        }
        if let Some(drain) = drain {
            next = next.min(drain.drain.deadline);
            if let Some(at) = self.goodbye_at(drain) {
                next = next.min(at);
            }
        }
        next
    }

    /// When hyper is to end the connection. HTTP/1.1: if it is at rest by then, counted from the order, however long it has
    /// rested before; otherwise `connection: close` ends it. HTTP/2: when the client has heard that the end is near. Where
    /// nothing more may be asked: at once.
    fn goodbye_at(&self, ordered: &Ordered) -> Option<Instant> {
        let within = if ordered.drain.at_once() {
            Duration::ZERO
        } else if self.h2 {
            let left = ordered.drain.deadline.saturating_duration_since(ordered.since);
            GOAWAY_NOTICE.min(left / 2)
        } else {
            self.deadlines.last_request
        };
        let due = self.h2 || self.phase.is_at_rest();
        (due && !ordered.said_goodbye).then(|| ordered.since + within)
    }

    fn note(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            self.worker.observe.count(Counter::HeadersTooLarge);
            self.refused(431, Reason::HEADERS_TOO_LARGE);
        } else if error.is_parse() {
            self.worker.observe.count(Counter::BadFraming);
            self.refused(400, Reason::BAD_FRAMING);
        } else if self.phase.flood.get().is_some() || is_flood(error) {
            let (counter, why) = match self.phase.flood.get() {
                Some(Flood::Headers) => (Counter::HeadersTooLarge, "a header block without end"),
                Some(Flood::EmptyFrames) => (Counter::EmptyFrames, "DATA frames that carry nothing"),
                // The client may have gone before it was told.
                Some(Flood::Resets) | None => (Counter::MaxResets, "too many resets"),
            };
            self.refuse(counter, why);
        } else if !self.h2 && self.phase.is_idle() && self.phase.is_no_http() {
            self.worker.observe.count(Counter::BadFraming);
            self.refused(0, Reason::BAD_FRAMING);
        }
        tracing::debug!(%error, "downstream connection ended");
    }

    /// A head that no exchange has seen: hyper has answered, or nobody.
    fn refused(&self, status: u16, reason: Reason) {
        let protocol = framing::protocol(if self.h2 { Version::HTTP_2 } else { Version::HTTP_11 });
        let after = self.phase.head_since().map(|since| since.elapsed()).unwrap_or_default();
        self.worker.observe.refused(&self.meta, Refused { protocol, status, reason, after });
    }

    /// The client does what no honest one does: the connection ends.
    fn refuse(&self, counter: Counter, why: &str) {
        self.worker.observe.count(counter);
        tracing::warn!(listener = %self.meta.listener, peer = %self.meta.client(), "HTTP/2 flood: {why}");
    }
}

/// Whether h2 itself has ended a connection because its client asked for too much.
fn is_flood(error: &hyper::Error) -> bool {
    let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<h2::Error>());
    source.is_some_and(|error| error.is_library() && error.reason() == Some(h2::Reason::ENHANCE_YOUR_CALM))
}

/// Counts a parked connection.
struct Parked<'a>(&'a WorkerObserve);

impl<'a> Parked<'a> {
    fn new(observe: &'a WorkerObserve) -> Self {
        observe.gauge(Gauge::DownstreamParked, 1);
        Self(observe)
    }
}

impl Drop for Parked<'_> {
    fn drop(&mut self) {
        self.0.gauge(Gauge::DownstreamParked, -1);
    }
}

/// The next bytes of a stream, into a buffer that is there only while it is read; empty at the stream's end.
async fn first_bytes<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Bytes> {
    poll_fn(|cx| {
        let mut bytes = [0; 1024];
        let mut read = ReadBuf::new(&mut bytes);
        ready!(Pin::new(&mut *stream).poll_read(cx, &mut read))?;
        Poll::Ready(Ok(Bytes::copy_from_slice(read.filled())))
    })
    .await
}

/// Polls one lasting timer; re-arms it only when the deadline has moved to an earlier time, or when it fired too soon.
struct Rearm<'a, F> {
    timer: &'a mut Pin<Box<Sleep>>,
    wanted: F,
}

impl<F: Fn() -> Instant + Unpin> Future for Rearm<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<()> {
        let wanted = (self.wanted)();
        if wanted < self.timer.deadline() {
            self.timer.as_mut().reset(wanted);
        }
        match self.timer.as_mut().poll(cx) {
            Poll::Pending => Poll::Pending,
            Poll::Ready(()) => {
                // The next look re-arms; until then it lies a little ahead so that it is not ready at once.
                let ahead = wanted.max(Instant::now() + Duration::from_millis(1));
                self.timer.as_mut().reset(ahead);
                Poll::Ready(())
            }
        }
    }
}
