//! Names to addresses, on the control side: one task for each DNS cluster, refreshed by TTL, last good kept.

use std::{
    net::{IpAddr, SocketAddr},
    sync::{Arc, Weak},
    time::Duration,
};

use hickory_resolver::{
    TokioResolver,
    config::{ConnectionConfig, LookupIpStrategy, NameServerConfig, ResolverConfig},
    lookup_ip::LookupIp,
    net::{NetError, runtime::TokioRuntimeProvider},
};
use tokio::{
    runtime::Handle,
    sync::Semaphore,
    task::AbortHandle,
    time::{Instant, timeout},
};

use super::{Cluster, ServiceRef};

/// Answers are asked again no sooner and no later than this, whatever their TTL.
const TTL_BOUNDS: (Duration, Duration) = (Duration::from_secs(1), Duration::from_mins(5));
/// After a failure.
const RETRY: Duration = Duration::from_secs(2);
/// Waits are longer by up to this part of themselves, by chance: names that were asked together spread.
const JITTER: f64 = 0.1;
/// A lookup, with all its tries, ends within this; the first one of a name sooner, so that a silent name holds up few others.
const DEADLINE: Duration = Duration::from_secs(10);
const FIRST_DEADLINE: Duration = Duration::from_secs(1);
/// Names that are asked at the same time: new ones, those that were answered, those that were not. Each costs sockets (A and
/// AAAA, for each server): a name server that is silent must not take the descriptors that clients need.
const LOOKUPS: [usize; 3] = [16, 8, 8];

/// Looks names up and keeps clusters up to date.
#[derive(Clone, Debug)]
pub struct Resolver {
    dns: Option<Dns>,
    control: Handle,
}

impl Resolver {
    /// Names that are asked at the same time, over all clusters.
    pub const MAX_LOOKUPS: usize = LOOKUPS[0] + LOOKUPS[1] + LOOKUPS[2];

    /// The system's configuration; tasks run on the control runtime.
    pub fn system(control: Handle) -> Self {
        let dns = TokioResolver::builder_tokio().and_then(|mut builder| {
            builder.options_mut().ip_strategy = LookupIpStrategy::Ipv4AndIpv6;
            builder.build()
        });
        if let Err(error) = &dns {
            tracing::warn!(%error, "no DNS: names without --resolve and without a Service manifest will not be found");
        }
        Self { dns: dns.ok().map(Dns::new), control }
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
        Self { dns: builder.build().ok().map(Dns::new), control }
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

/// What is known of a name. Names of one standing wait for one another, and for nobody else.
#[derive(Clone, Copy, Debug)]
enum Standing {
    New,
    Answered,
    Failed,
}

/// What all lookups share.
#[derive(Clone, Debug)]
struct Dns {
    resolver: TokioResolver,
    new: Arc<Semaphore>,
    answered: Arc<Semaphore>,
    failed: Arc<Semaphore>,
}

/// Why there is no answer.
#[derive(Debug, thiserror::Error)]
enum LookupError {
    #[error("{0}")]
    Dns(#[from] NetError),
    #[error("no answer within {0:?}")]
    Silent(Duration),
}

impl Dns {
    fn new(resolver: TokioResolver) -> Self {
        let [new, answered, failed] = LOOKUPS.map(|permits| Arc::new(Semaphore::new(permits)));
        Self { resolver, new, answered, failed }
    }

    async fn look_up(&self, host: &str, standing: Standing) -> Result<LookupIp, LookupError> {
        let (turns, within) = match standing {
            Standing::New => (&self.new, FIRST_DEADLINE),
            Standing::Answered => (&self.answered, DEADLINE),
            Standing::Failed => (&self.failed, DEADLINE),
        };
        // Never closed: an error could not end the wait.
        let _turn = turns.acquire().await;
        match timeout(within, self.resolver.lookup_ip(host)).await {
            Ok(answer) => answer.map_err(LookupError::from),
            Err(_late) => Err(LookupError::Silent(within)),
        }
    }
}

/// Ends with its cluster, which it never keeps alive.
async fn run(dns: Dns, service: ServiceRef, cluster: Weak<Cluster>) {
    let mut standing = Standing::New;
    loop {
        let answer = dns.look_up(&service.host, standing).await;
        standing = if answer.is_ok() { Standing::Answered } else { Standing::Failed };
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
        tokio::time::sleep(wait.mul_f64(JITTER.mul_add(fastrand::f64(), 1.0))).await;
    }
}

/// Addresses of a name that needs no DNS.
fn literal(host: &str, port: u16) -> Option<Vec<SocketAddr>> {
    if host == "localhost" {
        return Some(vec![([127, 0, 0, 1], port).into(), (std::net::Ipv6Addr::LOCALHOST, port).into()]);
    }
    host.parse::<IpAddr>().ok().map(|ip| vec![SocketAddr::new(ip, port)])
}
