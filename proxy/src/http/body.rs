//! Step 10, relay: the body sent downstream, under the request's deadlines, and the record written when it ends.

use std::{
    pin::Pin,
    rc::Rc,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use tokio::time::{Instant, Sleep, sleep_until};

use super::{exchange::Exchange, stuck::Deadline as _};
use crate::{
    Reason,
    message::{ResBody, hygiene},
    route::Router,
};

/// A response's body with the exchange it belongs to.
pub(super) struct OutBody<R: Router> {
    source: Source,
    exchange: Rc<Exchange<R>>,
    timer: Option<Pin<Box<Sleep>>>,
}

enum Source {
    Full(Option<Bytes>),
    Upstream(ResBody),
}

impl<R: Router> OutBody<R> {
    /// Bytes of our own.
    pub(super) fn full(bytes: Bytes, exchange: Rc<Exchange<R>>) -> Self {
        if bytes.is_empty() {
            exchange.finish();
        }
        Self { source: Source::Full((!bytes.is_empty()).then_some(bytes)), exchange, timer: None }
    }

    /// Nothing, because a tunnel follows: the exchange goes on.
    pub(super) fn none(exchange: Rc<Exchange<R>>) -> Self {
        Self { source: Source::Full(None), exchange, timer: None }
    }

    /// What the upstream sends.
    pub(super) fn upstream(body: ResBody, exchange: Rc<Exchange<R>>) -> Self {
        if body.is_end_stream() {
            exchange.finish();
        }
        Self { source: Source::Upstream(body), exchange, timer: None }
    }

    /// Nothing has arrived: has a deadline passed?
    fn poll_deadline(&mut self, cx: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        loop {
            let Some((at, reason)) = self.exchange.next_deadline() else { return Poll::Pending };
            if at <= Instant::now() {
                self.exchange.fail(&reason);
                return Poll::Ready(Some(Err(BodyError(reason))));
            }
            let timer = self.timer.get_or_insert_with(|| Box::pin(sleep_until(at)));
            if timer.deadline() != at {
                timer.as_mut().reset(at);
            }
            if timer.as_mut().poll(cx).is_pending() {
                return Poll::Pending;
            }
        }
    }
}

/// Why a response is cut: HTTP/1.1 closes, HTTP/2 resets the stream, so that a truncated answer never looks whole.
#[derive(Debug, thiserror::Error)]
#[error("the response was cut: {}", .0.code())]
pub(super) struct BodyError(Reason);

impl<R: Router> Body for OutBody<R> {
    type Data = Bytes;
    type Error = BodyError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BodyError>>> {
        let polled = match &mut self.source {
            Source::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
            Source::Upstream(body) => Pin::new(body).poll_frame(cx),
        };
        match polled {
            Poll::Pending => self.poll_deadline(cx),
            Poll::Ready(None) => {
                self.exchange.finish();
                Poll::Ready(None)
            }
            Poll::Ready(Some(Err(_upstream_failed))) => {
                let by_us = match &self.source {
                    Source::Upstream(body) => body.cut().cloned(),
                    Source::Full(_) => None,
                };
                let reason = self.exchange.cut(by_us);
                Poll::Ready(Some(Err(BodyError(reason))))
            }
            Poll::Ready(Some(Ok(mut frame))) => {
                let trailers = frame.trailers_mut().map(|trailers| {
                    hygiene::strip_response_trailers(trailers);
                    self.exchange.note_trailers(trailers);
                });
                self.exchange.sent(frame.data_ref().map_or(0, Bytes::len));
                // Nothing comes behind trailers; hyper does not ask again, and an HTTP/1.1 body does not say that it has ended.
                if trailers.is_some() || self.is_end_stream() {
                    self.exchange.finish();
                }
                Poll::Ready(Some(Ok(frame)))
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        match &self.source {
            Source::Full(bytes) => bytes.is_none(),
            Source::Upstream(body) => body.is_end_stream(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.source {
            Source::Full(bytes) => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
            Source::Upstream(body) => body.size_hint(),
        }
    }
}
