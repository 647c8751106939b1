//! Endpoints: which one is picked, what happens when it cannot be reached, and what survives a change of the list.

use std::{sync::Arc, time::Duration};

use proxy::{
    Reason,
    observe::Counter,
    upstream::{AddressPolicy, Attempts, ClusterPolicy, Protocol},
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    time::Instant,
};

use super::support::*;

#[test]
fn a_refused_connection_is_told_at_once() {
    local(async {
        let rig = Rig::new();
        let (dead, _held) = nobody();
        let route = route(&rig.cluster(Protocol::Http1, &[dead]));
        let begin = Instant::now();
        let (answer, attempts) = rig.ask(&route, get("/")).await;
        let error = answer.unwrap_err();
        assert_eq!(
            (error.reason(), error.status().as_u16(), attempts.count),
            (Reason::CONNECT_FAILED, 503, 1)
        );
        assert!(begin.elapsed() < Duration::from_millis(500));
        assert_eq!(rig.total(Counter::UpstreamConnectFailures), 1);
        assert!(attempts.failure.is_some());
    });
}

#[test]
fn a_cluster_without_endpoints_says_so() {
    local(async {
        let rig = Rig::new();
        let (answer, _) = rig.ask(&route(&rig.cluster(Protocol::Http1, &[])), get("/")).await;
        let error = answer.unwrap_err();
        assert_eq!((error.reason(), error.status().as_u16()), (Reason::NO_ENDPOINTS, 503));
    });
}

#[test]
fn a_dead_endpoint_costs_no_request() {
    local(async {
        let rig = Rig::new();
        let server = Friendly::start("127.0.0.1:0", "alive").await.unwrap();
        let (dead, _held) = nobody();
        let cluster = rig.cluster(Protocol::Http1, &[dead, server.addr]);
        let route = route(&cluster);
        for _ in 0..20 {
            let (answer, attempts) = rig.ask(&route, get("/")).await;
            assert_eq!((answer.unwrap().text(), attempts.upstream), ("alive", Some(server.addr)));
        }
        assert_eq!(server.connections.get(), 1);
        assert!(rig.total(Counter::UpstreamConnectFailures) <= 1, "it is tried last for a while");
    });
}

#[test]
fn load_spreads_over_endpoints() {
    local(async {
        let rig = Rig::new();
        let (a, b) = (Scripted::bind().await, Scripted::bind().await);
        let route = route(&rig.cluster(Protocol::Http1, &[a.addr(), b.addr()]));
        let (first, second, ()) = tokio::join!(rig.get(&route), rig.get(&route), async {
            // Both have a request under way before either is answered.
            let (mut at_a, mut at_b) = (a.accept().await, b.accept().await);
            tokio::join!(at_a.answer("a"), at_b.answer("b"));
        });
        let mut answers = [first.text(), second.text()];
        answers.sort_unstable();
        assert_eq!(answers, ["a", "b"]);
    });
}

#[test]
fn an_edited_policy_and_a_changed_list_leave_connections_alone() {
    local(async {
        let rig = Rig::new();
        let a = Friendly::start("127.0.0.1:0", "a").await.unwrap();
        let b = Friendly::start("127.0.0.1:0", "b").await.unwrap();
        let cluster = rig.cluster(Protocol::Http1, &[a.addr]);
        let route = route(&cluster);
        assert_eq!(rig.get(&route).await.text(), "a");
        let connect_timeout = Some(Duration::from_millis(777));
        cluster.policy.store(Arc::new(ClusterPolicy { connect_timeout, ..ClusterPolicy::default() }));
        assert!(
            Arc::ptr_eq(&cluster, &rig.cluster(Protocol::Http1, &[a.addr, b.addr])),
            "carried by its key"
        );
        assert_eq!(cluster.policy.load().connect_timeout, connect_timeout);
        for _ in 0..10 {
            rig.get(&route).await;
        }
        let load = Arc::clone(&cluster.endpoints()[0].load);
        cluster.set_addresses(&[b.addr, a.addr]);
        assert!(Arc::ptr_eq(&load, &cluster.endpoints()[1].load), "balancer state goes with the address");
        rig.upstream.sweep(&[Arc::clone(&cluster)]);
        for _ in 0..10 {
            rig.get(&route).await;
        }
        assert_eq!(a.connections.get(), 1);
        assert!(b.connections.get() <= 1);
        cluster.set_addresses(&[b.addr]);
        rig.upstream.sweep(&[Arc::clone(&cluster)]);
        until("an endpoint that is gone keeps no connection", || rig.open() == b.connections.get()).await;
        assert_eq!(rig.get(&route).await.text(), "b");
    });
}

#[test]
fn ipv6_endpoints_work() {
    local(async {
        let rig = Rig::new();
        let Ok(server) = Friendly::start("[::1]:0", "six").await else {
            eprintln!("no IPv6 loopback here");
            return;
        };
        assert_eq!(rig.get(&route(&rig.cluster(Protocol::Http1, &[server.addr]))).await.text(), "six");
    });
}

#[test]
fn addresses_are_refused_when_connecting() {
    local(async {
        let rig = Rig::new();
        let server = Scripted::bind().await;
        let addr = server.addr();
        let mapped = format!("[::ffff:127.0.0.1]:{}", addr.port()).parse().unwrap();
        let own = AddressPolicy { allow_loopback: true, allow: Vec::new(), own: vec![addr] };
        for (policy, addr) in
            [(AddressPolicy::default(), addr), (AddressPolicy::default(), mapped), (own, addr)]
        {
            rig.addresses.store(Arc::new(policy));
            let cluster = rig.cluster(Protocol::Http1, &[addr]);
            let error = rig.ask(&route(&cluster), get("/")).await.0.unwrap_err();
            assert_eq!((error.reason(), error.status().as_u16()), (Reason::ADDRESS_REFUSED, 503), "{error}");
            let refused = rig.upstream.connect(&cluster, &mut Attempts::default()).await;
            assert!(refused.is_err_and(|error| error.reason() == Reason::ADDRESS_REFUSED));
        }
        assert!(server.untouched().await);
        let allow = vec!["127.0.0.0/8".parse().unwrap()];
        rig.addresses.store(Arc::new(AddressPolicy { allow, ..AddressPolicy::default() }));
        let route = route(&rig.cluster(Protocol::Http1, &[addr]));
        let (answer, _) =
            tokio::join!(rig.get(&route), async { server.accept().await.answer("let in").await });
        assert_eq!(answer.text(), "let in");
    });
}

#[test]
fn raw_bytes_reach_the_endpoint() {
    local(async {
        let rig = Rig::new();
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let (dead, _held) = nobody();
        let cluster = rig.cluster(Protocol::Tcp, &[dead, listener.local_addr().unwrap()]);
        let mut attempts = Attempts::default();
        let (io, accepted) = tokio::join!(rig.upstream.connect(&cluster, &mut attempts), listener.accept());
        let (mut io, mut server) = (io.unwrap(), accepted.unwrap().0);
        assert_eq!(attempts.upstream, Some(listener.local_addr().unwrap()));
        io.write_all(b"ping").await.unwrap();
        io.flush().await.unwrap();
        let mut bytes = [0; 4];
        server.read_exact(&mut bytes).await.unwrap();
        assert_eq!(&bytes, b"ping");
    });
}
