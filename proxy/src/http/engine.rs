//! Step 4, serve: hyper's HTTP/1.1 and HTTP/2 servers under our deadlines, limits and drain.

use std::{pin::Pin, rc::Rc, sync::Arc, time::Duration};

use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::service_fn,
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, Sleep, sleep_until},
};

use super::{
    body::OutBody,
    exchange::{self, Conn},
    stuck::StreamExecutor,
    timed::{Phase, Timed},
};
use crate::{
    ConnMeta,
    conn::Alpn,
    net::Worker,
    observe::Counter,
    registry::{Drain, Entry, Received},
    route::Router,
};

/// Serves HTTP on a connection to its end.
pub(crate) async fn serve<R, S>(worker: Rc<Worker<R>>, stream: S, meta: Arc<ConnMeta>, entry: Entry)
where
    R: Router,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let limits = Arc::clone(&worker.shared.limits);
    let phase = Phase::new(limits.max_resets);
    let entry = Rc::new(entry);
    let h2 = meta.alpn == Some(Alpn::H2);
    let io = TokioIo::new(Timed::new(stream, Rc::clone(&phase), Rc::clone(&worker.observe), h2));
    let conn = Rc::new(Conn {
        worker: Rc::clone(&worker),
        meta,
        phase: Rc::clone(&phase),
        entry: Rc::clone(&entry),
    });
    let service = {
        let conn = Rc::clone(&conn);
        service_fn(move |request: Request<Incoming>| {
            let conn = Rc::clone(&conn);
            async move {
                Ok::<Response<OutBody<R>>, std::convert::Infallible>(exchange::serve(conn, request).await)
            }
        })
    };
    let idle = worker.view().http(&conn.meta).idle_timeout.unwrap_or(limits.idle_timeout);
    let deadlines =
        Deadlines { idle, header: limits.header_timeout, last_request: limits.last_request_within };
    let driver = Driver { phase, entry, deadlines, meta: Arc::clone(&conn.meta), worker };
    if h2 {
        let mut builder = http2::Builder::new(StreamExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            // What is too large by our own count is answered and counted; h2 answers without a word what is twice that.
            .max_header_list_size(u32::try_from(limits.max_header_bytes * 2).unwrap_or(u32::MAX))
            .max_pending_accept_reset_streams(limits.max_resets)
            .max_local_error_reset_streams(limits.max_resets)
            .initial_stream_window_size(64 * 1024)
            .initial_connection_window_size(1024 * 1024)
            .keep_alive_interval(Duration::from_mins(1))
            .keep_alive_timeout(Duration::from_secs(20));
        let running = builder.serve_connection(io, service);
        driver.run(Box::pin(running), http2::Connection::graceful_shutdown, true).await;
    } else {
        let mut builder = http1::Builder::new();
        builder
            .max_headers(limits.max_headers)
            .max_buf_size(limits.max_header_bytes.max(8 * 1024))
            .half_close(false)
            .auto_date_header(true);
        let running = builder.serve_connection(io, service);
        driver.run(Box::pin(running), http1::Connection::graceful_shutdown, false).await;
    }
}

struct Deadlines {
    idle: Duration,
    header: Duration,
    /// From a drain's order on: see [`Limits::last_request_within`](crate::limits::Limits).
    last_request: Duration,
}

/// A drain, and when this connection learned of it.
struct Ordered {
    drain: Drain,
    since: Instant,
}

impl Ordered {
    fn now(drain: Drain) -> Self {
        Self { drain, since: Instant::now() }
    }
}

/// Drives a connection under its deadlines and orders.
struct Driver<R> {
    phase: Rc<Phase>,
    entry: Rc<Entry>,
    deadlines: Deadlines,
    meta: Arc<ConnMeta>,
    worker: Rc<Worker<R>>,
}

impl<R: Router> Driver<R> {
    async fn run<C>(self, mut running: Pin<Box<C>>, goodbye: impl Fn(Pin<&mut C>), h2: bool)
    where
        C: Future<Output = Result<(), hyper::Error>>,
    {
        let mut drain = self.entry.drain().map(Ordered::now);
        let mut said_goodbye = h2 && drain.is_some();
        if said_goodbye {
            goodbye(running.as_mut());
        }
        let mut timer = Box::pin(sleep_until(self.next(drain.as_ref())));
        loop {
            tokio::select! {
                biased;
                ended = &mut running => {
                    if let Err(error) = ended {
                        self.note(&error);
                    }
                    return;
                }
                received = self.entry.ordered() => if let Received::Drain(ordered) = received {
                    if h2 && !said_goodbye {
                        goodbye(running.as_mut());
                        said_goodbye = true;
                    }
                    let since = drain.take().map(|drain| drain.since);
                    let ordered = Ordered::now(ordered);
                    drain = Some(Ordered { since: since.unwrap_or(ordered.since), ..ordered });
                },
                () = self.phase.flooded() => return self.refuse(Counter::MaxResets, "too many early resets"),
                () = Rearm { timer: &mut timer, wanted: || self.next(drain.as_ref()) } => {
                    if self.is_over(drain.as_ref()) {
                        return;
                    }
                    let last = |drain: &Ordered| self.last_request(drain) <= Instant::now();
                    if !said_goodbye && self.phase.is_at_rest() && drain.as_ref().is_some_and(last) {
                        goodbye(running.as_mut());
                        said_goodbye = true;
                    }
                }
            }
        }
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
            if self.phase.is_at_rest() {
                next = next.min(self.last_request(drain));
            }
        }
        next
    }

    /// Until when a connection at rest may ask once more: counted from the order, however long it has rested before.
    fn last_request(&self, drain: &Ordered) -> Instant {
        drain.since + self.deadlines.last_request
    }

    fn note(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            self.worker.observe.count(Counter::HeadersTooLarge);
        } else if error.is_parse() {
            self.worker.observe.count(Counter::BadFraming);
        } else if is_flood(error) {
            // h2 does not say of what: of CONTINUATION frames, or of the resets that it counts itself.
            let counter =
                if self.phase.in_continuation.get() { Counter::HeadersTooLarge } else { Counter::MaxResets };
            self.refuse(counter, &error.to_string());
        }
        tracing::debug!(%error, "downstream connection ended");
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

/// Polls one lasting timer; re-arms it only when the deadline has moved to an earlier time, or when it fired too soon.
struct Rearm<'a, F> {
    timer: &'a mut Pin<Box<Sleep>>,
    wanted: F,
}

impl<F: Fn() -> Instant + Unpin> Future for Rearm<'_, F> {
    type Output = ();

    fn poll(mut self: Pin<&mut Self>, cx: &mut std::task::Context<'_>) -> std::task::Poll<()> {
        use std::task::Poll;
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
