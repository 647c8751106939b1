//! Bodies: big ones at flat memory, early answers, deadlines.

use std::time::{Duration, Instant};

use http::Request;
use http_body_util::BodyExt as _;
use proxy::{
    limits::Limits,
    observe::Counter,
    upstream::{Protocol, RetryOn, RetryPolicy},
};
use tokio::{io::AsyncWriteExt as _, net::TcpListener};

use super::support::*;

const MIB_64: usize = 64 << 20;

fn post(target: &str) -> Request<Body> {
    Request::post(target).header("host", "example.org").body(chunks(1024, None)).unwrap()
}

#[tokio::test]
async fn sixty_four_mebibytes_go_both_ways() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut client = rig.h1().await;
    let up = text(client.send_request(post("/count")).await.unwrap()).await;
    assert_eq!(up, format!("{MIB_64} "));
    client.ready().await.unwrap();
    let echoed = client.send_request(post("/echo")).await.unwrap().into_body();
    assert_eq!(length(echoed).await, MIB_64);
    let mut client = rig.h2().await;
    let down = client.send_request(get2("/big")).await.unwrap().into_body();
    assert_eq!(length(down).await, MIB_64);
}

async fn length(mut body: hyper::body::Incoming) -> usize {
    let mut length = 0;
    while let Some(frame) = body.frame().await {
        length += frame.unwrap().data_ref().map_or(0, bytes::Bytes::len);
    }
    length
}

#[tokio::test]
async fn a_get_with_a_body_of_unknown_length_keeps_its_body() {
    let rig = Rig::start(Table::new(upstream().await));
    let head = "GET /count HTTP/1.1\r\nhost: a\r\nconnection: close\r\ntransfer-encoding: chunked\r\n\r\n";
    let seen = rig.raw(format!("{head}3\r\nabc\r\n0\r\n\r\n").as_bytes()).await;
    assert!(seen.ends_with("\r\n\r\n3 "), "{seen}");
    let request = Request::get("http://a/count").body(chunks(2, None)).unwrap();
    assert_eq!(text(rig.h2().await.send_request(request).await.unwrap()).await, "131072 ");
}

#[tokio::test]
async fn a_client_that_does_not_read_stops_the_upstream() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::start(Table::new(listener.local_addr().unwrap()));
    let mut deaf = rig.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    let head = format!("HTTP/1.1 200 OK\r\ncontent-length: {MIB_64}\r\n\r\n");
    upstream.write_all(head.as_bytes()).await.unwrap();
    read_until(&mut deaf, "\r\n\r\n").await;
    // What socket buffers and the proxy hold is bounded: nothing goes any longer before the whole has gone.
    let (chunk, mut sent) = (vec![b'x'; 64 * 1024], 0);
    while let Ok(written) = tokio::time::timeout(Duration::from_millis(500), upstream.write(&chunk)).await {
        sent += written.unwrap();
        assert!(sent < 24 << 20, "{sent} bytes have left the upstream while the client was deaf");
    }
    assert!(rig.observe.render().contains("selvedge_requests_active 1"), "{}", rig.observe.render());
}

#[tokio::test]
async fn an_early_answer_arrives_while_the_body_is_still_coming_and_the_connection_ends() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut stream = rig.connect().await;
    stream
        .write_all(b"POST /early HTTP/1.1\r\nhost: a\r\ncontent-length: 1000000\r\n\r\nstart")
        .await
        .unwrap();
    let seen = to_end(&mut stream).await;
    assert!(seen.starts_with("HTTP/1.1 403") && seen.ends_with("early"), "{seen}");
    let mut client = rig.h2().await;
    let response =
        client.send_request(Request::post("http://a/early").body(chunks(64, None)).unwrap()).await.unwrap();
    assert_eq!(response.status(), 403);
    assert_eq!(text(client.send_request(get2("/count")).await.unwrap()).await, "0 ");
}

#[tokio::test]
async fn an_answer_that_does_not_come_is_a_504() {
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::from_millis(200));
    let rig = Rig::start(table);
    let started = Instant::now();
    let response = rig.h1().await.send_request(get("/never")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert!(started.elapsed() < Duration::from_secs(5));
    assert_eq!(rig.total(Counter::UpstreamTimeout), 1);
}

#[tokio::test]
async fn each_try_may_have_a_limit_of_its_own() {
    let mut table = Table::new(upstream().await);
    let on = vec![RetryOn::ServerError];
    table.routes[0].retry = RetryPolicy { on, tries: 1, per_try: Some(Duration::from_millis(100)) };
    let rig = Rig::start(table);
    let response = rig.h1().await.send_request(get("/never")).await.unwrap();
    assert_eq!(response.status(), 504);
    assert_eq!((rig.total(Counter::Retries), rig.total(Counter::UpstreamTimeout)), (1, 2));
}

