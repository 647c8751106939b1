//! A connector for tonic from a closure: the one thing of tower that is needed here.

use std::{
    future::Future,
    task::{Context, Poll},
};

use tower_service::Service;

/// A service that is always ready and calls a closure.
#[derive(Clone, Debug)]
pub(super) struct ServiceFn<F>(F);

/// Wraps a closure.
pub(super) fn service_fn<F>(f: F) -> ServiceFn<F> {
    ServiceFn(f)
}

impl<F, R, Fut, T, E> Service<R> for ServiceFn<F>
where
    F: FnMut(R) -> Fut,
    Fut: Future<Output = Result<T, E>>,
{
    type Response = T;
    type Error = E;
    type Future = Fut;

    fn poll_ready(&mut self, _cx: &mut Context<'_>) -> Poll<Result<(), E>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: R) -> Fut {
        (self.0)(request)
    }
}
