//! Own faults: a panic, a worker that is stuck. Each is named, and none is anybody else's.

use std::{
    sync::{Arc, mpsc},
    time::Duration,
};

use parking_lot::Mutex;
use proxy::{Reason, limits::Limits, net::ListenerSpec, observe::Counter, route::Accept};
use tokio::io::AsyncWriteExt as _;

use super::{support::*, tls::believing};

/// Panics for `/panic`.
fn panicking(upstream: std::net::SocketAddr) -> Table {
    let mut table = Table::new(upstream);
    table.decide = Box::new(|head| {
        assert!(head.path != "/panic", "as the test wants it");
        None
    });
    table
}

#[tokio::test]
async fn a_panic_is_one_requests_and_takes_neither_a_worker_nor_a_neighbour_with_it() {
    let (rig, lines) = Rig::logging(panicking(upstream().await));
    let mut neighbour = rig.h2().await;
    for _ in 0..20 {
        let mut client = rig.connect().await;
        client
            .write_all(b"GET /panic HTTP/1.1\r\nhost: a\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n")
            .await
            .unwrap();
        let answer = to_end(&mut client).await;
        assert!(answer.starts_with("HTTP/1.1 500 ") && answer.contains("connection: close"), "{answer}");
        assert_eq!(answer.matches("HTTP/1.1 ").count(), 1, "nothing more is read there: {answer}");
        let line = lines.next().await;
        assert_eq!((&line["status"], &line["reason"]), (&500.into(), &"internal".into()), "{line}");
    }
    // Over HTTP/2 it is one stream's.
    assert_eq!(neighbour.send_request(get2("/panic")).await.unwrap().status(), 500);
    assert_eq!(neighbour.send_request(get2("/")).await.unwrap().status(), 200);
    assert_eq!(rig.failures("internal"), 21);
    drop(neighbour);
    until("every connection is counted out", || rig.shown("selvedge_downstream_open") == 0).await;
    assert_eq!(rig.shown("selvedge_requests_active"), 0);
    assert_eq!(rig.total(Counter::WorkerRestarts), 0, "no worker has panicked");
}

#[tokio::test]
async fn a_handshake_that_panics_gives_its_place_back() {
    let mut table = Table::new(upstream().await);
    table.accept = Box::new(|_, hello| {
        assert!(hello.is_none(), "as the test wants it");
        Accept::Plain
    });
    let limits = Limits { max_handshakes: 2, ..Limits::default() };
    let rig = Rig::with(table, limits, ListenerSpec { tls: true, ..http() });
    for _ in 0..5 {
        let mut client = rig.connect().await;
        let mut hello =
            rustls::ClientConnection::new(believing("http/1.1", None), "a".try_into().unwrap()).unwrap();
        let mut bytes = Vec::new();
        hello.write_tls(&mut bytes).unwrap();
        client.write_all(&bytes).await.unwrap();
        to_end(&mut client).await;
    }
    assert_eq!(rig.total(Counter::MaxHandshakes), 0);
    let mut plain = rig.connect().await;
    plain.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut plain, "HTTP/1.1 200").await;
}

#[tokio::test]
async fn a_worker_that_is_stuck_is_named_while_it_is_and_others_serve() {
    let (free, waits) = mpsc::channel::<()>();
    let waits = Arc::new(Mutex::new(waits));
    let mut table = Table::new(upstream().await);
    table.decide = Box::new(move |head| {
        if head.path == "/stuck" {
            let _freed = waits.lock().recv();
            return Some(answer(204, Reason::OK));
        }
        None
    });
    let rig = Rig::start(table);
    let mut stuck = rig.connect().await;
    stuck.write_all(b"GET /stuck HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until("its timer is late while it is stuck", || rig.server.latest() > Duration::from_secs(2)).await;
    rig.server.sweep();
    assert_eq!(rig.total(Counter::WorkerStuck), 1);
    let lag = |worker| rig.shown(&format!("selvedge_worker_loop_lag_us{{worker=\"{worker}\"}}"));
    assert!(lag(0).max(lag(1)) > 2_000_000, "{} {}", lag(0), lag(1));
    // Whoever comes now is given to the other one, however many it has.
    let mut others = Vec::new();
    for _ in 0..10 {
        let mut client = rig.connect().await;
        client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
        read_until(&mut client, "HTTP/1.1 200").await;
        others.push(client);
    }
    free.send(()).unwrap();
    read_until(&mut stuck, "HTTP/1.1 204").await;
    until("it comes round again", || rig.server.latest() < Duration::from_secs(1)).await;
    rig.server.sweep();
    assert_eq!(rig.total(Counter::WorkerStuck), 1, "once");
}
