//! Clusters: long-lived, carried by key from table to table.

use std::{
    collections::HashMap,
    net::{IpAddr, Ipv6Addr, SocketAddr},
    sync::{Arc, OnceLock, Weak},
    time::Duration,
};

use arc_swap::ArcSwap;
use identity::PeerRule;
use parking_lot::Mutex;
use tokio::{sync::watch, task::AbortHandle};

use super::{
    Endpoint, Transport, TransportKey,
    endpoint::Load,
    resolve::Resolver,
    retry::{Resend, Resends},
};

/// Settings of a cluster that are replaced in place and are never part of its key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ClusterPolicy {
    /// TCP connect and TLS handshake together; `None`: the process default.
    pub connect_timeout: Option<Duration>,
    /// Idle pooled connections are closed after this; default 1 h as in Envoy.
    pub idle_timeout: Duration,
    /// Pooled connections are retired after this.
    pub max_lifetime: Option<Duration>,
    /// HTTP/2 connections per worker and endpoint.
    pub max_h2_connections: usize,
}

impl Default for ClusterPolicy {
    fn default() -> Self {
        Self {
            connect_timeout: None,
            idle_timeout: Duration::from_hours(1),
            max_lifetime: None,
            max_h2_connections: 4,
        }
    }
}

/// Where a cluster's addresses come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum EndpointOrigin {
    /// Given by manifests or `--resolve`.
    Static(Vec<SocketAddr>),
    /// Looked up in DNS, refreshed by TTL.
    Dns,
}

/// Which upstream addresses may be connected to; asked after DNS.
#[derive(Clone, Debug, Default)]
pub struct AddressPolicy {
    /// Loopback addresses are allowed (files on a laptop).
    pub allow_loopback: bool,
    /// Allowed in any case.
    pub allow: Vec<ipnet::IpNet>,
    /// Our own listening and admin addresses: never an upstream unless allowed explicitly.
    pub own: Vec<SocketAddr>,
}

impl AddressPolicy {
    /// Why an address is refused, if it is.
    pub fn refuses(&self, addr: SocketAddr) -> Option<&'static str> {
        let ip = addr.ip().to_canonical();
        if self.allow.iter().any(|net| net.contains(&ip)) {
            return None;
        }
        if is_link_local(ip) {
            return Some("is link-local (cloud metadata lives there)");
        }
        if ip.is_unspecified() || ip.is_multicast() {
            return Some("is not the address of one host");
        }
        if ip.is_loopback() && !self.allow_loopback {
            return Some("is loopback");
        }
        let same = |own: &SocketAddr| {
            own.port() == addr.port()
                && (own.ip().to_canonical() == ip || (own.ip().is_unspecified() && ip.is_loopback()))
        };
        self.own.iter().any(same).then_some("is one of our own listeners")
    }
}

fn is_link_local(ip: IpAddr) -> bool {
    /// The metadata service of EC2 over IPv6.
    const METADATA_V6: Ipv6Addr = Ipv6Addr::new(0xfd00, 0xec2, 0, 0, 0, 0, 0, 0x254);
    match ip {
        IpAddr::V4(ip) => ip.is_link_local(),
        IpAddr::V6(ip) => ip.is_unicast_link_local() || ip == METADATA_V6,
    }
}

/// A cluster. Pools and balancer state hang on it and outlive tables.
#[derive(Debug)]
pub struct Cluster {
    /// Its key.
    pub key: TransportKey,
    /// Its name in logs and metrics.
    pub name: Arc<str>,
    /// How its endpoints are reached, for endpoints that bring no transport of their own.
    pub transport: Arc<Transport>,
    /// Hot settings.
    pub policy: ArcSwap<ClusterPolicy>,
    endpoints: ArcSwap<Vec<Endpoint>>,
    /// Whether the endpoints are known: the answer of DNS may be outstanding, or an error.
    known: watch::Sender<Known>,
    /// The task that follows its name; ends with it.
    follower: OnceLock<AbortHandle>,
    resends: Resends,
}

impl Drop for Cluster {
    fn drop(&mut self) {
        if let Some(follower) = self.follower.get() {
            follower.abort();
        }
    }
}

/// Whether a cluster's endpoints are known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Known {
    /// DNS has not answered yet.
    Pending,
    /// They are what they are.
    Yes,
    /// DNS says there is no such name, or cannot be asked; the last good endpoints stay.
    Failed(Arc<str>),
}

impl Cluster {
    /// Present endpoints.
    pub fn endpoints(&self) -> Arc<Vec<Endpoint>> {
        self.endpoints.load_full()
    }

    /// Whether the endpoints are known.
    pub fn known(&self) -> watch::Receiver<Known> {
        self.known.subscribe()
    }

