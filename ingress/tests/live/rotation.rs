//! Certificates are replaced in every way that people and kubelet do it, while requests run.

use std::{
    fmt::Write as _,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::{Duration, Instant},
};

use http::Request;
use serde_json::Value;

use super::harness::{
    Authority, Ingress, Pair, Upstream,
    certs::secret,
    client::{self, Http1, Http2, empty},
    kubelet, replace, until,
};

/// The contract says a second; a debug build on a busy machine gets some more.
const SOON: Duration = Duration::from_secs(4);
const REQUESTS: usize = 10_000;

/// One way to hold a certificate, and to replace it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Way {
    FilesByRename,
    FilesByLink,
    SecretByRename,
    SecretByLink,
}

const WAYS: [Way; 4] = [Way::FilesByRename, Way::FilesByLink, Way::SecretByRename, Way::SecretByLink];

/// Folders of one test: manifests, and certificate files beside them.
struct Layout {
    root: tempfile::TempDir,
    upstream: Upstream,
    authority: Authority,
    generation: u32,
}

impl Way {
    /// The prefix of its Mapping, the name of its context and of its Secret.
    fn name(self) -> &'static str {
        match self {
            Self::FilesByRename => "files-rename",
            Self::FilesByLink => "files-link",
            Self::SecretByRename => "secret-rename",
            Self::SecretByLink => "secret-link",
        }
    }

    fn is_secret(self) -> bool {
        matches!(self, Self::SecretByRename | Self::SecretByLink)
    }
}

impl Layout {
    async fn new() -> Self {
        let authority = Authority::new("rotation");
        let upstream = Upstream::mutual(&authority.leaf("app.internal"), &authority).await;
        let layout = Self { root: tempfile::tempdir().expect("folder"), upstream, authority, generation: 0 };
        for way in WAYS {
            std::fs::create_dir_all(layout.folder(way)).expect("mkdir");
        }
        std::fs::create_dir_all(layout.manifests()).expect("mkdir");
        layout
    }

    fn manifests(&self) -> PathBuf {
        self.root.path().join("manifests")
    }

    /// Where the certificate of a way lies: Secrets are manifests.
    fn folder(&self, way: Way) -> PathBuf {
        let below = if way.is_secret() { self.manifests() } else { self.root.path().to_path_buf() };
        below.join(way.name())
    }

    /// Contexts and Mappings. `alpn` is for the ways of kubelet: requests then share connections of HTTP/2.
    fn write_routes(&self, alpn: &str) {
        let mut text = secret("roots", &[("ca.crt", &self.authority.pem())]);
        for way in WAYS {
            let name = way.name();
            let by_link = matches!(way, Way::FilesByLink | Way::SecretByLink);
            let alpn = if by_link { alpn } else { "[]" };
            let own = match way {
                Way::FilesByRename | Way::FilesByLink => {
                    format!("cert_chain_file: ../{name}/tls.crt, private_key_file: ../{name}/tls.key")
                }
                Way::SecretByRename | Way::SecretByLink => format!("secret: {name}"),
            };
            write!(
                text,
                "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: {name}}}\n\
                 spec: {{hosts: [], sni: app.internal, ca_secret: roots, alpn_protocols: {alpn}, {own}}}\n\
                 ---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
                 spec: {{hostname: \"*\", prefix: /{name}/, service: \"https://{}\", tls: {name}}}\n",
                self.upstream.addr
            )
            .expect("text");
        }
        replace(&self.manifests().join("routes.yaml"), &text);
    }

    /// Puts certificate and key where a way has them, as it replaces them.
    fn put(&mut self, way: Way, cert: &str, key: &str) {
        self.generation += 1;
        let folder = self.folder(way);
        match way {
            Way::FilesByRename => {
                replace(&folder.join("tls.crt"), cert);
                replace(&folder.join("tls.key"), key);
            }
            Way::FilesByLink => kubelet(&folder, self.generation, &[("tls.crt", cert), ("tls.key", key)]),
            Way::SecretByRename => replace(&folder.join("secret.yaml"), &in_secret(way, cert, key)),
            Way::SecretByLink => {
                kubelet(&folder, self.generation, &[("secret.yaml", &in_secret(way, cert, key))]);
            }
        }
    }

    fn fresh(&self) -> Pair {
        self.authority.leaf("ingress.internal")
    }

    /// Puts a new pair, and waits until the upstream was shown it; gives how long that took.
    async fn rotate(&mut self, way: Way) -> (Pair, Duration) {
        let pair = self.fresh();
        let began = Instant::now();
        self.put(way, &pair.cert, &pair.key);
        until(&format!("{way:?}: serial {}", pair.serial), async || self.upstream.has_seen(&pair.serial))
            .await;
        let took = self.upstream.seen.serials.lock()[&pair.serial].duration_since(began);
        (pair, took)
    }
}

fn in_secret(way: Way, cert: &str, key: &str) -> String {
    secret(way.name(), &[("tls.crt", cert), ("tls.key", key)])
}

/// Requests that run until there were enough of them and whoever watches is done, over both protocols.
struct Load {
    done: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
    clients: tokio::task::JoinSet<Vec<String>>,
}

impl Load {
    fn start(addr: std::net::SocketAddr) -> Self {
        let (done, enough) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicBool::new(false)));
        let mut clients = tokio::task::JoinSet::new();
        for lane in 0..8 {
            clients.spawn(lane_of(lane, addr, Arc::clone(&done), Arc::clone(&enough)));
        }
        Self { done, enough, clients }
    }

