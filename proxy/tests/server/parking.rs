//! Parking: a connection at rest gives its memory back, and neither side can tell.

use std::{io::Write as _, sync::Arc, time::Duration};

use identity::{ClientAuth, PeerRule, dev::Ca};
use proxy::{limits::Limits, net::Drained, observe::Counter, revoke::Swept};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::JoinSet,
    time::Instant,
};
use tokio_rustls::client::TlsStream;

use super::{
    support::*,
    tls::{Guarded, TTL, bundles, dial},
};

const WHOLE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

async fn parked(rig: &Rig, count: usize) {
    let what = format!("{count} are parked");
    let wanted = format!("selvedge_downstream_parked {count}");
    until(&what, || rig.observe.render().lines().any(|line| line == wanted)).await;
}

fn open(rig: &Rig, count: usize) -> bool {
    let wanted = format!("selvedge_downstream_open {count}");
    rig.observe.render().lines().any(|line| line == wanted)
}

/// How many answers come until the proxy closes, all of them good.
async fn answers(mut stream: impl AsyncRead + Unpin) -> usize {
    let mut bytes = Vec::new();
    let read = tokio::time::timeout(Duration::from_secs(20), stream.read_to_end(&mut bytes)).await;
    read.expect("the proxy keeps the connection open").expect("the connection ends in good order");
    let text = String::from_utf8(bytes).unwrap();
    assert_eq!(text.matches("HTTP/1.1 ").count(), text.matches("HTTP/1.1 200").count(), "{text}");
    text.matches("HTTP/1.1 200").count()
}

/// The records that say this, as they go over the wire.
fn sealed(stream: &mut TlsStream<TcpStream>, plain: &[u8]) -> Vec<u8> {
    let (_, tls) = stream.get_mut();
    tls.writer().write_all(plain).unwrap();
    let mut wire = Vec::new();
    while tls.wants_write() {
        tls.write_tls(&mut wire).unwrap();
    }
    wire
}

#[tokio::test]
async fn a_request_wakes_a_parked_connection_wherever_its_first_piece_ends() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut clients = Vec::new();
    for cut in 1..=WHOLE.len() {
        let mut stream = rig.connect().await;
        stream.write_all(WHOLE).await.unwrap();
        clients.push((stream, cut));
    }
    parked(&rig, clients.len()).await;
    assert!(open(&rig, clients.len()), "a parked connection is an open one");
    for (stream, cut) in &mut clients {
        stream.write_all(&WHOLE[..*cut]).await.unwrap();
    }
    parked(&rig, 0).await;
    for (stream, cut) in &mut clients {
        stream.write_all(&[&WHOLE[*cut..], WHOLE, LAST].concat()).await.unwrap();
    }
    for (stream, cut) in clients {
        assert_eq!(answers(stream).await, 4, "cut at {cut}");
    }
}

#[tokio::test]
async fn records_that_end_anywhere_wake_a_parked_connection_and_hide_nothing() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let rig = guarded.start(upstream().await);
    let mut clients = Vec::new();
    let mut cut = 1;
    loop {
        let mut stream = dial(&rig, "a", "http/1.1", None).await.unwrap();
        stream.write_all(WHOLE).await.unwrap();
        // Several requests in one record, and one more in two.
        let mut wire = sealed(&mut stream, &[WHOLE, WHOLE, &LAST[..9]].concat());
        let first = wire.len();
        wire.extend(sealed(&mut stream, &LAST[9..]));
        clients.push((stream, wire, cut));
        if cut > first {
            break;
        }
        cut += 3;
    }
    // What was sealed is not sent yet.
    parked(&rig, clients.len()).await;
    for (stream, wire, cut) in &mut clients {
        stream.get_mut().0.write_all(&wire[..*cut]).await.unwrap();
    }
    for (stream, wire, cut) in &mut clients {
        stream.get_mut().0.write_all(&wire[*cut..]).await.unwrap();
    }
    for (stream, _, cut) in clients {
        assert_eq!(answers(stream).await, 4, "cut at {cut}");
    }
}

