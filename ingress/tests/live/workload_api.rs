//! The rows of the Workload API's error table (`spiffe.md` 1.3) on the running ingress: what is served meanwhile, and that log,
//! metric and `/config` say why.

#[path = "../../../identity/tests/sources/scripted.rs"]
#[allow(dead_code, reason = "the tests of the client itself use all of it")]
mod scripted;

use std::time::Duration;

use identity::dev::Ca;
use proto::workload::{X509svid, X509svidResponse};
use serde_json::Value;
use tonic::Code;

use self::scripted::{HOLD, Scripted, Step};
use super::harness::{Ingress, Upstream, certs::minted, client, replace, until};

const HOUR: Duration = Duration::from_hours(1);
const ID: &str = "spiffe://td/ingress";

fn svid(ca: &Ca, id: &str, ttl: Duration) -> X509svid {
    let minted = ca.mint(id, ttl).expect("svid");
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: minted.certificate.to_vec().into(),
        x509_svid_key: minted.key_der().to_vec().into(),
        bundle: ca.certificate().to_vec().into(),
        hint: String::new(),
    }
}

fn good(ca: &Ca) -> X509svidResponse {
    X509svidResponse { svids: vec![svid(ca, ID, HOUR)], ..X509svidResponse::default() }
}

/// An ingress on a scripted Workload API, with an upstream that its SVID's bundle verifies.
struct Rig {
    server: Scripted,
    ingress: Ingress,
    _upstream: Upstream,
    _folder: tempfile::TempDir,
}

