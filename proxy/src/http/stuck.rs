//! Deadlines of exchanges whose client does not read: hyper asks a body for nothing while nothing can be written, so that
//! the body cannot look at its own deadline. The connection (HTTP/1.1) or the stream's task (HTTP/2) looks instead.

use std::{
    cell::RefCell,
    rc::{Rc, Weak},
    time::Duration,
};

use tokio::{
    sync::Notify,
    time::{Instant, sleep_until},
};

use crate::Reason;

/// The body's own look comes first: it can end a response in good order.
const GRACE: Duration = Duration::from_millis(50);

/// Something with a deadline: an exchange.
pub(super) trait Deadline {
    /// The one that comes first, and its reason.
    fn next_deadline(&self) -> Option<(Instant, Reason)>;
    /// It has passed and the exchange is cut.
    fn fail(&self, reason: &Reason);
}

/// Watches the present exchange of a connection or stream.
pub(super) struct Watch {
    exchange: RefCell<Option<Weak<dyn Deadline>>>,
    armed: Notify,
}

impl std::fmt::Debug for Watch {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Watch").finish_non_exhaustive()
    }
}

tokio::task_local! {
    /// The watch of an HTTP/2 stream's task.
    static STREAM: Rc<Watch>;
}

impl Watch {
    pub(super) fn new() -> Rc<Self> {
        Rc::new(Self { exchange: RefCell::new(None), armed: Notify::new() })
    }

    /// The stream's, inside of a stream's task.
    pub(super) fn of_stream() -> Option<Rc<Self>> {
        STREAM.try_with(Rc::clone).ok()
    }

    /// Watches this exchange from now on.
    pub(super) fn set(&self, exchange: Weak<dyn Deadline>) {
        *self.exchange.borrow_mut() = Some(exchange);
        self.armed.notify_one();
    }

    /// Watches nothing until the next exchange.
    pub(super) fn forget(&self) {
        *self.exchange.borrow_mut() = None;
    }

    /// The exchange's deadlines are others now.
    pub(super) fn changed(&self) {
        self.armed.notify_one();
    }

    fn present(&self) -> Option<Rc<dyn Deadline>> {
        self.exchange.borrow().as_ref().and_then(Weak::upgrade)
    }

    /// When to look.
    pub(super) fn due(&self) -> Option<Instant> {
        self.present()?.next_deadline().map(|(at, _)| at + GRACE)
    }

    /// Cuts the exchange if its deadline has passed; whoever asks must then drop what carries it.
    pub(super) fn cut_if_due(&self) -> bool {
        let Some(exchange) = self.present() else { return false };
        match exchange.next_deadline() {
            Some((at, reason)) if at + GRACE <= Instant::now() => {
                exchange.fail(&reason);
                true
            }
            _ => false,
        }
    }

    /// Ends when the exchange was cut. Cancel-safe.
    async fn stuck(&self) {
        loop {
            match self.due() {
                None => self.armed.notified().await,
                Some(at) => {
                    tokio::select! {
                        () = self.armed.notified() => {}
                        () = sleep_until(at) => if self.cut_if_due() { return },
                    }
                }
            }
        }
    }
}

/// Runs the streams of HTTP/2 connections on the worker's own thread. A stream whose task is dropped is reset.
#[derive(Clone, Copy, Debug)]
pub(super) struct StreamExecutor;

impl<F> hyper::rt::Executor<F> for StreamExecutor
where
    F: Future<Output = ()> + 'static,
{
    fn execute(&self, stream: F) {
        let watch = Watch::new();
        let stream = STREAM.scope(Rc::clone(&watch), stream);
        tokio::task::spawn_local(async move {
            tokio::select! {
                biased;
                () = stream => {}
                () = watch.stuck() => {}
            }
        });
    }
}
