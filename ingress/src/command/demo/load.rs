//! The demo's load: 10,000 requests at 800 a second, half over HTTP/1.1, half over HTTP/2, each due at its own time.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use hdrhistogram::Histogram;
use http::{Request, StatusCode};
use http_body_util::{BodyExt as _, Empty};
use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{
    net::TcpStream,
    task::JoinSet,
    time::{Instant, sleep_until, timeout},
};

const REQUESTS: u64 = 10_000;
const PER_SECOND: u64 = 800;
const HTTP1_CONNECTIONS: u64 = 8;
const HTTP2_CONNECTIONS: u64 = 2;
const DEADLINE: Duration = Duration::from_secs(10);

/// What was sent, and how it went.
pub(super) struct Sent {
    pub(super) requests: u64,
    pub(super) http1: u64,
    pub(super) http2: u64,
    pub(super) failed: u64,
    pub(super) first_failure: Option<String>,
    /// From the time a request was due to the end of its answer, in microseconds.
    pub(super) latency: Histogram<u64>,
}

/// What the senders share.
struct Progress {
    done: AtomicU64,
    failed: AtomicU64,
    first_failure: Mutex<Option<String>>,
    latency: Mutex<Histogram<u64>>,
}

impl Progress {
    fn end(&self, due: Instant, result: Result<(), String>) {
        let took = u64::try_from(due.elapsed().as_micros()).unwrap_or(u64::MAX);
        self.latency.lock().saturating_record(took);
        if let Err(why) = result {
            self.failed.fetch_add(1, Relaxed);
            self.first_failure.lock().get_or_insert(why);
        }
        self.done.fetch_add(1, Relaxed);
    }
}

/// Sends everything; `show` is called every two seconds.
pub(super) async fn send(addr: SocketAddr, show: impl Fn(u64, u64, u64)) -> anyhow::Result<Sent> {
    let progress = Arc::new(Progress {
        done: AtomicU64::new(0),
        failed: AtomicU64::new(0),
        first_failure: Mutex::new(None),
        latency: Mutex::new(Histogram::new(3)?),
    });
    let start = Instant::now();
    let mut senders = JoinSet::new();
    let connections = HTTP1_CONNECTIONS + HTTP2_CONNECTIONS;
    // Odd numbers go over HTTP/2, even ones over HTTP/1.1; each connection takes every n-th of them.
    for lane in 0..connections {
        let progress = Arc::clone(&progress);
        let numbers: Vec<u64> = if lane < HTTP1_CONNECTIONS {
            (0..REQUESTS / 2).filter(|n| n % HTTP1_CONNECTIONS == lane).map(|n| n * 2).collect()
        } else {
            let lane = lane - HTTP1_CONNECTIONS;
            (0..REQUESTS / 2).filter(|n| n % HTTP2_CONNECTIONS == lane).map(|n| n * 2 + 1).collect()
        };
        let due = numbers.into_iter().map(move |n| start + Duration::from_micros(n * 1_000_000 / PER_SECOND));
        if lane < HTTP1_CONNECTIONS {
            senders.spawn(over_http1(addr, due.collect(), progress));
        } else {
            senders.spawn(over_http2(addr, due.collect(), progress));
        }
    }
    let mut tick = tokio::time::interval(Duration::from_secs(2));
    loop {
        tokio::select! {
            ended = senders.join_next() => match ended {
                Some(ended) => ended??,
                None => break,
            },
            _ = tick.tick() => show(progress.done.load(Relaxed), REQUESTS, progress.failed.load(Relaxed)),
        }
    }
    let latency = progress.latency.lock().clone();
    let first_failure = progress.first_failure.lock().clone();
    Ok(Sent {
        requests: progress.done.load(Relaxed),
        http1: REQUESTS / 2,
        http2: REQUESTS / 2,
        failed: progress.failed.load(Relaxed),
        first_failure,
        latency,
    })
}

async fn over_http1(addr: SocketAddr, due: Vec<Instant>, progress: Arc<Progress>) -> anyhow::Result<()> {
    let mut sender: Option<http1::SendRequest<Empty<Bytes>>> = None;
    for at in due {
        sleep_until(at).await;
        let usable = match sender.as_mut() {
            Some(held) => held.ready().await.is_ok(),
            None => false,
        };
        if !usable {
            let (fresh, running) = http1::handshake(TokioIo::new(TcpStream::connect(addr).await?)).await?;
            tokio::spawn(running);
            sender = Some(fresh);
        }
        let Some(held) = sender.as_mut() else { continue };
        let request = Request::get("/hello").header("host", addr.to_string()).body(Empty::new())?;
        let result = timeout(DEADLINE, async { whole(held.send_request(request).await).await }).await;
        progress.end(at, result.unwrap_or_else(|_late| Err(format!("no answer within {DEADLINE:?}"))));
    }
    Ok(())
}

async fn over_http2(addr: SocketAddr, due: Vec<Instant>, progress: Arc<Progress>) -> anyhow::Result<()> {
    let io = TokioIo::new(TcpStream::connect(addr).await?);
    let (sender, running) = http2::handshake(TokioExecutor::new(), io).await?;
    let running = tokio::spawn(running);
    let mut streams = JoinSet::new();
    for at in due {
        sleep_until(at).await;
        let (mut sender, progress) = (sender.clone(), Arc::clone(&progress));
        let request = Request::get(format!("http://{addr}/hello")).body(Empty::<Bytes>::new())?;
        streams.spawn(async move {
            let result = timeout(DEADLINE, async { whole(sender.send_request(request).await).await }).await;
            progress.end(at, result.unwrap_or_else(|_late| Err(format!("no answer within {DEADLINE:?}"))));
        });
        while streams.try_join_next().is_some() {}
    }
    while streams.join_next().await.is_some() {}
    running.abort();
    Ok(())
}

/// Reads the whole answer; it counts only if the app said who called.
async fn whole(answer: Result<http::Response<hyper::body::Incoming>, hyper::Error>) -> Result<(), String> {
    let answer = answer.map_err(|error| error.to_string())?;
    let status = answer.status();
    let body = answer.into_body().collect().await.map_err(|error| error.to_string())?.to_bytes();
    if status == StatusCode::OK && body.starts_with(b"hello spiffe://") {
        return Ok(());
    }
    Err(format!("{status}: {}", String::from_utf8_lossy(&body)))
}
