//! HTTP/1.1, HTTP/2 and gRPC from end to end.

use http::{HeaderMap, HeaderValue, Request, StatusCode};
use http_body_util::BodyExt as _;
use proxy::{Reason, upstream::Protocol};
use tokio::io::AsyncWriteExt as _;

use super::support::*;

#[tokio::test]
async fn http1_keeps_the_connection_and_sets_its_own_fields() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut client = rig.h1().await;
    for _ in 0..3 {
        let response = client.send_request(get("/a/../b?c=%20d")).await.unwrap();
        assert_eq!(response.status(), 200);
        let fields = response.headers().clone();
        assert_eq!(
            (&fields["server"], &fields["x-upstream"]),
            (&"selvedge".parse().unwrap(), &"yes".parse().unwrap())
        );
        assert!(!fields.contains_key("keep-alive"), "hop-by-hop fields of the upstream stay behind");
        let seen = text(response).await;
        assert!(seen.starts_with("GET /b?c=%20d\n"), "{seen}");
        for line in ["host: example.org", "x-forwarded-for: 127.0.0.1", "x-forwarded-proto: http"] {
            assert!(seen.lines().any(|have| have == line), "{line} in {seen}");
        }
        assert!(seen.contains("\nx-request-id: "), "{seen}");
        client.ready().await.unwrap();
    }
}

#[tokio::test]
async fn http2_with_prior_knowledge_carries_many_requests() {
    let rig = Rig::start(Table::new(upstream().await));
    let client = rig.h2().await;
    let asked = (0..50).map(|i| {
        let mut client = client.clone();
        async move { text(client.send_request(get2(&format!("/{i}"))).await.unwrap()).await }
    });
    for (i, seen) in futures_util::future::join_all(asked).await.into_iter().enumerate() {
        assert!(seen.starts_with(&format!("GET /{i}\n")), "{seen}");
        assert!(seen.contains("\nhost: example.org\n"), "{seen}");
    }
}

