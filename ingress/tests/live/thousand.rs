//! Rotations at scale: under load, ten a second of SVIDs and ten a second of a Secret lose no request, and nothing grows with
//! their number.

use std::{
    fmt::Write as _,
    net::SocketAddr,
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use http::Request;
use identity::dev::{DevAuthority, Entries};
use parking_lot::Mutex;
use rustls::{RootCertStore, sign::CertifiedKey};
use tokio::{
    task::JoinSet,
    time::{Instant, sleep_until},
};

use super::harness::{
    Authority, Ingress, Pair, Upstream,
    certs::{minted, secret},
    client::{Http1, Http2, empty},
    replace, until,
};

/// How much of it.
#[derive(Clone, Copy)]
struct Scale {
    /// Of each kind, in each of two rounds.
    rotations: u64,
    every: Duration,
    connections: u64,
    per_second: u64,
}

/// Requests of an open loop: each is due at its own time, whatever became of those before.
struct Load {
    until: Arc<Mutex<Option<Instant>>>,
    sent: Arc<AtomicU64>,
    lanes: JoinSet<Vec<String>>,
}

impl Load {
    fn start(addr: SocketAddr, scale: Scale) -> Self {
        let (until, sent) = (Arc::new(Mutex::new(None)), Arc::new(AtomicU64::new(0)));
        let mut lanes = JoinSet::new();
        let start = Instant::now();
        let interval = Duration::from_secs(scale.connections)
            .div_f64(f64::from(u32::try_from(scale.per_second).expect("small")));
        for lane in 0..scale.connections {
            let first = start
                + interval.mul_f64(
                    f64::from(u32::try_from(lane).expect("small"))
                        / f64::from(u32::try_from(scale.connections).expect("small")),
                );
            lanes.spawn(lane_of(lane, addr, (first, interval), Arc::clone(&until), Arc::clone(&sent)));
        }
        Self { until, sent, lanes }
    }

    /// How many were sent, and what failed of them.
    async fn end(self) -> (u64, Vec<String>) {
        *self.until.lock() = Some(Instant::now());
        let failed = self.lanes.join_all().await.into_iter().flatten().collect();
        (self.sent.load(Relaxed), failed)
    }
}

/// Every fourth lane speaks HTTP/2.
async fn lane_of(
    lane: u64,
    addr: SocketAddr,
    (mut due, interval): (Instant, Duration),
    until: Arc<Mutex<Option<Instant>>>,
    sent: Arc<AtomicU64>,
) -> Vec<String> {
    let (mut http1, mut http2) = (Http1::new(addr), Http2::new(addr));
    let mut failed = Vec::new();
    let mut turn = lane;
    while until.lock().is_none_or(|end| due < end) {
        sleep_until(due).await;
        due += interval;
        turn += 1;
        let path = if turn.is_multiple_of(2) { "/svid/x" } else { "/secret/x" };
        let answer = if lane.is_multiple_of(4) {
            let request =
                || Request::get(format!("http://shop.example{path}")).body(empty()).expect("request");
            http2.try_ask(request).await
        } else {
            let request = Request::get(path).header("host", "shop.example").body(empty()).expect("request");
            http1.try_ask(request).await
        };
        sent.fetch_add(1, Relaxed);
        match answer {
            Ok(Some((200, _))) => {}
            other => failed.push(format!("{path}: {other:?}")),
        }
    }
    failed
}

/// What must not grow.
#[derive(Clone, Copy, Debug)]
struct Cost {
    pss_kib: u64,
    descriptors: usize,
    threads: usize,
    tasks: f64,
    retired_tables: f64,
    upstream_open: f64,
}

impl Cost {
    async fn of(ingress: &Ingress) -> Self {
        let process = Path::new("/proc").join(ingress.pid().to_string());
        let rollup = std::fs::read_to_string(process.join("smaps_rollup")).expect("smaps_rollup");
        let pss = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).expect("a line");
        let entries = |folder: &str| std::fs::read_dir(process.join(folder)).expect("folder").count();
        Self {
            pss_kib: pss.trim().trim_end_matches(" kB").parse().expect("a number"),
            descriptors: entries("fd"),
            threads: entries("task"),
            tasks: ingress.metric("selvedge_tasks").await,
            retired_tables: ingress.metric("selvedge_retired_tables").await,
            upstream_open: ingress.metric("selvedge_upstream_open").await,
        }
    }

    /// Once the pools have let go of what the last rotation made useless.
    async fn at_rest(ingress: &Ingress) -> Self {
        until("old connections and tables are gone", async || {
            let now = Self::of(ingress).await;
            now.upstream_open <= f64::from(64_u8) && now.retired_tables < 1.0
        })
        .await;
        // Two ticks of everything that has one.
        tokio::time::sleep(Duration::from_secs(4)).await;
        Self::of(ingress).await
    }
}

struct Rig {
    ingress: Ingress,
    authority: Authority,
    dev: DevAuthority,
    upstreams: [Upstream; 2],
    folder: tempfile::TempDir,
}

const ID: &str = "spiffe://example.org/ingress";

/// Any other entries are a reason for the authority to issue anew.
fn entries(turn: u64) -> Entries {
    Entries::simple("example.org", &[ID], if turn.is_multiple_of(2) { "1h" } else { "2h" })
}

fn mint_app(dev: &DevAuthority) -> Arc<CertifiedKey> {
    minted(&dev.mint("spiffe://example.org/app", Duration::from_hours(1)).expect("minted"))
}

