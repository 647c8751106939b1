//! From endpoints to one connection: the least loaded first, the next one when it fails or keeps us waiting.

use std::{net::SocketAddr, time::Duration};

use futures_util::{StreamExt as _, stream::FuturesUnordered};
use tokio::time::{Instant, sleep_until, timeout_at};

use super::{
    AddressPolicy, Cluster, Endpoint, balance,
    cluster::Known,
    connect::{ConnFacts, Connected, Failed, connect, failed},
};
use crate::{
    Error, Reason,
    observe::{Counter, WorkerObserve},
};

/// The other address family is tried beside the first after this (RFC 8305, 5).
const OTHER_FAMILY_AFTER: Duration = Duration::from_millis(250);
/// Another endpoint of the same family is tried beside the first after this.
const NEXT_ENDPOINT_AFTER: Duration = Duration::from_secs(1);

/// One search for a connection, within one deadline.
pub(super) struct Dial<'a> {
    pub(super) cluster: &'a Cluster,
    pub(super) addresses: &'a AddressPolicy,
    pub(super) observe: &'a WorkerObserve,
    /// From the start of the search.
    pub(super) timeout: Duration,
    pub(super) deadline: Instant,
    /// For a request that can be sent by HTTP/1.1 alone.
    pub(super) http1: bool,
}

/// Where a search has been.
#[derive(Default)]
pub(super) struct Tried {
    addrs: Vec<SocketAddr>,
    /// The endpoint that the outcome belongs to.
    pub(super) last: Option<SocketAddr>,
    /// What was known of the connection that failed last.
    pub(super) facts: ConnFacts,
}

impl Tried {
    /// An endpoint that was not tried yet.
    pub(super) fn next<'a>(&self, endpoints: &'a [Endpoint]) -> Option<&'a Endpoint> {
        if self.addrs.is_empty() { balance::pick(endpoints, &[]) } else { next_after(endpoints, &self.addrs) }
    }
}

impl Dial<'_> {
    /// Connects to any endpoint.
    pub(super) async fn any(
        &self,
        endpoints: &[Endpoint],
        tried: &mut Tried,
    ) -> Result<(Connected, Endpoint), Error> {
        let mut outcome = Err(no_endpoints(self.cluster));
        while let Some(endpoint) = tried.next(endpoints) {
            outcome = self.run(endpoints, endpoint, tried).await;
            if !outcome.as_ref().is_err_and(Self::others_may_help) {
                break;
            }
        }
        outcome
    }

    /// Whether another endpoint may be reached after this failure.
    pub(super) fn others_may_help(error: &Error) -> bool {
        matches!(error, Error::Connect { reason, .. } if *reason != Reason::CONNECT_TIMEOUT)
    }

    /// Connects to `first`; when it keeps us waiting, to others beside it. When it fails and nothing is under way, the caller
    /// decides about the next one: there may be a pooled connection to it.
    pub(super) async fn run(
        &self,
        endpoints: &[Endpoint],
        first: &Endpoint,
        tried: &mut Tried,
    ) -> Result<(Connected, Endpoint), Error> {
        let mut racing = FuturesUnordered::new();
        let mut candidate = Some(first);
        loop {
            let mut failure = None;
            if let Some(endpoint) = candidate.take() {
                tried.addrs.push(endpoint.addr);
                tried.last = Some(endpoint.addr);
                match self.addresses.refuses(endpoint.addr) {
                    None => racing.push(async move { (endpoint, connect(endpoint, self.http1).await) }),
                    Some(why) => {
                        let message = format!("the address {why}; --allow-upstream lets it be one");
                        failure = Some(failed(endpoint.addr, Reason::ADDRESS_REFUSED, message));
                    }
                }
            }
            let next = next_after(endpoints, &tried.addrs);
            let patience = next.map_or(self.deadline, |next| Instant::now() + patience(first, next));
            if let (true, Some(failure)) = (racing.is_empty(), failure) {
                return Err(failure);
            }
            tokio::select! {
                biased;
                Some((endpoint, outcome)) = racing.next() => {
                    tried.last = Some(endpoint.addr);
                    match outcome {
                        Ok(connected) => {
                            self.connected(endpoint, &connected);
                            return Ok((connected, endpoint.clone()));
                        }
                        // No endpoint can be reached without it.
                        Err(Failed { error: error @ Error::Identity { .. }, .. }) => return Err(error),
                        Err(Failed { error, facts }) => {
                            tried.facts = facts;
                            self.failed(endpoint, &error);
                            if racing.is_empty() {
                                return Err(error);
                            }
                            candidate = next;
                        }
                    }
                },
                () = sleep_until(self.deadline) => return Err(self.late(endpoints, &tried.addrs)),
                () = sleep_until(patience), if next.is_some() => candidate = next,
            }
        }
    }

    fn connected(&self, endpoint: &Endpoint, connected: &Connected) {
        endpoint.load.reached();
        self.observe.count(Counter::UpstreamConnections);
        if connected.facts.tls.is_some() {
            self.observe.count(Counter::UpstreamHandshakes);
        }
    }

    fn failed(&self, endpoint: &Endpoint, error: &Error) {
        endpoint.load.failed();
        self.observe.count(Counter::UpstreamConnectFailures);
        if !matches!(error.reason().code(), "upstream_connect_failed") {
            self.observe.count(Counter::UpstreamHandshakeFailed);
        }
    }

    /// The deadline has passed with attempts under way.
    pub(super) fn late(&self, endpoints: &[Endpoint], tried: &[SocketAddr]) -> Error {
        self.observe.count(Counter::ConnectTimeout);
        for endpoint in endpoints.iter().filter(|endpoint| tried.contains(&endpoint.addr)) {
            endpoint.load.failed();
            self.observe.count(Counter::UpstreamConnectFailures);
        }
        let upstream = tried.last().map_or_else(|| self.cluster.name.to_string(), ToString::to_string);
        let message = format!("no connection after {:?}", self.timeout);
        Error::Connect { upstream, reason: Reason::CONNECT_TIMEOUT, message }
    }
}

