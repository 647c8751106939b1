//! Names to addresses, on the control side: one task for each DNS cluster, refreshed by TTL, last good kept.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    net::runtime::TokioRuntimeProvider,
};
use tokio::{runtime::Handle, task::AbortHandle, time::Instant};

use super::{Cluster, ServiceRef};

/// Answers are asked again no sooner and no later than this, whatever their TTL.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);

/// Looks names up and keeps clusters up to date.
#[derive(Clone, Debug)]
pub struct Resolver {
    dns: Option<TokioResolver>,
    control: Handle,
}

impl Resolver {
    /// The system's configuration; tasks run on the control runtime.
    pub fn system(control: Handle) -> Self {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        if let Err(error) = &dns {
            tracing::warn!(%error, "no DNS: names without --resolve and without a Service manifest will not be found");
        }
        Self { dns: dns.ok(), control }
    }

    /// Asks these servers, by UDP and TCP, instead of the system's; the hosts file is not read.
    pub fn with_nameservers(control: Handle, servers: &[SocketAddr]) -> Self {
        let server = |addr: &SocketAddr| {
            let connections = [ConnectionConfig::udp(), ConnectionConfig::tcp()].map(|mut connection| {
                connection.port = addr.port();
                connection
            });
            NameServerConfig::new(addr.ip(), true, connections.to_vec())
        };
        let config = ResolverConfig::from_name_servers(servers.iter().map(server).collect());
        let mut builder = TokioResolver::builder_with_config(config, TokioRuntimeProvider::default());
        builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
        builder.options_mut().use_hosts_file = hickory_resolver::config::ResolveHosts::Never;
        Self { dns: builder.build().ok(), control }
    }

    /// Follows a cluster's name; the cluster ends the task when it goes. Literal addresses and localhost are known at once.
    pub(super) fn follow(&self, cluster: &Arc<Cluster>) -> Option<AbortHandle> {
        let service = &cluster.key.service;
        if let Some(addresses) = literal(&service.host, service.port) {
            cluster.set_addresses(&addresses);
            return None;
        }
        let Some(dns) = self.dns.clone() else {
            cluster.resolve_failed("DNS is not configured on this machine");
            return None;
        };
        let task = self.control.spawn(run(dns, service.clone(), Arc::downgrade(cluster)));
        Some(task.abort_handle())
    }
}

/// Ends with its cluster, which it never keeps alive.
async fn run(dns: TokioResolver, service: ServiceRef, cluster: Weak<Cluster>) {
    loop {
        let answer = dns.lookup_ip(&*service.host).await;
        let Some(cluster) = cluster.upgrade() else { return };
        let wait = match answer {
            Ok(found) => {
                let mut addresses: Vec<_> =
                    found.iter().map(|ip| SocketAddr::new(ip, service.port)).collect();
                // Servers rotate their answers: the order says nothing.
                addresses.sort_unstable();
                addresses.dedup();
                cluster.set_addresses(&addresses);
                let ttl = found.valid_until().saturating_duration_since(Instant::now().into_std());
                ttl.clamp(TTL_BOUNDS.0, TTL_BOUNDS.1)
            }
            Err(error) => {
                tracing::debug!(host = %service.host, %error, "lookup failed");
                cluster.resolve_failed(&format!("{} cannot be resolved: {error}", service.host));
                RETRY
            }
        };
        drop(cluster);
        tokio::time::sleep(wait).await;
    }
}

/// Addresses of a name that needs no DNS.
fn literal(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if host == "localhost" {
        return Some(vec![([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()]);
    }
    host.parse::<IpAddr>().ok().map(|ip| vec![SocketAddr::new(ip, port)])
}
