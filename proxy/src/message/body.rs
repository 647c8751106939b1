//! The one request body type and the one response body type of upstream connections.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use hyper::body::Incoming;

/// The body of a request on its way upstream.
#[derive(Debug, Default)]
pub enum ReqBody {
    /// Nothing.
    #[default]
    Empty,
    /// Straight from the client.
    Incoming(Incoming),
    /// Whole in memory.
    Full(Option<Bytes>),
}

/// The body of a response on its way downstream.
#[derive(Debug, Default)]
pub enum ResBody {
    /// Nothing.
    #[default]
    Empty,
    /// Straight from the upstream.
    Incoming(Incoming),
    /// Whole in memory.
    Full(Option<Bytes>),
}

macro_rules! body {
    ($name:ident) => {
        impl Body for $name {
            type Data = Bytes;
            type Error = hyper::Error;

            fn poll_frame(
                mut self: Pin<&mut Self>,
                cx: &mut Context<'_>,
            ) -> Poll<Option<Result<Frame<Bytes>, hyper::Error>>> {
                match &mut *self {
                    Self::Empty => Poll::Ready(None),
                    Self::Incoming(body) => Pin::new(body).poll_frame(cx),
                    Self::Full(bytes) => Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
                }
            }

            fn is_end_stream(&self) -> bool {
                match self {
                    Self::Empty => true,
                    Self::Incoming(body) => body.is_end_stream(),
                    Self::Full(bytes) => bytes.as_ref().is_none_or(Bytes::is_empty),
                }
            }

            fn size_hint(&self) -> SizeHint {
                match self {
                    Self::Empty => SizeHint::with_exact(0),
                    Self::Incoming(body) => body.size_hint(),
                    Self::Full(bytes) => {
                        SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64))
                    }
                }
            }
        }
    };
}

body!(ReqBody);
body!(ResBody);
