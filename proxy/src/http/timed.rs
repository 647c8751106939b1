//! Deadlines of a connection between its requests, without a timer for each request: the I/O notes when a head begins,
//! the driver re-arms one timer lazily.

use std::{
    cell::Cell,
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

/// Where a connection stands.
#[derive(Debug)]
pub(super) struct Phase {
    /// Requests under way.
    active: Cell<usize>,
    /// Since when there is none.
    idle_since: Cell<Instant>,
    /// A head has begun to arrive.
    head_since: Cell<Option<Instant>>,
    /// A request was served on it.
    pub(super) served: Cell<bool>,
}

impl Phase {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            served: Cell::new(false),
        })
    }

    /// A whole head was read.
    pub(super) fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.head_since.set(None);
        self.served.set(true);
    }

    /// A response has ended.
    pub(super) fn end(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    pub(super) fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }
}

/// I/O that notes when a request head begins.
#[derive(Debug)]
pub(super) struct Timed<S> {
    inner: S,
    phase: Rc<Phase>,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, phase: Rc<Phase>) -> Self {
        Self { inner, phase }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before && self.phase.is_idle() && self.phase.head_since.get().is_none() {
            self.phase.head_since.set(Some(Instant::now()));
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
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

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
