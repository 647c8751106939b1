//! An endpoint: an address with the transport and the identity that belong to it.

use std::{net::SocketAddr, sync::Arc};

use arc_swap::ArcSwap;
use identity::{ClientProfile, PeerRule};

/// One address of a cluster. The transport belongs to it, not to the cluster.
#[derive(Clone, Debug)]
pub struct Endpoint {
    /// Where to connect.
    pub addr: SocketAddr,
    /// How.
    pub transport: Arc<Transport>,
    /// A rule of this endpoint alone (mesh members); `None`: the transport's.
    pub peer: Option<PeerRule>,
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Zone, for locality.
    pub zone: Option<Arc<str>>,
}

/// How an endpoint is reached.
#[derive(Debug)]
pub enum Transport {
    /// Cleartext.
    Plain,
    /// TLS.
    Tls(UpstreamTls),
}

/// TLS towards an upstream: the shared client profile, the name to send and the rule to hold.
#[derive(Debug)]
pub struct UpstreamTls {
    /// Identity, trust, versions, ALPN; shared by all transports that agree on them.
    pub profile: Arc<ClientProfile>,
    /// Server name sent; `None`: no SNI.
    pub sni: Option<rustls_pki_types::ServerName<'static>>,
    /// Who the upstream has to be. Hot: an edited rule changes no key; the sweep reads it again.
    pub rule: ArcSwap<PeerRule>,
}
