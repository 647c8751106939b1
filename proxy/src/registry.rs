//! The connection registry: every open connection with its identity, so that drain, revocation and policy changes are one mechanism.

use std::sync::Arc;

use identity::{ChainHash, PeerId};

use crate::{ConnMeta, Reason};

/// Which side of us a connection is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A client's connection to one of our listeners.
    Downstream,
    /// A pooled connection or a tunnel to an upstream.
    Upstream,
}

/// What the control side can order of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish what runs, then close; cut after the deadline.
    Drain {
        /// Why.
        reason: Reason,
        /// When what still runs is cut.
        deadline: std::time::Duration,
    },
    /// Decide again: `connection`, and `request` on open heads.
    Recheck,
}

/// All open connections of the process.
#[derive(Debug, Default)]
pub struct Registry {}

/// One open connection. Dropping it takes it out of the registry.
#[derive(Debug)]
pub struct Entry {
    /// The connection, for downstream ones.
    pub meta: Option<Arc<ConnMeta>>,
    /// The peer, if it has an identity.
    pub peer: Option<Arc<PeerId>>,
    /// Which side.
    pub role: Role,
}

impl Registry {
    /// The distinct chains of open connections: what a sweep verifies, once each.
    pub fn chains(&self) -> Vec<(ChainHash, Arc<PeerId>, Role)> {
        Vec::new()
    }
}