fn own(pair: &Pair) -> String {
    secret("own", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
}

impl Rig {
    async fn start() -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let dev = DevAuthority::start(entries(0), &folder.path().join("state"), false).expect("authority");
        let socket = format!("unix://{}", dev.sockets()[0].1.display());
        let (material, _) = identity::source::fetch(&socket.parse().expect("URI"), Duration::from_mins(1))
            .await
            .expect("an SVID");
        let trust = material.trust.expect("bundles");
        let identity::Trust::Spiffe(bundles) = &*trust else { panic!("{trust:?}") };
        let mut roots = RootCertStore::empty();
        for authority in bundles.values().flat_map(|bundle| &bundle.authorities) {
            roots.add(authority.clone()).expect("authority");
        }
        let app = mint_app(&dev);
        let authority = Authority::new("thousand");
        let upstreams = [
            Upstream::requiring(&app, roots).await,
            Upstream::mutual(&authority.leaf("app.internal"), &authority).await,
        ];
        let manifests = folder.path().join("manifests");
        std::fs::create_dir(&manifests).expect("mkdir");
        replace(&manifests.join("own.yaml"), &own(&authority.leaf("ingress.internal")));
        let contexts = [
            ("svid", "spiffe: {ids: [\"spiffe://example.org/app\"]}"),
            ("secret", "secret: own, ca_secret: roots, sni: app.internal"),
        ];
        let mut routes = secret("roots", &[("ca.crt", &authority.pem())]);
        for ((name, fields), upstream) in contexts.iter().zip(&upstreams) {
            write!(
                routes,
                "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: {name}}}\n\
                 spec: {{hosts: [], alpn_protocols: [h2, http/1.1], {fields}}}\n\
                 ---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
                 spec: {{hostname: \"*\", prefix: /{name}/, service: \"https://{}\", tls: {name}}}\n",
                upstream.addr
            )
            .expect("text");
        }
        replace(&manifests.join("routes.yaml"), &routes);
        let flags = ["--spiffe-socket", &socket, "--access-log", "off"];
        let ingress = Ingress::start(&manifests, &flags).await;
        Self { ingress, authority, dev, upstreams, folder }
    }

    /// How many different certificates the upstreams were shown.
    fn shown(&self) -> [usize; 2] {
        [0, 1].map(|which| self.upstreams[which].seen.serials.lock().len())
    }

    /// Rotates both kinds under load; gives the requests and what failed.
    async fn round(&self, scale: Scale) -> (u64, Vec<String>) {
        let load = Load::start(self.ingress.http(), scale);
        let mut due = Instant::now();
        for turn in 1..=scale.rotations {
            due += scale.every;
            sleep_until(due).await;
            self.dev.update(entries(turn), false).expect("update");
            // Both sides rotate, as they do under one authority.
            let (app, pair) = (mint_app(&self.dev), self.authority.leaf("ingress.internal"));
            let [of_svids, of_secrets] = &self.upstreams;
            of_svids.present(app);
            of_secrets.present(self.authority.leaf("app.internal").certified());
            replace(&self.folder.path().join("manifests/own.yaml"), &own(&pair));
        }
        load.end().await
    }

    /// Two rounds: the second may cost nothing more. Gives what it cost after each.
    async fn run(&self, scale: Scale) -> [Cost; 2] {
        let mut costs = Vec::new();
        for round in 1..=2 {
            let before = self.shown();
            let (sent, failed) = self.round(scale).await;
            let cost = Cost::at_rest(&self.ingress).await;
            let after = self.shown();
            eprintln!(
                "round {round}: {sent} requests, {} failed; certificates shown: {} SVIDs, {} of the Secret; {cost:?}",
                failed.len(),
                after[0] - before[0],
                after[1] - before[1]
            );
            assert!(failed.is_empty(), "{} failed, as {:#?}", failed.len(), &failed[..failed.len().min(5)]);
            // Edits of manifests that follow each other within half a second are read together.
            let [svids, secrets] = [after[0] - before[0], after[1] - before[1]].map(|count| count as u64);
            assert!(
                svids > scale.rotations / 2 && secrets > scale.rotations / 10,
                "hardly anything was rotated"
            );
            costs.push(cost);
        }
        let [first, second] = [costs[0], costs[1]];
        assert!(second.descriptors <= first.descriptors + 2, "descriptors grow: {first:?}, {second:?}");
        assert!(second.threads <= first.threads, "threads grow: {first:?}, {second:?}");
        assert!(second.tasks <= first.tasks + 8.0, "tasks grow: {first:?}, {second:?}");
        [first, second]
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn thirty_rotations_of_each_kind_lose_nothing_and_leave_nothing_behind() {
    let rig = Rig::start().await;
    rig.run(Scale { rotations: 30, every: Duration::from_millis(250), connections: 16, per_second: 200 })
        .await;
}

/// The figures of reliability.md 3, on a release build: `.ci/real/rotations.sh`.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
#[ignore = "takes four minutes and two cores: .ci/real/rotations.sh runs it on a release build"]
async fn a_thousand_rotations_of_each_kind_cost_less_than_a_mebibyte() {
    let rig = Rig::start().await;
    let scale =
        Scale { rotations: 1000, every: Duration::from_millis(100), connections: 64, per_second: 2000 };
    let [first, second] = rig.run(scale).await;
    assert!(second.pss_kib < first.pss_kib + 1024, "memory grows: {first:?}, {second:?}");
}
