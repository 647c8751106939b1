//! HTTP/1.1: the idle stack, what is sent again, and which connections are never used again.

use std::time::Duration;

use bytes::Bytes;
use futures_util::StreamExt as _;
use http_body_util::{BodyExt as _, StreamBody};
use proxy::{
    Error, Reason, Retry,
    observe::Counter,
    route::Route,
    upstream::{Attempts, ClusterPolicy, Protocol, RetryOn, RetryPolicy},
};

use super::support::*;

/// One HTTP/1.1 upstream that does what the test says.
async fn scripted() -> (Rig, Scripted, Route) {
    let (rig, server) = (Rig::new(), Scripted::bind().await);
    let route = route(&rig.cluster(Protocol::Http1, &[server.addr()]));
    (rig, server, route)
}

/// A connection that has carried a request and rests in the pool.
async fn used_once(rig: &Rig, server: &Scripted, route: &Route) -> Peer {
    let (_, peer) = tokio::join!(rig.get(route), async {
        let mut peer = server.accept().await;
        peer.answer("first").await;
        peer
    });
    peer
}

#[test]
fn requests_one_after_another_use_one_connection() {
    local(async {
        let rig = Rig::new();
        let server = Friendly::start("127.0.0.1:0", "hello").await.unwrap();
        let route = route(&rig.cluster(Protocol::Http1, &[server.addr]));
        for _ in 0..10 {
            let (answer, attempts) = rig.ask(&route, get("/a?b=c")).await;
            assert_eq!(answer.unwrap().text(), "hello");
            assert_eq!((attempts.count, attempts.upstream, attempts.tls), (1, Some(server.addr), None));
        }
        assert_eq!(server.connections.get(), 1);
        assert_eq!(rig.total(Counter::UpstreamConnections), 1);
        assert_eq!(rig.total(Counter::UpstreamReuses), 9);
        assert_eq!(rig.open(), 1);
    });
}

#[test]
fn the_request_has_path_and_host_as_given() {
    local(async {
        let rig = Rig::new();
        let server = Scripted::bind().await;
        let route = route(&rig.cluster(Protocol::Auto, &[server.addr()]));
        let (asked, seen) = tokio::join!(rig.ask(&route, get("/a/b?c=%20d")), async {
            server.accept().await.answer("x").await
        });
        assert_eq!(asked.0.unwrap().status, 200);
        assert!(seen.starts_with("GET /a/b?c=%20d HTTP/1.1\r\nhost: orders.shop\r\n"), "{seen}");
    });
}

#[test]
fn a_get_that_meets_a_dying_idle_connection_is_sent_again_once() {
    local(async {
        let (rig, server, route) = scripted().await;
        let mut peer = used_once(&rig, &server, &route).await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, get("/again")), async {
            assert!(peer.request().await.starts_with("GET /again"));
            drop(peer);
            assert!(server.accept().await.answer("second").await.starts_with("GET /again"));
        });
        assert_eq!(answer.unwrap().text(), "second");
        assert_eq!(attempts.count, 2);
        assert_eq!(rig.total(Counter::Retries), 1);
    });
}

#[test]
fn a_post_never_runs_twice() {
    local(async {
        let (rig, server, route) = scripted().await;
        let mut peer = used_once(&rig, &server, &route).await;
        let request = post(b"pay 5").await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, request), async {
            assert!(peer.request().await.ends_with("pay 5"));
            drop(peer);
            assert!(server.untouched().await);
        });
        let error = answer.unwrap_err();
        assert_eq!(
            (error.reason(), error.retry(), attempts.count),
            (Reason::UPSTREAM_RESET, Retry::Idempotent, 1)
        );
        assert_eq!(error.status(), 503);
    });
}

#[test]
fn a_get_on_a_fresh_connection_that_dies_is_not_sent_again() {
    local(async {
        let (rig, server, route) = scripted().await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, get("/")), async {
            let mut peer = server.accept().await;
            peer.request().await;
            drop(peer);
            assert!(server.untouched().await);
        });
        assert_eq!((answer.unwrap_err().retry(), attempts.count), (Retry::Never, 1));
    });
}

