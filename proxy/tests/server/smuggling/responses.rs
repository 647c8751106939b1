//! Answers of hostile upstreams: what has two readings is a 502 or ends without looking whole, and what stands behind an
//! answer is nobody's.

use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::*;

const GET: &str = "GET / HTTP/1.1\r\nhost: a\r\n\r\n";
const CLOSING: &str = "GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

/// A server whose upstream is the test.
async fn bench() -> (Rig, TcpListener) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    (Rig::start(Table::new(listener.local_addr().unwrap())), listener)
}

/// The next connection of the proxy, with its request read.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\n").await;
    stream
}

/// What a client sees of an answer, whose connection stays open.
async fn relayed(answer: &[u8]) -> String {
    let (rig, listener) = bench().await;
    let upstream = async {
        let mut stream = asked(&listener).await;
        stream.write_all(answer).await.unwrap();
        to_end(&mut stream).await
    };
    let (seen, after) = tokio::join!(rig.raw(CLOSING.as_bytes()), upstream);
    assert_eq!(after, "", "the connection is used again after {:?}", String::from_utf8_lossy(answer));
    seen
}

#[tokio::test]
async fn heads_with_two_readings_are_a_502() {
    let head = |fields: &str| format!("HTTP/1.1 200 OK\r\n{fields}\r\nab");
    let mut answers: Vec<String> = [
        "content-length: 1\r\ncontent-length: 2\r\n",
        "content-length: 2, 2\r\n",
        "content-length: +2\r\n",
        "content-length: -2\r\n",
        "content-length: 0x2\r\n",
        "content-length:\r\n",
        "content-length: 99999999999999999999999\r\n",
        "content-length : 2\r\n",
        "transfer-encoding: gzip\r\n",
        "transfer-encoding: chunked, gzip\r\n",
        "transfer-encoding: gzip\r\ncontent-length: 2\r\n",
        "transfer-encoding: xchunked\r\n",
        "transfer-encoding : chunked\r\n",
        "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
        "x: 1\0\r\ncontent-length: 2\r\n",
        "x: 1\rset-cookie: forged\r\ncontent-length: 2\r\n",
        "x y: 1\r\ncontent-length: 2\r\n",
        ": 1\r\ncontent-length: 2\r\n",
        "no colon\r\ncontent-length: 2\r\n",
    ]
    .into_iter()
    .map(head)
    .collect();
    answers.extend(
        [
            "nonsense\r\n\r\n",
            "HTTP/2.0 200 OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 2000 OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 20 OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 xx OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1 099 OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.1  200 OK\r\ncontent-length: 2\r\n\r\nab",
            "ICY 200 OK\r\ncontent-length: 2\r\n\r\nab",
            "HTTP/1.0 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\nupgrade: x\r\nconnection: upgrade\r\n\r\n",
            "HTTP/1.1 101 Switching Protocols\r\n\r\n",
        ]
        .map(str::to_owned),
    );
    answers.push(head(&"x: 1\r\n".repeat(1000)));
    answers.push(head(&format!("x: {}\r\n", "1".repeat(2 << 20))));
    for answer in answers {
        let seen = relayed(answer.as_bytes()).await;
        let short: String = answer.chars().take(200).collect();
        assert!(seen.starts_with("HTTP/1.1 502"), "{short:?}: {seen:?}");
        assert!(!seen.contains("forged") && seen.matches("HTTP/1.").count() == 1, "{short:?}: {seen:?}");
    }
}

