//! The bytes of an upstream connection: one concrete type for cleartext and TLS, which remembers what the upstream said.

use std::{
    io,
    pin::Pin,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
    task::{Context, Poll},
};

use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::Notify,
};
use tokio_rustls::client::TlsStream;

use super::connect::is_alert;
use crate::net::Abort;

/// Most bytes of an answer that are read before its head is known: hyper's own limit of a head and what it reads beside it, and
/// some interim answers.
const MOST_BEFORE_HEAD: u64 = 512 * 1024;

/// Bytes to and from an endpoint.
pub(crate) struct Stream {
    io: Io,
    heard: Arc<Heard>,
    /// Something was written and not flushed yet.
    unflushed: bool,
}

enum Io {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// What has been heard from the upstream. Shared with the pool; atomics because the stream has to be `Send`.
#[derive(Debug)]
pub(super) struct Heard {
    bytes: AtomicU64,
    alert: AtomicBool,
    failure: OnceLock<String>,
    first: Notify,
    /// Bytes that may still come before the head of an answer has.
    head_left: AtomicU64,
    /// More came.
    endless: AtomicBool,
}

impl Default for Heard {
    fn default() -> Self {
        Self {
            bytes: AtomicU64::new(0),
            alert: AtomicBool::new(false),
            failure: OnceLock::new(),
            first: Notify::new(),
            head_left: AtomicU64::new(u64::MAX),
            endless: AtomicBool::new(false),
        }
    }
}

impl Heard {
    /// From now on an answer is awaited (HTTP/1.1). Before its head others may come (`1xx`), and hyper reads them for as long as
    /// there are any: an upstream that never stops would hold the worker with all that runs on it.
    pub(super) fn await_head(&self) {
        self.head_left.store(MOST_BEFORE_HEAD, Relaxed);
    }

    /// The head is there.
    pub(super) fn head_came(&self) {
        self.head_left.store(u64::MAX, Relaxed);
    }

    /// It never ended.
    pub(super) fn is_endless(&self) -> bool {
        self.endless.load(Relaxed)
    }

    /// Application bytes so far.
    pub(super) fn bytes(&self) -> u64 {
        self.bytes.load(Relaxed)
    }

    /// The upstream ended the TLS session by an alert before it sent any application byte: in TLS 1.3 that is how it refuses
    /// our certificate, after our side of the handshake was done.
    pub(super) fn refused_certificate(&self) -> bool {
        self.alert.load(Relaxed)
    }

    /// The first error of the stream.
    pub(super) fn failure(&self) -> Option<&str> {
        self.failure.get().map(String::as_str)
    }

    /// Waits for the first application byte. For one waiter.
    pub(super) async fn first_byte(&self) {
        while self.bytes() == 0 {
            self.first.notified().await;
        }
    }

    fn add(&self, bytes: usize) -> io::Result<()> {
        let count = bytes as u64;
        if count > 0 && self.bytes.fetch_add(count, Relaxed) == 0 {
            self.first.notify_one();
        }
        match self.head_left.load(Relaxed) {
            u64::MAX => Ok(()),
            left if count <= left => {
                self.head_left.store(left - count, Relaxed);
                Ok(())
            }
            _ => {
                self.endless.store(true, Relaxed);
                Err(io::Error::new(io::ErrorKind::InvalidData, "a head, or interim answers, without end"))
            }
        }
    }

    fn failed(&self, error: &io::Error) {
        if self.bytes() == 0 && is_alert(error) {
            self.alert.store(true, Relaxed);
        }
        // The first one is the cause, later ones follow from it.
        let _first_wins = self.failure.set(error.to_string());
    }
}

impl Stream {
    pub(super) fn plain(stream: TcpStream) -> Self {
        Self { io: Io::Plain(stream), heard: Arc::default(), unflushed: false }
    }

    pub(super) fn tls(stream: TlsStream<TcpStream>) -> Self {
        Self { io: Io::Tls(Box::new(stream)), heard: Arc::default(), unflushed: false }
    }

    pub(super) fn heard(&self) -> &Arc<Heard> {
        &self.heard
    }

    /// Whether all that was to be written was sent.
    pub(super) fn is_flushed(&self) -> bool {
        !self.unflushed
    }

    /// A write failed before anything was heard: the reason may wait unread, as an alert.
    fn listen_for_alert(&mut self, cx: &mut Context<'_>) {
        if let Io::Tls(stream) = &mut self.io
            && self.heard.bytes() == 0
        {
            let mut scratch = [0; 1];
            let mut scratch = ReadBuf::new(&mut scratch);
            if let Poll::Ready(Err(error)) = Pin::new(stream).poll_read(cx, &mut scratch) {
                self.heard.failed(&error);
            }
        }
    }

    fn written<T>(&mut self, cx: &mut Context<'_>, polled: Poll<io::Result<T>>) -> Poll<io::Result<T>> {
        if let Poll::Ready(Err(error)) = &polled {
            self.listen_for_alert(cx);
            self.heard.failed(error);
        }
        polled
    }
}

impl Abort for Stream {
    fn abort(&self) {
        match &self.io {
            Io::Plain(stream) => stream.abort(),
            Io::Tls(stream) => stream.get_ref().0.abort(),
        }
    }
}

impl AsyncRead for Stream {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let before = buf.filled().len();
        let polled = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_read(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_read(cx, buf),
        };
        let polled = match polled {
            Poll::Ready(Ok(())) => Poll::Ready(this.heard.add(buf.filled().len() - before)),
            other => other,
        };
        if let Poll::Ready(Err(error)) = &polled {
            this.heard.failed(error);
        }
        polled
    }
}

impl AsyncWrite for Stream {
    fn poll_write(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let polled = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_write(cx, buf),
            Io::Tls(stream) => Pin::new(stream).poll_write(cx, buf),
        };
        this.written(cx, polled)
    }

    fn poll_write_vectored(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        let this = self.get_mut();
        this.unflushed = true;
        let polled = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
            Io::Tls(stream) => Pin::new(stream).poll_write_vectored(cx, bufs),
        };
        this.written(cx, polled)
    }

    fn is_write_vectored(&self) -> bool {
        match &self.io {
            Io::Plain(stream) => stream.is_write_vectored(),
            Io::Tls(stream) => stream.is_write_vectored(),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let this = self.get_mut();
        let polled = match &mut this.io {
            Io::Plain(stream) => Pin::new(stream).poll_flush(cx),
            Io::Tls(stream) => Pin::new(stream).poll_flush(cx),
        };
        this.unflushed &= !matches!(polled, Poll::Ready(Ok(())));
        this.written(cx, polled)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match &mut self.get_mut().io {
            Io::Plain(stream) => Pin::new(stream).poll_shutdown(cx),
            Io::Tls(stream) => Pin::new(stream).poll_shutdown(cx),
        }
    }
}
