//! HTTP/2 as no honest client speaks it, frame by frame: each flood ends its own connection and nobody else's.

use std::time::{Duration, Instant};

use proxy::{limits::Limits, observe::Counter};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::*;

pub(super) const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
pub(super) const END_STREAM: u8 = 1;
pub(super) const END_HEADERS: u8 = 4;

pub(super) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET path` of host `a`, in HPACK without Huffman.
pub(super) fn block(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [b"\x82\x86\x41\x01a\x04".as_slice(), &[length], path.as_bytes()].concat()
}

fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(path))
}

fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// GOAWAY with `ENHANCE_YOUR_CALM`, whatever was served.
fn calm() -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11])
}

fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|index| index * 2 + 1)
}

async fn raw_h2(rig: &Rig) -> TcpStream {
    let mut stream = rig.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(4, 0, 0, &[])).await.unwrap();
    stream
}

/// What the proxy had to say before it closed the connection.
async fn is_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async { while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(Duration::from_secs(10), read).await.expect("still open");
    bytes
}

async fn is_fine(good: &mut H2) {
    assert_eq!(good.send_request(get2("/")).await.unwrap().status(), 200, "a good client is unharmed");
}

#[tokio::test]
async fn a_rapid_reset_ends_the_connection_after_a_bounded_number() {
    let limits = Limits { max_resets: 20, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let mut good = rig.h2().await;
    let mut hostile = raw_h2(&rig).await;
    for (cancelled, stream) in (1..=21).zip(streams()) {
        hostile.write_all(&request(stream, "/never")).await.unwrap();
        until("it is served", || rig.observe.render().contains("selvedge_requests_active 1")).await;
        hostile.write_all(&cancel(stream)).await.unwrap();
        until("it is given up", || rig.failures("downstream_reset") == cancelled).await;
        is_fine(&mut good).await;
    }
    let said = is_closed(&mut hostile).await;
    assert!(said.ends_with(&calm()), "it is told why: {said:?}");
    assert_eq!(rig.total(Counter::MaxResets), 1);

    let mut hostile = raw_h2(&rig).await;
    let all: Vec<u8> = streams()
        .take(2000)
        .flat_map(|stream| [request(stream, "/never"), cancel(stream)].concat())
        .collect();
    let _closed_meanwhile = hostile.write_all(&all).await;
    is_closed(&mut hostile).await;
    until("it is counted", || rig.total(Counter::MaxResets) == 2).await;
    let begun = rig.failures("downstream_reset");
    assert!(begun < 21 + 200, "{begun} of 2000 were served");
    is_fine(&mut good).await;
}

#[tokio::test]
async fn a_reset_between_the_head_of_an_answer_and_its_end_is_early_too() {
    let limits = Limits { max_resets: 20, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let mut hostile = raw_h2(&rig).await;
    for (cancelled, stream) in (1..=21).zip(streams()) {
        hostile.write_all(&request(stream, "/stall")).await.unwrap();
        read_until(&mut hostile, "first").await;
        hostile.write_all(&cancel(stream)).await.unwrap();
        until("it is given up", || rig.failures("downstream_reset") == cancelled).await;
    }
    assert!(is_closed(&mut hostile).await.ends_with(&calm()));
    assert_eq!(rig.total(Counter::MaxResets), 1);
}

#[tokio::test]
async fn a_client_that_gives_up_now_and_then_keeps_its_connection() {
    let limits = Limits { max_resets: 3, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let mut client = raw_h2(&rig).await;
    let mut streams = streams();
    for given_up in 1..=10 {
        let (never, answered) = (streams.next().unwrap(), streams.next().unwrap());
        client.write_all(&[request(never, "/never"), request(answered, "/")].concat()).await.unwrap();
        let answers = format!("selvedge_requests_total{{class=\"2xx\"}} {given_up}\n");
        until("the other is answered", || rig.observe.render().contains(&answers)).await;
        client.write_all(&cancel(never)).await.unwrap();
        until("it is given up", || rig.failures("downstream_reset") == given_up).await;
    }
    assert_eq!(rig.total(Counter::MaxResets), 0);
}

#[tokio::test]
async fn streams_beyond_the_limit_are_refused_and_counted() {
    let limits = Limits { max_streams: 2, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let mut client = raw_h2(&rig).await;
    let four: Vec<u8> = streams().take(4).flat_map(|stream| request(stream, "/never")).collect();
    client.write_all(&four).await.unwrap();
    until("two are refused", || rig.total(Counter::MaxStreams) == 2).await;
    until("two are served", || rig.observe.render().contains("selvedge_requests_active 2")).await;
}

#[tokio::test]
async fn a_header_block_that_does_not_end_is_cut_by_time_and_by_size() {
    let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let open = frame(HEADERS, END_STREAM, 3, &block("/"));
    let half = &request(3, "/")[..12];
    for (cut, begun) in (1..).zip([&open[..], half, &open[..5]]) {
        let started = Instant::now();
        let mut stalled = raw_h2(&rig).await;
        stalled.write_all(&[&request(1, "/never"), begun].concat()).await.unwrap();
        is_closed(&mut stalled).await;
        assert!(started.elapsed() < Duration::from_millis(300 + 1500), "{:?}", started.elapsed());
        until("it is counted", || rig.total(Counter::HeaderTimeout) == cut).await;
    }
    let mut endless = raw_h2(&rig).await;
    let _closed_meanwhile = endless.write_all(&frame(HEADERS, END_STREAM, 1, &block("/"))).await;
    let empty = frame(CONTINUATION, 0, 1, &[]).repeat(1000);
    while endless.write_all(&empty).await.is_ok() {}
    until("it is counted", || rig.total(Counter::HeadersTooLarge) == 1).await;
}