#[test]
fn once_a_byte_of_the_answer_came_nothing_is_sent_again() {
    local(async {
        let (rig, server, route) = scripted().await;
        let mut peer = used_once(&rig, &server, &route).await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, get("/")), async {
            peer.request().await;
            peer.write("HTTP/1.1 200").await;
            drop(peer);
            assert!(server.untouched().await);
        });
        assert_eq!((answer.unwrap_err().retry(), attempts.count), (Retry::Never, 1));
    });
}

#[test]
fn a_connection_that_the_upstream_closed_while_idle_is_not_used() {
    local(async {
        let (rig, server, route) = scripted().await;
        tokio::join!(rig.get(&route), async { server.accept().await.answer("first").await });
        until("the idle connection is closed", || rig.open() == 0).await;
        let ((answer, attempts), _) =
            tokio::join!(rig.ask(&route, get("/")), async { server.accept().await.answer("second").await });
        assert_eq!((answer.unwrap().text(), attempts.count), ("second", 1));
    });
}

#[test]
fn a_truncated_answer_never_looks_whole() {
    local(async {
        let (rig, server, route) = scripted().await;
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 10\r\n\r\nhello",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n",
            "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhel",
        ] {
            let (got, ()) = tokio::join!(rig.get(&route), async {
                let mut peer = server.accept().await;
                peer.request().await;
                peer.write(answer).await;
            });
            assert!(got.body.is_none(), "{answer}");
        }
        until("nothing is left open", || rig.open() == 0).await;
    });
}

#[test]
fn a_connection_is_not_used_again_after_an_answer_that_can_be_read_in_two_ways() {
    local(async {
        let (rig, server, route) = scripted().await;
        for answer in [
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhelloHTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\nevil",
            "HTTP/1.1 200 OK\r\ncontent-length: 5\r\nconnection: close\r\n\r\nhello",
            "HTTP/1.1 101 Switching Protocols\r\nconnection: upgrade\r\nupgrade: x\r\n\r\n",
        ] {
            let ((got, _), mut peer) = tokio::join!(rig.ask(&route, get("/")), async {
                let mut peer = server.accept().await;
                peer.request().await;
                peer.write(answer).await;
                peer
            });
            match got {
                Ok(got) => assert_eq!(got.text(), "hello", "{answer}"),
                Err(error) => {
                    assert!(answer.contains(" 101 "), "{error}");
                    assert_eq!((error.reason(), error.retry()), (Reason::UPSTREAM_PROTOCOL, Retry::Never));
                }
            }
            peer.closed().await;
        }
        let (got, _) = tokio::join!(rig.get(&route), async { server.accept().await.answer("good").await });
        assert_eq!(got.text(), "good");
        assert_eq!(rig.total(Counter::UpstreamReuses), 0);
    });
}

#[test]
fn an_answer_with_two_lengths_is_a_bad_gateway() {
    local(async {
        let (rig, server, route) = scripted().await;
        let ((answer, _), ()) = tokio::join!(rig.ask(&route, get("/")), async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\ncontent-length: 6\r\n\r\nhello!").await;
            peer.closed().await;
        });
        let error = answer.unwrap_err();
        assert_eq!((error.reason(), error.status().as_u16()), (Reason::UPSTREAM_PROTOCOL, 502));
    });
}

#[test]
fn a_request_that_is_given_up_closes_its_connection() {
    local(async {
        let (rig, server, route) = scripted().await;
        // Before the head of the answer.
        {
            let mut attempts = Attempts::default();
            let mut sending = Box::pin(rig.upstream.send(&route, get("/"), &mut attempts));
            let mut peer = tokio::select! {
                _ = &mut sending => panic!("no answer was sent"),
                peer = async { let mut peer = server.accept().await; peer.request().await; peer } => peer,
            };
            drop(sending);
            peer.closed().await;
        }
        // In the middle of its body.
        let mut attempts = Attempts::default();
        let (response, mut peer) = tokio::join!(rig.upstream.send(&route, get("/"), &mut attempts), async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 1000000\r\n\r\nhello").await;
            peer
        });
        let mut body = response.unwrap().into_body();
        assert_eq!(body.frame().await.unwrap().unwrap().into_data().unwrap(), "hello");
        drop(body);
        peer.closed().await;
        until("nothing is left open", || rig.open() == 0).await;
    });
}

