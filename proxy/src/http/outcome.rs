//! What is learned of a request on its way, for its record.

use std::{cell::RefCell, net::SocketAddr, sync::Arc};

use crate::{Reason, route::RouteId, upstream::Attempts};

/// What is learned on the way.
pub(super) struct Outcome {
    /// The client's address, as far as trusted proxies name it.
    pub(super) client: SocketAddr,
    pub(super) authority: String,
    pub(super) status: u16,
    pub(super) grpc_status: Option<u16>,
    pub(super) reason: Reason,
    pub(super) why: RouteId,
    pub(super) cluster: Option<Arc<str>>,
    pub(super) attempts: Attempts,
    pub(super) request_id: String,
    pub(super) trace_id: String,
}

impl Outcome {
    /// Nothing is known yet but who asks.
    pub(super) fn new(client: SocketAddr) -> Self {
        Self {
            client,
            authority: String::new(),
            status: 0,
            grpc_status: None,
            reason: Reason::OK,
            why: RouteId::None,
            cluster: None,
            attempts: Attempts::default(),
            request_id: String::new(),
            trace_id: String::new(),
        }
    }
}

/// What was tried reaches the outcome also when the client gives up, and with it the future that tries.
pub(super) struct Kept<'a> {
    pub(super) attempts: Attempts,
    pub(super) outcome: &'a RefCell<Outcome>,
}

impl Drop for Kept<'_> {
    fn drop(&mut self) {
        self.outcome.borrow_mut().attempts = std::mem::take(&mut self.attempts);
    }
}
