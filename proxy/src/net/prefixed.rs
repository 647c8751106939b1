//! Rewindable I/O: bytes that were read ahead (PROXY protocol, TLS and HTTP/2 detection) are read again by who comes next.

use std::{
    io,
    pin::Pin,
    task::{Context, Poll},
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
}

impl<S> Prefixed<S> {
    /// `prefix` is read first.
    pub fn new(prefix: Bytes, inner: S) -> Self {
        Self { prefix, inner }
    }

    /// The stream.
    pub(crate) fn get_ref(&self) -> &S {
        &self.inner
    }

    /// What will be read first.
    pub(crate) fn prefix(&self) -> &[u8] {
        &self.prefix
    }

    /// Puts back what was read.
    pub(crate) fn put_back(&mut self, read: Bytes) {
        if self.prefix.is_empty() {
            self.prefix = read;
        } else if !read.is_empty() {
            self.prefix = [read, std::mem::take(&mut self.prefix)].concat().into();
        }
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
        if self.prefix.is_empty() {
            return Pin::new(&mut self.inner).poll_read(cx, buf);
        }
        let count = self.prefix.len().min(buf.remaining());
        buf.put_slice(&self.prefix.split_to(count));
        if self.prefix.is_empty() {
            // An empty slice of a larger buffer would keep all of it.
            self.prefix = Bytes::new();
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
