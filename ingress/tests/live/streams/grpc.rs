//! gRPC in its four shapes, with deadlines, cancels and errors, on one connection to the upstream.

use std::{
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response};
use http_body::Frame;
use http_body_util::{BodyExt as _, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::body::Incoming;
use tokio::sync::mpsc;

use super::{
    super::harness::{
        client::{Body, Http2, MESSAGE},
        until,
    },
    Rig,
    upstream::Seen,
};

/// Counts a call that is dropped before its end.
struct Call(Arc<Seen>, bool);

impl Drop for Call {
    fn drop(&mut self) {
        self.0.given_up.fetch_add(u64::from(!self.1), Relaxed);
    }
}

type Out = UnsyncBoxBody<Bytes, hyper::Error>;

/// The upstream's side.
pub(super) async fn serve(request: Request<Incoming>, path: &str, seen: Arc<Seen>) -> Response<Out> {
    if let Some(deadline) = request.headers().get("grpc-timeout") {
        seen.deadlines.lock().push(deadline.to_str().expect("text").to_owned());
    }
    let mut call = Call(Arc::clone(&seen), false);
    let body = request.into_body();
    let (count, echoes) = match path {
        "/Never" => {
            let _call = call;
            return std::future::pending().await;
        }
        "/Fail" => {
            call.1 = true;
            let mut response = Response::new(Full::default().map_err(|never| match never {}).boxed_unsync());
            let fields =
                [("grpc-status", "5"), ("grpc-message", "no%20such%20thing"), ("x-detail-bin", "AAEC")];
            for (name, value) in fields {
                response.headers_mut().insert(name, HeaderValue::from_static(value));
            }
            return grpc(response);
        }
        "/Bidi" => (usize::MAX, true),
        "/Server" => (20, false),
        "/Endless" => (usize::MAX, false),
        _ => (1, false),
    };
    let (send, receive) = mpsc::channel(1);
    tokio::spawn(async move {
        let mut call = call;
        let message = || Frame::data(Bytes::from_static(MESSAGE));
        if echoes {
            let mut body = body;
            while let Some(frame) = body.frame().await {
                let Ok(frame) = frame else { return };
                if let Ok(data) = frame.into_data()
                    && send.send(Frame::data(data)).await.is_err()
                {
                    return;
                }
            }
        } else {
            let Ok(heard) = body.collect().await else { return };
            assert_eq!(heard.to_bytes().len() % MESSAGE.len(), 0);
            for _ in 0..count {
                if send.send(message()).await.is_err() {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
        let mut trailers = HeaderMap::new();
        trailers.insert("grpc-status", HeaderValue::from_static("0"));
        trailers.insert("x-trailer", HeaderValue::from_static("kept"));
        call.1 = send.send(Frame::trailers(trailers)).await.is_ok();
    });
    let frames = stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
    grpc(Response::new(StreamBody::new(frames.map(Ok)).boxed_unsync()))
}

fn grpc(mut response: Response<Out>) -> Response<Out> {
    response.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc"));
    response
}

/// A call with messages.
fn call(path: &str, body: Body) -> Request<Body> {
    Request::post(format!("https://shop.example{path}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(body)
        .expect("request")
}

fn messages(count: usize) -> Body {
    let frames = stream::iter((0..count).map(|_| Ok(Frame::data(Bytes::from_static(MESSAGE)))));
    StreamBody::new(frames).boxed_unsync()
}

async fn ask(client: &mut Http2, path: &str, body: impl Fn() -> Body) -> Response<Incoming> {
    client.send(|| call(path, body())).await.expect("sent").expect("accepted")
}

/// Messages and trailers of an answer.
async fn whole(response: Response<Incoming>) -> (usize, HeaderMap) {
    let head = response.headers().clone();
    let body = response.into_body().collect().await.expect("whole");
    let trailers = body.trailers().cloned().unwrap_or(head);
    (body.to_bytes().len() / MESSAGE.len(), trailers)
}

const MAPPINGS: [(&str, &str); 2] =
    [("grpc", ", grpc: true, timeout_ms: 0"), ("late", ", grpc: true, timeout_ms: 1500")];

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_four_shapes_and_errors_keep_their_metadata() {
    let rig = Rig::start(&MAPPINGS, &[]).await;
    let mut client = rig.http2();
    for (method, sent, received) in [("Unary", 1, 1), ("Client", 50, 1), ("Server", 1, 20)] {
        let (count, trailers) =
            whole(ask(&mut client, &format!("/grpc/{method}"), || messages(sent)).await).await;
        assert_eq!(
            (count, &trailers["grpc-status"], &trailers["x-trailer"]),
            (received, &"0".parse().unwrap(), &"kept".parse().unwrap())
        );
    }
    // Both ways: each message is answered before the next one is sent.
    let (send, receive) = mpsc::channel::<Frame<Bytes>>(1);
    let body = parking_lot::Mutex::new(Some(receive));
    let answer = ask(&mut client, "/grpc/Bidi", || {
        let receive = body.lock().take().expect("sent once");
        let frames =
            stream::unfold(receive, |mut receive| async move { Some((receive.recv().await?, receive)) });
        StreamBody::new(frames.map(Ok)).boxed_unsync()
    });
    let (answer, ()) =
        tokio::join!(answer, async { send.send(Frame::data(Bytes::from_static(MESSAGE))).await.unwrap() });
    let mut answer = answer.into_body();
    for _ in 0..10 {
        assert_eq!(answer.frame().await.unwrap().unwrap().into_data().unwrap(), MESSAGE);
        send.send(Frame::data(Bytes::from_static(MESSAGE))).await.unwrap();
    }
    drop(send);
    let rest = answer.collect().await.expect("whole");
    assert_eq!(rest.trailers().expect("trailers")["grpc-status"], "0");
    // An error without a body: trailers alone.
    let failed = ask(&mut client, "/grpc/Fail", || messages(1)).await;
    assert_eq!(failed.status(), 200);
    let (count, fields) = whole(failed).await;
    assert_eq!((count, &fields["grpc-status"]), (0, &"5".parse().unwrap()));
    assert_eq!(
        (&fields["grpc-message"], &fields["x-detail-bin"]),
        (&"no%20such%20thing".parse().unwrap(), &"AAEC".parse().unwrap())
    );
    assert_eq!(rig.ingress.access("/grpc/Fail").await["status"], 200);
    assert_eq!(rig.app.seen.given_up.load(Relaxed), 0);
    assert_eq!(rig.app.seen.connections.load(Relaxed), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn deadlines_and_cancels_reach_the_upstream_and_end_nothing_else() {
    let rig = Rig::start(&MAPPINGS, &[]).await;
    let mut client = rig.http2();
    let mut other = ask(&mut rig.http2(), "/grpc/Endless", || messages(1)).await.into_body();
    let given_up = || rig.app.seen.given_up.load(Relaxed);
    let asked = |path: &'static str| {
        move || {
            let mut request = call(path, messages(1));
            request.headers_mut().insert("grpc-timeout", "300m".parse().expect("timeout"));
            request
        }
    };
    // A client whose deadline has passed resets its stream: before the head of an answer, and behind it.
    let never = tokio::time::timeout(Duration::from_millis(300), client.send(asked("/grpc/Never")));
    assert!(never.await.is_err(), "it was answered");
    let took = until("the upstream hears of it", async || given_up() == 1).await;
    eprintln!("/grpc/Never: the upstream heard of the cancel after {took:?}");
    let answer = client.send(asked("/grpc/Endless")).await.expect("sent").expect("accepted");
    let mut body = answer.into_body();
    for _ in 0..3 {
        assert!(body.frame().await.expect("open").is_ok());
    }
    drop(body);
    let took = until("the upstream hears of it", async || given_up() == 2).await;
    eprintln!("/grpc/Endless: the upstream heard of the cancel after {took:?}");
    assert_eq!(*rig.app.seen.deadlines.lock(), ["300m"; 2]);
    let took = cancel_both_ways(&rig).await;
    eprintln!("/grpc/Bidi: the upstream heard of the cancel after {took:?}");
    assert_eq!(given_up(), 3);
    // Our own deadline: the client is told in its own words, the upstream's stream is reset.
    let late = ask(&mut client, "/late/Never", || messages(1)).await;
    assert_eq!((late.status().as_u16(), &late.headers()["grpc-status"]), (200, &"4".parse().unwrap()));
    until("the upstream hears of it", async || given_up() == 4).await;
    // A body that was cut by the deadline is reset, never ended as if it were whole.
    let cut = ask(&mut client, "/late/Endless", || messages(1)).await;
    assert!(cut.into_body().collect().await.is_err());
    until("the upstream hears of it", async || given_up() == 5).await;
    // One of each worker's: nothing of it has ended one.
    assert!(rig.app.seen.connections.load(Relaxed) <= 2, "{:?}", rig.app.seen.connections);
    for _ in 0..3 {
        assert!(other.frame().await.expect("open").is_ok(), "nor anybody else's stream");
    }
}

/// Resets a stream that is open both ways.
async fn cancel_both_ways(rig: &Rig) -> Duration {
    let before = rig.app.seen.given_up.load(Relaxed);
    let stream = rig.target(b"h2").connect().await.expect("connected");
    let (client, running) = h2::client::handshake(stream).await.expect("handshake");
    let _running = tokio::spawn(running);
    let (answer, mut sending) = {
        let request = call("/grpc/Bidi", messages(0)).map(drop);
        client.ready().await.expect("ready").send_request(request, false).expect("sent")
    };
    sending.send_data(Bytes::from_static(MESSAGE), false).expect("sent");
    let mut answer = answer.await.expect("answered").into_body();
    assert_eq!(answer.data().await.expect("open").expect("a message"), MESSAGE);
    sending.send_reset(h2::Reason::CANCEL);
    until("the upstream hears of it", async || rig.app.seen.given_up.load(Relaxed) > before).await
}
