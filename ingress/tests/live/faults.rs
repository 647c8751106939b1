//! Own faults of the real program: logs that nobody reads or that cannot be written, and descriptors that are used up.

use std::{
    fs::{File, OpenOptions},
    io::Write as _,
    net::{SocketAddr, TcpListener},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    process::Command,
};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{Ingress, client, replace, until};

/// Requests to an upstream that is dead.
const ASKED: u32 = 300;

/// Requests are answered by the ingress itself: no Mapping is there.
const NOTHING: &str = "---\n";

fn manifests(text: &str) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    replace(&folder.path().join("all.yaml"), text);
    folder
}

/// A pipe with a reader that does not read, and no room in it: whoever writes waits.
fn full_pipe(folder: &Path, name: &str) -> (String, File) {
    const O_NONBLOCK: i32 = 0o4000;
    let path = folder.join(name);
    assert!(Command::new("mkfifo").arg(&path).status().expect("mkfifo").success());
    let mut ours =
        OpenOptions::new().read(true).write(true).custom_flags(O_NONBLOCK).open(&path).expect("fifo");
    while ours.write(&[b'x'; 4096]).is_ok() {}
    (path.display().to_string(), ours)
}

/// A kept-alive connection that asks again and again.
struct Asking(TcpStream);

impl Asking {
    async fn new(addr: SocketAddr) -> Self {
        Self(TcpStream::connect(addr).await.expect("connect"))
    }

    /// Asks so often, all at once, and reads the answers: each is 404.
    async fn ask(&mut self, times: usize) {
        const END: &[u8] = b"\r\n\r\n";
        let request = format!("HEAD /{} HTTP/1.1\r\nhost: a\r\n\r\n", "x".repeat(100)).repeat(times);
        let (mut read, mut write) = self.0.split();
        let write = async { write.write_all(request.as_bytes()).await.expect("write") };
        let read = async {
            let (mut bytes, mut answers) = (Vec::new(), 0);
            while answers < times {
                assert_ne!(read.read_buf(&mut bytes).await.expect("read"), 0, "closed after {answers}");
                while let Some(end) = bytes.windows(4).position(|window| window == END) {
                    assert!(bytes.starts_with(b"HTTP/1.1 404 "), "{}", String::from_utf8_lossy(&bytes));
                    bytes.drain(..end + END.len());
                    answers += 1;
                }
            }
        };
        tokio::join!(write, read);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn logs_that_nobody_reads_cost_lines_and_nobody_waits() {
    let folder = manifests(NOTHING);
    let pipes = tempfile::tempdir().expect("folder");
    let (out, _deaf_out) = full_pipe(pipes.path(), "out");
    let (err, _deaf_err) = full_pipe(pipes.path(), "err");
    let shell = format!("exec >{out} 2>{err}");
    // The program's first line, that it listens, waits for ever already.
    let mut ingress = Ingress::start_after(&shell, folder.path(), &[]).await;
    let mut asking = Asking::new(ingress.http()).await;
    until("lines of the access log were dropped", async || {
        asking.ask(1000).await;
        ingress.metric("selvedge_access_log_dropped_total").await > 0.0
    })
    .await;
    drop(asking);
    ingress.signal("TERM");
    let (status, _) = ingress.ended().await;
    assert_eq!(status.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_full_disk_costs_lines_and_is_named_once() {
    let folder = manifests(NOTHING);
    let ingress = Ingress::start_after("exec >/dev/full", folder.path(), &[]).await;
    let mut asking = Asking::new(ingress.http()).await;
    until("lines were lost", async || {
        asking.ask(100).await;
        ingress.metric("selvedge_access_log_dropped_total").await > 0.0
    })
    .await;
    let told = || {
        ingress.log().iter().filter(|line| line.to_string().contains("access log cannot be written")).count()
    };
    until("it is named", async || told() > 0).await;
    asking.ask(100).await;
    assert_eq!(told(), 1, "{:?}", ingress.log());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_peer_cannot_fill_the_log_of_the_program() {
    let dead = TcpListener::bind("127.0.0.1:0").expect("a free port").local_addr().expect("address");
    let folder = manifests(&format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: dead}}\nspec: {{hostname: \"*\", \
         prefix: /, service: \"{dead}\"}}\n"
    ));
    let ingress = Ingress::start(folder.path(), &[]).await;
    for _ in 0..ASKED {
        assert_eq!(client::get(ingress.http(), "a", "/").await.0, 503);
    }
    let lines = |text: &str| {
        let log = ingress.log();
        log.into_iter().filter(|line| line.to_string().contains(text)).collect::<Vec<_>>()
    };
    let written = || u32::try_from(lines("\"route\":\"default/dead\"").len()).expect("few");
    let left_out = || {
        let counts = lines("were left out of this log");
        let mine = counts.iter().filter(|line| line["reason"] == "upstream_connect_failed");
        let counts = mine.filter_map(|line| line["count"].as_u64());
        u32::try_from(counts.sum::<u64>()).expect("few")
    };
    until("what was not written was counted", async || written() + left_out() == ASKED).await;
    assert!(left_out() > 0, "{:?}", ingress.log());
    assert!(ingress.metric("selvedge_log_suppressed_total").await >= f64::from(left_out()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_descriptors_what_is_open_serves_and_the_admin_port_answers() {
    let folder = manifests(NOTHING);
    let flags = ["--max-connections", "10000"];
    let max_descriptors = 128;
    let shell = format!("ulimit -n {max_descriptors}");
    let ingress = Ingress::start_after(&shell, folder.path(), &flags).await;
    let mut asking = Asking::new(ingress.http()).await;
    asking.ask(1).await;
    let mut crowd = Vec::new();
    for _ in 0..300 {
        crowd.push(TcpStream::connect(ingress.http()).await.expect("the kernel's queue takes it"));
    }
    until("accepting has failed", async || ingress.metric("selvedge_accept_errors_total").await > 0.0).await;
    asking.ask(100).await;
    let before = ingress.metric("selvedge_accept_errors_total").await;
    for _ in 0..20 {
        let (status, _) = client::get(ingress.admin(), "localhost", "/ready").await;
        assert_eq!(status, 200);
    }
    let named = |line: &serde_json::Value| line.to_string().contains("descriptors are used up");
    assert!(ingress.log().iter().any(named), "{:?}", ingress.log());
    let open = std::fs::read_dir(format!("/proc/{}/fd", ingress.pid())).expect("descriptors").count();
    assert!((90..=max_descriptors).contains(&open), "{open}");
    let failed = ingress.metric("selvedge_accept_errors_total").await - before;
    assert!(failed < 1000.0, "it spins: {failed}");
    drop(crowd);
    until("it accepts again", async || {
        let mut fresh = Asking::new(ingress.http()).await;
        fresh.ask(1).await;
        true
    })
    .await;
    asking.ask(1).await;
}
