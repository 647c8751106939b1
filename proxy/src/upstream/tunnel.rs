//! Connections that carry bytes instead of requests: fresh ones for TCP, and those that an upstream has switched to another
//! protocol.

use std::{
    io,
    pin::Pin,
    rc::Rc,
    sync::Arc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http::{Request, Response};
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{
    Attempts, Cluster, Upstream,
    conn::{Open, Opener},
    dial::{Tried, endpoints},
    endpoint::Lease,
    stream::Stream,
};
use crate::{
    Error, Reason, Retry,
    message::{ReqBody, ResBody},
    net::{Abort, Prefixed},
    observe::Counter,
    registry::Entry,
    route::Route,
};

/// Bytes to and from an endpoint. The connection stays in the registry, so that drain and revocation reach it.
pub struct Tunnel {
    io: Prefixed<Stream>,
    entry: Entry,
    _open: Open,
    lease: Option<Lease>,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// `read`: what came behind the head of the answer.
    pub(super) fn new(read: Bytes, stream: Stream, entry: Entry, open: Open) -> Self {
        Self { io: Prefixed::new(read, stream), entry, _open: open, lease: None }
    }

    /// Counts as load of its endpoint as long as it lives.
    pub(super) fn held_by(mut self, lease: Lease) -> Self {
        self.lease = Some(lease);
        self
    }

    /// Whether all that was given to the connection before was sent.
    pub(super) fn is_flushed(&self) -> bool {
        self.io.get_ref().is_flushed()
    }

    /// The upstream did not accept our certificate: in TLS 1.3 it says so after our side of the handshake is done.
    pub(crate) fn refused_certificate(&self) -> bool {
        self.io.get_ref().heard().refused_certificate()
    }

    /// The first error of the connection.
    pub(crate) fn failure(&self) -> Option<String> {
        self.io.get_ref().heard().failure().map(str::to_owned)
    }

    /// The bytes, and the connection's place in the registry.
    pub(crate) fn parts(&mut self) -> (&mut (impl AsyncRead + AsyncWrite + Unpin + use<>), &Entry) {
        (&mut self.io, &self.entry)
    }
}

impl Abort for Tunnel {
    fn abort(&self) {
        self.io.abort();
    }
}

impl AsyncRead for Tunnel {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_read(cx, buf)
    }
}

impl AsyncWrite for Tunnel {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.io).poll_write(cx, buf)
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.io).poll_shutdown(cx)
    }
}

/// What an upstream made of a request.
#[derive(Debug)]
pub enum Answered {
    /// It answered.
    Whole(Response<ResBody>),
    /// It switched protocols, as the request asked it to: this is the head of its answer, and what comes from now on is no HTTP.
    /// The caller compares the protocol.
    Switched(Response<()>, Tunnel),
}

impl Upstream {
    /// As [`Self::dispatch`], for a request that asks for no other protocol.
    pub async fn send(
        &self,
        route: &Route,
        request: Request<ReqBody>,
        attempts: &mut Attempts,
    ) -> Result<Response<ResBody>, Error> {
        match self.dispatch(route, request, attempts).await? {
            Answered::Whole(response) => Ok(response),
            Answered::Switched(..) => Err(Error::Upstream {
                upstream: route.cluster.name.to_string(),
                reason: Reason::UPSTREAM_PROTOCOL,
                retry: Retry::Never,
                message: "it switched protocols, which nobody here can follow".to_owned(),
            }),
        }
    }

    /// A fresh connection for bytes, identity checked and registered. An endpoint that cannot be reached is followed by the
    /// next one.
    pub async fn connect(&self, cluster: &Arc<Cluster>, attempts: &mut Attempts) -> Result<Tunnel, Error> {
        attempts.count += 1;
        let tunnel = self.tunnel(cluster, attempts).await;
        tunnel.inspect_err(|error| attempts.failure = Some(error.to_string()))
    }

    async fn tunnel(&self, cluster: &Arc<Cluster>, attempts: &mut Attempts) -> Result<Tunnel, Error> {
        let search = self.search(cluster);
        let endpoints = endpoints(cluster, search.deadline).await?;
        let addresses = self.addresses.load_full();
        let mut tried = Tried::default();
        let dialled = search.with(self, &addresses).any(&endpoints, &mut tried).await;
        attempts.note(tried.last, &tried.facts);
        let (connected, endpoint) = dialled?;
        attempts.note(Some(endpoint.addr), &connected.facts);
        if !connected.facts.verified && connected.facts.tls.is_some() {
            self.observe.count(Counter::UpstreamNotVerified);
        }
        let opener = Opener {
            registry: &self.registry,
            observe: &self.observe,
            driving: &self.driving,
            cluster: &cluster.name,
            protocol: cluster.key.protocol,
        };
        let entry = opener.register(&endpoint, &connected.facts)?;
        let tunnel = Tunnel::new(Bytes::new(), connected.stream, entry, Open::new(Rc::clone(&self.observe)));
        Ok(tunnel.held_by(Lease::new(&endpoint.load)))
    }
}
