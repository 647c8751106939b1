//! Upstreams: clusters and their endpoints, addresses, balancing, pools, connecting, retries.

mod cluster;
mod endpoint;
mod key;
mod retry;
mod send;

pub use cluster::{AddressPolicy, Cluster, ClusterPolicy, Clusters, EndpointOrigin};
pub use endpoint::{Endpoint, Transport, UpstreamTls};
pub use key::{Protocol, RuleRef, ServiceRef, Tag, TlsKey, TransportKey};
pub use retry::{RetryOn, RetryPolicy};
pub use send::{Attempts, Upstream, UpstreamIo};
