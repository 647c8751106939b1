//! A connection to an endpoint that carries bytes: registered and counted like those that carry requests, and never pooled.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::{conn::Open, endpoint::Lease, stream::Stream};
use crate::registry::Entry;

/// Bytes to and from an endpoint whose identity was checked. Its place in the registry and in the endpoint's load ends with it.
pub struct Tunnel {
    pub(crate) io: Stream,
    pub(crate) entry: Entry,
    pub(super) _lease: Lease,
    pub(super) _open: Open,
}

impl std::fmt::Debug for Tunnel {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Tunnel").field("entry", &self.entry).finish_non_exhaustive()
    }
}

impl Tunnel {
    /// The upstream did not accept our certificate: in TLS 1.3 it says so after our side of the handshake is done.
    pub(crate) fn refused_certificate(&self) -> bool {
        self.io.heard().refused_certificate()
    }

    /// The first error of the connection.
    pub(crate) fn failure(&self) -> Option<String> {
        self.io.heard().failure().map(str::to_owned)
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