    /// Replaces the addresses; what balancing knows of those that stay is kept.
    pub fn set_addresses(&self, addresses: &[SocketAddr]) {
        let old = self.endpoints.load();
        let kept = |addr: &SocketAddr| {
            old.iter().find(|endpoint| endpoint.addr == *addr).map(|e| Arc::clone(&e.load))
        };
        let endpoint = |addr: &SocketAddr| Endpoint {
            addr: *addr,
            transport: Arc::clone(&self.transport),
            peer: None,
            weight: 1,
            zone: None,
            load: kept(addr).unwrap_or_else(|| Arc::new(Load::default())),
        };
        let same = old.len() == addresses.len()
            && old.iter().zip(addresses).all(|(endpoint, addr)| endpoint.addr == *addr);
        if !same {
            self.endpoints.store(Arc::new(addresses.iter().map(endpoint).collect()));
        }
        self.known.send_replace(Known::Yes);
    }

    /// Replaces the rule that its upstreams have to satisfy; pooled connections are compared with it before their next use.
    /// Nothing happens to a cluster without TLS.
    pub fn set_rule(&self, rule: PeerRule) {
        if let Transport::Tls(tls) = &*self.transport {
            tls.rule.store(Arc::new(rule));
        }
    }

    /// Lets a request be sent again, if the budget is not spent. What is under way is added up here, so that requests that
    /// are sent once pay nothing for it.
    pub(super) fn resend(&self) -> Option<Resend<'_>> {
        let in_flight = |total: u32, endpoint: &Endpoint| total.saturating_add(endpoint.load.in_flight());
        self.resends.begin(self.endpoints.load().iter().fold(0, in_flight))
    }

    pub(super) fn resolve_failed(&self, why: &str) {
        self.known.send_replace(Known::Failed(why.into()));
    }
}

/// All clusters of the process, by key: the control side gets or creates them when it builds a table.
#[derive(Debug)]
pub struct Clusters {
    by_key: Mutex<HashMap<TransportKey, Weak<Cluster>>>,
    /// `None`: nothing is looked up (explain, check).
    resolver: Option<Resolver>,
}

impl Clusters {
    /// An empty registry. Names are looked up by `resolver`; without one DNS clusters stay without endpoints.
    pub fn new(resolver: Option<Resolver>) -> Self {
        Self { by_key: Mutex::default(), resolver }
    }

    /// The cluster of a key: the one that is there, with its pools and balancer state, or a new one. Static addresses are
    /// replaced in place; policy and rule are for the caller to store ([`Cluster::policy`], [`Cluster::set_rule`]).
    pub fn get(
        &self,
        key: &TransportKey,
        name: &Arc<str>,
        origin: &EndpointOrigin,
        make_transport: impl FnOnce() -> Transport,
    ) -> Arc<Cluster> {
        let mut by_key = self.by_key.lock();
        by_key.retain(|_, cluster| cluster.strong_count() > 0);
        let found = by_key.get(key).and_then(Weak::upgrade);
        let cluster = found.unwrap_or_else(|| {
            let cluster = Arc::new(Cluster {
                key: key.clone(),
                name: Arc::clone(name),
                transport: Arc::new(make_transport()),
                policy: ArcSwap::default(),
                endpoints: ArcSwap::default(),
                known: watch::channel(Known::Pending).0,
                follower: OnceLock::new(),
                resends: Resends::default(),
            });
            by_key.insert(key.clone(), Arc::downgrade(&cluster));
            if let (EndpointOrigin::Dns, Some(resolver)) = (origin, &self.resolver)
                && let Some(follower) = resolver.follow(&cluster)
            {
                cluster.follower.get_or_init(|| follower);
            }
            cluster
        });
        if let EndpointOrigin::Static(addresses) = origin {
            cluster.set_addresses(addresses);
        }
        cluster
    }

    /// Every cluster that is in use.
    pub fn all(&self) -> Vec<Arc<Cluster>> {
        let mut all: Vec<_> = self.by_key.lock().values().filter_map(Weak::upgrade).collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_that_no_upstream_may_have() {
        let own = vec!["[::]:8080".parse().expect("addr"), "127.0.0.1:8877".parse().expect("addr")];
        let strict = AddressPolicy { allow_loopback: false, allow: Vec::new(), own: own.clone() };
        for bad in [
            "127.0.0.1:1",
            "[::1]:1",
            "169.254.169.254:80",
            "[fe80::1]:80",
            "[::ffff:169.254.169.254]:80",
            "0.0.0.0:80",
            "[fd00:ec2::254]:80",
            "[::ffff:127.0.0.1]:5",
            "224.0.0.1:80",
        ] {
            assert!(strict.refuses(bad.parse().expect(bad)).is_some(), "{bad}");
        }
        assert!(strict.refuses("10.0.0.1:80".parse().expect("addr")).is_none());
        let laptop =
            AddressPolicy { allow_loopback: true, allow: vec!["169.254.1.0/24".parse().expect("net")], own };
        assert!(laptop.refuses("127.0.0.1:9000".parse().expect("addr")).is_none());
        assert!(laptop.refuses("127.0.0.1:8877".parse().expect("addr")).is_some());
        assert!(laptop.refuses("127.0.0.1:8080".parse().expect("addr")).is_some());
        assert!(laptop.refuses("169.254.1.9:80".parse().expect("addr")).is_none());
    }
}
