//! Drain: nobody who keeps to the protocol loses a request.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proxy::{limits::Limits, net::Drained, observe::Counter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::*;

/// An HTTP/1.1 client that honours `connection: close`; ends when no new connection is accepted any longer.
async fn h1_load(addr: std::net::SocketAddr, done: Arc<AtomicUsize>) -> Result<(), String> {
    while let Ok(stream) = TcpStream::connect(addr).await {
        let mut client = h1(stream).await;
        loop {
            let response = client.send_request(get("/")).await.map_err(|error| format!("h1: {error:?}"))?;
            assert_eq!(response.status(), 200);
            let closes = response.headers().get("connection").is_some_and(|value| value == "close");
            text(response).await;
            done.fetch_add(1, Relaxed);
            if closes {
                break;
            }
            client.ready().await.map_err(|error| format!("h1 closed without saying so: {error:?}"))?;
        }
    }
    Ok(())
}

/// An HTTP/2 client that honours GOAWAY: hyper gives back what was not sent.
async fn h2_load(addr: std::net::SocketAddr, done: Arc<AtomicUsize>) -> Result<(), String> {
    while let Ok(stream) = TcpStream::connect(addr).await {
        let mut client = h2(stream).await;
        loop {
            if client.ready().await.is_err() {
                break;
            }
            match client.try_send_request(get2("/")).await {
                Ok(response) => {
                    assert_eq!(response.status(), 200);
                    text(response).await;
                    done.fetch_add(1, Relaxed);
                }
                Err(mut error) => match error.take_message() {
                    Some(_unsent) => break,
                    None => return Err(format!("h2: {error:?}")),
                },
            }
        }
    }
    Ok(())
}

#[tokio::test]
async fn a_drain_under_load_loses_no_request() {
    let rig = Rig::start(Table::new(upstream().await));
    let done = Arc::new(AtomicUsize::new(0));
    let mut clients = tokio::task::JoinSet::new();
    for _ in 0..8 {
        clients.spawn(h1_load(rig.addr, Arc::clone(&done)));
        clients.spawn(h2_load(rig.addr, Arc::clone(&done)));
    }
    until("load runs", || done.load(Relaxed) > 200).await;
    assert_eq!(rig.server.drain().await, Drained::Clean);
    for ended in clients.join_all().await {
        ended.unwrap();
    }
    assert!(TcpStream::connect(rig.addr).await.is_err(), "the listener is closed");
}

/// How long a draining connection may rest.
const LAST: Duration = Duration::from_secs(1);

fn limits() -> Limits {
    Limits { last_request_within: LAST, ..Limits::default() }
}

#[tokio::test]
async fn an_idle_http1_connection_is_answered_once_more_however_long_it_was_idle() {
    let rig = Rig::with(Table::new(upstream().await), limits(), http());
    let mut client = rig.h1().await;
    text(client.send_request(get("/")).await.unwrap()).await;
    client.ready().await.unwrap();
    let rests = Instant::now();
    until("it has rested longer than a draining one may", || rests.elapsed() > LAST).await;
    let server = Arc::clone(&rig.server);
    let draining = tokio::spawn(async move { server.drain().await });
    until("every connection has its order", || rig.server.registry().is_draining()).await;
    let ordered = Instant::now();
    until("well within the time", || client.is_closed() || ordered.elapsed() > LAST / 4).await;
    assert!(!client.is_closed(), "closed {:?} after the drain began", ordered.elapsed());
    let response = client.send_request(get("/")).await.unwrap();
    assert_eq!(response.headers()["connection"], "close");
    text(response).await;
    assert_eq!(draining.await.unwrap(), Drained::Clean);
}

#[tokio::test]
async fn a_connection_that_says_nothing_does_not_hold_up_a_drain() {
    let rig = Rig::with(Table::new(upstream().await), limits(), http());
    let mut silent = rig.connect().await;
    until("it is registered", || !rig.server.registry().is_empty()).await;
    let started = Instant::now();
    assert_eq!(rig.server.drain().await, Drained::Clean);
    assert!(started.elapsed() < LAST * 5, "{:?}", started.elapsed());
    assert_eq!(to_end(&mut silent).await, "");
}

#[tokio::test]
async fn whoever_asks_for_a_drain_again_waits_for_the_same_one_and_nothing_opens_after_it() {
    let rig = Rig::with(Table::new(upstream().await), limits(), http());
    let (first, second) = tokio::join!(rig.server.drain(), rig.server.drain());
    assert_eq!((first, second, rig.server.drain().await), (Drained::Clean, Drained::Clean, Drained::Clean));
    assert!(rig.server.set_listeners(vec![http()]).is_empty());
    rig.server.publish(Arc::new(Table::new(rig.addr)), Vec::new());
    assert!(TcpStream::connect(rig.addr).await.is_err());
}

