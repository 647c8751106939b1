//! The revocation sweep: when trust, a revocation list or a peer rule changes, each distinct chain is verified once, and the
//! connections whose chain no longer holds are drained, then cut.

use std::time::Duration;

use crate::{
    Reason,
    registry::{Order, Registry},
};

/// What still runs this long after its trust was taken away is cut.
const CUT_AFTER: Duration = Duration::from_secs(5);

/// Verifies every distinct chain of open connections again; gives how many connections were told to drain.
pub fn sweep(registry: &Registry) -> usize {
    let mut drained = 0;
    for presented in registry.presented() {
        let Err(broken) = presented.guard.recheck(presented.peer.as_deref()) else { continue };
        let order = Order::Drain { reason: Reason::TRUST_REMOVED, deadline: CUT_AFTER };
        let count = registry.order(&order, |facts| presented.is(facts));
        let peer = presented.peer.as_ref().and_then(|peer| peer.spiffe_id.as_ref()).map(ToString::to_string);
        tracing::warn!(
            reason = broken.code(),
            peer,
            connections = count,
            "trust removed: draining connections"
        );
        drained += count;
    }
    drained
}
