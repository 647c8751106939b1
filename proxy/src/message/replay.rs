//! A request body that may be sent a second time: what has passed is kept, up to a bound, until nobody will ask for it.

use std::{
    cell::RefCell,
    fmt,
    pin::Pin,
    rc::Rc,
    task::{Context, Poll, ready},
};

use bytes::Bytes;
use http::HeaderMap;
use http_body::{Body, Frame, SizeHint};

/// A body that grows beyond this is passed on, but cannot be sent again.
pub const REPLAY_LIMIT: usize = 64 * 1024;

/// One sending of a body that is kept. Only the latest sending moves; an older one waits for ever, because ending it early
/// could make a truncated request look whole.
pub struct Replay<B> {
    kept: Rc<RefCell<Kept<B>>>,
    turn: u32,
}

struct Kept<B> {
    source: B,
    passed: Vec<Passed>,
    /// The next of `passed` for the latest sending.
    next: usize,
    bytes: usize,
    /// False once the body outgrew the bound, failed, or will not be asked for again.
    keeping: bool,
    ended: bool,
    turn: u32,
}

enum Passed {
    Data(Bytes),
    Trailers(Box<HeaderMap>),
}

impl Passed {
    fn frame(&self) -> Frame<Bytes> {
        match self {
            Self::Data(bytes) => Frame::data(bytes.clone()),
            Self::Trailers(fields) => Frame::trailers(HeaderMap::clone(fields)),
        }
    }
}

impl<B> fmt::Debug for Replay<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let kept = self.kept.borrow();
        f.debug_struct("Replay").field("turn", &self.turn).field("bytes", &kept.bytes).finish_non_exhaustive()
    }
}

impl<B> Replay<B> {
    /// The first sending of a body.
    pub fn new(source: B) -> Self {
        let kept =
            Kept { source, passed: Vec::new(), next: 0, bytes: 0, keeping: true, ended: false, turn: 0 };
        Self { kept: Rc::new(RefCell::new(kept)), turn: 0 }
    }

    /// The same body for somebody who may ask for another sending.
    #[must_use]
    pub fn handle(&self) -> Self {
        Self { kept: Rc::clone(&self.kept), turn: self.turn }
    }

    /// Whether the whole body can still be sent again.
    pub fn can_repeat(&self) -> bool {
        self.kept.borrow().keeping
    }

    /// Another sending, from the start; the older one stops. `None` if too much has passed.
    pub fn again(&self) -> Option<Self> {
        let mut kept = self.kept.borrow_mut();
        if !kept.keeping {
            return None;
        }
        kept.turn += 1;
        kept.next = 0;
        Some(Self { kept: Rc::clone(&self.kept), turn: kept.turn })
    }

    /// Nobody will ask for another sending: what has passed is let go.
    pub fn seal(&self) {
        let mut kept = self.kept.borrow_mut();
        kept.keeping = false;
        kept.forget_passed();
    }
}

impl<B> Kept<B> {
    fn forget_passed(&mut self) {
        let passed = self.next.min(self.passed.len());
        self.passed.drain(..passed);
        self.next = 0;
    }

    /// Keeps a frame that is being passed on, or gives up keeping.
    fn keep(&mut self, frame: &Frame<Bytes>) {
        if !self.keeping {
            return;
        }
        self.bytes += frame.data_ref().map_or(0, Bytes::len);
        if self.bytes > REPLAY_LIMIT {
            self.keeping = false;
            self.forget_passed();
            return;
        }
        if let Some(bytes) = frame.data_ref() {
            self.passed.push(Passed::Data(bytes.clone()));
        } else if let Some(fields) = frame.trailers_ref() {
            self.passed.push(Passed::Trailers(Box::new(fields.clone())));
        }
        self.next = self.passed.len();
    }
}

