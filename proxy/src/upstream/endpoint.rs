//! An endpoint: an address with the transport and the identity that belong to it.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, AtomicU64, Ordering::Relaxed},
    },
    time::Instant,
};

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
    pub peer: Option<Arc<PeerRule>>,
    /// Relative weight, at least 1.
    pub weight: u32,
    /// Zone, for locality.
    pub zone: Option<Arc<str>>,
    /// What balancing knows of it; kept by address when the list changes.
    pub load: Arc<Load>,
}

/// How long an endpoint that could not be reached is tried last.
const PENALTY_MS: u64 = 5_000;

/// What balancing knows of an endpoint, over all workers.
#[derive(Debug, Default)]
pub struct Load {
    in_flight: AtomicU32,
    /// Milliseconds since the process began; 0: never failed.
    failed_at: AtomicU64,
}

impl Load {
    /// Requests under way.
    pub fn in_flight(&self) -> u32 {
        self.in_flight.load(Relaxed)
    }

    /// Could not be reached a short while ago.
    pub fn is_penalised(&self) -> bool {
        let failed = self.failed_at.load(Relaxed);
        failed != 0 && since_start() < failed + PENALTY_MS
    }

    pub(super) fn failed(&self) {
        self.failed_at.store(since_start().max(1), Relaxed);
    }

    pub(super) fn reached(&self) {
        self.failed_at.store(0, Relaxed);
    }
}

/// A request under way to an endpoint; ends when dropped.
#[derive(Debug)]
pub(super) struct Lease(Arc<Load>);

impl Lease {
    pub(super) fn new(load: &Arc<Load>) -> Self {
        load.in_flight.fetch_add(1, Relaxed);
        Self(Arc::clone(load))
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        self.0.in_flight.fetch_sub(1, Relaxed);
    }
}

fn since_start() -> u64 {
    static START: std::sync::LazyLock<Instant> = std::sync::LazyLock::new(Instant::now);
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX)
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
