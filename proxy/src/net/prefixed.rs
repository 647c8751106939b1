//! Rewindable I/O: bytes that were read ahead (PROXY protocol, TLS and HTTP/2 detection) are read again by who comes next.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll, ready},
};

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, ReadBuf},
    net::TcpStream,
};

/// A stream with bytes put back in front of it.
#[derive(Debug)]
pub struct Prefixed<S> {
    prefix: Bytes,
    inner: S,
    /// What is read from now on, to be put back: a `ClientHello` that may pass through.
    record: Option<BytesMut>,
}

impl<S> Prefixed<S> {
    /// `prefix` is read first.
    pub fn new(prefix: Bytes, inner: S) -> Self {
        Self { prefix, inner, record: None }
    }

    /// The stream.
    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// Keeps a copy of what is read, until [`Self::rewind`] or [`Self::forget`].
    pub(crate) fn record(&mut self) {
        self.record = Some(BytesMut::new());
    }

    /// Puts back what was read since [`Self::record`].
    pub(crate) fn rewind(&mut self) {
        if let Some(mut read) = self.record.take() {
            read.extend_from_slice(&self.prefix);
            self.prefix = read.freeze();
        }
    }

    /// What was read stays read.
    pub(crate) fn forget(&mut self) {
        self.record = None;
    }
}

impl Prefixed<TcpStream> {
    /// Looks at the first bytes without consuming them: reads until `enough` says so, the peer ends, or `max` bytes are there.
    pub(crate) async fn peek(&mut self, max: usize, enough: impl Fn(&[u8]) -> bool) -> io::Result<Bytes> {
        let mut seen = BytesMut::from(self.prefix.as_ref());
        while !enough(&seen) && seen.len() < max {
            seen.reserve(max - seen.len());
            if (&mut self.inner).take((max - seen.len()) as u64).read_buf(&mut seen).await? == 0 {
                break;
            }
            self.prefix = Bytes::copy_from_slice(&seen);
        }
        Ok(self.prefix.clone())
    }

    /// Drops bytes that were looked at.
    pub(crate) fn consume(&mut self, count: usize) {
        self.prefix.advance(count.min(self.prefix.len()));
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Prefixed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        if self.prefix.is_empty() {
            ready!(Pin::new(&mut self.inner).poll_read(cx, buf))?;
        } else {
            let count = self.prefix.len().min(buf.remaining());
            buf.put_slice(&self.prefix.split_to(count));
            if self.prefix.is_empty() {
                // An empty slice of a larger buffer would keep all of it.
                self.prefix = Bytes::new();
            }
        }
        if let Some(record) = &mut self.record {
            record.extend_from_slice(buf.filled().get(before..).unwrap_or_default());
        }
        Poll::Ready(Ok(()))
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Prefixed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.inner).poll_write_vectored(cx, bufs)
    }

    crate::net::forward_write_end!();
}
