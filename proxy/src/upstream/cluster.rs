//! Clusters: long-lived, carried by key from table to table.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use arc_swap::ArcSwap;

use super::{Endpoint, Transport, TransportKey};

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
            idle_timeout: Duration::from_secs(3600),
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
#[derive(Clone, Debug)]
pub struct AddressPolicy {
    /// Loopback, link-local and metadata addresses are allowed (files on a laptop).
    pub allow_local: bool,
    /// Allowed in any case.
    pub allow: Vec<ipnet::IpNet>,
    /// Our own listening and admin addresses: never an upstream unless allowed explicitly.
    pub own: Vec<SocketAddr>,
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
    /// Present endpoints.
    pub endpoints: ArcSwap<Vec<Endpoint>>,
}

/// All clusters of the process, by key: the control side gets or creates them when it builds a table.
#[derive(Debug)]
pub struct Clusters {}
