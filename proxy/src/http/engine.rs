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

/// During a drain an idle HTTP/1.1 connection may still ask once; after this it is closed.
pub(crate) const LAST_REQUEST_WITHIN: Duration = Duration::from_secs(5);

/// Serves HTTP on a connection to its end.
pub(crate) async fn serve<R, S>(worker: Rc<Worker<R>>, stream: S, meta: Arc<ConnMeta>, entry: Entry)
where
    R: Router,
    S: AsyncRead + AsyncWrite + Unpin + 'static,
{
    let phase = Phase::new();
    let entry = Rc::new(entry);
    let io = TokioIo::new(Timed::new(stream, Rc::clone(&phase), meta.alpn != Some(Alpn::H2)));
    let limits = Arc::clone(&worker.shared.limits);
    let conn = Rc::new(Conn {
        worker: Rc::clone(&worker),
        meta,
        phase: Rc::clone(&phase),
        entry: Rc::clone(&entry),
    });
    let h2 = conn.meta.alpn == Some(Alpn::H2);
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
    let deadlines = Deadlines { idle, header: limits.header_timeout };
    let driver = Driver { phase, entry, deadlines, worker };
    if h2 {
        let mut builder = http2::Builder::new(StreamExecutor);
        builder
            .timer(TokioTimer::new())
            .max_concurrent_streams(limits.max_streams)
            .max_header_list_size(u32::try_from(limits.max_header_bytes).unwrap_or(u32::MAX))
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

    /// Until when a connection at rest may ask once more: counted from the order, however long it has rested before.
    fn last_request(&self) -> Instant {
        self.since + LAST_REQUEST_WITHIN
    }
}

/// Drives a connection under its deadlines and orders.
struct Driver<R> {
    phase: Rc<Phase>,
    entry: Rc<Entry>,
    deadlines: Deadlines,
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
                () = Rearm { timer: &mut timer, wanted: || self.next(drain.as_ref()) } => {
                    let now = Instant::now();
                    if let Some(drain) = &drain {
                        if drain.drain.deadline <= now {
                            return self.worker.cut(&drain.drain);
                        }
                        if !said_goodbye && self.phase.is_at_rest() && drain.last_request() <= now {
                            goodbye(running.as_mut());
                            said_goodbye = true;
                        }
                    }
                    if self.phase.watch.cut_if_due() {
                        return;
                    }
                    if !h2 && self.phase.head_since().is_some_and(|since| since + self.deadlines.header <= now) {
                        self.worker.observe.count(Counter::HeaderTimeout);
                        return;
                    }
                    if self.phase.is_idle() && self.phase.idle_since() + self.deadlines.idle <= now {
                        self.worker.observe.count(Counter::IdleTimeout);
                        goodbye(running.as_mut());
                        return;
                    }
                }
            }
        }
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
                next = next.min(drain.last_request());
            }
        }
        next
    }

    fn note(&self, error: &hyper::Error) {
        if error.is_parse_too_large() {
            self.worker.observe.count(Counter::HeadersTooLarge);
        } else if error.is_parse() {
            self.worker.observe.count(Counter::BadFraming);
        }
        tracing::debug!(%error, "downstream connection ended");
    }
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
