//! TCP connections: what `Router::connection` decides for connections that carry no HTTP, and the relay of their bytes.

mod relay;

use std::{rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::{Instant, sleep_until},
};

use crate::{
    ConnMeta, Reason,
    message::Tally,
    net::{Abort, Worker},
    observe::{Counter, Record},
    registry::{Drain, Entry, Received},
    route::{Action, Dice, Route, RouteId, Router},
    upstream::Attempts,
};
use relay::{Ended, Side, relay};

/// Decides about a connection and relays it.
pub(crate) async fn serve<R: Router, S: AsyncRead + AsyncWrite + Abort + Unpin>(
    worker: Rc<Worker<R>>,
    stream: S,
    meta: Arc<ConnMeta>,
    entry: Entry,
) {
    let dice = Dice::new(fastrand::u8(..100));
    let view = worker.view();
    let decision = view.connection(&meta, dice);
    let start = Instant::now();
    let (up, down) = (Tally::new(), Tally::new());
    let mut attempts = Attempts::default();
    let (reason, cluster) = match decision.action {
        Action::Tunnel(ix) | Action::Forward(ix) => {
            let route = view.route(ix);
            let reason = forward(&worker, (route, &mut attempts), stream, &entry, (&up, &down)).await;
            (reason, Arc::clone(&route.cluster.name))
        }
        Action::Close(reason) => (reason, Arc::from("")),
        Action::Respond(answer) => (answer.reason, Arc::from("")),
    };
    if let Some(failure) = &attempts.failure {
        let (listener, client) = (&meta.listener, meta.client());
        tracing::warn!(%listener, %client, %cluster, reason = reason.code(), "TCP connection: {failure}");
    }
    worker.observe.record(&Record {
        conn: &meta,
        method: "",
        authority: meta.sni.as_deref().unwrap_or_default(),
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

/// Connects and relays; gives why it ended.
async fn forward<R: Router, S: AsyncRead + AsyncWrite + Abort + Unpin>(
    worker: &Worker<R>,
    (route, attempts): (&Route, &mut Attempts),
    mut stream: S,
    entry: &Entry,
    (up, down): (&Tally, &Tally),
) -> Reason {
    let mut tunnel = match worker.upstream.connect(&route.cluster, attempts).await {
        Ok(tunnel) => tunnel,
        Err(error) => return error.reason(),
    };
    let idle = route.idle_timeout.unwrap_or(worker.shared.limits.idle_timeout);
    let mut cut = None;
    let ended = {
        let ordered = async {
            let drain: Drain = ordered(entry, &tunnel.entry).await;
            cut = Some(drain.clone());
            drain.reason
        };
        relay(&mut stream, &mut tunnel.io, ordered, idle, (up, down)).await
    };
    // A reset is passed on as one, and what was cut must not look like the end.
    match &ended {
        Ended::Reset(Side::Downstream) => tunnel.io.abort(),
        Ended::Reset(Side::Upstream) => stream.abort(),
        Ended::Cut(_) => {
            stream.abort();
            tunnel.io.abort();
        }
        Ended::Whole | Ended::Truncated(_) | Ended::Idle => {}
    }
    match &ended {
        Ended::Idle => worker.observe.count(Counter::StreamIdleTimeout),
        Ended::Reset(Side::Upstream) | Ended::Truncated(Side::Upstream) => {
            attempts.failure = tunnel.failure();
            if tunnel.refused_certificate() {
                return Reason::UPSTREAM_REFUSED_CERTIFICATE;
            }
        }
        _ => {}
    }
    if let Some(drain) = cut {
        worker.cut(&drain);
    }
    ended.reason()
}

/// Ends when a drain that was ordered of either side has come to its deadline.
async fn ordered(downstream: &Entry, upstream: &Entry) -> Drain {
    let mut soonest: Option<Drain> = None;
    loop {
        let at = soonest.as_ref().map(|drain| drain.deadline);
        let passed = async {
            match at {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        let received = tokio::select! {
            received = downstream.ordered() => received,
            received = upstream.ordered() => received,
            () = passed => Received::Recheck,
        };
        match (received, soonest) {
            (Received::Drain(drain), Some(present)) if present.deadline <= drain.deadline => {
                soonest = Some(present);
            }
            (Received::Drain(drain), _) => soonest = Some(drain),
            (Received::Recheck, Some(present)) if present.deadline <= Instant::now() => return present,
            (Received::Recheck, present) => soonest = present,
        }
    }
}
