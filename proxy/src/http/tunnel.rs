//! The tunnel that comes of a request: from the upstream's answer to the record at its end.

use std::{cell::RefCell, rc::Rc};

use http::{Response, StatusCode};
use hyper_util::rt::TokioIo;
use tokio::{
    io::{AsyncRead, AsyncWrite},
    task::JoinSet,
};

use super::{body::OutBody, exchange::Exchange, prepare};
use crate::{
    Error, Reason,
    net::Abort,
    observe::Counter,
    registry::Entry,
    relay::{Terms, relay},
    route::Router,
    upstream::Tunnel,
};

/// Where exchanges leave their tunnels for the connection that carries them: one for each connection, owned by what serves
/// it, so that they end with it.
pub(super) struct Seam<R: Router> {
    /// The connection becomes this one (HTTP/1.1).
    opened: RefCell<Option<Opened<R>>>,
    /// Those of its streams (HTTP/2).
    streams: RefCell<JoinSet<()>>,
}

impl<R: Router> Default for Seam<R> {
    fn default() -> Self {
        Self { opened: RefCell::default(), streams: RefCell::default() }
    }
}

impl<R: Router> Seam<R> {
    /// The tunnel that the connection is to become.
    pub(super) fn take(&self) -> Option<Opened<R>> {
        self.opened.borrow_mut().take()
    }

    /// Waits for the tunnels of streams to end.
    pub(super) async fn streams_ended(&self) {
        let mut streams = self.streams.take();
        while streams.join_next().await.is_some() {}
    }
}

/// A tunnel whose client waits for it.
pub(super) struct Opened<R: Router> {
    upstream: Tunnel,
    exchange: Rc<Exchange<R>>,
}

impl<R: Router> Opened<R> {
    /// Relays what both sides say from now on, to the end; the exchange's record is written then. `entry`: the client's
    /// connection, if nobody else heeds what is ordered of it.
    pub(super) async fn relay<S>(self, mut downstream: S, entry: Option<&Entry>)
    where
        S: AsyncRead + AsyncWrite + Abort + Unpin,
    {
        let Self { mut upstream, exchange } = self;
        let terms =
            Terms { downstream: entry, idle: exchange.idle_limit(), up: &exchange.up, down: &exchange.down };
        let ended = relay(&exchange.conn.worker, &mut downstream, &mut upstream, terms).await;
        exchange.tunnelled(ended.reason());
    }
}

impl<R: Router> Exchange<R> {
    /// The upstream has switched: the head of its answer is passed on, and what follows on the connection or stream is a tunnel.
    pub(super) fn switch(
        self: &Rc<Self>,
        answer: Response<()>,
        upstream: Tunnel,
        target: &prepare::Target<'_>,
    ) -> Result<Response<OutBody<R>>, Error> {
        let (mut parts, ()) = answer.into_parts();
        let Some(switch) = target.switch else { return Err(Error::Limit(Reason::INTERNAL)) };
        let chosen = switch.chosen(&parts.headers);
        prepare::response_fields(&mut parts.headers, target.edits, target.policy);
        switch.answered(&mut parts.headers, chosen).map_err(|what| self.misspoken(what))?;
        let Some(seam) = self.conn.seam.upgrade() else { return Err(Error::DownstreamClosed) };
        self.begin_tunnel();
        self.conn.worker.observe.count(Counter::Upgrades);
        let opened = Opened { upstream, exchange: Rc::clone(self) };
        match switch.stream.clone() {
            None => *seam.opened.borrow_mut() = Some(opened),
            Some(stream) => {
                let mut streams = seam.streams.borrow_mut();
                while streams.try_join_next().is_some() {}
                streams.spawn_local(async move {
                    // Without an answer the client has gone, as the exchange says when it is dropped.
                    if let Ok(stream) = stream.await {
                        opened.relay(TokioIo::new(stream), None).await;
                    }
                });
            }
        }
        let mut response = Response::new(OutBody::none(Rc::clone(self)));
        let over_http2 = switch.stream.is_some() && parts.status == StatusCode::SWITCHING_PROTOCOLS;
        *response.status_mut() = if over_http2 { StatusCode::OK } else { parts.status };
        *response.headers_mut() = parts.headers;
        Ok(response)
    }
}
