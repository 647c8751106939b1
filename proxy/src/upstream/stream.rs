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
#[derive(Debug, Default)]
pub(super) struct Heard {
    bytes: AtomicU64,
    alert: AtomicBool,
    failure: OnceLock<String>,
    first: Notify,
}

impl Heard {
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

    fn add(&self, bytes: usize) {
        if bytes > 0 && self.bytes.fetch_add(bytes as u64, Relaxed) == 0 {
            self.first.notify_one();
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
        match &polled {
            Poll::Ready(Ok(())) => this.heard.add(buf.filled().len() - before),
            Poll::Ready(Err(error)) => this.heard.failed(error),
            Poll::Pending => {}
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
