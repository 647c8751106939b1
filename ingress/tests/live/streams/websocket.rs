//! WebSocket by a library that is not ours, on both ends, over HTTP/1.1 and HTTP/2.

use std::{sync::atomic::Ordering::Relaxed, time::Duration};

use futures_util::{SinkExt as _, StreamExt as _};
use http::{Method, Request, Version};
use hyper::ext::Protocol;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite, AsyncWriteExt as _};
use tokio_tungstenite::{
    WebSocketStream, client_async,
    tungstenite::{Error, Message, protocol::Role},
};

use super::{
    super::harness::{client::empty, until},
    Rig,
};

const FRAME: usize = 1024 * 1024;

/// Frames of 1 MiB, each echoed, then a close from both sides.
async fn echoes<S: AsyncRead + AsyncWrite + Unpin>(mut socket: WebSocketStream<S>, count: u8) {
    for number in 0..count {
        let frame = Message::binary(vec![number; FRAME]);
        socket.send(frame.clone()).await.expect("sent");
        let echoed = socket.next().await.expect("open").expect("a message");
        assert!(echoed == frame, "frame {number} came back as another one");
    }
    socket.close(None).await.expect("closed");
    while let Some(message) = socket.next().await {
        let closes = message.as_ref().is_ok_and(Message::is_close);
        assert!(closes, "{message:?}");
    }
    socket.get_mut().shutdown().await.expect("the end of the stream");
}

async fn over_http1(rig: &Rig, path: &str) -> WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let stream = rig.target(b"http/1.1").connect().await.expect("connected");
    client_async(format!("wss://shop.example{path}"), stream).await.expect("upgraded").0
}

async fn over_http2(rig: &Rig, path: &str) -> WebSocketStream<impl AsyncRead + AsyncWrite + Unpin + use<>> {
    let uri = format!("https://shop.example{path}");
    let mut client = rig.http2();
    let answer = client.send(|| {
        let mut request = Request::builder().method(Method::CONNECT).uri(&uri).version(Version::HTTP_2);
        request = request.header("sec-websocket-version", "13").extension(Protocol::from_static("websocket"));
        request.body(empty()).expect("request")
    });
    let answer = answer.await.expect("sent").expect("accepted");
    assert_eq!(answer.status(), 200);
    let io = TokioIo::new(hyper::upgrade::on(answer).await.expect("a stream"));
    WebSocketStream::from_raw_socket(io, Role::Client, None).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn frames_of_1_mib_are_echoed_through_tls_and_mtls_at_flat_memory() {
    let rig = Rig::start(&[("ws", ", allow_upgrade: [websocket], timeout_ms: 500")], &[]).await;
    echoes(over_http1(&rig, "/ws/chat").await, 2).await;
    echoes(over_http2(&rig, "/ws/chat").await, 2).await;
    let both = async {
        tokio::join!(
            async {
                echoes(over_http1(&rig, "/ws/chat?1").await, 32).await;
            },
            async {
                echoes(over_http2(&rig, "/ws/chat?2").await, 32).await;
            },
        );
    };
    let ((), rose) = rig.watch_memory().during(&rig.ingress, Box::pin(both)).await;
    eprintln!("64 frames of 1 MiB each way: memory rose by {rose} KiB");
    assert!(rose < 8 * 1024, "{rose} KiB");
    for (path, status) in [("/ws/chat?1", 101), ("/ws/chat?2", 200)] {
        let line = rig.ingress.access(path).await;
        assert_eq!((&line["status"], &line["reason"]), (&status.into(), &"ok".into()), "{line}");
        for bytes in ["bytes_in", "bytes_out"] {
            assert!(line[bytes].as_u64() > Some(32 * FRAME as u64), "{line}");
        }
        assert_eq!(line["upstream_tls"], "TLSv1.3", "{line}");
    }
    let metrics = rig.ingress.metrics().await;
    for line in ["selvedge_upgrades_total 4", "selvedge_tunnels_active 0"] {
        assert!(metrics.lines().any(|found| found == line), "{line} in {metrics}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_client_that_does_not_read_its_tunnel_stops_the_upstream() {
    let rig = Rig::start(&[("ws", ", use_websocket: true")], &[]).await;
    for http2 in [false, true] {
        let before = rig.app.seen.sent.load(Relaxed);
        let watch = rig.watch_memory();
        let ((first, second), rose) = watch
            .during(
                &rig.ingress,
                Box::pin(async {
                    let held: Box<dyn std::any::Any> = if http2 {
                        Box::new(over_http2(&rig, "/ws/flood").await)
                    } else {
                        Box::new(over_http1(&rig, "/ws/flood").await)
                    };
                    until("it sends", async || rig.app.seen.sent.load(Relaxed) > before).await;
                    let stalled = super::volume::stalled(&rig.app.seen.sent).await;
                    drop(held);
                    stalled
                }),
            )
            .await;
        assert_eq!(first, second);
        let between = (first - before) / 1024;
        eprintln!("HTTP/2 {http2}: {between} KiB on the way, memory rose by {rose} KiB");
        assert!(between < 48 * 1024 && rose < 8 * 1024, "{between} KiB on the way, {rose} KiB of memory");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn refused_upgrades_say_why() {
    let rig = Rig::start(&[("plain", ""), ("grpc", ", grpc: true, allow_upgrade: [websocket]")], &[]).await;
    for (path, status, reason) in
        [("/plain/chat", 403, "upgrade_not_allowed"), ("/grpc/chat", 501, "upgrade_unsupported")]
    {
        let stream = rig.target(b"http/1.1").connect().await.expect("connected");
        let refused = client_async(format!("wss://shop.example{path}"), stream).await.expect_err("refused");
        let Error::Http(answer) = refused else { panic!("{refused:?}") };
        assert_eq!(answer.status().as_u16(), status);
        assert_eq!(rig.ingress.access(path).await["reason"], reason);
    }
    assert_eq!(rig.app.seen.connections.load(Relaxed), 0, "nothing has reached the upstream");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_tunnel_that_rests_ends_and_one_that_outlasts_a_drain_is_cut() {
    let mappings =
        [("short", ", use_websocket: true, idle_timeout_ms: 300"), ("ws", ", use_websocket: true")];
    let mut rig = Rig::start(&mappings, &["--drain-timeout", "1s"]).await;
    let mut resting = over_http1(&rig, "/short/chat").await;
    let ended = tokio::time::timeout(Duration::from_mins(1), resting.next()).await.expect("it ends");
    assert!(ended.is_none_or(|message| message.is_err()), "nobody has said goodbye");
    assert_eq!(rig.ingress.access("/short/chat").await["reason"], "stream_idle_timeout");
    let (mut open, mut streamed) =
        (over_http1(&rig, "/ws/chat?1").await, over_http2(&rig, "/ws/chat?2").await);
    rig.ingress.signal("TERM");
    for text in ["a", "b"] {
        open.send(Message::text(text)).await.expect("sent");
        assert_eq!(open.next().await.expect("open").expect("a message"), Message::text(text));
        streamed.send(Message::text(text)).await.expect("sent");
        assert_eq!(streamed.next().await.expect("open").expect("a message"), Message::text(text));
    }
    assert_eq!(rig.ingress.ended().await.0.code(), Some(4));
    for path in ["/ws/chat?1", "/ws/chat?2"] {
        assert_eq!(rig.ingress.access(path).await["reason"], "drain_timeout");
    }
}
