//! The sweep of open connections: what it looks at, what it leaves alone, and what comes just beside it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use identity::{ClientAuth, PeerRule, TrustDomain, dev::Ca};
use proxy::{limits::Limits, observe::Counter, revoke::Swept, route::Accept};
use tokio::{io::AsyncWriteExt as _, time::Instant};

use super::{
    frames::{END_HEADERS, END_STREAM, HEADERS, block, frame},
    support::*,
    tls::{Guarded, TTL, ask, bundles, dial, https},
};

fn only(domain: &str) -> PeerRule {
    PeerRule::Spiffe { ids: Vec::new(), trust_domains: vec![TrustDomain::new(domain).unwrap()] }
}

fn required() -> Guarded {
    Guarded::new("spiffe://example.org/edge", ClientAuth::Required, PeerRule::Anyone)
}

#[tokio::test]
async fn each_distinct_chain_is_verified_once_and_only_when_something_has_changed() {
    let guarded = required();
    let rig = guarded.start(upstream().await);
    let clients =
        ["a", "b", "c"].map(|name| guarded.ca.mint(&format!("spiffe://example.org/{name}"), TTL).unwrap());
    let mut open = Vec::new();
    for client in clients.iter().cycle().take(30) {
        let mut sender = h1(dial(&rig, "a", "http/1.1", Some(client)).await.unwrap()).await;
        // An answer means that the connection is registered.
        assert_eq!(sender.send_request(get("/")).await.unwrap().status(), 200);
        open.push(sender);
    }
    let sweep = || rig.server.recheck(Instant::now());
    assert_eq!(sweep(), Swept { verified: 3, drained: 0 });
    assert_eq!(sweep(), Swept::default());
    guarded.trust.publish(bundles(&[&guarded.ca]));
    assert_eq!(sweep(), Swept::default(), "the same trust again");
    let other = Ca::new("example.org").unwrap();
    guarded.trust.publish(bundles(&[&guarded.ca, &other]));
    assert_eq!(sweep(), Swept { verified: 3, drained: 0 });
    guarded.profile.set_rule(only("example.org"));
    assert_eq!(sweep(), Swept { verified: 3, drained: 0 });
    guarded.trust.publish(bundles(&[&other]));
    assert_eq!(sweep(), Swept { verified: 3, drained: 30 });
    assert_eq!(rig.total(Counter::TrustRemoved), 30);
    until("idle connections go at once", || open.iter().all(H1::is_closed)).await;
    assert_eq!(sweep(), Swept::default());
}

/// Over HTTP/1.1 a connection ends with the answer; over HTTP/2 a client need not heed GOAWAY.
#[tokio::test]
async fn a_client_that_goes_on_asking_after_its_trust_was_taken_away_is_sent_elsewhere() {
    let guarded = required();
    let mut table = guarded.table(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, Limits::default(), https());
    let client = guarded.ca.mint("spiffe://example.org/client", TTL).unwrap();
    let mut stream = dial(&rig, "a", "h2", Some(&client)).await.unwrap();
    let request = |id, path| frame(HEADERS, END_STREAM | END_HEADERS, id, &block(path));
    let begin =
        [b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".to_vec(), frame(4, 0, 0, &[]), request(1, "/stall")].concat();
    stream.write_all(&begin).await.unwrap();
    until("it is served", || rig.observe.render().contains("selvedge_requests_active 1")).await;
    guarded.trust.publish(bundles(&[&Ca::new("example.org").unwrap()]));
    assert_eq!(rig.server.recheck(Instant::now()).drained, 1);
    stream.write_all(&request(3, "/")).await.unwrap();
    until("the second is refused", || rig.failures("trust_removed") == 1).await;
    assert!(rig.observe.render().contains("selvedge_requests_total{class=\"4xx\"} 1"));
    until("the first is cut", || rig.failures("trust_removed") == 2).await;
}

/// A table that was published, or a rule that was edited, while a handshake ran: its sweep did not see the connection.
#[tokio::test]
async fn what_changes_during_a_handshake_holds_for_it() {
    let guarded = required();
    let stricter = Guarded::new("spiffe://example.org/edge", ClientAuth::Required, PeerRule::Anyone);
    for by_rule in [false, true] {
        let mut table = guarded.table(upstream().await);
        let (asked, at) = (Arc::new(AtomicUsize::new(0)), Arc::clone(&guarded.profile));
        let then = Arc::clone(&stricter.profile);
        let count = Arc::clone(&asked);
        // Asked for the hello, and again when the connection is registered.
        table.accept = Box::new(move |_, _| match (count.fetch_add(1, Relaxed), by_rule) {
            (0, _) => Accept::Terminate(Arc::clone(&at)),
            (_, false) => Accept::Terminate(Arc::clone(&then)),
            (_, true) => {
                at.set_rule(only("elsewhere.org"));
                Accept::Terminate(Arc::clone(&at))
            }
        });
        let rig = Rig::with(table, Limits::default(), https());
        let client = guarded.ca.mint("spiffe://example.org/client", TTL).unwrap();
        assert_eq!(ask(&rig, "a", Some(&client)).await, None, "by_rule: {by_rule}");
        assert_eq!((asked.load(Relaxed), rig.total(Counter::HandshakeFailed)), (2, 1));
    }
}

#[tokio::test]
async fn a_connection_whose_profile_was_replaced_goes_and_nothing_of_it_is_cut() {
    let (before, after) = (required(), required());
    after.trust.publish(bundles(&[&before.ca]));
    let mut table = before.table(upstream().await);
    let replaced = Arc::new(AtomicUsize::new(0));
    let (asked, old, new) = (Arc::clone(&replaced), Arc::clone(&before.profile), Arc::clone(&after.profile));
    table.accept = Box::new(move |_, _| {
        Accept::Terminate(Arc::clone(if asked.load(Relaxed) == 0 { &old } else { &new }))
    });
    let rig = Rig::with(table, Limits::default(), https());
    let client = before.ca.mint("spiffe://example.org/client", TTL).unwrap();
    let mut idle = h1(dial(&rig, "a", "http/1.1", Some(&client)).await.unwrap()).await;
    assert_eq!(idle.send_request(get("/")).await.unwrap().status(), 200);
    let mut busy = h1(dial(&rig, "a", "http/1.1", Some(&client)).await.unwrap()).await;
    let running = busy.send_request(get("/stall")).await.unwrap();
    replaced.store(1, Relaxed);
    assert_eq!(rig.server.recheck(Instant::now()), Swept { verified: 1, drained: 0 });
    until("the idle one is gone", || idle.is_closed()).await;
    assert!(!busy.is_closed());
    assert_eq!(rig.server.recheck(Instant::now()), Swept::default());
    drop(running);
    assert_eq!(rig.total(Counter::TrustRemoved), 0);
}
