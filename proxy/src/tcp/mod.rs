//! Bytes both ways: what `Router::connection` decides for connections that carry no HTTP.

use std::{rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    time::{Instant, sleep_until},
};

use crate::{
    ConnMeta, Reason,
    message::Tally,
    net::Worker,
    observe::{Counter, Record},
    registry::{Entry, Received},
    route::{Action, Decision, Dice, RouteId, Router},
    upstream::Attempts,
};

/// One buffer each way.
const BUFFER_BYTES: usize = 16 * 1024;

/// Decides about a connection and relays it. `decided`: the `ClientHello` has decided already.
pub(crate) async fn serve<R: Router, S: AsyncRead + AsyncWrite + Unpin>(
    worker: Rc<Worker<R>>,
    stream: S,
    meta: Arc<ConnMeta>,
    entry: Entry,
    decided: Option<Decision>,
) {
    let dice = Dice::new(fastrand::u8(..100));
    let view = worker.view();
    let decision = decided.unwrap_or_else(|| view.connection(&meta, dice));
    let start = Instant::now();
    let (up, down) = (Tally::new(), Tally::new());
    let mut attempts = Attempts::default();
    let (reason, cluster) = match decision.action {
        Action::Tunnel(ix) | Action::Forward(ix) => {
            let route = view.route(ix);
            let idle = route.idle_timeout.unwrap_or(worker.shared.limits.stream_idle_timeout);
            let reason = match worker.upstream.connect(&route.cluster, &mut attempts).await {
                Ok(upstream) => {
                    let reason = relay(stream, upstream, &entry, idle, (&up, &down)).await;
                    if let Some(drain) = entry.drain().filter(|drain| drain.reason == reason) {
                        worker.cut(&drain);
                    }
                    if reason == Reason::STREAM_IDLE {
                        worker.observe.count(Counter::StreamIdleTimeout);
                    }
                    reason
                }
                Err(error) => error.reason(),
            };
            (reason, Arc::clone(&route.cluster.name))
        }
        Action::Close(reason) => (reason, Arc::from("")),
        Action::Respond(answer) => (answer.reason, Arc::from("")),
    };
    worker.observe.record(&Record {
        conn: &meta,
        method: "",
        authority: "",
        path: "",
        protocol: "TCP",
        status: 0,
        grpc_status: None,
        reason,
        duration: start.elapsed(),
        bytes_in: up.bytes(),
        bytes_out: down.bytes(),
        client: meta.client(),
        route: match decision.why {
            RouteId::None => "",
            why @ RouteId::Rule(_) => view.name(why),
        },
        cluster: &cluster,
        attempts: &attempts,
        dice,
        request_id: "",
        trace_id: "",
    });
}

/// Relays until both sides have ended, one fails, nothing moves for `idle`, or a drain's deadline passes.
async fn relay<A, B>(
    downstream: A,
    upstream: B,
    entry: &Entry,
    idle: std::time::Duration,
    (up, down): (&Rc<Tally>, &Rc<Tally>),
) -> Reason
where
    A: AsyncRead + AsyncWrite + Unpin,
    B: AsyncRead + AsyncWrite + Unpin,
{
    let (mut from_client, mut to_client) = tokio::io::split(downstream);
    let (mut from_upstream, mut to_upstream) = tokio::io::split(upstream);
    let both = async {
        // A direction that ends leaves the other open; one that breaks ends both, or the other side would hang.
        tokio::try_join!(
            async {
                copy(&mut from_client, &mut to_upstream, up).await.map_err(|_gone| Reason::DOWNSTREAM_RESET)
            },
            async {
                copy(&mut from_upstream, &mut to_client, down).await.map_err(|_gone| Reason::UPSTREAM_RESET)
            },
        )
    };
    tokio::pin!(both);
    let mut cut: Option<Instant> = None;
    loop {
        let rest = up.active().max(down.active()) + idle;
        let deadline = async {
            match (cut, idle.is_zero()) {
                (Some(at), true) => sleep_until(at).await,
                (Some(at), false) => sleep_until(at.min(rest)).await,
                (None, false) => sleep_until(rest).await,
                (None, true) => std::future::pending().await,
            }
        };
        tokio::select! {
            ended = &mut both => return match ended {
                Ok(((), ())) => Reason::OK,
                Err(reason) => reason,
            },
            received = entry.ordered() => if let Received::Drain(drain) = received {
                cut = Some(drain.deadline);
            },
            () = deadline => {
                let now = Instant::now();
                if cut.is_some_and(|at| at <= now) {
                    return entry.drain().map_or(Reason::DRAIN_TIMEOUT, |drain| drain.reason);
                }
                if up.active().max(down.active()) + idle <= now {
                    return Reason::STREAM_IDLE;
                }
            }
        }
    }
}

/// Copies one direction to its end and says so to the other side: half-closed connections stay half open.
async fn copy<A: AsyncRead + Unpin, B: AsyncWrite + Unpin>(
    from: &mut A,
    to: &mut B,
    tally: &Tally,
) -> std::io::Result<()> {
    let mut buffer = vec![0; BUFFER_BYTES];
    loop {
        let count = from.read(&mut buffer).await?;
        if count == 0 {
            return to.shutdown().await;
        }
        to.write_all(buffer.get(..count).unwrap_or_default()).await?;
        tally.add(count);
    }
}
