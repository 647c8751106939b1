//! Upstreams: clusters and their endpoints, addresses, balancing, pools, connecting, retries.

mod adopt;
mod balance;
mod cluster;
mod conn;
mod connect;
mod dial;
mod endpoint;
mod failure;
mod key;
mod outgoing;
mod pool;
mod resolve;
mod retry;
mod send;
mod stream;
mod tunnel;

pub use cluster::{AddressPolicy, Cluster, ClusterPolicy, Clusters, EndpointOrigin, Known};
pub(crate) use connect::version;
pub use endpoint::{Endpoint, Load, Transport, UpstreamTls};
pub use key::{Protocol, RuleRef, ServiceRef, Tag, TlsKey, TransportKey};
pub use resolve::Resolver;
pub use retry::{RetryOn, RetryPolicy};
pub use send::{Attempts, Upstream};
pub use tunnel::{Answered, Tunnel};
