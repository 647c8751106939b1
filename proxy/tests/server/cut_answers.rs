//! Answers that end at each of their bytes, in order or by a reset: they never look whole, and what was asked runs once.

use bytes::Bytes;
use http::Request;
use http_body_util::{BodyExt as _, Full};
use tokio::{
    io::AsyncWriteExt as _,
    net::{TcpListener, TcpStream},
};

use super::support::*;

const POST: &str = "POST / HTTP/1.1\r\nhost: a\r\nconnection: close\r\ncontent-length: 2\r\n\r\nhi";
const ANSWERS: [&str; 2] = [
    "HTTP/1.1 200 OK\r\ncontent-length: 4\r\nx: y\r\n\r\nabcd",
    "HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\n\r\n3\r\nabc\r\n1\r\nd\r\n0\r\n\r\n",
];

#[derive(Clone, Copy, Debug)]
enum Ends {
    /// FIN.
    Closed,
    /// RST.
    Reset,
}

/// The next request, whole.
async fn asked(listener: &TcpListener) -> TcpStream {
    let (mut stream, _) = listener.accept().await.unwrap();
    read_until(&mut stream, "\r\n\r\nhi").await;
    stream
}

/// Answers one request with a part of an answer.
async fn answers(listener: &TcpListener, part: &[u8], ends: Ends) {
    let mut stream = asked(listener).await;
    stream.write_all(part).await.unwrap();
    if matches!(ends, Ends::Reset) {
        stream.set_zero_linger().unwrap();
    }
}

/// Each part of each answer, with its end.
fn cuts() -> impl Iterator<Item = (&'static str, usize, Ends)> {
    let all = |answer: &'static str| (0..answer.len()).map(move |cut| (answer, cut));
    let ends = |(answer, cut)| [Ends::Closed, Ends::Reset].map(|ends| (answer, cut, ends));
    ANSWERS.into_iter().flat_map(all).flat_map(ends)
}

/// Whether all that an HTTP/1.1 client needs to take an answer for whole is there.
fn looks_whole(seen: &str) -> bool {
    let Some((head, body)) = seen.split_once("\r\n\r\n") else { return false };
    let length = head.lines().find_map(|line| line.strip_prefix("content-length: "));
    match length {
        Some(length) => body.len() >= length.parse().unwrap(),
        None => body.ends_with("0\r\n\r\n"),
    }
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_never_looks_whole_to_http1_and_runs_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::start(Table::new(listener.local_addr().unwrap()));
    for (answer, cut, ends) in cuts() {
        let part = answer.as_bytes().get(..cut).unwrap();
        let (seen, ()) = tokio::join!(rig.raw(POST.as_bytes()), answers(&listener, part, ends));
        let failed = seen.starts_with("HTTP/1.1 50");
        // A head whose body has failed by then may be cut itself.
        assert_eq!(looks_whole(&seen), failed, "{cut} {ends:?}: {seen:?}");
        let has_head = answer.find("\r\n\r\n").unwrap() + 4 <= cut;
        assert!(has_head || failed, "{cut} {ends:?}: {seen:?}");
    }
    // Had one of them been sent again, its connection would come first here, with the wrong answer.
    for answer in ANSWERS {
        let whole = async {
            let mut stream = asked(&listener).await;
            stream.write_all(answer.as_bytes()).await.unwrap();
            stream
        };
        let (seen, _open) = tokio::join!(rig.raw(POST.as_bytes()), whole);
        assert!(seen.starts_with("HTTP/1.1 200") && looks_whole(&seen), "{seen:?}");
    }
    assert_eq!(rig.total(proxy::observe::Counter::Retries), 0);
}

#[tokio::test]
async fn an_answer_cut_at_any_byte_is_a_reset_stream_of_http2_and_runs_once() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let rig = Rig::start(Table::new(listener.local_addr().unwrap()));
    let mut client = rig.h2().await;
    for (answer, cut, ends) in cuts() {
        let body = Full::new(Bytes::from_static(b"hi")).boxed_unsync();
        let request = Request::post("http://example.org/").header("content-length", 2).body(body).unwrap();
        let part = answer.as_bytes().get(..cut).unwrap();
        let (seen, ()) = tokio::join!(client.send_request(request), answers(&listener, part, ends));
        let has_head = answer.find("\r\n\r\n").unwrap() + 4 <= cut;
        // A head whose body has failed by then may go with the reset of its stream.
        let Ok(seen) = seen else {
            assert!(has_head, "{cut} {ends:?}");
            continue;
        };
        let passed = seen.status() == 200;
        assert!(passed || seen.status().is_server_error(), "{cut} {ends:?}: {}", seen.status());
        let whole = seen.into_body().collect().await.is_ok();
        assert_eq!(whole, !passed, "{cut} {ends:?}");
    }
    // The client's connection has outlived them all.
    let body = Full::new(Bytes::from_static(b"hi")).boxed_unsync();
    let request = Request::post("http://example.org/").header("content-length", 2).body(body).unwrap();
    let whole = async {
        let mut stream = asked(&listener).await;
        stream.write_all(ANSWERS[0].as_bytes()).await.unwrap();
        stream
    };
    let (seen, _open) = tokio::join!(client.send_request(request), whole);
    assert_eq!(text(seen.unwrap()).await, "abcd");
    assert_eq!(rig.total(proxy::observe::Counter::Retries), 0);
}
