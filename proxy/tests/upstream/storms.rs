//! Storms: upstreams that fail are not asked much more than ones that do not, and dead endpoints cost no request.

use std::{cell::Cell, net::SocketAddr, rc::Rc};

use proxy::{
    Reason,
    observe::Counter,
    upstream::{Protocol, RetryOn, RetryPolicy},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener, sync::watch};

use super::support::*;

/// An upstream that fails every request with 503, and counts them.
struct Failing {
    addr: SocketAddr,
    asked: Rc<Cell<usize>>,
    /// How many requests, in order of arrival, are answered.
    answered: watch::Sender<usize>,
}

impl Failing {
    async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let (asked, answered) = (Rc::new(Cell::new(0)), watch::Sender::new(0));
        let (count, gate) = (Rc::clone(&asked), answered.subscribe());
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (count, mut gate) = (Rc::clone(&count), gate.clone());
                tokio::task::spawn_local(async move {
                    let mut peer = Peer::of(stream);
                    while !peer.request().await.is_empty() {
                        count.set(count.get() + 1);
                        let mine = count.get();
                        let open = gate.wait_for(|answered| *answered >= mine).await.is_ok();
                        let answer = b"HTTP/1.1 503 Service Unavailable\r\ncontent-length: 4\r\n\r\nbusy";
                        if !open || peer.stream().write_all(answer).await.is_err() {
                            return;
                        }
                    }
                });
            }
        });
        Self { addr, asked, answered }
    }
}

fn policy(tries: u32) -> RetryPolicy {
    RetryPolicy { on: vec![RetryOn::ServerError], tries, per_try: None }
}

#[test]
fn a_burst_that_fails_is_sent_again_for_one_in_five() {
    local(async {
        let (rig, server) = (Rc::new(Rig::new()), Failing::start().await);
        let route = Rc::new(retrying(&rig.cluster(Protocol::Http1, &[server.addr]), policy(1)));
        let burst: Vec<_> = (0..100)
            .map(|_| {
                let (rig, route) = (Rc::clone(&rig), Rc::clone(&route));
                tokio::task::spawn_local(async move { rig.get(&route).await })
            })
            .collect();
        until("all are under way", || server.asked.get() == 100).await;
        // All fail at once; those that are sent again wait until it was decided about each of the first hundred.
        server.answered.send_replace(100);
        let decided = || rig.total(Counter::Retries) + rig.total(Counter::RetriesRefused);
        until("it was decided about each", || decided() == 100).await;
        let retries = rig.total(Counter::Retries);
        assert!((3..=20).contains(&retries), "{retries}");
        server.answered.send_replace(usize::MAX);
        for asked in burst {
            let answer = asked.await.unwrap();
            assert_eq!((answer.status, answer.text()), (503, "busy"), "its own failure");
        }
        assert_eq!(server.asked.get() as u64, 100 + retries);
        // The storm has passed: its budget is whole again.
        let calm = retrying(&route.cluster, policy(3));
        let (_, attempts) = rig.ask(&calm, get("/")).await;
        assert_eq!(attempts.count, 4);
    });
}

#[test]
fn a_storm_that_lasts_asks_the_upstream_for_a_fifth_more() {
    const CLIENTS: usize = 50;
    const ROUNDS: usize = 20;
    local(async {
        let (rig, server) = (Rc::new(Rig::new()), Failing::start().await);
        server.answered.send_replace(usize::MAX);
        let route = Rc::new(retrying(&rig.cluster(Protocol::Http1, &[server.addr]), policy(5)));
        let storm: Vec<_> = (0..CLIENTS)
            .map(|_| {
                let (rig, route) = (Rc::clone(&rig), Rc::clone(&route));
                tokio::task::spawn_local(async move {
                    for _ in 0..ROUNDS {
                        assert_eq!(rig.get(&route).await.status, 503);
                    }
                })
            })
            .collect();
        for client in storm {
            client.await.unwrap();
        }
        let (asked, first) = (server.asked.get(), CLIENTS * ROUNDS);
        assert_eq!(asked as u64, first as u64 + rig.total(Counter::Retries));
        println!("{asked} requests reached the upstream for {first}");
        assert!(
            asked > first && asked <= first * 5 / 4 + 3,
            "{asked}: without a budget it were six times {first}"
        );
        assert!(rig.total(Counter::RetriesRefused) > 0);
    });
}

#[test]
fn the_floor_lets_a_lone_request_have_all_its_tries() {
    local(async {
        let (rig, server) = (Rig::new(), Failing::start().await);
        server.answered.send_replace(usize::MAX);
        let route = retrying(&rig.cluster(Protocol::Http1, &[server.addr]), policy(3));
        for _ in 0..5 {
            let (answer, attempts) = rig.ask(&route, get("/")).await;
            assert_eq!((answer.unwrap().status, attempts.count), (503, 4));
        }
        assert_eq!(rig.total(Counter::RetriesRefused), 0);
    });
}

#[test]
fn one_living_endpoint_among_nine_dead_ones_is_found_by_every_request() {
    local(async {
        let rig = Rig::new();
        let living = Friendly::start("127.0.0.1:0", "alive").await.unwrap();
        let dead: Vec<_> = (0..9).map(|_| nobody()).collect();
        let mut all: Vec<_> = dead.iter().map(|(addr, _held)| *addr).collect();
        all.push(living.addr);
        let route = route(&rig.cluster(Protocol::Http1, &all));
        for _ in 0..200 {
            let (answer, attempts) = rig.ask(&route, get("/")).await;
            assert_eq!(answer.unwrap().text(), "alive");
            assert_eq!(attempts.upstream, Some(living.addr));
        }
        // What failed is tried last for a while: each of the nine is met a few times, not by each request.
        let failures = rig.total(Counter::UpstreamConnectFailures);
        assert!(failures <= 9 * 7, "{failures} connects to dead endpoints");
        assert_eq!(rig.total(Counter::Retries), 0, "other endpoints are no other try");
    });
}

#[test]
fn an_endpoint_that_comes_back_serves_at_once() {
    local(async {
        let rig = Rig::new();
        let (addr, held) = nobody();
        let route = route(&rig.cluster(Protocol::Http1, &[addr]));
        let mut held = Some(held);
        for _ in 0..3 {
            for _ in 0..5 {
                let (answer, _) = rig.ask(&route, get("/")).await;
                assert_eq!(answer.unwrap_err().reason(), Reason::CONNECT_FAILED);
            }
            let listener = held.take().unwrap().listen(8).unwrap();
            // The port is open: the next request is served, however often the last ones failed.
            let (answer, _) = tokio::join!(rig.get(&route), async {
                let mut peer = Peer::of(listener.accept().await.unwrap().0);
                peer.answer("back").await
            });
            assert_eq!(answer.text(), "back");
            drop(listener);
            until("its connection is noticed to be gone", || rig.open() == 0).await;
            // The end of the last connection may take the kernel a moment.
            let deadline = std::time::Instant::now() + std::time::Duration::from_secs(10);
            let again = loop {
                let again = tokio::net::TcpSocket::new_v4().unwrap();
                again.set_reuseaddr(true).unwrap();
                match again.bind(addr) {
                    Ok(()) => break again,
                    Err(error) => assert!(std::time::Instant::now() < deadline, "{error}"),
                }
                tokio::time::sleep(std::time::Duration::from_millis(2)).await;
            };
            held = Some(again);
        }
    });
}
