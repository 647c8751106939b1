//! Deadlines of a connection between its requests, without a timer for each request: the I/O notes when a head begins,
//! the driver re-arms one timer lazily.

use std::{
    cell::{Cell, RefCell},
    io,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    time::Instant,
};

use super::{
    frames::{Flood, Inbound, Outbound},
    notice::Notice,
    resets::EarlyResets,
    stuck::Watch,
};
use crate::observe::{Counter, WorkerObserve};

/// Where a connection stands.
#[derive(Debug)]
pub(super) struct Phase {
    /// Requests under way.
    active: Cell<usize>,
    /// Since when there is none.
    idle_since: Cell<Instant>,
    /// A head has begun to arrive.
    head_since: Cell<Option<Instant>>,
    pub(super) resets: EarlyResets,
    /// Bytes that were read since the connection was at rest: the present head, and what came with it.
    head: RefCell<Vec<u8>>,
    /// Whether those begin where a head begins.
    whole: Cell<bool>,
    /// h2 has ended the connection for a flood.
    pub(super) flood: Cell<Option<Flood>>,
    /// An HTTP/2 client is to be told that the connection will end, and why.
    ending: Cell<Option<h2::Reason>>,
    /// The present exchange of an HTTP/1.1 connection.
    pub(super) watch: Rc<Watch>,
    /// Everything that was written has gone out.
    flushed: Cell<bool>,
    /// The last request was read to its end (HTTP/1.1): what comes next is another one.
    read_whole: Cell<bool>,
}

impl Phase {
    pub(super) fn new(max_resets: usize) -> Rc<Self> {
        Rc::new(Self {
            resets: EarlyResets::new(max_resets),
            active: Cell::new(0),
            idle_since: Cell::new(Instant::now()),
            head_since: Cell::new(None),
            head: RefCell::new(Vec::new()),
            whole: Cell::new(false),
            flood: Cell::new(None),
            ending: Cell::new(None),
            watch: Watch::new(),
            flushed: Cell::new(true),
            read_whole: Cell::new(true),
        })
    }

    /// Lets the I/O tell an HTTP/2 client to open no new streams, as soon as the connection is polled again.
    pub(super) fn announce_end(&self, why: h2::Reason) {
        self.ending.set(Some(why));
    }

    /// A whole head was read. In HTTP/2 the next one may have begun already.
    pub(super) fn begin(&self, h2: bool) {
        self.active.set(self.active.get() + 1);
        if !h2 {
            self.head_since.set(None);
        }
    }

    /// The head that was just read has a Content-Length field. hyper drops the field when Transfer-Encoding is there too,
    /// so that only the bytes tell. `None`: they do not begin with this head (pipelining).
    pub(super) fn has_length(&self) -> Option<bool> {
        self.whole.replace(false).then(|| names_length(&self.head.borrow()))
    }

    /// The head that was just read has a fragment in its target. hyper drops it. Not known of a head that does not begin
    /// these bytes, and of HTTP/2.
    pub(super) fn has_fragment(&self) -> bool {
        self.whole.get() && names_fragment(&self.head.borrow())
    }

    /// What the connection began with does not even name HTTP as its protocol. An answer in HTTP/1.1 would be noise to
    /// whoever sent it, and a client of HTTP/2 takes it for a frame (RFC 9113 3.4).
    pub(super) fn is_no_http(&self) -> bool {
        self.whole.get() && is_no_http(&self.head.borrow())
    }

    /// The bytes of the head are not needed any longer.
    pub(super) fn forget_head(&self) {
        let mut head = self.head.borrow_mut();
        head.clear();
        head.shrink_to(KEPT_HEAD_BYTES);
        self.whole.set(false);
    }

    /// A response has ended, and the request's body was read to its end, or not.
    pub(super) fn end(&self, read_whole: bool) {
        self.active.set(self.active.get().saturating_sub(1));
        self.read_whole.set(read_whole);
        self.idle_since.set(Instant::now());
    }

    pub(super) fn is_idle(&self) -> bool {
        self.active.get() == 0
    }

    /// No request is under way and none has begun to arrive.
    pub(super) fn is_at_rest(&self) -> bool {
        self.is_idle() && self.head_since.get().is_none()
    }

    /// Between two requests of HTTP/1.1, with nothing left to write: hyper has no state that the next request needs.
    pub(super) fn may_park(&self) -> bool {
        self.is_at_rest() && self.flushed.get() && self.read_whole.get()
    }

