//! What becomes of TCP connections while they are relayed, on the real program: large, resting, reset, edited away, drained.

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _, split},
    net::{TcpListener, TcpStream},
};

use super::{
    harness::{Authority, Echo, process::run, until},
    tcp::{Scene, context, mapping, talk},
};

const DATABASE: &str = "spiffe://example.org/db";

/// The most memory that the program has ever had, in KiB.
fn peak(scene: &Scene) -> u64 {
    let status = format!("/proc/{}/status", scene.ingress.pid());
    let status = std::fs::read_to_string(status).expect("a running program");
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("VmHWM");
    line.trim().trim_end_matches(" kB").parse().expect("KiB")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_hundred_mebibytes_both_ways_over_mutual_tls_take_no_memory() {
    const MEBIBYTE: usize = 1 << 20;
    const TOTAL: usize = 100 * MEBIBYTE;
    let authority = Authority::new("relayed");
    let mutual = Echo::mutual("", &authority.workload(DATABASE), &authority).await;
    let manifests = context(&authority, "db", DATABASE)
        + &mapping("db", &format!("port: 0, service: \"{}\", tls: db", mutual.addr));
    let scene = Scene::start(&manifests, &[]).await;
    assert_eq!(talk(scene.connect("tcp-0").await, "warm").await, "warm 4");
    let before = peak(&scene);
    let (mut down, mut up) = split(scene.connect("tcp-0").await);
    let sending = tokio::spawn(async move {
        for at in 0..TOTAL / MEBIBYTE {
            up.write_all(&vec![u8::try_from(at).expect("small"); MEBIBYTE]).await.expect("write");
        }
        up.shutdown().await.expect("end");
    });
    let (mut bytes, mut seen, mut tail) = (vec![0; MEBIBYTE], 0, Vec::new());
    loop {
        let count = down.read(&mut bytes).await.expect("read");
        if count == 0 {
            break;
        }
        for (at, byte) in (seen..).zip(&bytes[..count]) {
            if at < TOTAL {
                assert_eq!(usize::from(*byte), at / MEBIBYTE, "the byte at {at}");
            } else {
                tail.push(*byte);
            }
        }
        seen += count;
    }
    sending.await.expect("sent");
    assert_eq!(String::from_utf8(tail).expect("text"), format!(" {TOTAL}"));
    let grown = peak(&scene).saturating_sub(before);
    assert!(grown < 16 * 1024, "{grown} KiB more for {TOTAL} bytes each way");
    let lines = scene.lines(2).await;
    assert_eq!((&lines[1]["reason"], &lines[1]["bytes_in"]), (&"ok".into(), &TOTAL.into()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_dead_endpoint_is_passed_over_a_reset_is_a_reset_and_rest_ends() {
    let alive = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let dead =
        std::net::TcpListener::bind("127.0.0.2:0").expect("a free port").local_addr().expect("address");
    let pair = format!("db.test:5432={dead},{}", alive.local_addr().expect("address"));
    let manifests = mapping("m", "port: 0, service: \"db.test:5432\"")
        + &mapping(
            "rests",
            "port: 0, address: 127.0.0.3, service: \"db.test:5432\", idle_timeout_ms: \"300\"",
        );
    let scene = Scene::start(&manifests, &["--resolve", &pair]).await;
    // Whichever comes first in turn, the living one answers; the server speaks first.
    for _ in 0..4 {
        let mut client = scene.connect("tcp-0").await;
        let (mut server, _) = alive.accept().await.expect("accept");
        server.write_all(b"220").await.expect("greet");
        client.read_exact(&mut [0; 3]).await.expect("greeting");
        server.set_zero_linger().expect("linger");
        drop(server);
        let ended = client.read(&mut [0; 1]).await.expect_err("no end, a reset");
        assert_eq!(ended.kind(), std::io::ErrorKind::ConnectionReset);
    }
    for line in scene.lines(4).await {
        assert_eq!(line["reason"], "upstream_reset", "{line}");
    }
    let mut client = scene.connect("tcp-127.0.0.3-0").await;
    let (_server, _) = alive.accept().await.expect("accept");
    let mut seen = Vec::new();
    let _end = client.read_to_end(&mut seen).await;
    assert_eq!(seen, b"");
    assert_eq!(scene.lines(5).await[4]["reason"], "stream_idle_timeout");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mapping_to_its_own_listener_goes_nowhere() {
    let port = {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        held.local_addr().expect("address").port()
    };
    let scene =
        Scene::start(&mapping("m", &format!("port: {port}, service: \"127.0.0.1:{port}\"")), &[]).await;
    let mut client = scene.connect(&format!("tcp-{port}")).await;
    let mut seen = Vec::new();
    let _reset = client.read_to_end(&mut seen).await;
    assert_eq!(seen, b"");
    let lines = scene.lines(1).await;
    assert_eq!(lines[0]["reason"], "upstream_address_refused", "{}", lines[0]);
    assert_eq!(scene.ingress.metric("selvedge_downstream_connections_total").await.to_string(), "1");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_version_is_read_and_what_is_deleted_or_drained_ends_its_connections_in_peace() {
    let echo = Echo::plain("").await;
    let service = format!("service: \"{}\"", echo.addr);
    let alpha = mapping("alpha", &format!("port: 0, address: 127.0.0.1, {service}"));
    let beta = mapping("beta", &format!("port: 0, address: 127.0.0.2, {service}")).replace("v3alpha1", "v2");
    let old = mapping("old", &format!("port: 0, address: 127.0.0.3, {service}")).replace("v3alpha1", "v1");
    let mut scene = Scene::start(&(alpha.clone() + &beta + &old), &[]).await;
    let mut open = Vec::new();
    for at in 1..=3 {
        let mut client = scene.connect(&format!("tcp-127.0.0.{at}-0")).await;
        client.write_all(b"x").await.expect("write");
        client.read_exact(&mut [0; 1]).await.expect("echo");
        open.push(client);
    }
    let gone = scene.ingress.listener("tcp-127.0.0.3-0");
    scene.write(&alpha);
    until("the deleted one's port is closed", async || TcpStream::connect(gone).await.is_err()).await;
    let last = open.pop().expect("three");
    assert_eq!(talk(last, "deleted").await, "deleted 8");
    scene.ingress.signal("TERM");
    let first = scene.ingress.listener("tcp-127.0.0.1-0");
    until("new ones are refused", async || TcpStream::connect(first).await.is_err()).await;
    for client in open {
        assert_eq!(talk(client, "drained").await, "drained 8");
    }
    assert!(scene.ingress.ended().await.0.success());
    for line in scene.lines(3).await {
        assert_eq!(line["reason"], "ok", "{line}");
    }
}

#[test]
fn the_example_is_accepted_and_does_what_its_comments_say() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/tcp.yaml");
    let said = run(&["check", path, "--strict", "--spiffe-socket", "dev"]);
    assert_eq!(said.status, 0, "{}{}", said.stdout, said.stderr);
    for (url, dice, mapping, tls) in [
        ("tls://git.example:6443", "0", "default/git", "passed_on"),
        ("tcp://any:9000", "75", "default/green", "clear"),
        ("tcp://any:9000", "69", "default/blue", "clear"),
        ("tcp://any:5432", "0", "default/database", "clear"),
    ] {
        let flags = ["--output", "json", "--spiffe-socket", "dev", "--dice", dice];
        let said = run(&[&["explain", "--manifests", path], &flags[..], &["TCP", url]].concat());
        let found: serde_json::Value = serde_json::from_str(&said.stdout).expect(&said.stderr);
        let seen = (&found["mapping"], &found["downstream_tls"], &found["action"]);
        assert_eq!(seen, (&mapping.into(), &tls.into(), &"relay".into()), "{found}");
    }
}