#[tokio::test]
async fn an_answer_that_does_not_end_is_cut_and_never_looks_whole() {
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::from_millis(300));
    let rig = Rig::start(table);
    let seen = rig.raw(b"GET /stall HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(seen.contains("5\r\nfirst\r\n") && !seen.contains("0\r\n\r\n"), "{seen:?}");
    let mut client = rig.h2().await;
    let body = client.send_request(get2("/stall")).await.unwrap().into_body();
    assert!(body.collect().await.is_err());
    assert_eq!(client.send_request(get2("/")).await.unwrap().status(), 200, "other streams go on");
    until("both are recorded", || rig.failures("upstream_timeout") == 2).await;
}

#[tokio::test]
async fn a_stream_without_bytes_is_cut_by_the_idle_timeout() {
    let limits = Limits { stream_idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, limits, http());
    let seen = rig.raw(b"GET /stall HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert!(seen.contains("first"), "{seen}");
    assert_eq!(rig.total(Counter::StreamIdleTimeout), 1);
}

#[tokio::test]
async fn a_stream_whose_client_does_not_read_dies_too() {
    let limits = Limits { stream_idle_timeout: Duration::from_millis(300), ..Limits::default() };
    let mut table = Table::new(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, limits, http());
    let mut deaf = rig.connect().await;
    deaf.write_all(b"GET /big HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    until("the stuck answer is cut", || rig.failures("stream_idle_timeout") == 1).await;
    let mut client = rig.h2().await;
    let stuck = client.send_request(get2("/big")).await.unwrap();
    until("the stuck stream is cut", || rig.failures("stream_idle_timeout") == 2).await;
    assert_eq!(client.send_request(get2("/")).await.unwrap().status(), 200, "other streams go on");
    assert!(stuck.into_body().collect().await.is_err());
}

#[tokio::test]
async fn a_client_that_vanishes_is_recorded_and_frees_the_upstream() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut stream = rig.connect().await;
    stream.write_all(b"GET /stall HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    read_until(&mut stream, "first").await;
    drop(stream);
    until("the record is written", || rig.failures("downstream_reset") == 1).await;
    until("both connections are gone", || rig.server.registry().is_empty()).await;
}

#[tokio::test]
async fn an_answer_with_trailers_over_http1_has_ended_whole() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (rig, lines) = Rig::logging(Table::new(listener.local_addr().unwrap()));
    tokio::spawn(async move {
        // Workers do not share connections: kept open, so that none looks cut.
        let mut open = Vec::new();
        while let Ok((mut upstream, _)) = listener.accept().await {
            read_until(&mut upstream, "\r\n\r\n").await;
            let answer =
                b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\nx-t: v\r\n\r\n";
            upstream.write_all(answer).await.unwrap();
            open.push(upstream);
        }
    });
    let mut client = rig.h1().await;
    assert_eq!(text(client.send_request(get("/")).await.unwrap()).await, "abc");
    assert_eq!(lines.next().await["reason"], "ok", "to HTTP/1.1");
    assert_eq!(text(rig.h2().await.send_request(get2("/")).await.unwrap()).await, "abc");
    assert_eq!(lines.next().await["reason"], "ok", "to HTTP/2");
    assert_eq!(rig.failures("downstream_reset"), 0);
}

#[tokio::test]
async fn malformed_chunks_are_the_clients_fault() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut table = Table::new(upstream().await);
        table.routes[0] = route(upstream().await, protocol);
        let (rig, lines) = Rig::logging(table);
        for chunks in ["zz\r\n", "fffffffffffffffff\r\n", "3\nabc\n0\n\n", "3\r\nabcd\r\n"] {
            let head = "POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n";
            let seen = rig.raw(format!("{head}{chunks}").as_bytes()).await;
            assert!(
                seen.starts_with("HTTP/1.1 400") && seen.contains("connection: close"),
                "{chunks:?}: {seen}"
            );
            let line = lines.next().await;
            let said = (&line["status"], &line["reason"], &line["flags"]);
            assert_eq!(said, (&400.into(), &"bad_framing".into(), &"DPE".into()), "{chunks:?}: {line}");
        }
        assert_eq!((rig.failures("bad_framing"), rig.failures("upstream_reset")), (4, 0));
        assert_eq!(rig.total(Counter::BadFraming), 4);
    }
}

#[tokio::test]
async fn a_body_that_the_client_cuts_is_the_clients_fault() {
    let (rig, lines) = Rig::logging(Table::new(upstream().await));
    let mut stream = rig.connect().await;
    stream.write_all(b"POST /count HTTP/1.1\r\nhost: a\r\ncontent-length: 9\r\n\r\nabc").await.unwrap();
    stream.shutdown().await.unwrap();
    to_end(&mut stream).await;
    assert_eq!(lines.next().await["reason"], "downstream_reset");
    assert_eq!(rig.failures("upstream_reset"), 0);
}

#[tokio::test]
async fn chunks_that_break_under_an_answer_cut_it_by_the_clients_fault() {
    let (rig, lines) = Rig::logging(Table::new(upstream().await));
    let mut stream = rig.connect().await;
    let head = b"POST /echo HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n";
    stream.write_all(head).await.unwrap();
    read_until(&mut stream, "abc").await;
    stream.write_all(b"zz\r\n").await.unwrap();
    assert!(!to_end(&mut stream).await.contains("0\r\n\r\n"));
    assert_eq!(lines.next().await["reason"], "bad_framing");
}
