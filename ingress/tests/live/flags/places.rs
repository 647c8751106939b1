//! Flags about where the program listens, how many threads serve, and who may ask what.

use std::{
    io,
    net::{IpAddr, SocketAddr, UdpSocket},
    sync::Arc,
};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use tokio::{io::AsyncWriteExt as _, net::TcpStream};
use tokio_rustls::TlsConnector;

use super::{
    super::harness::{Authority, Ingress, client, replace, until},
    Scene, host,
    limits::free_port,
    mapping, object, to_end,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn manifests_are_read_from_every_place_that_is_named() {
    let scene = Scene::start(&[]).await;
    let folder = tempfile::tempdir().expect("folder");
    let file = folder.path().join("second.yaml");
    replace(&file, &mapping("second", &scene.upstream.addr.to_string(), ""));
    let first = scene.folder.path().to_str().expect("UTF-8");
    let flags = ["--manifests", first, "--manifests", file.to_str().expect("UTF-8")];
    let ingress = Ingress::launch(&flags, &[]).await;
    for path in ["/app/x", "/second/x"] {
        assert_eq!(client::get(ingress.http(), "any.test", path).await.0, 200, "{path}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn listeners_are_where_bind_and_the_ports_say() {
    let (http, https) = (free_port(), free_port());
    let flags = ["--bind", "127.0.0.2", "--http-port", &http.to_string(), "--https-port", &https.to_string()];
    let scene = Scene::with(&host(&Authority::new("flags")), &flags, &[]).await;
    assert_eq!(scene.ingress.http(), SocketAddr::from(([127, 0, 0, 2], http)));
    assert_eq!(scene.ingress.listener("https"), SocketAddr::from(([127, 0, 0, 2], https)));
    assert_eq!(scene.get("/app/x").await, 200);
    assert!(TcpStream::connect(("127.0.0.1", http)).await.is_err(), "open elsewhere, too");
}

/// Waits until so many threads serve: each gives itself its name, and that a little after it was made.
pub(super) async fn has_workers(ingress: &Ingress, count: usize) {
    let named = |task: std::fs::DirEntry| std::fs::read_to_string(task.path().join("comm")).ok();
    let workers = || {
        let tasks = std::fs::read_dir(format!("/proc/{}/task", ingress.pid())).expect("threads");
        let all = tasks.filter_map(|task| named(task.ok()?));
        all.filter(|name| name.starts_with("worker-")).count()
    };
    until(&format!("{count} workers"), async || workers() == count).await;
    // One more that had no name yet has it by now: the admin port has answered meanwhile.
    ingress.metrics().await;
    assert_eq!(workers(), count);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn there_are_as_many_workers_as_asked_for() {
    for count in [1, 3] {
        let scene = Scene::start(&["--workers", &count.to_string()]).await;
        has_workers(&scene.ingress, count).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_ready_file_names_what_listens_and_who() {
    let scene = Scene::start(&["--admin", "127.0.0.3:0", "--health", "127.0.0.4:0"]).await;
    let ready = scene.ingress.ready();
    assert_eq!(ready["pid"], scene.ingress.pid());
    assert_eq!(scene.ingress.admin().ip(), IpAddr::from([127, 0, 0, 3]));
    assert_eq!(scene.ingress.health().ip(), IpAddr::from([127, 0, 0, 4]));
    assert_eq!(ask(scene.ingress.admin(), "GET /config").await, 200);
    only_health(scene.ingress.health()).await;
    assert_eq!(scene.get("/app/x").await, 200, "nobody's order to drain was followed");
}

/// The status of an answer of the admin or health port.
async fn ask(addr: SocketAddr, line: &str) -> u16 {
    let mut stream = TcpStream::connect(addr).await.expect("connect");
    let head = format!("{line} HTTP/1.1\r\nhost: {addr}\r\nconnection: close\r\n\r\n");
    stream.write_all(head.as_bytes()).await.expect("write");
    let answer = to_end(&mut stream).await;
    answer.get(9..12).and_then(|status| status.parse().ok()).unwrap_or_else(|| panic!("{line}: {answer}"))
}

async fn only_health(addr: SocketAddr) {
    for line in ["GET /ready", "GET /live", "GET /metrics", "GET /ambassador/v0/check_ready"] {
        assert_eq!(ask(addr, line).await, 200, "{line} at {addr}");
    }
    for line in ["GET /config", "GET /explain?url=http://a/app/", "POST /drain", "POST /shutdown"] {
        assert_eq!(ask(addr, line).await, 403, "{line} at {addr}");
    }
}

/// An address of this machine that is not on loopback. What goes there from here stays here: nothing is sent by looking, and the
/// kernel hands connections to own addresses over within itself.
fn beyond_loopback() -> Option<IpAddr> {
    let routed = |from: &str, to: &str| -> io::Result<IpAddr> {
        let socket = UdpSocket::bind(from)?;
        socket.connect(to)?;
        Ok(socket.local_addr()?.ip())
    };
    let found = [("0.0.0.0:0", "198.51.100.1:9"), ("[::]:0", "[2001:db8::1]:9")];
    let mut found = found.into_iter().filter_map(|(from, to)| routed(from, to).ok());
    let own = found.find(|ip| !ip.is_loopback() && !ip.is_unspecified());
    if own.is_none() {
        eprintln!("this machine has no address but loopback: nothing was checked beyond it");
    }
    own
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn peers_beyond_loopback_get_health_and_metrics_alone() {
    let Some(own) = beyond_loopback() else { return };
    let all = if own.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" };
    let scene = Scene::start(&["--admin", all, "--health", all]).await;
    let (admin, health) = (scene.ingress.admin().port(), scene.ingress.health().port());
    only_health(SocketAddr::new(own, admin)).await;
    only_health(SocketAddr::new(own, health)).await;
    only_health(SocketAddr::from(([127, 0, 0, 1], health))).await;
    assert_eq!(ask(SocketAddr::from(([127, 0, 0, 1], admin)), "GET /config").await, 200);
    assert_eq!(scene.get("/app/x").await, 200, "nobody's order to drain was followed");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dev_identity_is_shown_beyond_loopback_only_if_that_is_allowed() {
    let Some(own) = beyond_loopback() else { return };
    let own = own.to_string();
    let spec = "hostname: shop.example, tls: {spiffe: {trust_domains: [dev.local]}}, requestPolicy: {insecure: {action: Route}}";
    let host = object("Host", "shop", spec);
    for (more, shown) in [(&[][..], false), (&["--allow-dev-identity"], true)] {
        let flags = [&["--bind", &own, "--spiffe-socket", "dev"], more].concat();
        let scene = Scene::with(&host, &flags, &[]).await;
        let config =
            ClientConfig::builder().with_root_certificates(RootCertStore::empty()).with_no_client_auth();
        let stream = TcpStream::connect(scene.ingress.listener("https")).await.expect("connect");
        let name = ServerName::try_from("shop.example").expect("name");
        let dialled = TlsConnector::from(Arc::new(config)).connect(name, stream).await;
        let error = dialled.expect_err("nobody knows the authority").to_string();
        assert_eq!(error.contains("UnknownIssuer"), shown, "{more:?}: {error}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_proxy_header_is_believed_of_peers_that_are_named() {
    let header = "PROXY TCP4 203.0.113.9 10.0.0.1 4660 80\r\n";
    let request = "GET /app/x HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    for (network, believed) in [("127.0.0.0/8", true), ("10.0.0.0/8", false)] {
        let scene = Scene::start(&["--proxy-protocol-from", network]).await;
        let seen = super::raw(scene.ingress.http(), format!("{header}{request}").as_bytes()).await;
        assert_eq!(seen.starts_with("HTTP/1.1 200"), believed, "{network}: {seen}");
        until("a line", async || !scene.ingress.access_log().is_empty()).await;
        let line = scene.ingress.access_log().remove(0);
        let downstream = line["downstream"].as_str().expect("an address");
        assert_eq!(downstream.starts_with("203.0.113.9:"), believed, "{network}: {line}");
    }
}
