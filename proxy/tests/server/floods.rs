//! HTTP/2 as no honest client speaks it, frame by frame: each flood ends its own connection and nobody else's.

use std::time::{Duration, Instant};

use proxy::{limits::Limits, observe::Counter};
use tokio::io::AsyncWriteExt as _;

use super::{frames::*, support::*};

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
