//! Step 8, pick: the least loaded endpoint; those that could not be reached a moment ago come last.

use std::net::SocketAddr;

use super::Endpoint;

/// Up to this many endpoints are all looked at; above, two random ones are compared.
const SCAN: usize = 8;

/// An endpoint that was not tried yet. `None` when there is none.
pub(super) fn pick<'a>(endpoints: &'a [Endpoint], tried: &[SocketAddr]) -> Option<&'a Endpoint> {
    let untried = |endpoint: &&Endpoint| !tried.contains(&endpoint.addr);
    if endpoints.len() > SCAN && tried.is_empty() {
        let random = || endpoints.get(fastrand::usize(..endpoints.len()));
        let chosen = [random(), random()].into_iter().flatten().min_by_key(|endpoint| cost(endpoint));
        if chosen.is_some_and(|endpoint| !endpoint.load.is_penalised()) {
            return chosen;
        }
    }
    // A random start spreads equally loaded endpoints.
    let start = if endpoints.is_empty() { 0 } else { fastrand::usize(..endpoints.len()) };
    let (head, tail) = endpoints.split_at(start);
    tail.iter().chain(head).filter(untried).min_by_key(|endpoint| cost(endpoint))
}

/// Requests under way for each unit of weight, scaled; reachability first.
fn cost(endpoint: &Endpoint) -> (bool, u64) {
    let load = u64::from(endpoint.load.in_flight()) * 1024 / u64::from(endpoint.weight.max(1));
    (endpoint.load.is_penalised(), load)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::{
        super::{
            Transport,
            endpoint::{Lease, Load},
        },
        *,
    };

    fn endpoints(count: u16) -> Vec<Endpoint> {
        let transport = Arc::new(Transport::Plain);
        (1..=count)
            .map(|port| Endpoint {
                addr: ([127, 0, 0, 1], port).into(),
                transport: Arc::clone(&transport),
                peer: None,
                weight: 1,
                zone: None,
                load: Arc::new(Load::default()),
            })
            .collect()
    }

    #[test]
    fn the_least_loaded_is_picked_and_failures_come_last() {
        let list = endpoints(3);
        let _busy = (Lease::new(&list[0].load), Lease::new(&list[1].load));
        assert_eq!(pick(&list, &[]).map(|e| e.addr.port()), Some(3));
        list[2].load.failed();
        assert_ne!(pick(&list, &[]).map(|e| e.addr.port()), Some(3));
        assert_eq!(pick(&list, &[list[0].addr, list[1].addr]).map(|e| e.addr.port()), Some(3));
        assert!(pick(&list, &[list[0].addr, list[1].addr, list[2].addr]).is_none());
        assert!(pick(&[], &[]).is_none());
    }

    #[test]
    fn many_endpoints_share_the_load() {
        let list = endpoints(40);
        let leases: Vec<_> = (0..400).filter_map(|_| pick(&list, &[]).map(|e| Lease::new(&e.load))).collect();
        assert_eq!(leases.len(), 400);
        assert!(list.iter().all(|e| e.load.in_flight() < 30), "two random choices keep the fullest low");
    }
}
