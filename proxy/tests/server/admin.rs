//! The admin and health ports over sockets.

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use proxy::admin::{self, AdminSource, Surface};
use serde_json::{Value, json};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};

use super::support::{to_end, until};

/// More than sockets hold.
const BIG: usize = 32 << 20;

#[derive(Default)]
struct Source {
    big: bool,
    drained: AtomicU32,
    shut_down: AtomicU32,
}

impl AdminSource for Source {
    fn live(&self) -> Result<(), String> {
        Ok(())
    }

    fn refused(&self) {}

    fn ready(&self) -> Result<(), String> {
        if self.drained.load(Relaxed) == 0 { Ok(()) } else { Err("draining".to_owned()) }
    }

    fn config(&self) -> Value {
        json!({"listeners": [], "big": "x".repeat(if self.big { BIG } else { 1 })})
    }

    fn explain(&self, method: &str, url: &str) -> Result<Value, String> {
        if url.is_empty() { Err("no url".to_owned()) } else { Ok(json!({"method": method, "url": url})) }
    }

    fn metrics(&self) -> String {
        "# EOF\n".to_owned()
    }

    fn drain(&self) {
        self.drained.fetch_add(1, Relaxed);
    }

    fn shutdown(&self) {
        self.shut_down.fetch_add(1, Relaxed);
    }
}

async fn start(surface: Surface, source: &Arc<Source>) -> SocketAddr {
    within(admin::DEADLINE, surface, source).await
}

async fn within(deadline: Duration, surface: Surface, source: &Arc<Source>) -> SocketAddr {
    let source: Arc<dyn AdminSource> = Arc::<Source>::clone(source);
    let bind = "127.0.0.1:0".parse().unwrap();
    let (addr, serving) = admin::serve(bind, surface, deadline, source).await.unwrap();
    tokio::spawn(serving);
    addr
}

/// Sends a request line and fields, reads to the end.
async fn ask(addr: SocketAddr, line: &str, fields: &str) -> String {
    let mut stream = TcpStream::connect(addr).await.unwrap();
    let head = format!("{line} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n{fields}\r\n");
    stream.write_all(head.as_bytes()).await.unwrap();
    to_end(&mut stream).await
}

fn status(answer: &str) -> &str {
    answer.get(9..12).unwrap_or(answer)
}

#[tokio::test]
async fn every_path_of_the_contract_answers() {
    let source = Arc::new(Source::default());
    let addr = start(Surface::Admin, &source).await;
    for (line, body) in [
        ("GET /ready", "ready\n"),
        ("GET /live", "live\n"),
        ("GET /metrics", "# EOF\n"),
        ("GET /config", "\"listeners\""),
        ("GET /explain?method=PUT&url=http%3A%2F%2Fa%2F", "\"method\": \"PUT\""),
        ("GET /ambassador/v0/check_ready", "ready and waiting\n"),
        ("GET /ambassador/v0/check_alive", "alive and well\n"),
    ] {
        let answer = ask(addr, line, "").await;
        assert_eq!(status(&answer), "200", "{line}: {answer}");
        assert!(answer.contains(body), "{line}: {answer}");
    }
    for (line, wanted) in [
        ("GET /", "404"),
        ("GET /explain", "400"),
        ("GET /drain", "405"),
        ("GET /shutdown", "405"),
        ("POST /config", "405"),
        ("PUT /drain", "405"),
    ] {
        assert_eq!(status(&ask(addr, line, "").await), wanted, "{line}");
    }
    assert_eq!(status(&ask(addr, "POST /drain", "").await), "200");
    let answer = ask(addr, "GET /ready", "").await;
    assert!(status(&answer) == "503" && answer.ends_with("not ready: draining\n"), "{answer}");
    assert_eq!(status(&ask(addr, "POST /shutdown", "").await), "200");
    assert_eq!((source.drained.load(Relaxed), source.shut_down.load(Relaxed)), (1, 1));
}

#[tokio::test]
async fn a_web_page_or_a_rebound_name_can_neither_read_nor_post() {
    let source = Arc::new(Source::default());
    let addr = start(Surface::Admin, &source).await;
    let same = format!("origin: http://{addr}\r\nsec-fetch-site: same-origin\r\n");
    assert_eq!(status(&ask(addr, "GET /config", &same).await), "200");
    for fields in ["origin: http://evil.example\r\n", "origin: null\r\n", "sec-fetch-site: cross-site\r\n"] {
        for line in ["POST /shutdown", "POST /drain", "GET /config"] {
            assert_eq!(status(&ask(addr, line, fields).await), "403", "{line} {fields}");
        }
    }
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream
        .write_all(b"GET /config HTTP/1.1\r\nhost: evil.example\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    assert_eq!(status(&to_end(&mut stream).await), "403");
    assert_eq!((source.drained.load(Relaxed), source.shut_down.load(Relaxed)), (0, 0));
}

#[tokio::test]
async fn the_health_port_shows_health_and_metrics_alone() {
    let source = Arc::new(Source::default());
    let addr = start(Surface::Health, &source).await;
    for line in ["GET /ready", "GET /live", "GET /metrics", "GET /ambassador/v0/check_alive"] {
        assert_eq!(status(&ask(addr, line, "").await), "200", "{line}");
    }
    for line in ["GET /config", "GET /explain?url=http://a/", "POST /drain", "POST /shutdown"] {
        assert_eq!(status(&ask(addr, line, "").await), "403", "{line}");
    }
    assert_eq!((source.drained.load(Relaxed), source.shut_down.load(Relaxed)), (0, 0));
}

const SOON: Duration = Duration::from_millis(300);

#[tokio::test]
async fn a_client_that_does_not_ask_is_let_go() {
    let addr = within(SOON, Surface::Admin, &Arc::default()).await;
    for begun in ["", "GET /re", "GET /ready HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\nG"] {
        let mut stream = TcpStream::connect(addr).await.unwrap();
        stream.write_all(begun.as_bytes()).await.unwrap();
        let asked = Instant::now();
        to_end(&mut stream).await;
        assert!(asked.elapsed() < SOON + Duration::from_secs(2), "{begun:?}");
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_let_go_and_one_that_reads_gets_all() {
    let source = Arc::new(Source { big: true, ..Source::default() });
    let addr = within(SOON, Surface::Admin, &source).await;
    let head = format!("GET /config HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    // A connection holds the source as long as it is served.
    let idle = Arc::strong_count(&source);
    let mut deaf = TcpStream::connect(addr).await.unwrap();
    deaf.write_all(head.as_bytes()).await.unwrap();
    until("it is served", || Arc::strong_count(&source) > idle).await;
    until("it is let go", || Arc::strong_count(&source) == idle).await;
    assert!(to_end(&mut deaf).await.len() < BIG);
    let addr = start(Surface::Admin, &source).await;
    let mut stream = TcpStream::connect(addr).await.unwrap();
    stream.write_all(head.as_bytes()).await.unwrap();
    assert!(to_end(&mut stream).await.len() > BIG);
}
