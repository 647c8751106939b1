//! The one request body type and the one response body type of upstream connections.

use std::{
    cell::{Cell, OnceCell},
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;
use tokio::time::Instant;

use super::{
    hygiene,
    replay::{REPLAY_LIMIT, Replay},
};
use crate::Reason;

/// What one direction of an exchange has carried, shared between its body and its record.
#[derive(Debug)]
pub struct Tally {
    bytes: Cell<u64>,
    active: Cell<Instant>,
    broken: Cell<Option<Broken>>,
    whole: Cell<bool>,
}

/// How a client's body failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Broken {
    /// The client went away before its end.
    Cut,
    /// Its chunks cannot be read.
    Malformed,
}

impl Broken {
    /// hyper does not say it in a type of its own: its decoder's error of the I/O family does.
    fn of(error: &hyper::Error) -> Self {
        use std::io::{Error, ErrorKind};
        let source = std::error::Error::source(error).and_then(|source| source.downcast_ref::<Error>());
        match source.map(Error::kind) {
            Some(ErrorKind::InvalidData | ErrorKind::InvalidInput) => Self::Malformed,
            _ => Self::Cut,
        }
    }
}

impl Tally {
    /// Nothing yet.
    pub fn new() -> Rc<Self> {
        Rc::new(Self {
            bytes: Cell::new(0),
            active: Cell::new(Instant::now()),
            broken: Cell::new(None),
            whole: Cell::new(false),
        })
    }

    /// Bytes of data so far.
    pub fn bytes(&self) -> u64 {
        self.bytes.get()
    }

    /// When the last frame passed.
    pub fn active(&self) -> Instant {
        self.active.get()
    }

    /// How it failed, if it did: whatever else fails then, it is the client that caused it.
    pub fn broken(&self) -> Option<Broken> {
        self.broken.get()
    }

    /// Whether the body was read to its end.
    pub fn whole(&self) -> bool {
        self.whole.get()
    }

    /// The body was read to its end, or there is none.
    pub fn end(&self) {
        self.whole.set(true);
    }

    /// Counts a frame.
    pub fn add(&self, bytes: usize) {
        self.bytes.set(self.bytes.get() + bytes as u64);
        self.active.set(Instant::now());
    }
}

/// The body of a request on its way upstream.
#[derive(Debug, Default)]
pub enum ReqBody {
    /// Nothing.
    #[default]
    Empty,
    /// Straight from the client.
    Incoming(Incoming, Rc<Tally>),
    /// From the client, kept so that it can be sent again.
    Replay(Replay<Box<Self>>),
}

impl ReqBody {
    /// The same body in the form that may be sent again, with the handle to do so. `None` for the handle: there is nothing
    /// to keep, or it is known to be too big.
    pub fn kept(self) -> (Self, Option<Replay<Box<Self>>>) {
        match self {
            Self::Incoming(..) if self.size_hint().lower() <= REPLAY_LIMIT as u64 => {
                let replay = Replay::new(Box::new(self));
                let handle = replay.handle();
                (Self::Replay(replay), Some(handle))
            }
            Self::Empty | Self::Incoming(..) => (self, None),
            Self::Replay(replay) => {
                let handle = replay.handle();
                (Self::Replay(replay), Some(handle))
            }
        }
    }
}

impl Body for ReqBody {
    type Data = Bytes;
    type Error = hyper::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
        let (body, tally) = match &mut *self {
            Self::Empty => return Poll::Ready(None),
            Self::Incoming(body, tally) => (body, tally),
            Self::Replay(replay) => return Pin::new(replay).poll_frame(cx),
        };
        let mut frame = ready!(Pin::new(&mut *body).poll_frame(cx));
        match &mut frame {
            Some(Ok(frame)) => {
                tally.add(frame.data_ref().map_or(0, Bytes::len));
                if let Some(trailers) = frame.trailers_mut() {
                    hygiene::strip_request_trailers(trailers);
                }
            }
            Some(Err(error)) => tally.broken.set(Some(Broken::of(error))),
            None => tally.end(),
        }
        // A body of known length is not asked again after its last byte.
        if body.is_end_stream() && tally.broken().is_none() {
            tally.end();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match self {
            Self::Empty => true,
            Self::Incoming(body, _) => body.is_end_stream(),
            Self::Replay(replay) => replay.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match self {
            Self::Empty => SizeHint::with_exact(0),
            Self::Incoming(body, _) => body.size_hint(),
            Self::Replay(replay) => replay.size_hint(),
        }
    }
}

/// What an upstream's body does when it ended whole: gives its connection back to the pool. Dropping it instead closes
/// the connection.
pub type AtEnd = Box<dyn FnOnce()>;

/// Why we have cut an upstream connection, once we have: shared by what runs on it.
pub type Cut = Rc<OnceCell<Reason>>;

/// Why a response's body is not whole.
#[derive(Debug, thiserror::Error)]
pub enum Failed {
    /// hyper says so.
    #[error(transparent)]
    Http(#[from] hyper::Error),
    /// The stream was reset without an error and before its end, which hyper takes for one (RFC 9113 8.1 allows that only
    /// behind a whole answer).
    #[error("the stream was reset before its end")]
    Short,
}

/// The body of a response as it comes from the upstream.
#[derive(Default)]
pub struct ResBody {
    body: Option<Incoming>,
    /// It is a stream of HTTP/2.
    http2: bool,
    at_end: Option<AtEnd>,
    cut: Cut,
}

impl fmt::Debug for ResBody {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ResBody").field("body", &self.body).finish_non_exhaustive()
    }
}

impl ResBody {
    /// A body from an upstream connection, which speaks HTTP/2 or not.
    pub fn new(body: Incoming, http2: bool, at_end: AtEnd, cut: Cut) -> Self {
        let mut body = Self { body: Some(body), http2, at_end: Some(at_end), cut };
        body.end_if_over();
        body
    }

    /// Why we have cut its connection, if we have.
    pub fn cut(&self) -> Option<&Reason> {
        self.cut.get()
    }

    fn end_if_over(&mut self) {
        if self.body.as_ref().is_none_or(Body::is_end_stream)
            && let Some(at_end) = self.at_end.take()
        {
            at_end();
        }
    }
}

impl Body for ResBody {
    type Data = Bytes;
    type Error = Failed;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Failed>>> {
        let http2 = self.http2;
        let Some(body) = &mut self.body else { return Poll::Ready(None) };
        let mut frame = ready!(Pin::new(&mut *body).poll_frame(cx)).map(|frame| frame.map_err(Failed::Http));
        if frame.is_none() && http2 && !body.is_end_stream() {
            frame = Some(Err(Failed::Short));
        }
        match &frame {
            Some(Err(_)) => self.at_end = None,
            Some(Ok(_)) => self.end_if_over(),
            None => {
                self.body = None;
                self.end_if_over();
            }
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        self.body.as_ref().is_none_or(Body::is_end_stream)
    }

    fn size_hint(&self) -> SizeHint {
        self.body.as_ref().map_or_else(|| SizeHint::with_exact(0), Body::size_hint)
    }
}