/// The next one to try; of another address family than the last one if there is such.
fn next_after<'a>(endpoints: &'a [Endpoint], tried: &[SocketAddr]) -> Option<&'a Endpoint> {
    if tried.len() >= endpoints.len() {
        return None;
    }
    let v4 = tried.last().is_some_and(SocketAddr::is_ipv4);
    let same_family = endpoints.iter().map(|endpoint| endpoint.addr).filter(|addr| addr.is_ipv4() == v4);
    let avoid: Vec<_> = tried.iter().copied().chain(same_family).collect();
    balance::pick(endpoints, &avoid).or_else(|| balance::pick(endpoints, tried))
}

fn patience(first: &Endpoint, next: &Endpoint) -> Duration {
    if first.addr.is_ipv4() == next.addr.is_ipv4() { NEXT_ENDPOINT_AFTER } else { OTHER_FAMILY_AFTER }
}

/// A cluster's endpoints, once they are known; a request that comes before the first answer of DNS waits for it.
pub(super) async fn endpoints(
    cluster: &Cluster,
    deadline: Instant,
) -> Result<std::sync::Arc<Vec<Endpoint>>, Error> {
    let mut endpoints = cluster.endpoints();
    if endpoints.is_empty() {
        let mut known = cluster.known();
        let outcome = timeout_at(deadline, known.wait_for(|known| *known != Known::Pending)).await;
        let failure = match outcome.as_ref().map(Result::as_deref) {
            Ok(Ok(Known::Failed(why))) => Some(why.to_string()),
            Ok(Ok(Known::Yes | Known::Pending) | Err(_)) => None,
            Err(_late) => Some("the name was not resolved in time".to_owned()),
        };
        endpoints = cluster.endpoints();
        if let (true, Some(message)) = (endpoints.is_empty(), failure) {
            return Err(Error::Connect {
                upstream: cluster.name.to_string(),
                reason: Reason::UPSTREAM_DNS,
                message,
            });
        }
    }
    if endpoints.is_empty() {
        return Err(no_endpoints(cluster));
    }
    Ok(endpoints)
}

/// The error of a cluster in which there is nothing to try.
pub(super) fn no_endpoints(cluster: &Cluster) -> Error {
    let message = "no endpoint is known".to_owned();
    Error::Connect { upstream: cluster.name.to_string(), reason: Reason::NO_ENDPOINTS, message }
}
