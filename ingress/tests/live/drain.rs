//! SIGTERM under load: clients that keep to the protocol lose nothing, over HTTP/1.1, HTTP/2 and gRPC.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;
use http_body_util::BodyExt as _;
use tokio::task::JoinSet;

use super::harness::{
    Authority, Ingress, Upstream,
    certs::secret,
    client::{Http1, Http2, MESSAGE, Target, call, empty},
    replace, until,
    upstream::MESSAGES,
};

/// What clients have had answered, by kind.
#[derive(Default)]
struct Done {
    http1: AtomicUsize,
    http2: AtomicUsize,
    unary: AtomicUsize,
    streams: AtomicUsize,
    /// Server streams that have had a message and wait for more.
    streaming: AtomicUsize,
}

impl Done {
    fn all(&self) -> [usize; 4] {
        [&self.http1, &self.http2, &self.unary, &self.streams].map(|count| count.load(Relaxed))
    }
}

/// Asks until nobody accepts any longer.
async fn http1(target: Target, done: Arc<Done>) -> Result<(), String> {
    let mut client = Http1::new(target);
    for turn in 0_usize.. {
        let path = if turn % 5 == 0 { "/app/slow" } else { "/app/x" };
        let request = Request::get(path).header("host", "shop.example").body(empty()).expect("request");
        match client.try_ask(request).await.map_err(|why| format!("HTTP/1.1: {why}"))? {
            Some((200, _)) => done.http1.fetch_add(1, Relaxed),
            Some(other) => return Err(format!("HTTP/1.1: {other:?}")),
            None => return Ok(()),
        };
    }
    Ok(())
}

async fn http2(target: Target, done: Arc<Done>) -> Result<(), String> {
    let mut client = Http2::new(target);
    for turn in 0_usize.. {
        let path = if turn % 5 == 0 { "/app/slow" } else { "/app/x" };
        let request = || Request::get(format!("http://shop.example{path}")).body(empty()).expect("request");
        match client.try_ask(request).await.map_err(|why| format!("HTTP/2: {why}"))? {
            Some((200, _)) => done.http2.fetch_add(1, Relaxed),
            Some(other) => return Err(format!("HTTP/2: {other:?}")),
            None => return Ok(()),
        };
    }
    Ok(())
}

/// Calls until nobody accepts any longer; each must end with all its messages and with trailers that say OK.
async fn grpc(target: Target, streams: bool, done: Arc<Done>) -> Result<(), String> {
    let mut client = Http2::new(target);
    let (method, messages) = if streams { ("Stream", MESSAGES) } else { ("Unary", 1) };
    let failed = |why: String| format!("gRPC {method}: {why}");
    while let Some(response) = client.send(|| call(method)).await.map_err(failed)? {
        let status = response.status().as_u16();
        let mut body = response.into_body();
        let (mut data, mut ended) = (Vec::new(), None);
        while let Some(frame) = body.frame().await {
            let frame = frame.map_err(|error| failed(format!("{error:?} after {} bytes", data.len())))?;
            match frame.into_data() {
                Ok(bytes) if data.is_empty() => {
                    done.streaming.fetch_add(usize::from(streams), Relaxed);
                    data.extend(bytes);
                }
                Ok(bytes) => data.extend(bytes),
                Err(frame) => ended = frame.into_trailers().ok(),
            }
        }
        done.streaming.fetch_sub(usize::from(streams && !data.is_empty()), Relaxed);
        let code = ended.and_then(|trailers| trailers.get("grpc-status").cloned());
        if status != 200 || data != MESSAGE.repeat(messages) || code.as_ref().is_none_or(|code| code != "0") {
            return Err(failed(format!("{status}, {} bytes, grpc-status {code:?}", data.len())));
        }
        let count = if streams { &done.streams } else { &done.unary };
        count.fetch_add(1, Relaxed);
    }
    Ok(())
}

