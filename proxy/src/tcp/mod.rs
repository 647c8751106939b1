//! TCP connections: what `Router::connection` decides for connections that carry no HTTP.

use std::{rc::Rc, sync::Arc};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    time::Instant,
};

use crate::{
    ConnMeta, Reason,
    message::Tally,
    net::{Abort, Worker},
    observe::Record,
    registry::Entry,
    relay::{Ended, Side, Terms, relay},
    route::{Action, Dice, Route, RouteId, Router},
    upstream::Attempts,
};

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
    let terms = Terms { downstream: Some(entry), idle, up, down };
    let ended = relay(worker, &mut stream, &mut tunnel, terms).await;
    if matches!(ended, Ended::Reset(Side::Upstream) | Ended::Truncated(Side::Upstream)) {
        attempts.failure = tunnel.failure();
        if tunnel.refused_certificate() {
            return Reason::UPSTREAM_REFUSED_CERTIFICATE;
        }
    }
    ended.reason()
}
