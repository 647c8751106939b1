//! Deadlines of a connection between its requests, without a timer for each request: the I/O notes when a head begins,
//! the driver re-arms one timer lazily.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::stuck::Watch;

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
    /// Bytes that were read since the connection was at rest: the present head, and what came with it.
    head: RefCell<Vec<u8>>,
    /// Whether those begin where a head begins.
    whole: Cell<bool>,
    /// The present exchange of an HTTP/1.1 connection.
    pub(super) watch: Rc<Watch>,
}

impl Phase {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self {
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            served: Cell::new(false),
            head: RefCell::new(Vec::new()),
            whole: Cell::new(false),
            watch: Watch::new(),
        })
    }

    /// A whole head was read.
    pub(super) fn begin(&self) {
        self.active.set(self.active.get() + 1);
        self.head_since.set(None);
        self.served.set(true);
    }

    /// The head that was just read has a Content-Length field. hyper drops the field when Transfer-Encoding is there too,
    /// so that only the bytes tell. `None`: they do not begin with this head (pipelining).
    pub(super) fn has_length(&self) -> Option<bool> {
        self.whole.replace(false).then(|| names_length(&self.head.borrow()))
    }

    /// The bytes of the head are not needed any longer.
    pub(super) fn forget_head(&self) {
        let mut head = self.head.borrow_mut();
        head.clear();
        head.shrink_to(KEPT_HEAD_BYTES);
        self.whole.set(false);
    }

    /// A response has ended.
    pub(super) fn end(&self) {
        self.active.set(self.active.get().saturating_sub(1));
        self.idle_since.set(Instant::now());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// No request is under way and none has begun to arrive.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.head_since.get().is_none()
    }

    pub(super) fn idle_since(&self) -> Instant {
        self.idle_since.get()
    }

    pub(super) fn head_since(&self) -> Option<Instant> {
        self.head_since.get()
    }
}

/// An idle connection keeps no more than this for the next head.
const KEPT_HEAD_BYTES: usize = 512;

fn names_length(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    let lines = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
    let mut head = lines.skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty());
    head.any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// I/O that notes when a request head begins.
#[derive(Debug)]
pub(super) struct Timed<S> {
    inner: S,
    phase: Rc<Phase>,
    /// HTTP/1.1: heads are kept until they are judged.
    keeps_heads: bool,
    /// The last four bytes read.
    tail: [u8; 4],
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, phase: Rc<Phase>, keeps_heads: bool) -> Self {
        Self { inner, phase, keeps_heads, tail: *b"\r\n\r\n" }
    }

    /// Bytes of a head, perhaps with more behind it.
    fn keep(&mut self, bytes: &[u8], begins: bool) {
        if begins {
            self.phase.forget_head();
            // What hyper has not consumed of earlier bytes is no whole head, so that it cannot end with an empty line.
            self.phase.whole.set(self.tail == *b"\r\n\r\n");
        }
        if self.phase.is_idle() {
            self.phase.head.borrow_mut().extend_from_slice(bytes);
        }
        for byte in bytes.iter().skip(bytes.len().saturating_sub(4)) {
            let [_, b, c, d] = self.tail;
            self.tail = [b, c, d, *byte];
        }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            let begins = self.phase.is_at_rest();
            if begins {
                self.phase.head_since.set(Some(Instant::now()));
            }
            if self.keeps_heads {
                self.keep(buf.filled().get(before..).unwrap_or_default(), begins);
            }
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