impl<B: Body<Data = Bytes> + Unpin> Body for Replay<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let kept = &mut *self.kept.borrow_mut();
        if kept.turn != self.turn {
            return Poll::Pending;
        }
        if let Some(passed) = kept.passed.get(kept.next) {
            let frame = passed.frame();
            kept.next += 1;
            return Poll::Ready(Some(Ok(frame)));
        }
        if kept.ended {
            return Poll::Ready(None);
        }
        let polled = ready!(Pin::new(&mut kept.source).poll_frame(cx));
        match &polled {
            Some(Ok(frame)) => kept.keep(frame),
            Some(Err(_)) => kept.keeping = false,
            None => kept.ended = true,
        }
        Poll::Ready(polled)
    }

    fn is_end_stream(&self) -> bool {
        let kept = self.kept.borrow();
        kept.turn == self.turn
            && kept.next >= kept.passed.len()
            && (kept.ended || kept.source.is_end_stream())
    }

    fn size_hint(&self) -> SizeHint {
        let kept = self.kept.borrow();
        let waiting = kept.passed.iter().skip(kept.next).map(|passed| match passed {
            Passed::Data(bytes) => bytes.len() as u64,
            Passed::Trailers(_) => 0,
        });
        let waiting: u64 = waiting.sum();
        let source = kept.source.size_hint();
        let mut hint = SizeHint::new();
        hint.set_lower(source.lower() + waiting);
        if let Some(upper) = source.upper() {
            hint.set_upper(upper + waiting);
        }
        hint
    }
}

#[cfg(test)]
mod tests {
    use std::{collections::VecDeque, convert::Infallible};

    use futures_util::{FutureExt as _, future::poll_fn};

    use super::*;

    struct Frames(VecDeque<Frame<Bytes>>);

    impl Body for Frames {
        type Data = Bytes;
        type Error = Infallible;

        fn poll_frame(
            mut self: Pin<&mut Self>,
            _cx: &mut Context<'_>,
        ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
            Poll::Ready(self.0.pop_front().map(Ok))
        }
    }

    fn source(chunks: &[usize]) -> Frames {
        let mut frames: VecDeque<_> =
            (b'a'..).zip(chunks).map(|(letter, len)| Frame::data(Bytes::from(vec![letter; *len]))).collect();
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", http::HeaderValue::from_static("0"));
        frames.push_back(Frame::trailers(trailers));
        Frames(frames)
    }

    fn next(body: &mut Replay<Frames>) -> Poll<Option<Frame<Bytes>>> {
        let polled = poll_fn(|cx| Pin::new(&mut *body).poll_frame(cx)).now_or_never();
        polled.map_or(Poll::Pending, |frame| Poll::Ready(frame.map(|frame| frame.expect("infallible"))))
    }

    fn all(body: &mut Replay<Frames>) -> (Vec<u8>, bool) {
        let (mut data, mut trailers) = (Vec::new(), false);
        while let Poll::Ready(Some(frame)) = next(body) {
            trailers |= frame.is_trailers();
            data.extend_from_slice(frame.data_ref().map_or(&[][..], |bytes| bytes));
        }
        (data, trailers)
    }

    #[test]
    fn a_second_sending_gives_everything_from_the_start_and_the_first_stops() {
        let mut first = Replay::new(source(&[3, 4]));
        let keeper = first.handle();
        assert!(next(&mut first).is_ready());
        let mut second = keeper.again().expect("small");
        assert!(next(&mut first).is_pending(), "an older sending must neither go on nor end");
        assert!(!first.is_end_stream());
        assert_eq!(all(&mut second), (b"aaabbbb".to_vec(), true));
        assert_eq!(all(&mut keeper.again().expect("small")), (b"aaabbbb".to_vec(), true));
    }

    #[test]
    fn a_big_body_passes_whole_but_only_once() {
        let mut body = Replay::new(source(&[REPLAY_LIMIT, 1, 7]));
        let keeper = body.handle();
        assert!(next(&mut body).is_ready());
        assert!(keeper.can_repeat());
        assert!(next(&mut body).is_ready());
        assert!(!keeper.can_repeat() && keeper.again().is_none());
        assert_eq!(all(&mut body), (b"ccccccc".to_vec(), true));
        assert!(keeper.kept.borrow().passed.is_empty());
    }

    #[test]
    fn sealing_in_the_middle_of_a_second_sending_loses_nothing() {
        let mut first = Replay::new(source(&[1, 2, 3]));
        let keeper = first.handle();
        let _both = (next(&mut first), next(&mut first));
        let mut second = keeper.again().expect("small");
        assert!(next(&mut second).is_ready());
        keeper.seal();
        assert!(keeper.again().is_none());
        assert_eq!(all(&mut second), (b"bbccc".to_vec(), true));
    }
}
