//! Server-sent events: an hour of them in fast forward.

use http::Request;
use http_body_util::BodyExt as _;

use super::{super::harness::client::empty, Rig};

/// What was heard of a stream, and whether it ended whole.
async fn listen(rig: &Rig, path: &str, http2: bool) -> (String, bool) {
    let request = || Request::get(format!("https://shop.example{path}")).body(empty()).expect("request");
    let response = if http2 {
        rig.http2().send(request).await.expect("sent").expect("accepted")
    } else {
        let mut request = request();
        request.headers_mut().insert("host", "shop.example".parse().expect("host"));
        *request.uri_mut() = path.parse().expect("path");
        rig.http1().send(request).await.expect("sent")
    };
    assert_eq!(response.headers()["content-type"], "text/event-stream");
    let (mut body, mut heard) = (response.into_body(), Vec::new());
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => heard.extend_from_slice(frame.data_ref().expect("data")),
            Err(_cut) => return (String::from_utf8_lossy(&heard).into_owned(), false),
        }
    }
    (String::from_utf8_lossy(&heard).into_owned(), true)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_hour_of_events_ends_by_itself_alone() {
    let mappings = [
        ("live", ", timeout_ms: 0, idle_timeout_ms: 1500"),
        ("default", ", timeout_ms: 1000"),
        ("idle", ", timeout_ms: 0, idle_timeout_ms: 500"),
    ];
    let rig = Rig::start(&mappings, &[]).await;
    for http2 in [false, true] {
        let watch = rig.watch_memory();
        let ((heard, whole), rose) =
            watch.during(&rig.ingress, Box::pin(listen(&rig, "/live/events", http2))).await;
        assert!(
            whole,
            "cut after {}",
            heard.lines().rev().find(|line| line.starts_with("id")).unwrap_or_default()
        );
        assert_eq!(heard.matches("data: tick").count(), 3601);
        eprintln!("3,601 events, HTTP/2 {http2}: memory rose by {rose} KiB");
        assert!(rose < 4 * 1024, "{rose} KiB");
        // The request timeout is to the end of the answer: who streams sets it to 0.
        let (heard, whole) = listen(&rig, "/default/events", http2).await;
        assert!(!whole && heard.starts_with("id: 0\n"), "{whole} {}", heard.len());
        let (heard, whole) = listen(&rig, "/idle/silence", http2).await;
        assert_eq!((heard.as_str(), whole), ("id: 0\ndata: tick\n\n", false));
    }
    assert_eq!(rig.ingress.access("/default/events").await["reason"], "upstream_timeout");
    assert_eq!(rig.ingress.access("/idle/silence").await["reason"], "stream_idle_timeout");
    let long = rig.ingress.access("/live/events").await;
    assert_eq!(long["reason"], "ok");
    assert!(long["duration_us"].as_u64() > Some(3_600_000), "longer than any deadline but none: {long}");
}