    /// Failures of all requests.
    async fn end(self) -> (usize, Vec<String>) {
        until("all requests", async || self.done.load(Relaxed) >= REQUESTS).await;
        self.enough.store(true, Relaxed);
        let failed = self.clients.join_all().await.into_iter().flatten().collect();
        (self.done.load(Relaxed), failed)
    }
}

async fn lane_of(
    lane: usize,
    addr: std::net::SocketAddr,
    done: Arc<AtomicUsize>,
    enough: Arc<AtomicBool>,
) -> Vec<String> {
    let (mut http1, mut http2) = (Http1::new(addr), Http2::new(addr));
    let mut failed = Vec::new();
    let mut turn = lane;
    while !enough.load(Relaxed) {
        let path = format!("/{}/{turn}", WAYS[turn % WAYS.len()].name());
        turn += 1;
        let answer = if lane.is_multiple_of(2) {
            let request = Request::get(&path).header("host", "shop.example").body(empty()).expect("request");
            http1.try_ask(request).await
        } else {
            let request =
                || Request::get(format!("http://shop.example{path}")).body(empty()).expect("request");
            http2.try_ask(request).await
        };
        match answer {
            Ok(Some((200, _))) => {}
            other => failed.push(format!("{path}: {other:?}")),
        }
        done.fetch_add(1, Relaxed);
        // A fixed pace would only make the run longer; nothing else is waited for.
        tokio::time::sleep(Duration::from_millis(1)).await;
    }
    failed
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn each_way_of_replacing_a_certificate_loses_nothing_and_is_seen_soon() {
    let mut layout = Layout::new().await;
    for way in WAYS {
        let pair = layout.fresh();
        layout.put(way, &pair.cert, &pair.key);
    }
    layout.write_routes("[h2]");
    let ingress = Ingress::start(&layout.manifests(), &[]).await;
    let load = Load::start(ingress.http());
    let mut slowest = Duration::ZERO;
    for round in 1..=3 {
        for way in WAYS {
            let (_, took) = layout.rotate(way).await;
            eprintln!("round {round}: {way:?}: the upstream saw the new serial after {took:?}");
            slowest = slowest.max(took);
        }
    }
    let (requests, failed) = load.end().await;
    eprintln!(
        "{requests} requests, {} failed, 12 rotations, slowest {slowest:?}, {} handshakes",
        failed.len(),
        layout.upstream.seen.handshakes.load(Relaxed)
    );
    assert!(failed.is_empty(), "{} failed, as {:#?}", failed.len(), &failed[..failed.len().min(5)]);
    assert!(slowest < SOON, "{slowest:?}");
}

/// The row of `/config` for the source of a way.
fn identity(config: &Value, way: Way) -> Value {
    let rows = config["identities"].as_array().expect("identities");
    let mine = |row: &&Value| {
        let source = row["source"].as_str().unwrap_or_default();
        source.contains(&format!("/{}#identity", way.name()))
            || source.contains(&format!("/{}/tls.crt", way.name()))
    };
    rows.iter().find(mine).unwrap_or_else(|| panic!("{way:?} is not in {rows:#?}")).clone()
}

/// `identity_source_up` of a source: its problem and its value.
fn up(metrics: &str, source: &str) -> (String, String) {
    let wanted = format!("source=\"{source}\"");
    let line = metrics
        .lines()
        .find(|line| line.starts_with("identity_source_up") && line.contains(&wanted))
        .unwrap_or_else(|| panic!("{source} is not in {metrics}"));
    let problem =
        line.split("problem=\"").nth(1).and_then(|rest| rest.split('"').next()).expect("a problem label");
    (problem.to_owned(), line.rsplit(' ').next().unwrap_or_default().to_owned())
}

/// A request on a connection that the upstream closes behind it: the next one needs a handshake.
async fn serial_now(ingress: &Ingress, way: Way) -> String {
    let path = format!("/{}/close", way.name());
    for _ in 0..2 {
        let (status, body) = client::get(ingress.http(), "shop.example", &path).await;
        assert_eq!(status, 200, "{body}");
    }
    let (status, body) = client::get(ingress.http(), "shop.example", &path).await;
    assert_eq!(status, 200, "{body}");
    body.split(' ').next().unwrap_or_default().to_owned()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mismatched_pair_keeps_the_old_one_and_is_named_everywhere() {
    let mut layout = Layout::new().await;
    let mut serials = Vec::new();
    for way in WAYS {
        let pair = layout.fresh();
        layout.put(way, &pair.cert, &pair.key);
        serials.push(pair);
    }
    layout.write_routes("[]");
    let ingress = Ingress::start(&layout.manifests(), &[]).await;
    for (way, old) in WAYS.into_iter().zip(&serials) {
        assert_eq!(serial_now(&ingress, way).await, old.serial, "{way:?}");
        let source = identity(&ingress.config().await, way)["source"].as_str().expect("name").to_owned();
        let stranger = layout.fresh();
        layout.put(way, &stranger.cert, &old.key);
        let took = until(&format!("{way:?}: key_mismatch in /config"), async || {
            identity(&ingress.config().await, way)["problem"]["reason"] == "key_mismatch"
        })
        .await;
        eprintln!("{way:?}: the mismatched pair was named after {took:?}");
        assert!(took < SOON, "{took:?}");
        let row = identity(&ingress.config().await, way);
        assert_eq!(row["own"][0]["serial"], old.serial, "{row:#}");
        assert!(ingress.logged("key_mismatch", &source), "{way:?}: {:#?}", ingress.log());
        assert_eq!(up(&ingress.metrics().await, &source), ("key_mismatch".to_owned(), "0.0".to_owned()));
        assert_eq!(serial_now(&ingress, way).await, old.serial, "{way:?}");
        assert!(!layout.upstream.has_seen(&stranger.serial), "{way:?}");
        heals(&mut layout, &ingress, (way, &source)).await;
    }
}

/// A good pair puts an end to it.
async fn heals(layout: &mut Layout, ingress: &Ingress, (way, source): (Way, &str)) {
    let good = layout.fresh();
    layout.put(way, &good.cert, &good.key);
    until(&format!("{way:?}: healed"), async || {
        let row = identity(&ingress.config().await, way);
        row["problem"].is_null() && row["own"][0]["serial"] == good.serial
    })
    .await;
    assert_eq!(up(&ingress.metrics().await, source), (String::new(), "1.0".to_owned()));
    assert_eq!(serial_now(ingress, way).await, good.serial, "{way:?}");
}
