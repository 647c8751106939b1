//! Limits and timeouts of connections, each with its counter.

use std::time::{Duration, Instant};

use proxy::{limits::Limits, observe::Counter};
use tokio::io::AsyncWriteExt as _;

use super::support::*;

#[tokio::test]
async fn a_head_that_does_not_end_is_cut_wherever_it_stops() {
    let limits = Limits { header_timeout: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let whole = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
    // `P` may still become HTTP/2's preface; the last one is the second request of its connection.
    let heads = ["P".to_owned(), "PRI * HTTP/2.0\r\n".to_owned(), "GET / HT".to_owned(), format!("{whole}G")];
    for (cut, begun) in (1..).zip(heads) {
        let mut stream = rig.connect().await;
        let started = Instant::now();
        if let Some(second) = begun.strip_prefix(whole) {
            stream.write_all(whole.as_bytes()).await.unwrap();
            read_until(&mut stream, "x-request-id").await;
            stream.write_all(second.as_bytes()).await.unwrap();
        } else {
            stream.write_all(begun.as_bytes()).await.unwrap();
        }
        to_end(&mut stream).await;
        assert!(started.elapsed() < Duration::from_millis(300 + 1500), "{begun:?}");
        until("counted", || rig.total(Counter::HeaderTimeout) == cut).await;
    }
}

#[tokio::test]
async fn an_idle_connection_is_closed() {
    let limits = Limits { idle_timeout: Duration::from_millis(200), ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    to_end(&mut rig.connect().await).await;
    assert_eq!(rig.total(Counter::IdleTimeout), 1);
    rig.raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(rig.total(Counter::IdleTimeout), 2);
    let mut table = Table::new(upstream().await);
    table.policy.idle_timeout = Some(Duration::from_millis(200));
    let rig = Rig::start(table);
    rig.raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await;
    assert_eq!(rig.total(Counter::IdleTimeout), 1, "the table's own wins");
}

#[tokio::test]
async fn heads_have_a_size_and_a_number_of_fields() {
    let limits = Limits { max_header_bytes: 16 * 1024, max_headers: 20, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let many = "x: 1\r\n".repeat(30);
    let seen = rig.raw(format!("GET / HTTP/1.1\r\nhost: a\r\n{many}\r\n").as_bytes()).await;
    assert!(seen.starts_with("HTTP/1.1 431"), "{seen}");
    let large = "y".repeat(20 * 1024);
    let seen = rig.raw(format!("GET / HTTP/1.1\r\nhost: a\r\nx: {large}\r\n\r\n").as_bytes()).await;
    assert!(seen.starts_with("HTTP/1.1 431"), "{seen}");
    let mut client = rig.h2().await;
    let mut request = get2("/");
    for _ in 0..30 {
        request.headers_mut().append("cookie", "a=b".parse().unwrap());
    }
    assert_eq!(client.send_request(request).await.unwrap().status(), 431);
    let mut request = get2("/");
    request.headers_mut().insert("x", large.parse().unwrap());
    assert_eq!(client.send_request(request).await.unwrap().status(), 431);
    assert_eq!(client.send_request(get2("/")).await.unwrap().status(), 200);
    until("counted", || rig.total(Counter::HeadersTooLarge) == 4).await;
}

#[tokio::test]
async fn what_is_refused_before_its_head_was_read_is_logged_and_counted_by_its_reason() {
    let limits = Limits { max_headers: 20, header_timeout: Duration::from_millis(200), ..Limits::default() };
    let (rig, lines) = Rig::logging_with(Table::new(upstream().await), limits);
    let many = format!("GET / HTTP/1.1\r\nhost: a\r\n{}\r\n", "x: 1\r\n".repeat(30));
    let cases = [
        (many.as_str(), 431, "headers_too_large"),
        ("GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n", 400, "bad_framing"),
        ("GET / HTTP/1.1\r\nhost", 0, "header_timeout"),
        ("INVALID CONNECTION PREFACE\r\n\r\n", 0, "bad_framing"),
        ("PRI * HTTP/2.0\r\n", 0, "header_timeout"),
    ];
    for (bytes, status, reason) in cases {
        let before = rig.failures(reason);
        rig.raw(bytes.as_bytes()).await;
        let line = lines.next().await;
        assert_eq!((&line["status"], &line["reason"]), (&status.into(), &reason.into()), "{bytes:?}: {line}");
        assert!(line["downstream"].as_str().is_some_and(|addr| addr.starts_with("127.0.0.1:")), "{line}");
        assert_eq!(rig.failures(reason), before + 1, "{bytes:?}");
    }
}

#[tokio::test]
async fn no_more_connections_than_allowed() {
    let limits = Limits { max_connections: 2, ..Limits::default() };
    let rig = Rig::with(Table::new(upstream().await), limits, http());
    let (mut a, _b) = (rig.h1().await, rig.connect().await);
    assert_eq!(a.send_request(get("/")).await.unwrap().status(), 200);
    until("both are open", || rig.observe.render().contains("selvedge_downstream_open 2")).await;
    assert_eq!(to_end(&mut rig.connect().await).await, "");
    assert_eq!(rig.total(Counter::MaxConnections), 1);
    drop(a);
    until("one has gone", || rig.observe.render().contains("selvedge_downstream_open 1")).await;
    assert_eq!(rig.h1().await.send_request(get("/")).await.unwrap().status(), 200);
}

#[tokio::test]
async fn a_taken_port_is_named_with_its_remedy() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut second = http();
    second.name = "second".into();
    second.bind = rig.addr;
    let error = rig.server.set_listeners(vec![second]).remove(0).unwrap_err().to_string();
    assert!(error.contains(&rig.addr.to_string()) && error.contains("choose another"), "{error}");
}