/// An upstream, and an ingress in front of it with cleartext and TLS.
async fn rig(flags: &[&str], authority: &Authority) -> (Upstream, tempfile::TempDir, Ingress) {
    let upstream = Upstream::plain().await;
    let folder = tempfile::tempdir().expect("folder");
    let mapping = |name: &str, more: &str| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
             spec: {{hostname: \"*\", prefix: /{name}/, rewrite: \"\", service: \"{}\"{more}}}\n",
            upstream.addr
        )
    };
    let pair = authority.leaf("shop.example");
    let host = secret("shop", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
        + "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {name: shop}\n\
           spec: {hostname: shop.example, tlsSecret: {name: shop}, requestPolicy: {insecure: {action: Route}}}\n";
    let routes = host + &mapping("app", "") + &mapping("grpc", ", grpc: true");
    replace(&folder.path().join("routes.yaml"), &routes);
    let ingress = Ingress::start(folder.path(), flags).await;
    (upstream, folder, ingress)
}

/// Clients of every kind, half of them over TLS.
fn load(ingress: &Ingress, authority: &Authority, done: &Arc<Done>) -> JoinSet<Result<(), String>> {
    let mut clients = JoinSet::new();
    let https = ingress.listener("https");
    for number in 0..6 {
        let target = |alpn: &[u8]| match number % 2 {
            0 => Target::from(ingress.http()),
            _ => Target::tls(https, authority, alpn),
        };
        clients.spawn(http1(target(b"http/1.1"), Arc::clone(done)));
        clients.spawn(http2(target(b"h2"), Arc::clone(done)));
        clients.spawn(grpc(target(b"h2"), false, Arc::clone(done)));
        clients.spawn(grpc(target(b"h2"), true, Arc::clone(done)));
    }
    clients
}

/// On one thread: hyper's client fails a request that was not sent if another thread reads the GOAWAY between its own look at
/// the connection and the request, and does not say that it was not sent.
#[tokio::test]
async fn sigterm_under_load_fails_no_request_and_ends_with_0() {
    let authority = Authority::new("drain");
    let (_upstream, _folder, mut ingress) = rig(&["--drain-timeout", "20s"], &authority).await;
    let done = Arc::new(Done::default());
    let clients = load(&ingress, &authority, &done);
    until("load runs", async || {
        done.all().iter().all(|count| *count > 3) && done.streaming.load(Relaxed) > 0
    })
    .await;
    ingress.signal("TERM");
    let (status, took) = ingress.ended().await;
    let failed: Vec<_> = clients.join_all().await.into_iter().filter_map(Result::err).collect();
    let [http1, http2, unary, streams] = done.all();
    eprintln!(
        "HTTP/1.1 {http1}, HTTP/2 {http2}, gRPC {unary} unary and {streams} streams, {} failed; ended with {status} after {took:?}",
        failed.len()
    );
    assert!(failed.is_empty(), "{failed:#?}");
    assert_eq!(status.code(), Some(0));
    assert!(took < Duration::from_secs(20), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_drain_delay_accepts_on_while_ready_says_draining() {
    let authority = Authority::new("drain");
    let (_upstream, _folder, mut ingress) = rig(&["--drain-delay", "1s"], &authority).await;
    ingress.signal("TERM");
    let admin = ingress.admin();
    until("unready", async || super::harness::client::get(admin, "localhost", "/ready").await.0 == 503).await;
    let request = Request::get("/app/x").header("host", "shop.example").body(empty()).expect("request");
    let answer = Http1::new(ingress.http()).ask(request).await;
    assert_eq!(answer.map(|(status, _)| status), Ok(200), "a load balancer has not heard of it yet");
    assert_eq!(ingress.ended().await.0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn sighup_changes_nothing() {
    let authority = Authority::new("drain");
    let (_upstream, _folder, ingress) = rig(&[], &authority).await;
    let done = Arc::new(Done::default());
    let mut clients = load(&ingress, &authority, &done);
    until("load runs", async || done.all().iter().all(|count| *count > 1)).await;
    ingress.signal("HUP");
    let said =
        |line: &serde_json::Value| line["message"].as_str().is_some_and(|text| text.starts_with("SIGHUP"));
    until("it is in the log", async || ingress.log().iter().any(said)).await;
    let before = done.all();
    until("load goes on", async || done.all().iter().zip(before).all(|(now, then)| *now > then + 1)).await;
    let ended = clients.try_join_next();
    assert!(ended.is_none(), "a client has ended: {ended:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_outlasts_the_deadline_is_cut_and_ends_with_4() {
    let authority = Authority::new("drain");
    let (_upstream, _folder, mut ingress) = rig(&["--drain-timeout", "100ms"], &authority).await;
    let mut client = Http2::new(ingress.http());
    let mut response = client.send(|| call("Stream")).await.expect("sent").expect("accepted");
    assert!(response.body_mut().frame().await.expect("a message").is_ok());
    ingress.signal("TERM");
    assert_eq!(ingress.ended().await.0.code(), Some(4));
    assert!(response.into_body().collect().await.is_err(), "cut");
}
