//! Large bodies at flat memory, and readers that do not read.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::stream;
use http::{Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use hyper::body::Incoming;

use super::{
    super::harness::{
        client::{Body, empty},
        until,
    },
    Rig,
    upstream::{LARGE, PIECE},
};

/// Waits until a count rests; gives it, and what it is a while later.
pub(super) async fn stalled(count: &AtomicU64) -> (u64, u64) {
    let rests = async |first: u64| {
        tokio::time::sleep(Duration::from_millis(700)).await;
        count.load(Relaxed) == first
    };
    until("the upstream rests", async || rests(count.load(Relaxed)).await).await;
    let first = count.load(Relaxed);
    tokio::time::sleep(Duration::from_millis(300)).await;
    (first, count.load(Relaxed))
}

fn down() -> Request<Body> {
    Request::get("https://shop.example/app/down").body(empty()).expect("request")
}

fn up() -> Request<Body> {
    let piece = Bytes::from(vec![b'y'; PIECE]);
    let pieces = (0..LARGE / PIECE).map(move |_| Ok(Frame::data(piece.clone())));
    let body = StreamBody::new(stream::iter(pieces)).boxed_unsync();
    Request::post("https://shop.example/app/up").body(body).expect("request")
}

async fn count(response: Response<Incoming>) -> usize {
    assert_eq!(response.status(), 200);
    let (mut body, mut count) = (response.into_body(), 0);
    while let Some(frame) = body.frame().await {
        count += frame.expect("whole").data_ref().map_or(0, Bytes::len);
    }
    count
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mib_each_way_at_flat_memory() {
    for (upstream, fields) in [("HTTP/1.1", ", timeout_ms: 0"), ("HTTP/2", ", timeout_ms: 0, grpc: true")] {
        let rig = Rig::start(&[("app", fields)], &[]).await;
        for http2 in [false, true] {
            let answers = async {
                let (down, up) = if http2 {
                    let mut client = rig.http2();
                    let down = client.send(down).await.expect("sent").expect("accepted");
                    (count(down).await, client.send(up).await.expect("sent").expect("accepted"))
                } else {
                    let mut client = rig.http1();
                    let origin = |mut request: Request<Body>| {
                        request.headers_mut().insert("host", "shop.example".parse().expect("host"));
                        *request.uri_mut() = request.uri().path().parse().expect("path");
                        request
                    };
                    let down = client.send(origin(down())).await.expect("sent");
                    let down = count(down).await;
                    let mut client = rig.http1();
                    (down, client.send(origin(up())).await.expect("sent"))
                };
                let up = up.into_body().collect().await.expect("whole").to_bytes();
                (down, String::from_utf8_lossy(&up).into_owned())
            };
            let ((down, up), rose) = rig.watch_memory().during(&rig.ingress, Box::pin(answers)).await;
            eprintln!("HTTP/2 {http2} to {upstream}: memory rose by {rose} KiB");
            assert_eq!((down, up), (LARGE, LARGE.to_string()));
            assert!(rose < 12 * 1024, "{rose} KiB");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_answer_stops_the_upstream() {
    for fields in [", timeout_ms: 0", ", timeout_ms: 0, grpc: true"] {
        let rig = Rig::start(&[("app", fields)], &[]).await;
        let mut client = rig.http2();
        let slow = async {
            let response = client.send(down).await.expect("sent").expect("accepted");
            let (first, second) = stalled(&rig.app.seen.sent).await;
            assert_eq!(first, second);
            (response, first)
        };
        let ((response, sent), rose) = rig.watch_memory().during(&rig.ingress, Box::pin(slow)).await;
        eprintln!("{fields}: {} KiB on the way, memory rose by {rose} KiB", sent / 1024);
        assert!(sent < LARGE as u64 / 2 && rose < 8 * 1024, "{sent} bytes on the way, {rose} KiB of memory");
        assert_eq!(count(response).await, LARGE, "it goes on when the client does");
    }
}
