//! Bytes both ways between a client and an upstream: TCP connections, and HTTP connections that became tunnels.

mod flow;

use std::time::Duration;

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

use crate::{
    message::Tally,
    net::{Abort, Worker},
    observe::{Counter, Gauge, WorkerObserve},
    registry::{Drain, Entry, Received},
    upstream::Tunnel,
};
pub(crate) use flow::{Ended, Side};

/// What a relay goes by.
pub(crate) struct Terms<'a> {
    /// The client's connection; `None`: it is not this relay that heeds what is ordered of it.
    pub(crate) downstream: Option<&'a Entry>,
    /// Nothing moves either way for this long; zero: may rest for ever.
    pub(crate) idle: Duration,
    /// To the upstream.
    pub(crate) up: &'a Tally,
    /// To the client.
    pub(crate) down: &'a Tally,
}

/// Relays until both sides have ended, one fails, nothing moves for too long, or the deadline of a drain of either connection
/// passes. The end is counted. A reset is passed on as one, and what was cut does not look like the end.
pub(crate) async fn relay<R, S>(
    worker: &Worker<R>,
    downstream: &mut S,
    upstream: &mut Tunnel,
    terms: Terms<'_>,
) -> Ended
where
    S: AsyncRead + AsyncWrite + Abort + Unpin,
{
    let _active = Active::new(&worker.observe);
    let mut cut = None;
    let ended = {
        let (io, entry) = upstream.parts();
        let ordered = async {
            let drain = ordered(terms.downstream, entry).await;
            let reason = drain.reason.clone();
            cut = Some(drain);
            reason
        };
        flow::both(downstream, io, ordered, terms.idle, (terms.up, terms.down)).await
    };
    match &ended {
        Ended::Reset(Side::Downstream) => upstream.abort(),
        Ended::Reset(Side::Upstream) => downstream.abort(),
        Ended::Cut(_) => {
            downstream.abort();
            upstream.abort();
        }
        Ended::Idle => worker.observe.count(Counter::StreamIdleTimeout),
        Ended::Whole | Ended::Truncated(_) => {}
    }
    if let Some(drain) = cut {
        worker.cut(&drain);
    }
    ended
}

/// Ends when a drain that was ordered of either side has come to its deadline. It may have been ordered, and taken, before the
/// relay began.
async fn ordered(downstream: Option<&Entry>, upstream: &Entry) -> Drain {
    let mut soonest = sooner(downstream.and_then(Entry::drain), upstream.drain());
    loop {
        let at = soonest.as_ref().map(|drain| drain.deadline);
        let passed = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let of_client = async {
            match downstream {
                Some(entry) => entry.ordered().await,
                None => std::future::pending().await,
            }
        };
        let received = tokio::select! {
            received = of_client => received,
            received = upstream.ordered() => received,
            () = passed => Received::Recheck,
        };
        if let Received::Drain(drain) = received {
            soonest = sooner(soonest, Some(drain));
        }
        if let Some(drain) = soonest.take_if(|drain| drain.deadline <= Instant::now()) {
            return drain;
        }
    }
}

fn sooner(a: Option<Drain>, b: Option<Drain>) -> Option<Drain> {
    [a, b].into_iter().flatten().min_by_key(|drain| drain.deadline)
}

/// Counts a tunnel.
struct Active<'a>(&'a WorkerObserve);

impl<'a> Active<'a> {
    fn new(observe: &'a WorkerObserve) -> Self {
        observe.gauge(Gauge::TunnelsActive, 1);
        Self(observe)
    }
}

impl Drop for Active<'_> {
    fn drop(&mut self) {
        self.0.gauge(Gauge::TunnelsActive, -1);
    }
}
