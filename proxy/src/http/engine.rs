//! Step 4, serve: hyper's HTTP/1.1 and HTTP/2 servers under our deadlines, limits and drain.

use std::{convert::Infallible, pin::Pin, rc::Rc, sync::Arc, time::Duration};

use bytes::Bytes;
use hyper::{
    Request, Response,
    body::Incoming,
    server::conn::{http1, http2},
    service::{Service, service_fn},
};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncWrite, AsyncWriteExt as _},
    time::timeout,
};

use super::{
    body::OutBody,
    driver::{Deadlines, Driver, Over, Woken},
    exchange::{self, Conn},
    stuck::StreamExecutor,
    timed::{Phase, Timed},
    tunnel::Seam,
};
use crate::{
    ConnMeta,
    conn::Alpn,
    limits::Limits,
    net::{Abort, Prefixed, Worker},
    registry::Entry,
    route::Router,
};

/// What is left to do on a connection that has ended takes no longer than this.
const GOODBYE: Duration = Duration::from_secs(5);

/// Serves HTTP on a connection to its end.
pub(crate) async fn serve<R, S>(worker: Rc<Worker<R>>, stream: S, meta: Arc<ConnMeta>, entry: Entry)
where
    R: Router,
    S: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let limits = Arc::clone(&worker.shared.limits);
    let phase = Phase::new(limits.max_resets);
    let entry = Rc::new(entry);
    let h2 = meta.alpn == Some(Alpn::H2);
    let seam: Rc<Seam<R>> = Rc::default();
    let conn = Rc::new(Conn {
        worker: Rc::clone(&worker),
        meta,
        phase: Rc::clone(&phase),
        entry: Rc::clone(&entry),
        seam: Rc::downgrade(&seam),
    });
    let idle = worker.view().http(&conn.meta).idle_timeout.unwrap_or(limits.idle_timeout);
    let deadlines =
        Deadlines { idle, header: limits.header_timeout, last_request: limits.last_request_within };
    let driver = Driver { phase, entry, deadlines, meta: Arc::clone(&conn.meta), worker, h2 };
    if h2 {
        serve_http2(&driver, &conn, &seam, stream).await;
    } else {
        serve_http1(&driver, &conn, &seam, stream).await;
    }
}

async fn serve_http2<R, S>(driver: &Driver<R>, conn: &Rc<Conn<R>>, seam: &Seam<R>, stream: S)
where
    R: Router,
    S: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let io = Timed::new(stream, Rc::clone(&driver.phase), Rc::clone(&driver.worker.observe), true);
    let service = service(conn);
    let builder = http2(&driver.worker.shared.limits);
    let mut running = Box::pin(builder.serve_connection(TokioIo::new(io), service));
    let over = driver.run(&mut driver.clock(), running.as_mut(), http2::Connection::graceful_shutdown).await;
    if over == Over::Done {
        // What has arrived is still passed on.
        let _late = timeout(GOODBYE, seam.streams_ended()).await;
    }
}

/// In rounds: hyper's state, with its buffers, is there for requests alone. While the connection rests between them, only the
/// stream and what waits for it are.
async fn serve_http1<R, S>(driver: &Driver<R>, conn: &Rc<Conn<R>>, seam: &Seam<R>, stream: S)
where
    R: Router,
    S: AsyncRead + AsyncWrite + Abort + Unpin + 'static,
{
    let mut stream = Prefixed::new(Bytes::new(), stream);
    let mut clock = driver.clock();
    loop {
        let io = Timed::new(stream, Rc::clone(&driver.phase), Rc::clone(&driver.worker.observe), false);
        let builder = http1(&driver.worker.shared.limits);
        // On the heap, so that a connection at rest is no larger than it needs to be.
        let mut running = Box::pin(builder.serve_connection(TokioIo::new(io), service(conn)));
        let over = driver.run(&mut clock, running.as_mut(), http1::Connection::graceful_shutdown).await;
        let opened = seam.take();
        if over == Over::Cut {
            return;
        }
        let parts = Pin::into_inner(running).into_parts();
        stream = parts.io.into_inner().into_inner();
        // A copy: a piece of a large buffer would keep all of it.
        stream.put_back(Bytes::copy_from_slice(&parts.read_buf));
        // Empty or not, it owns hyper's read buffer.
        drop(parts.read_buf);
        if let Some(opened) = opened {
            return Box::pin(opened.relay(stream, Some(&driver.entry))).await;
        }
        if over == Over::Done {
            return say_goodbye(stream).await;
        }
        match driver.park(&mut clock, &mut stream).await {
            Woken::Said(bytes) => stream.put_back(bytes),
            Woken::Goodbye => return say_goodbye(stream).await,
            Woken::Cut => return,
        }
    }
}

/// What hyper calls for each request.
fn service<R: Router>(
    conn: &Rc<Conn<R>>,
) -> impl Service<
    Request<Incoming>,
    Response = Response<OutBody<R>>,
    Error = Infallible,
    Future = impl Future<Output = Result<Response<OutBody<R>>, Infallible>> + use<R>,
> + use<R> {
    let conn = Rc::clone(conn);
    service_fn(move |request| {
        let conn = Rc::clone(&conn);
        async move { Ok(exchange::serve(conn, request).await) }
    })
}

fn http2(limits: &Limits) -> http2::Builder<StreamExecutor> {
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
        .keep_alive_timeout(Duration::from_secs(20))
        // WebSocket over HTTP/2; what a Mapping does not allow is refused there.
        .enable_connect_protocol();
    builder
}

fn http1(limits: &Limits) -> http1::Builder {
    let mut builder = http1::Builder::new();
    builder
        .max_headers(limits.max_headers)
        .max_buf_size(limits.max_header_bytes.max(8 * 1024))
        .half_close(false)
        .auto_date_header(true);
    builder
}

/// hyper ends a connection in good order, unless one of its requests had an `upgrade` field: then it leaves it open, whatever
/// became of that. Another goodbye does no harm.
async fn say_goodbye(mut stream: impl AsyncWrite + Unpin) {
    // Whoever does not listen has gone.
    let _gone_or_late = timeout(GOODBYE, stream.shutdown()).await;
}