    /// Lets go of what only requests need.
    pub(super) fn park(&self) {
        *self.head.borrow_mut() = Vec::new();
        self.watch.forget();
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

/// The lines of the head that bytes begin with.
fn lines(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let lines = bytes.split(|b| *b == b'\n').map(<[u8]>::trim_ascii_end);
    lines.skip_while(|line| line.is_empty()).take_while(|line| !line.is_empty())
}

/// Whether the target of the head that bytes begin with has a fragment.
pub fn names_fragment(bytes: &[u8]) -> bool {
    // Of a method it is a character as any other.
    lines(bytes)
        .next()
        .is_some_and(|line| line.split(|b| *b == b' ').skip(1).any(|part| part.contains(&b'#')))
}

/// Whether the head that bytes begin with has a Content-Length field.
pub fn names_length(bytes: &[u8]) -> bool {
    const NAME: &[u8] = b"content-length";
    lines(bytes).any(|line| line.get(..NAME.len()).is_some_and(|name| name.eq_ignore_ascii_case(NAME)))
}

/// Of three words in the first line the last one is a protocol; two are HTTP/0.9's.
fn is_no_http(bytes: &[u8]) -> bool {
    let mut words = lines(bytes).next().unwrap_or_default().split(|b| *b == b' ').skip(2).peekable();
    words.peek().is_some() && words.all(|word| !word.to_ascii_uppercase().starts_with(b"HTTP/"))
}

/// I/O that notes when a request head begins.
#[derive(Debug)]
pub(super) struct Timed<S> {
    inner: S,
    phase: Rc<Phase>,
    observe: Rc<WorkerObserve>,
    /// What passes, if it is HTTP/2.
    frames: Option<(Inbound, Outbound)>,
    /// The last four bytes read (HTTP/1.1).
    tail: [u8; 4],
    notice: Notice,
}

impl<S> Timed<S> {
    pub(super) fn new(inner: S, phase: Rc<Phase>, observe: Rc<WorkerObserve>, h2: bool) -> Self {
        let frames = h2.then(|| (Inbound::new(), Outbound::default()));
        Self { inner, phase, observe, frames, tail: *b"\r\n\r\n", notice: Notice::default() }
    }

    /// The stream, whose HTTP is over.
    pub(super) fn into_inner(self) -> S {
        self.inner
    }

    fn received(&mut self, bytes: &[u8]) {
        if let Some((inbound, _)) = &mut self.frames {
            let since = inbound.feed(bytes).then(|| self.phase.head_since().unwrap_or_else(Instant::now));
            self.phase.head_since.set(since);
            return;
        }
        let begins = self.phase.is_at_rest();
        if begins {
            self.phase.head_since.set(Some(Instant::now()));
        }
        self.keep(bytes, begins);
    }

    fn sent(&mut self, bytes: &[u8]) {
        if let Some((_, outbound)) = &mut self.frames {
            let ended = outbound.feed(bytes);
            self.phase.flood.set(self.phase.flood.get().or(ended.flood));
            for _refused in 0..ended.refused {
                self.observe.count(Counter::MaxStreams);
            }
            for _too_large in 0..ended.too_large {
                self.observe.count(Counter::HeadersTooLarge);
            }
        }
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

impl<S: AsyncWrite + Unpin> Timed<S> {
    /// Writes the notice of the end where it may stand: between frames.
    fn poll_notice(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.phase.ending.get().map_or(Poll::Ready(Ok(())), |why| self.notice.poll(why, &mut self.inner, cx))
    }

    /// hyper answers whatever comes.
    fn refuse_foreign(&self) -> io::Result<()> {
        if self.frames.is_none() && self.phase.is_idle() && self.phase.is_no_http() {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(())
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Timed<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        // A connection at rest is only ever read.
        if let Poll::Ready(Err(error)) = self.poll_notice(cx) {
            return Poll::Ready(Err(error));
        }
        let before = buf.filled().len();
        let read = Pin::new(&mut self.inner).poll_read(cx, buf);
        if buf.filled().len() > before {
            self.received(buf.filled().get(before..).unwrap_or_default());
        }
        read
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Timed<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_notice(cx))?;
        self.refuse_foreign()?;
        self.notice.frame_begins();
        self.phase.flushed.set(false);
        let written = Pin::new(&mut self.inner).poll_write(cx, buf);
        if let Poll::Ready(Ok(count)) = written {
            self.sent(buf.get(..count).unwrap_or_default());
        }
        written
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_notice(cx))?;
        self.refuse_foreign()?;
        self.notice.frame_begins();
        self.phase.flushed.set(false);
        let written = Pin::new(&mut self.inner).poll_write_vectored(cx, bufs);
        if let Poll::Ready(Ok(mut count)) = written {
            for buf in bufs {
                let here = count.min(buf.len());
                self.sent(buf.get(..here).unwrap_or_default());
                count -= here;
            }
        }
        written
    }

    fn is_write_vectored(&self) -> bool {
        self.inner.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        self.notice.frames_ended();
        ready!(self.poll_notice(cx))?;
        ready!(Pin::new(&mut self.inner).poll_flush(cx))?;
        // hyper asks for it once its own buffer is empty.
        self.phase.flushed.set(true);
        Poll::Ready(Ok(()))
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.inner).poll_shutdown(cx)
    }
}
