//! The program under test as a child process: started on free ports, read while it runs, killed when dropped.

use std::{
    io::{BufRead as _, BufReader, Read},
    net::SocketAddr,
    path::Path,
    process::{Child, Command, ExitStatus, Stdio},
    sync::Arc,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::Value;

use super::{client, until};

/// A stream of the child, line by line.
type Lines = Arc<Mutex<Vec<String>>>;

/// Flags of every test that does not say otherwise, with Emissary's or Envoy's variable for the same. A machine that is busy with
/// other things is no slow upstream.
const USUAL: [(&str, &str, &str); 8] = [
    ("--bind", "127.0.0.1", "AMBASSADOR_ENVOY_BIND_ADDRESS"),
    ("--admin", "127.0.0.1:0", ""),
    ("--http-port", "0", ""),
    ("--https-port", "0", ""),
    ("--workers", "2", "ENVOY_CONCURRENCY"),
    ("--log-format", "json", ""),
    ("--connect-timeout", "30s", ""),
    ("--upstream-timeout", "1m", ""),
];

/// A running ingress.
pub(crate) struct Ingress {
    child: Child,
    stdout: Lines,
    stderr: Lines,
    ready: Value,
    _folder: tempfile::TempDir,
}

/// What a command that ends by itself had to say.
pub(crate) struct Said {
    pub(crate) status: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Ingress {
    /// Starts on a folder of manifests; returns once the admin port says that it is ready.
    pub(crate) async fn start(manifests: &Path, flags: &[&str]) -> Self {
        let manifests = manifests.to_str().expect("UTF-8");
        Self::launch(&[&["--manifests", manifests], flags].concat(), &[]).await
    }

    /// As [`Ingress::start`], after a line of shell: limits, and where its output goes.
    pub(crate) async fn start_after(shell: &str, manifests: &Path, flags: &[&str]) -> Self {
        let mut command = Command::new("/bin/sh");
        let program = env!("CARGO_BIN_EXE_selvedge-ingress");
        command.env_clear().stdin(Stdio::null()).args([
            "-c",
            &format!("{shell}; exec \"$0\" \"$@\""),
            program,
        ]);
        let manifests = manifests.to_str().expect("UTF-8");
        Self::spawn(command, &[&["--manifests", manifests], flags].concat(), &[]).await
    }

    /// As [`Ingress::start`], with these flags and variables: what neither of them says is as [`USUAL`] has it.
    pub(crate) async fn launch(flags: &[&str], env: &[(&str, &str)]) -> Self {
        Self::spawn(program(), flags, env).await
    }

    async fn spawn(mut program: Command, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let ready_file = folder.path().join("ready.json");
        let said = |flag: &str, other: &str| {
            let own = format!("SELVEDGE_{}", flag.trim_start_matches('-').to_uppercase().replace('-', "_"));
            flags.contains(&flag) || env.iter().any(|(name, _)| *name == own || *name == other)
        };
        let usual = USUAL.iter().filter(|(flag, _, other)| !said(flag, other));
        let mut child = program
            .arg("run")
            .args(usual.flat_map(|(flag, value, _)| [flag, value]))
            .args([Path::new("--ready-file"), &ready_file])
            .args(flags)
            .envs(env.iter().copied())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .spawn()
            .expect("spawn");
        let stdout = follow(child.stdout.take().expect("piped"));
        let stderr = follow(child.stderr.take().expect("piped"));
        let mut started = Self { child, stdout, stderr, ready: Value::Null, _folder: folder };
        until("the ready file", async || {
            let ended = started.child.try_wait().expect("wait");
            assert!(ended.is_none(), "ended with {ended:?}: {:#?}", started.stderr.lock());
            let text = std::fs::read_to_string(&ready_file).unwrap_or_default();
            started.ready = serde_json::from_str(&text).unwrap_or_default();
            !started.ready.is_null()
        })
        .await;
        let admin = started.admin();
        until("ready", async || client::get(admin, "localhost", "/ready").await.0 == 200).await;
        started
    }

    fn addr(text: &Value) -> SocketAddr {
        text.as_str().and_then(|text| text.parse().ok()).expect("an address")
    }

    /// What the ready file says.
    pub(crate) fn ready(&self) -> &Value {
        &self.ready
    }

    pub(crate) fn health(&self) -> SocketAddr {
        Self::addr(&self.ready["health"])
    }

    pub(crate) fn admin(&self) -> SocketAddr {
        Self::addr(&self.ready["admin"])
    }

    /// A listener by its name.
    pub(crate) fn listener(&self, name: &str) -> SocketAddr {
        Self::addr(&self.ready["listeners"][name])
    }

    pub(crate) fn http(&self) -> SocketAddr {
        self.listener("http")
    }

    /// `/config`.
    pub(crate) async fn config(&self) -> Value {
        let (status, body) = client::get(self.admin(), "localhost", "/config").await;
        assert_eq!(status, 200, "{body}");
        serde_json::from_str(&body).expect("JSON")
    }

    pub(crate) async fn metrics(&self) -> String {
        client::get(self.admin(), "localhost", "/metrics").await.1
    }

    /// Lines of stdout and stderr so far.
    pub(crate) fn lines(&self) -> (Vec<String>, Vec<String>) {
        (self.stdout.lock().clone(), self.stderr.lock().clone())
    }

    /// The access log so far.
    pub(crate) fn access_log(&self) -> Vec<Value> {
        parsed(&self.stdout)
    }

    /// The program's log so far.
    pub(crate) fn log(&self) -> Vec<Value> {
        parsed(&self.stderr)
    }

    /// Whether the log has said something under a code, in a line that holds a text.
    pub(crate) fn logged(&self, code: &str, text: &str) -> bool {
        self.log().iter().any(|line| line["code"] == code && line.to_string().contains(text))
    }

    /// The line of the access log for a path with query.
    pub(crate) async fn access(&self, path: &str) -> Value {
        let mut found = None;
        until(&format!("a line of the access log for {path}"), async || {
            found = self.access_log().into_iter().find(|line| line["path"] == path);
            found.is_some()
        })
        .await;
        found.expect("awaited")
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// The value of a metric without labels.
    pub(crate) async fn metric(&self, name: &str) -> f64 {
        let metrics = self.metrics().await;
        let line = metrics.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(' '));
        line.and_then(|value| value.parse().ok()).unwrap_or_else(|| panic!("{name} is not in {metrics}"))
    }

    /// Memory that is its own, in KiB: not the program's file, whose part grows when another test's process ends.
    pub(crate) fn memory(&self) -> u64 {
        let path = format!("/proc/{}/smaps_rollup", self.child.id());
        let text = std::fs::read_to_string(path).expect("smaps_rollup");
        let line = text.lines().find_map(|line| line.strip_prefix("Pss_Anon:")).expect("Pss_Anon");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    pub(crate) fn signal(&self, name: &str) {
        let kill = format!("kill -{name} {}", self.child.id());
        assert!(Command::new("sh").args(["-c", &kill]).status().expect("sh").success(), "{kill}");
    }

    /// Waits for the end; gives the exit status and how long it took.
    pub(crate) async fn ended(&mut self) -> (ExitStatus, Duration) {
        let began = Instant::now();
        let mut status = None;
        let deadline = Duration::from_mins(1);
        while status.is_none() {
            assert!(began.elapsed() < deadline, "still runs: {:#?}", self.stderr.lock());
            tokio::time::sleep(Duration::from_millis(10)).await;
            status = self.child.try_wait().expect("wait");
        }
        (status.expect("ended"), began.elapsed())
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        if std::thread::panicking() {
            let log = self.stderr.lock();
            for line in log.iter().rev().take(30).rev() {
                eprintln!("ingress: {line}");
            }
        }
        // It may have ended by itself.
        let _ended = self.child.kill();
        let _reaped = self.child.wait();
    }
}

/// The program without anything of the caller's environment.
fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-ingress"));
    command.env_clear().stdin(Stdio::null());
    command
}

/// Runs a command to its end.
pub(crate) fn run(arguments: &[&str]) -> Said {
    let output = program().args(arguments).output().expect("run");
    let text = |bytes| String::from_utf8(bytes).expect("UTF-8");
    Said {
        status: output.status.code().expect("not killed"),
        stdout: text(output.stdout),
        stderr: text(output.stderr),
    }
}

/// Reads a stream to its end on a thread of its own; a full pipe would hold the child up.
fn follow(stream: impl Read + Send + 'static) -> Lines {
    let lines = Lines::default();
    let kept = Arc::clone(&lines);
    std::thread::spawn(move || {
        for line in BufReader::new(stream).lines().map_while(Result::ok) {
            kept.lock().push(line);
        }
    });
    lines
}

fn parsed(lines: &Lines) -> Vec<Value> {
    let parse = |line: &String| serde_json::from_str(line).unwrap_or_else(|_| panic!("not JSON: {line}"));
    lines.lock().iter().map(parse).collect()
}
