//! What two parsers could read differently, byte by byte, against an upstream that writes down what it got.

use std::sync::Arc;

use http::{HeaderMap, HeaderName, HeaderValue, Request};
use parking_lot::Mutex;
use proxy::{observe::Counter, upstream::Protocol};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use super::support::*;

/// Answers every request whose head it sees, and keeps every byte.
async fn recorder() -> (std::net::SocketAddr, Arc<Mutex<Vec<u8>>>) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let addr = listener.local_addr().unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let kept = Arc::clone(&seen);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let kept = Arc::clone(&kept);
            tokio::spawn(async move {
                let mut bytes = vec![0; 65536];
                while let Ok(count) = stream.read(&mut bytes).await {
                    if count == 0 {
                        return;
                    }
                    kept.lock().extend_from_slice(&bytes[..count]);
                    let heads = bytes[..count].windows(4).filter(|window| window == b"\r\n\r\n").count();
                    for _ in 0..heads {
                        drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
                    }
                }
            });
        }
    });
    (addr, seen)
}

async fn rig() -> (Rig, Arc<Mutex<Vec<u8>>>) {
    let (addr, seen) = recorder().await;
    (Rig::start(Table::new(addr)), seen)
}

#[tokio::test]
async fn ambiguous_messages_are_refused_and_the_upstream_sees_nothing_of_them() {
    let (rig, seen) = rig().await;
    let tail = "0\r\n\r\nGET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let refused = [
        (
            "CL.TE",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 6\r\ntransfer-encoding: chunked\r\n\r\n{tail}"
            ),
        ),
        (
            "TE.CL",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ncontent-length: 6\r\n\r\n{tail}"
            ),
        ),
        (
            "TE.TE",
            format!(
                "POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\ntransfer-encoding: x\r\n\r\n{tail}"
            ),
        ),
        ("twice", format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked, chunked\r\n\r\n{tail}")),
        ("gzip", format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: gzip, chunked\r\n\r\n{tail}")),
        ("xchunked", format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: xchunked\r\n\r\n{tail}")),
        ("1.0 with TE", format!("POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{tail}")),
        (
            "two lengths",
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab".to_owned(),
        ),
        ("list", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1, 1\r\n\r\na".to_owned()),
        ("plus", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: +1\r\n\r\na".to_owned()),
        ("space before colon", "POST / HTTP/1.1\r\nhost: a\r\ncontent-length : 1\r\n\r\na".to_owned()),
        ("fold", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\r\n 2\r\n\r\n".to_owned()),
        ("bare CR", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\rtransfer-encoding: chunked\r\n\r\n".to_owned()),
        ("NUL", "GET / HTTP/1.1\r\nhost: a\r\nx: 1\0\r\n\r\n".to_owned()),
        ("no name", "GET / HTTP/1.1\r\nhost: a\r\n: 1\r\n\r\n".to_owned()),
        ("two hosts", "GET / HTTP/1.1\r\nhost: a\r\nhost: b\r\n\r\n".to_owned()),
        ("no host", "GET / HTTP/1.1\r\nx: 1\r\n\r\n".to_owned()),
        ("user in host", "GET / HTTP/1.1\r\nhost: u@a\r\n\r\n".to_owned()),
        ("no such port", "GET / HTTP/1.1\r\nhost: a:99999\r\n\r\n".to_owned()),
        ("no port", "GET / HTTP/1.1\r\nhost: a:\r\n\r\n".to_owned()),
        ("CONNECT", "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n".to_owned()),
    ];
    for (name, bytes) in refused {
        let answer = rig.raw(bytes.as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 4") || answer.starts_with("HTTP/1.0 4"), "{name}: {answer:?}");
        assert_eq!(answer.matches("HTTP/1.").count(), 1, "{name}: one answer, then the end: {answer:?}");
        let kept = String::from_utf8_lossy(&seen.lock()).into_owned();
        assert_eq!(kept, "", "{name}");
    }
    assert!(rig.total(Counter::BadFraming) >= 10);
}

#[tokio::test]
async fn a_pipelined_chunked_request_is_forwarded_with_one_framing_and_the_connection_ends_after_it() {
    let (rig, seen) = rig().await;
    let both =
        "POST /b HTTP/1.1\r\nhost: a\r\ncontent-length: 3\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n";
    let after = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
    let answers = rig.raw(format!("GET /a HTTP/1.1\r\nhost: a\r\n\r\n{both}{after}").as_bytes()).await;
    let kept = String::from_utf8_lossy(&seen.lock()).into_owned();
    assert!(!kept.contains("smuggled"), "{kept}");
    assert!(!(kept.contains("content-length: 3") && kept.contains("transfer-encoding")), "{kept}");
    assert!(answers.matches("HTTP/1.1 ").count() <= 2, "{answers}");
}

#[tokio::test]
async fn a_chunked_request_keeps_its_connection() {
    let rig = Rig::start(Table::new(upstream().await));
    let one = "POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n0\r\n\r\n";
    let mut stream = rig.connect().await;
    for _ in 0..3 {
        stream.write_all(one.as_bytes()).await.unwrap();
        let seen = read_until(&mut stream, "\r\n\r\n3 ").await;
        assert!(seen.starts_with("HTTP/1.1 200") && !seen.contains("connection: close"), "{seen}");
    }
}

#[tokio::test]
async fn what_is_forwarded_is_clean() {
    let (rig, seen) = rig().await;
    let forged = "x-forwarded-client-cert: me\r\nX_Forwarded_Client_Cert: me\r\nx-envoy-upstream-rq-timeout-ms: 1\r\n\
                  l5d-client-id: me\r\nx_forwarded_for: 1.1.1.1\r\n";
    let hops = "connection: close, x-forwarded-for, x-mine\r\nx-mine: 1\r\nkeep-alive: 1\r\nproxy-connection: x\r\n\
                upgrade: h2c\r\nhttp2-settings: AAA\r\nte: gzip\r\n";
    let head = format!("GET http://B.example/a/%2e%2e/c HTTP/1.1\r\nhost: a\r\n{forged}{hops}\r\n");
    let answer = rig.raw(head.as_bytes()).await;
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    let kept = String::from_utf8_lossy(&seen.lock()).to_lowercase();
    assert!(kept.starts_with("get /c http/1.1\r\n"), "{kept}");
    assert!(
        kept.contains("\r\nhost: b.example\r\n") && kept.contains("\r\nx-forwarded-for: 127.0.0.1\r\n"),
        "{kept}"
    );
    for gone in [
        "client",
        "rq-timeout",
        "1.1.1.1",
        "x-mine",
        "keep-alive",
        "proxy-connection",
        "upgrade",
        "settings",
        "te:",
    ] {
        assert!(!kept.contains(gone), "{gone} in {kept}");
    }
}

const FORGED: [(&str, &str); 9] = [
    ("x-forwarded-client-cert", "By=forged"),
    ("x_forwarded_client-cert", "By=forged"),
    ("l5d-client-id", "forged"),
    ("l5d_dst_override", "forged"),
    ("x-envoy-upstream-rq-timeout-ms", "forged"),
    ("x_envoy-retry_on", "forged"),
    ("x-forwarded-for", "forged"),
    ("x_forwarded_for", "forged"),
    ("x-request-id", "forged"),
];

fn names() -> String {
    FORGED.map(|(name, _)| name).join(", ")
}

/// What the upstream has read of trailers.
async fn trailers_from_h1(rig: &Rig) -> String {
    let lines = FORGED.map(|(name, value)| format!("{name}: {value}\r\n")).concat();
    let head = format!(
        "POST /count HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\nconnection: close\r\ntrailer: x-fine, {}\r\n\r\n",
        names()
    );
    rig.raw(format!("{head}3\r\nabc\r\n0\r\nx-fine: kept\r\n{lines}\r\n").as_bytes()).await
}

async fn trailers_from_h2(rig: &Rig) -> String {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-fine", HeaderValue::from_static("kept"));
    for (name, value) in FORGED {
        trailers.insert(HeaderName::from_static(name), HeaderValue::from_static(value));
    }
    trailers.insert("authorization", HeaderValue::from_static("forged"));
    let request = Request::post("http://example.org/count")
        .header("trailer", format!("x-fine, {}", names()))
        .body(chunks(1, Some(trailers)));
    text(rig.h2().await.send_request(request.unwrap()).await.unwrap()).await
}

#[tokio::test]
async fn trailers_are_clean_in_both_protocols_on_both_sides() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut table = Table::new(upstream().await);
        table.routes[0] = route(upstream().await, protocol);
        let rig = Rig::start(table);
        for seen in [trailers_from_h1(&rig).await, trailers_from_h2(&rig).await] {
            assert!(seen.contains("\"x-fine\": \"kept\""), "{protocol:?}: {seen}");
            assert!(!seen.contains("forged"), "{protocol:?}: {seen}");
        }
    }
}

#[tokio::test]
async fn the_client_is_whom_trusted_proxies_name_and_nobody_else() {
    let head = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\nx-forwarded-for: 6.6.6.6, 203.0.113.7\r\n\
                x-forwarded-for: 198.51.100.1\r\nx-envoy-external-address: 6.6.6.6\r\n\r\n";
    for (trusted_hops, client, external) in [
        (0, "127.0.0.1:", "127.0.0.1"),
        (1, "198.51.100.1:0", "198.51.100.1"),
        (2, "203.0.113.7:0", "203.0.113.7"),
        (9, "127.0.0.1:", "127.0.0.1"),
    ] {
        let mut table = Table::new(upstream().await);
        table.policy.trusted_hops = trusted_hops;
        let (rig, lines) = Rig::logging(table);
        let seen = rig.raw(head.as_bytes()).await;
        let chain = "\nx-forwarded-for: 6.6.6.6, 203.0.113.7, 198.51.100.1, 127.0.0.1\n";
        assert!(seen.contains(chain), "what was said is kept, with our peer behind it: {seen}");
        assert!(seen.contains(&format!("\nx-envoy-external-address: {external}\n")), "{seen}");
        let line = lines.next().await;
        assert!(line["downstream"].as_str().unwrap().starts_with(client), "{trusted_hops}: {line}");
    }
}

#[tokio::test]
async fn paths_are_forwarded_in_their_one_reading() {
    let (rig, seen) = rig().await;
    for (sent, forwarded) in
        [("/../a", "/a"), ("/a/b/../../../c", "/c"), ("/a%2fB", "/a%2fB"), ("/%61\\b", "/a/b")]
    {
        seen.lock().clear();
        rig.raw(format!("GET {sent} HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").as_bytes()).await;
        let kept = String::from_utf8_lossy(&seen.lock()).into_owned();
        assert!(kept.starts_with(&format!("GET {forwarded} HTTP/1.1\r\n")), "{sent}: {kept}");
    }
    seen.lock().clear();
    for refused in ["/a/..%2fb", "/a/..;/b", "/a/%2e%2e%5cb", "/%00", "/%zz"] {
        let answer = rig.raw(format!("GET {refused} HTTP/1.1\r\nhost: a\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{refused}: {answer}");
    }
    assert_eq!(seen.lock().len(), 0);
}

#[tokio::test]
async fn an_answer_with_two_readings_is_a_502_and_its_connection_is_not_used_again() {
    let answers = [
        "HTTP/1.1 200 OK\r\ncontent-length: 1\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ncontent-length: x\r\n\r\nab",
        "HTTP/1.1 200 OK\r\ntransfer-encoding: gzip\r\ncontent-length: 2\r\n\r\nab",
        "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
        "nonsense\r\n\r\n",
    ];
    for answer in answers {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::start(Table::new(listener.local_addr().unwrap()));
        let upstream = async {
            let (mut stream, _) = listener.accept().await.unwrap();
            read_until(&mut stream, "\r\n\r\n").await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            to_end(&mut stream).await;
        };
        let (seen, ()) =
            tokio::join!(rig.raw(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n"), upstream);
        assert!(seen.starts_with("HTTP/1.1 502"), "{answer:?}: {seen:?}");
    }
}

#[tokio::test]
async fn odd_targets_are_refused_by_their_reason_and_reach_no_upstream() {
    let (addr, seen) = recorder().await;
    let (rig, lines) = Rig::logging(Table::new(addr));
    let odd = [
        ("internal.test", "bad_request"),
        ("h:80", "bad_request"),
        ("ftp://h/x", "bad_request"),
        ("/a#b", "bad_path"),
        ("http://h/a?b#c", "bad_path"),
    ];
    for (target, reason) in odd {
        let answer = rig.raw(format!("GET {target} HTTP/1.1\r\nhost: public.test\r\n\r\n").as_bytes()).await;
        assert!(answer.starts_with("HTTP/1.1 400"), "{target}: {answer}");
        assert_eq!(lines.next().await["reason"], reason, "{target}");
    }
    assert!(seen.lock().is_empty());
    // Behind another request the parser alone is left: the fragment goes nowhere.
    let two = "GET /a HTTP/1.1\r\nhost: a\r\n\r\nGET /b#c HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";
    assert_eq!(rig.raw(two.as_bytes()).await.matches("HTTP/1.1 200").count(), 2);
    assert!(!String::from_utf8_lossy(&seen.lock()).contains("#c"));
}

#[tokio::test]
async fn a_length_goes_on_in_one_spelling() {
    let (rig, seen) = rig().await;
    let head = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 003\r\nContent_Length: 9\r\n\
                Transfer_Encoding: chunked\r\n\r\nabc";
    assert!(rig.raw(head.as_bytes()).await.starts_with("HTTP/1.1 200"));
    let kept = String::from_utf8_lossy(&seen.lock()).to_lowercase();
    assert!(kept.contains("\r\ncontent-length: 3\r\n") && !kept.contains('_'), "{kept}");
}