#[test]
fn an_early_answer_does_not_hold_up_the_next_request() {
    local(async {
        let (rig, server, route) = scripted().await;
        // A client that never finishes its body.
        let part = Ok::<_, std::io::Error>(http_body::Frame::data(Bytes::from_static(b"part")));
        let parts = futures_util::stream::iter([part]).chain(futures_util::stream::pending());
        let endless = StreamBody::new(parts);
        let request = with_body(endless).await;
        let (first, _busy) = tokio::join!(rig.ask(&route, request), async {
            let mut peer = server.accept().await;
            peer.request().await;
            peer.write("HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nearly").await;
            peer
        });
        assert_eq!(first.0.unwrap().text(), "early");
        let (second, _) = tokio::join!(rig.get(&route), async { server.accept().await.answer("next").await });
        assert_eq!(second.text(), "next");
    });
}

#[test]
fn a_policy_sends_a_small_body_again_whole() {
    local(async {
        let rig = Rig::new();
        let server = Scripted::bind().await;
        let policy = RetryPolicy { on: vec![RetryOn::GatewayError], tries: 2, per_try: None };
        let route = retrying(&rig.cluster(Protocol::Http1, &[server.addr()]), policy);
        let request = post(b"order 7").await;
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&route, request), async {
            for status in ["503 Service Unavailable", "502 Bad Gateway", "503 Service Unavailable"] {
                let mut peer = server.accept().await;
                assert!(peer.request().await.ends_with("\r\n\r\norder 7"));
                peer.write(&format!("HTTP/1.1 {status}\r\ncontent-length: 1\r\n\r\nx")).await;
            }
        });
        assert_eq!((answer.unwrap().status, attempts.count), (503, 3));
    });
}

#[test]
fn a_try_that_takes_too_long_is_a_timeout_and_may_be_made_again() {
    local(async {
        let rig = Rig::new();
        let server = Scripted::bind().await;
        let on = vec![RetryOn::GatewayError];
        let policy = RetryPolicy { on, tries: 1, per_try: Some(Duration::from_millis(60)) };
        let cluster = rig.cluster(Protocol::Http1, &[server.addr()]);
        let twice = retrying(&cluster, policy.clone());
        let ((answer, attempts), ()) = tokio::join!(rig.ask(&twice, get("/")), async {
            let mut slow = server.accept().await;
            slow.closed().await;
            server.accept().await.answer("quick").await;
        });
        assert_eq!((answer.unwrap().text(), attempts.count), ("quick", 2));
        until("the quick one is closed by its server", || rig.open() == 0).await;
        let once = retrying(&cluster, RetryPolicy { on: Vec::new(), ..policy });
        let ((answer, _), ()) =
            tokio::join!(rig.ask(&once, get("/")), async { server.accept().await.closed().await });
        let error = answer.unwrap_err();
        assert!(matches!(error, Error::Timeout { .. }));
        assert_eq!(error.status(), 504);
    });
}

#[test]
fn idle_connections_are_closed_by_the_sweep_and_by_a_drain() {
    local(async {
        let rig = Rig::new();
        let server = Friendly::start("127.0.0.1:0", "x").await.unwrap();
        let cluster = rig.cluster(Protocol::Http1, &[server.addr]);
        let route = route(&cluster);
        rig.get(&route).await;
        rig.upstream.sweep(std::slice::from_ref(&cluster));
        rig.get(&route).await;
        assert_eq!(server.connections.get(), 1, "an unhurt connection survives a sweep and an edited policy");
        cluster.policy.store(std::sync::Arc::new(ClusterPolicy {
            idle_timeout: Duration::from_nanos(1),
            ..ClusterPolicy::default()
        }));
        rig.upstream.sweep(std::slice::from_ref(&cluster));
        until("the idle connection is closed", || rig.open() == 0).await;
        cluster.policy.store(std::sync::Arc::default());
        rig.get(&route).await;
        assert_eq!(server.connections.get(), 2);
        rig.upstream.drain();
        until("the drain closes it", || rig.open() == 0).await;
        rig.get(&route).await;
        rig.upstream.sweep(&[]);
        until("connections of a cluster that is gone are closed", || rig.open() == 0).await;
    });
}