#[tokio::test]
async fn chunks_that_cannot_be_read_never_look_whole() {
    for chunks in [
        "2\r\nabX\r\n0\r\n\r\n",
        "2\nab\r\n0\r\n\r\n",
        "+2\r\nab\r\n0\r\n\r\n",
        "0x2\r\nab\r\n0\r\n\r\n",
        "2;x\ny\r\nab\r\n0\r\n\r\n",
        "\r\nab\r\n0\r\n\r\n",
        "2\r\nab\r\nffffffffffffffffff\r\n",
        "2\r\nab\r\n0\r\nx : 1\r\n\r\n",
        "2\r\nab\r\nzz\r\n",
    ] {
        let seen =
            relayed(format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n{chunks}").as_bytes())
                .await;
        assert!(!seen.ends_with("0\r\n\r\n"), "{chunks:?}: {seen:?}");
    }
}

#[tokio::test]
async fn what_stands_behind_an_answer_reaches_no_client() {
    const FORGED: &str = "HTTP/1.1 200 OK\r\ncontent-length: 6\r\nx: forged\r\n\r\nforged";
    for answer in [
        format!("HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab{FORGED}"),
        format!("HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\n\r\n{FORGED}"),
        format!("HTTP/1.1 204 No Content\r\n\r\n{FORGED}"),
        format!("HTTP/1.1 204 No Content\r\ncontent-length: {}\r\n\r\n{FORGED}", FORGED.len()),
        format!("HTTP/1.1 304 Not Modified\r\ncontent-length: {}\r\n\r\n{FORGED}", FORGED.len()),
        format!("HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{FORGED}"),
        format!("HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n{FORGED}"),
    ] {
        let (rig, listener) = bench().await;
        let mut client = rig.connect().await;
        client.write_all(GET.as_bytes()).await.unwrap();
        let mut stream = asked(&listener).await;
        stream.write_all(answer.as_bytes()).await.unwrap();
        let first = read_until(&mut client, "\r\n\r\n").await;
        // The next request, of another client, gets an answer of its own on a connection of its own.
        let second = async {
            let mut stream = asked(&listener).await;
            stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue").await.unwrap();
            stream
        };
        let (second, _open) = tokio::join!(rig.raw(CLOSING.as_bytes()), second);
        assert!(second.ends_with("true") && !second.contains("forged"), "{answer:?}: {second}");
        assert!(!first.contains("x: forged"), "{answer:?}: {first}");
    }
}

#[tokio::test]
async fn an_answer_that_was_there_before_its_request_is_nobodys() {
    let (rig, listener) = bench().await;
    let mut client = rig.connect().await;
    client.write_all(GET.as_bytes()).await.unwrap();
    let mut stream = asked(&listener).await;
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await.unwrap();
    read_until(&mut client, "\r\n\r\n").await;
    // Nobody has asked for it.
    stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await.unwrap();
    assert_eq!(to_end(&mut stream).await, "", "the connection ends instead of being used again");
    let second = async {
        let mut stream = asked(&listener).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 4\r\n\r\ntrue").await.unwrap();
        stream
    };
    let (second, _open) = tokio::join!(rig.raw(CLOSING.as_bytes()), second);
    assert!(second.ends_with("true"), "{second}");
}

#[tokio::test]
async fn a_head_answer_has_no_body_whatever_follows() {
    let (rig, listener) = bench().await;
    let upstream = async {
        let mut stream = asked(&listener).await;
        stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 6\r\n\r\nforged").await.unwrap();
        to_end(&mut stream).await
    };
    let head = CLOSING.replace("GET", "HEAD");
    let (seen, after) = tokio::join!(rig.raw(head.as_bytes()), upstream);
    assert!(seen.contains("content-length: 6\r\n") && seen.ends_with("\r\n\r\n"), "{seen}");
    assert_eq!(after, "", "the connection is not used again");
}

#[tokio::test]
async fn interim_answers_without_end_cost_their_own_request_alone() {
    let (addr, listener) = {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        (listener.local_addr().unwrap(), listener)
    };
    let mut table = Table::new(addr);
    table.routes.push(route(upstream().await, Protocol::Http1));
    table.decide = Box::new(|head| {
        (head.path == "/good").then_some(proxy::route::Action::Forward(proxy::route::RouteIx(1)))
    });
    let rig = Rig::start(table);
    for interim in ["HTTP/1.1 100 Continue\r\n\r\n", "HTTP/1.1 103 Early Hints\r\nlink: </x>\r\n\r\n"] {
        let before = rig.failures("upstream_protocol");
        let storm = async {
            let mut stream = asked(&listener).await;
            let block = interim.repeat(1000);
            while stream.write_all(block.as_bytes()).await.is_ok() {}
        };
        let good = async {
            for _ in 0..20 {
                let mut client = rig.h1().await;
                assert_eq!(client.send_request(get("/good")).await.unwrap().status(), 200);
            }
        };
        let (seen, (), ()) = tokio::join!(rig.raw(CLOSING.as_bytes()), storm, good);
        assert!(seen.starts_with("HTTP/1.1 502"), "{interim:?}: {seen}");
        assert_eq!(rig.failures("upstream_protocol"), before + 1);
    }
}
