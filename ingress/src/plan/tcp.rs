//! TCP routes of a plan.

use std::{net::IpAddr, ops::Range, sync::Arc};

use resource::ObjectRef;

use super::{HostGlob, Outcome};

/// One TCPMapping.
#[derive(Clone, Debug)]
pub struct TcpMappingPlan {
    /// The resource.
    pub object: ObjectRef,
    /// `namespace/name`: `route` in the access log.
    pub name: Arc<str>,
    /// The port it takes connections on.
    pub port: u16,
    /// `address`: the one it takes connections on; `None`: that of the listener.
    pub address: Option<IpAddr>,
    /// `host`: the server names it takes; `None`: every connection that no other one takes by name.
    pub host: Option<HostGlob>,
    /// `weight`; `None`: takes what the others leave.
    pub weight: Option<i64>,
    /// Faces of the dice on which it is taken: its part of its group.
    pub share: Range<u8>,
    /// [`Outcome::Forward`], or [`Outcome::Unavailable`]: it keeps its place and closes its connections.
    pub outcome: Outcome,
}