#[tokio::test]
async fn a_request_that_comes_at_the_moment_of_parking_is_answered_once() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let rig = Arc::new(guarded.start(upstream().await));
    let mut clients = JoinSet::new();
    for step in 0..60_u64 {
        let rig = Arc::clone(&rig);
        clients.spawn(async move {
            let mut stream = dial(&rig, "a", "http/1.1", None).await.unwrap();
            stream.write_all(WHOLE).await.unwrap();
            // The moment is what is varied; whichever side of it a request falls on, it is answered.
            tokio::time::sleep(Duration::from_millis(960 + 2 * step)).await;
            let cut = usize::try_from(step).unwrap() % WHOLE.len();
            stream.write_all(&WHOLE[..cut]).await.unwrap();
            stream.flush().await.unwrap();
            stream.write_all(&[&WHOLE[cut..], LAST].concat()).await.unwrap();
            assert_eq!(answers(stream).await, 3, "step {step}");
        });
    }
    clients.join_all().await;
    parked(&rig, 0).await;
}

#[tokio::test]
async fn deadlines_hold_for_a_parked_connection_as_for_any() {
    let limits = Limits {
        idle_timeout: Duration::from_secs(3),
        header_timeout: Duration::from_millis(300),
        ..Limits::default()
    };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let (mut rests, mut begins) = (rig.connect().await, rig.connect().await);
    rests.write_all(WHOLE).await.unwrap();
    begins.write_all(WHOLE).await.unwrap();
    parked(&rig, 2).await;
    begins.write_all(b"GE").await.unwrap();
    to_end(&mut begins).await;
    assert_eq!(rig.total(Counter::HeaderTimeout), 1);
    assert_eq!(answers(rests).await, 1);
    assert_eq!(rig.total(Counter::IdleTimeout), 1);
    parked(&rig, 0).await;
    until("both have gone", || open(&rig, 0)).await;
}

#[tokio::test]
async fn a_drain_lets_a_parked_connection_ask_once_more() {
    let rig = Rig::start(Table::new(upstream().await));
    let (mut asks, mut silent, mut gone) = (rig.connect().await, rig.connect().await, rig.connect().await);
    for stream in [&mut asks, &mut silent, &mut gone] {
        stream.write_all(WHOLE).await.unwrap();
    }
    parked(&rig, 3).await;
    drop(gone);
    parked(&rig, 2).await;
    let server = Arc::clone(&rig.server);
    let draining = tokio::spawn(async move { server.drain().await });
    until("every connection has its order", || rig.server.registry().is_draining()).await;
    asks.write_all(WHOLE).await.unwrap();
    assert_eq!(answers(asks).await, 2, "the last one closes");
    assert_eq!(answers(silent).await, 1);
    assert_eq!(draining.await.unwrap(), Drained::Clean);
}

#[tokio::test]
async fn a_parked_connection_whose_trust_is_removed_goes_at_once() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Required, PeerRule::Anyone);
    let rig = guarded.start(upstream().await);
    let client = guarded.ca.mint("spiffe://example.org/client", TTL).unwrap();
    let mut stream = dial(&rig, "a", "http/1.1", Some(&client)).await.unwrap();
    stream.write_all(WHOLE).await.unwrap();
    parked(&rig, 1).await;
    assert_eq!(rig.server.recheck(Instant::now()), Swept { verified: 1, drained: 0 });
    parked(&rig, 1).await;
    guarded.trust.publish(bundles(&[&Ca::new("example.org").unwrap()]));
    assert_eq!(rig.server.recheck(Instant::now()), Swept { verified: 1, drained: 1 });
    assert_eq!(answers(stream).await, 1, "it ends in good order");
    until("it has gone", || open(&rig, 0)).await;
    assert_eq!(rig.total(Counter::TrustRemoved), 1);
}