#[tokio::test]
async fn what_still_runs_at_the_deadline_is_cut_and_counted() {
    let limits = Limits { drain_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, limits, http());
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /stall HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "first").await;
    assert_eq!(rig.server.drain().await, Drained::Cut(1));
    assert_eq!(rig.total(Counter::DrainCut), 1);
    assert_eq!(rig.failures("drain_timeout"), 1, "the workers have ended: what they cut is recorded");
    assert!(!to_end(&mut stream).await.ends_with("0\r\n\r\n"));
}

#[tokio::test]
async fn it_accepts_while_the_delay_lasts() {
    let limits = Limits { drain_delay: Duration::from_millis(500), ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let server = Arc::clone(&rig.server);
    let over = Arc::new(AtomicBool::new(false));
    let told = Arc::clone(&over);
    let draining = tokio::spawn(async move {
        let drained = server.drain().await;
        told.store(true, Relaxed);
        drained
    });
    tokio::task::yield_now().await;
    let response = rig.h1().await.send_request(get("/")).await.unwrap();
    assert_eq!((response.status().as_u16(), over.load(Relaxed)), (200, false));
    drop(response);
    assert_eq!(draining.await.unwrap(), Drained::Clean);
}

/// An HTTP/2 frame: type, flags, stream, payload.
type Frame = (u8, u8, u32, Vec<u8>);

const HEADERS: u8 = 1;
const PING: u8 = 6;
const GOAWAY: u8 = 7;
const ACK: u8 = 1;

async fn write_frame(stream: &mut TcpStream, (kind, flags, id, payload): Frame) {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    let head = [&length[1..], &[kind, flags], &id.to_be_bytes()].concat();
    stream.write_all(&[head, payload].concat()).await.unwrap();
}

async fn read_frame(stream: &mut TcpStream) -> Frame {
    let mut head = [0; 9];
    stream.read_exact(&mut head).await.unwrap();
    let mut payload = vec![0; usize::from(head[1]) << 8 | usize::from(head[2])];
    stream.read_exact(&mut payload).await.unwrap();
    (head[3], head[4], u32::from_be_bytes([head[5], head[6], head[7], head[8]]), payload)
}

/// Reads on to a frame of a type.
async fn read_to(stream: &mut TcpStream, kind: u8) -> Frame {
    let wanted = async {
        loop {
            let frame = read_frame(stream).await;
            if frame.0 == kind {
                return frame;
            }
        }
    };
    tokio::time::timeout(Duration::from_secs(10), wanted).await.expect("the frame comes")
}

/// `GET /` to `a`, complete.
fn request(id: u32) -> Frame {
    (HEADERS, 0b101, id, b"\x82\x86\x84\x41\x01a".to_vec())
}

#[tokio::test]
async fn a_stream_that_crosses_the_goaway_is_served_though_the_ping_behind_it_was_answered_first() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut stream = rig.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    write_frame(&mut stream, (4, 0, 0, Vec::new())).await;
    write_frame(&mut stream, request(1)).await;
    assert_eq!(read_to(&mut stream, HEADERS).await.2, 1);
    let server = Arc::clone(&rig.server);
    let draining = tokio::spawn(async move { server.drain().await });
    let (_, _, _, goaway) = read_to(&mut stream, GOAWAY).await;
    assert_eq!(goaway[..8], [0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 0], "nothing is refused yet");
    // As h2's client does: a ping is answered before what was queued when the GOAWAY came.
    if let Ok(ping) = tokio::time::timeout(Duration::from_millis(100), read_to(&mut stream, PING)).await {
        write_frame(&mut stream, (PING, ACK, 0, ping.3)).await;
    }
    write_frame(&mut stream, request(3)).await;
    assert_eq!(read_to(&mut stream, HEADERS).await.2, 3);
    let ping = read_to(&mut stream, PING).await;
    write_frame(&mut stream, (PING, ACK, 0, ping.3)).await;
    let (_, _, _, goaway) = read_to(&mut stream, GOAWAY).await;
    assert_eq!(goaway[..8], [0, 0, 0, 3, 0, 0, 0, 0], "the last stream that was served");
    drop(stream);
    assert_eq!(draining.await.unwrap(), Drained::Clean);
}