impl Rig {
    async fn start(ca: &Ca, streams: Vec<Vec<Step>>) -> Self {
        let server = Scripted::start(streams);
        let app = minted(&ca.mint("spiffe://td/app", HOUR).expect("minted"));
        // Each request needs a new connection, and so an identity.
        let upstream = Upstream::tls(&app, b"http/1.1").await;
        let folder = tempfile::tempdir().expect("folder");
        let routes = format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: mesh}}\n\
             spec: {{hosts: [], spiffe: {{ids: [\"spiffe://td/app\"]}}}}\n\
             ---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: app}}\n\
             spec: {{hostname: \"*\", prefix: /app/, service: \"https://{}\", tls: mesh}}\n",
            upstream.addr
        );
        replace(&folder.path().join("routes.yaml"), &routes);
        let ingress = Ingress::start(folder.path(), &["--spiffe-socket", &server.uri]).await;
        let rig = Self { server, ingress, _upstream: upstream, _folder: folder };
        assert_eq!(rig.ask().await, 200, "the first SVID");
        rig
    }

    async fn answer(&self) -> (u16, String) {
        client::get(self.ingress.http(), "shop.example", "/app/close").await
    }

    async fn ask(&self) -> u16 {
        self.answer().await.0
    }

    /// The row of the Workload API in `/config`.
    async fn source(&self) -> Value {
        let config = self.ingress.config().await;
        let rows = config["identities"].as_array().expect("identities").clone();
        let mine = |row: &&Value| row["source"].as_str().is_some_and(|name| name.starts_with("spiffe:"));
        rows.iter().find(mine).expect("a row").clone()
    }

    /// Log, metric and `/config` name a problem.
    async fn names(&self, code: &str) {
        until(&format!("{code} in /config"), async || self.source().await["problem"]["reason"] == code).await;
        until(&format!("{code} in the log"), async || self.ingress.logged(code, "spiffe:")).await;
        let metrics = self.ingress.metrics().await;
        let up =
            metrics.lines().find(|line| line.starts_with("identity_source_up") && line.contains("spiffe:"));
        let up = up.expect("a series");
        assert!(up.contains(&format!("problem=\"{code}\"")) && up.ends_with(" 0.0"), "{up}");
    }

    /// All is well again, by itself.
    async fn recovers(&self) {
        until("it serves again", async || self.ask().await == 200).await;
        until("nothing is wrong", async || self.source().await["problem"].is_null()).await;
        assert_eq!(self.source().await["status"], "ready");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_agent_that_is_away_or_refuses_for_other_reasons_costs_nothing() {
    for failure in [Code::Unavailable, Code::Unauthenticated, Code::Internal, Code::ResourceExhausted] {
        let ca = Ca::new("td").expect("ca");
        let rig = Rig::start(
            &ca,
            vec![
                vec![Step::Send(good(&ca)), Step::Gate(1), Step::Fail(failure)],
                vec![Step::Refuse(failure)],
                vec![Step::Refuse(failure)],
                vec![Step::Gate(2), Step::Send(good(&ca)), HOLD],
            ],
        )
        .await;
        rig.server.open_gate();
        rig.names("svid_source_unreachable").await;
        assert_eq!(rig.ask().await, 200, "{failure}");
        rig.server.open_gate();
        rig.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_malformed_message_changes_nothing_and_is_named() {
    let ca = Ca::new("td").expect("ca");
    let empty = X509svidResponse::default();
    let torn = X509svid { x509_svid_key: svid(&ca, ID, HOUR).x509_svid_key, ..svid(&ca, ID, HOUR) };
    let torn = X509svidResponse { svids: vec![torn], ..X509svidResponse::default() };
    for (bad, code) in [(empty, "svid_malformed"), (torn, "key_mismatch")] {
        let script = vec![
            Step::Send(good(&ca)),
            Step::Gate(1),
            Step::Send(bad),
            Step::Gate(2),
            Step::Send(good(&ca)),
            HOLD,
        ];
        let rig = Rig::start(&ca, vec![script]).await;
        let before = rig.source().await["own"].clone();
        rig.server.open_gate();
        rig.names(code).await;
        assert_eq!(rig.source().await["own"], before);
        assert_eq!(rig.ask().await, 200);
        rig.server.open_gate();
        rig.recovers().await;
        assert_eq!(rig.server.calls(), 1, "the stream goes on");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_malformed_beside_a_good_svid_is_left_out_alone() {
    let ca = Ca::new("td").expect("ca");
    let mut foreign = good(&ca);
    foreign.federated_bundles.insert("spiffe://other.org".to_owned(), bytes::Bytes::from_static(b"not DER"));
    let mut second = good(&ca);
    let torn = svid(&ca, "spiffe://td/second", HOUR);
    second.svids.push(X509svid { x509_svid: bytes::Bytes::from_static(b"not DER"), ..torn });
    for (bad, code) in [(foreign, "bundle_unusable"), (second, "svid_malformed")] {
        let script = vec![
            Step::Send(good(&ca)),
            Step::Gate(1),
            Step::Send(bad),
            Step::Gate(2),
            Step::Send(good(&ca)),
            HOLD,
        ];
        let rig = Rig::start(&ca, vec![script]).await;
        rig.server.open_gate();
        rig.names(code).await;
        let row = rig.source().await;
        assert_eq!((&row["revision"], row["own"].as_array().map(Vec::len)), (&2.into(), Some(1)), "{row}");
        assert_eq!(rig.ask().await, 200);
        rig.server.open_gate();
        rig.recovers().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_answer_that_makes_asking_again_useless_keeps_what_is_held_and_fails_the_source() {
    for failure in [Code::InvalidArgument, Code::Unimplemented] {
        let ca = Ca::new("td").expect("ca");
        let streams = vec![vec![Step::Send(good(&ca)), Step::Gate(1), Step::Fail(failure)]];
        let rig = Rig::start(&ca, streams).await;
        rig.server.open_gate();
        rig.names("svid_source_failed").await;
        assert_eq!(rig.source().await["status"], "failed");
        assert_eq!(rig.ask().await, 200, "{failure}");
        assert_eq!(rig.server.calls(), 1);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_on_a_stream_that_delivered_withdraws_and_the_next_svid_is_used() {
    let ca = Ca::new("td").expect("ca");
    let rig = Rig::start(
        &ca,
        vec![
            vec![Step::Send(good(&ca)), Step::Gate(1), Step::Fail(Code::PermissionDenied)],
            vec![Step::Refuse(Code::PermissionDenied)],
            vec![Step::Gate(2), Step::Send(good(&ca)), HOLD],
        ],
    )
    .await;
    rig.server.open_gate();
    rig.names("svid_denied").await;
    assert_eq!(rig.source().await["status"], "withdrawn");
    assert_eq!(rig.answer().await, (503, "no healthy upstream: svid_denied\n".to_owned()));
    rig.server.open_gate();
    rig.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_denial_as_the_first_answer_is_waited_out() {
    let ca = Ca::new("td").expect("ca");
    let rig = Rig::start(
        &ca,
        vec![
            vec![Step::Send(good(&ca)), Step::Gate(1), Step::End],
            vec![Step::Refuse(Code::PermissionDenied)],
            vec![Step::Gate(2), Step::Send(good(&ca)), HOLD],
        ],
    )
    .await;
    rig.server.open_gate();
    rig.names("svid_denied").await;
    assert_eq!(rig.ask().await, 200);
    rig.server.open_gate();
    rig.recovers().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_svid_that_ends_without_another_fails_closed_says_so_and_the_next_one_is_used() {
    let ca = Ca::new("td").expect("ca");
    let short = X509svidResponse {
        svids: vec![svid(&ca, ID, Duration::from_secs(15))],
        ..X509svidResponse::default()
    };
    // It goes silent: what it says next comes on a stream that nobody would open if the first were believed.
    let rig = Rig::start(
        &ca,
        vec![
            vec![Step::Send(short), HOLD],
            vec![Step::Gate(1), Step::Fail(Code::Unavailable)],
            vec![Step::Gate(1), Step::Send(good(&ca)), HOLD],
        ],
    )
    .await;
    rig.names("identity_expired").await;
    assert_eq!(rig.answer().await, (503, "no healthy upstream: identity_expired\n".to_owned()));
    rig.server.open_gate();
    rig.recovers().await;
}
