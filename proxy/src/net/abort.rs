//! Closing by a reset: the peer learns that what it has is not the whole.

use std::time::Duration;

use hyper::upgrade::Upgraded;
use hyper_util::rt::TokioIo;
use socket2::SockRef;
use tokio::net::TcpStream;

use super::Prefixed;

/// A stream over a socket that can be reset.
pub(crate) trait Abort {
    /// When the stream is dropped, its peer gets a reset in place of an end, and what waits to be sent is lost.
    fn abort(&self);
}

impl Abort for TcpStream {
    fn abort(&self) {
        // Of a socket that is closed already nothing is expected.
        let _gone = SockRef::from(self).set_linger(Some(Duration::ZERO));
    }
}

impl<S: Abort> Abort for Prefixed<S> {
    fn abort(&self) {
        self.get_ref().abort();
    }
}

impl<S: Abort + ?Sized> Abort for Box<S> {
    fn abort(&self) {
        (**self).abort();
    }
}

/// A stream of HTTP/2 that is dropped before its end is reset.
impl Abort for TokioIo<Upgraded> {
    fn abort(&self) {}
}