#[tokio::test]
async fn head_has_the_length_and_no_body() {
    let rig = Rig::start(Table::new(upstream().await));
    let seen = rig.raw(b"HEAD / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await;
    let (head, body) = seen.split_once("\r\n\r\n").unwrap();
    assert!(head.starts_with("HTTP/1.1 200 OK") && head.contains("content-length: "), "{head}");
    assert_eq!(body, "");
}

#[tokio::test]
async fn a_body_is_asked_for_only_when_somebody_wants_it() {
    let mut table = Table::new(upstream().await);
    table.decide = Box::new(|head| (head.path == "/refused").then(|| answer(403, Reason::NO_ROUTE)));
    let rig = Rig::start(table);
    let head = |path: &str| {
        format!(
            "POST {path} HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\nexpect: 100-continue\r\nconnection: close\r\n\r\n"
        )
    };
    let mut stream = rig.connect().await;
    stream.write_all(head("/count").as_bytes()).await.unwrap();
    assert_eq!(read_until(&mut stream, "\r\n\r\n").await, "HTTP/1.1 100 Continue\r\n\r\n");
    stream.write_all(b"hello").await.unwrap();
    let rest = to_end(&mut stream).await;
    assert!(rest.starts_with("HTTP/1.1 200 OK") && rest.ends_with("\r\n\r\n5 "), "{rest}");

    let refused = rig.raw(head("/refused").as_bytes()).await;
    assert!(refused.starts_with("HTTP/1.1 403"), "{refused}");
    let odd = rig.raw(b"POST / HTTP/1.1\r\nhost: a\r\nexpect: 200-ok\r\ncontent-length: 1\r\n\r\nx").await;
    assert!(odd.starts_with("HTTP/1.1 417"), "{odd}");
}

fn grpc(path: &str) -> Request<Body> {
    let mut trailers = HeaderMap::new();
    trailers.insert("x-fine", HeaderValue::from_static("1"));
    trailers.insert("x_forwarded_client_cert", HeaderValue::from_static("forged"));
    Request::post(format!("http://example.org{path}"))
        .header("content-type", "application/grpc+proto")
        .header("te", "trailers")
        .body(chunks(1, Some(trailers)))
        .unwrap()
}

#[tokio::test]
async fn grpc_keeps_te_and_trailers_both_ways_but_no_forged_ones() {
    let mut table = Table::new(upstream().await);
    table.routes[0] = route(upstream().await, Protocol::Http2);
    let rig = Rig::start(table);
    let mut client = rig.h2().await;
    let seen = text(client.send_request(grpc("/headers")).await.unwrap()).await;
    assert!(seen.contains("\nte: trailers\n"), "{seen}");
    let counted = text(client.send_request(grpc("/count")).await.unwrap()).await;
    assert!(counted.starts_with("65536 ") && counted.contains("x-fine"), "{counted}");
    assert!(!counted.contains("forged"), "{counted}");
    let response = client.send_request(grpc("/grpc")).await.unwrap();
    assert_eq!(response.status(), 200);
    let body = response.into_body().collect().await.unwrap();
    let trailers = body.trailers().expect("trailers");
    assert_eq!(trailers["grpc-status"], "7");
}

#[tokio::test]
async fn a_grpc_client_gets_our_errors_as_trailers_only_and_others_as_statuses() {
    let mut table = Table::new(upstream().await);
    table.decide = Box::new(|_| Some(answer(404, Reason::NO_ROUTE)));
    let rig = Rig::start(table);
    let mut client = rig.h2().await;
    let response = client.send_request(grpc("/x")).await.unwrap();
    assert_eq!(
        (response.status(), &response.headers()["grpc-status"]),
        (StatusCode::OK, &"12".parse().unwrap())
    );
    assert_eq!(response.headers()["content-type"], "application/grpc");
    let mut web = grpc("/x");
    web.headers_mut().insert("content-type", HeaderValue::from_static("application/grpc-web+proto"));
    assert_eq!(client.send_request(web).await.unwrap().status(), 404);
}

#[tokio::test]
async fn a_host_that_does_not_belong_to_the_connection_gets_421() {
    let mut table = Table::new(upstream().await);
    table.decide = Box::new(|head| (head.authority == "guarded").then(|| answer(421, Reason::MISDIRECTED)));
    let rig = Rig::start(table);
    let seen = rig.raw(b"GET / HTTP/1.1\r\nhost: Guarded\r\nconnection: close\r\n\r\n").await;
    assert!(seen.starts_with("HTTP/1.1 421"), "{seen}");
    assert_eq!(rig.failures("misdirected_request"), 1);
}

#[tokio::test]
async fn a_published_table_is_seen_by_new_requests_and_leaves_running_ones_alone() {
    let rig = Rig::start(Table::new(upstream().await));
    let client = rig.h2().await;
    let (mut first, mut second) = (client.clone(), client);
    let (stream, running) = tokio::io::duplex(1024);
    let body =
        http_body_util::StreamBody::new(futures_util::stream::unfold(running, |mut running| async move {
            use tokio::io::AsyncReadExt as _;
            let mut byte = [0];
            running.read_exact(&mut byte).await.ok()?;
            let frame = http_body::Frame::data(bytes::Bytes::copy_from_slice(&byte));
            Some((Ok(frame), running))
        }));
    let request = Request::post("http://example.org/echo").body(body.boxed_unsync()).unwrap();
    let mut stream = stream;
    stream.write_all(b"a").await.unwrap();
    let mut response = first.send_request(request).await.unwrap();
    assert_eq!(response.frame().await.unwrap().unwrap().into_data().unwrap(), "a");
    let mut table = Table::new("127.0.0.1:1".parse().unwrap());
    table.decide = Box::new(|_| Some(answer(418, Reason::REDIRECT)));
    rig.server.publish(std::sync::Arc::new(table), Vec::new());
    // A worker renews its view when it takes the job from its queue; asked until it has.
    let renewed = async { while second.send_request(get2("/")).await.unwrap().status() != 418 {} };
    tokio::time::timeout(std::time::Duration::from_secs(10), renewed).await.unwrap();
    stream.write_all(b"b").await.unwrap();
    drop(stream);
    assert_eq!(response.into_body().collect().await.unwrap().to_bytes(), "b");
}

#[tokio::test]
async fn cookie_crumbs_of_http2_are_one_field_for_routing_and_for_the_upstream() {
    for protocol in [Protocol::Http1, Protocol::Http2] {
        let mut table = Table::new(upstream().await);
        table.routes[0] = route(upstream().await, protocol);
        table.decide = Box::new(|head| {
            let whole = head.fields.get("cookie").is_some_and(|cookie| *cookie == b"a=b; c=d; e=f"[..]);
            (!whole).then(|| answer(404, Reason::NO_ROUTE))
        });
        let rig = Rig::start(table);
        let crumbs = ["a=b", "c=d; e=f"];
        let request = crumbs
            .iter()
            .fold(Request::get("http://example.org/"), |request, crumb| request.header("cookie", *crumb));
        let seen = text(rig.h2().await.send_request(request.body(empty()).unwrap()).await.unwrap()).await;
        assert_eq!(seen.matches("cookie: ").count(), 1, "{seen}");
        assert!(seen.contains("\ncookie: a=b; c=d; e=f\n"), "{seen}");
    }
}

#[tokio::test]
async fn a_refused_head_request_has_no_body_in_either_protocol() {
    let mut table = Table::new(upstream().await);
    table.decide = Box::new(|_| Some(answer(404, Reason::NO_ROUTE)));
    let rig = Rig::start(table);
    let head = |target: &str| Request::head(target).header("host", "example.org").body(empty()).unwrap();
    for response in [
        rig.h1().await.send_request(head("/")).await.unwrap(),
        rig.h2().await.send_request(head("http://example.org/")).await.unwrap(),
    ] {
        assert_eq!(
            (response.status().as_u16(), &response.headers()["content-length"]),
            (404, &"9".parse().unwrap())
        );
        assert_eq!(text(response).await, "");
    }
    assert_eq!(rig.failures("no_route"), 2);
}
