//! One way to take trust away: what stands before, what after, whom it concerns, and what they are told.

use std::{
    ops::Range,
    path::Path,
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use identity::dev::{DevAuthority, Entries};
use ingress::keyring::DELETION_GRACE;
use rustls::sign::CertifiedKey;

use super::super::harness::{Ingress, replace};

/// When what still runs is cut: five seconds after the change is known; a debug build on a busy machine gets some more.
pub(super) const CUT: Range<Duration> = Duration::from_millis(4500)..Duration::from_secs(12);

/// What is configured at one time.
#[derive(Clone, Default)]
pub(super) struct State {
    /// Fields of the contexts of upstreams; empty: nothing is asked about upstreams.
    pub(super) outbound: String,
    /// Fields of the Host's `tls`; empty: nothing is asked about clients.
    pub(super) inbound: String,
    /// Secrets.
    pub(super) shared: String,
    /// Files beside the manifests.
    pub(super) files: Vec<(&'static str, String)>,
    /// What the dev authority issues.
    pub(super) entries: Option<Entries>,
}

/// A row group of the table.
pub(super) struct Case {
    /// Presented by the upstreams and clients that lose trust; clients without one present nothing.
    pub(super) doomed: Option<Arc<CertifiedKey>>,
    /// By their neighbours.
    pub(super) kept: Arc<CertifiedKey>,
    pub(super) before: State,
    pub(super) after: State,
    /// Neighbours under the same context and Host cannot live where these fail as a whole: theirs are these then.
    pub(super) apart: Option<State>,
    /// The change replaces no profile of the neighbours: their connections live on.
    pub(super) same_profile: bool,
    /// The source whose end is the change, where that comes some time after the edit.
    pub(super) withdrawn: Option<&'static str>,
    /// The change is the end of the certificates of the doomed, by itself.
    pub(super) expires: Option<SystemTime>,
    /// When what still runs is cut, and why.
    pub(super) cut: (Range<Duration>, &'static str),
    /// Why new connections are refused: clients, and upstreams.
    pub(super) reasons: (&'static str, &'static str),
    /// The dev authority that the ingress has its SVID from.
    pub(super) authority: Option<Authority>,
}

/// A dev authority with its folder.
pub(super) struct Authority {
    pub(super) dev: DevAuthority,
    pub(super) folder: tempfile::TempDir,
}

impl Authority {
    pub(super) fn start(entries: Entries) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let dev = DevAuthority::start(entries, &folder.path().join("state"), false).expect("authority");
        Self { dev, folder }
    }
}

impl Case {
    /// When a change that was begun is known.
    pub(super) async fn known(&self, ingress: &Ingress, began: Instant) -> Instant {
        if let Some(end) = self.expires {
            let left = end.duration_since(SystemTime::now()).expect("all was under way before the end");
            tokio::time::sleep(left).await;
            return Instant::now();
        }
        let Some(source) = self.withdrawn else { return began };
        let mut withdrawn = false;
        while !withdrawn {
            assert!(began.elapsed() < 3 * DELETION_GRACE, "{source} is in use for ever");
            tokio::time::sleep(Duration::from_millis(50)).await;
            let config = ingress.config().await;
            let rows = config["identities"].as_array().expect("identities");
            withdrawn = rows.iter().all(|row| row["source"] != source || row["status"] == "withdrawn");
        }
        assert!(began.elapsed() >= DELETION_GRACE, "withdrawn within its grace");
        Instant::now()
    }

    /// Makes a state the present one; `routes` are the documents that are the same in all states.
    pub(super) fn apply(&self, folder: &Path, state: &State, routes: &str) {
        for (name, text) in &state.files {
            replace(&folder.join(name), text);
        }
        let text = format!("{routes}{}", documents(state, self.apart.as_ref()));
        replace(&folder.join("all.yaml"), &text);
        if let (Some(entries), Some(authority)) = (&state.entries, &self.authority) {
            authority.dev.update(entries.clone(), false).expect("entries");
        }
    }
}

/// Contexts and Hosts.
fn documents(state: &State, apart: Option<&State>) -> String {
    let mut text = state.shared.clone();
    text += &contexts("", &state.outbound);
    text += &host("shop", &state.inbound);
    if let Some(apart) = apart {
        text += &apart.shared;
        text += &contexts("kept-", &apart.outbound);
        text += &host("kept", &apart.inbound);
    }
    text
}

fn contexts(prefix: &str, fields: &str) -> String {
    let context = |name: &str, alpn: &str| {
        format!(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: {prefix}{name}}}\n\
             spec: {{hosts: [], sni: peer.internal, alpn_protocols: [{alpn}], {fields}}}\n"
        )
    };
    if fields.is_empty() { String::new() } else { context("h1", "http/1.1") + &context("h2", "h2") }
}

fn host(name: &str, fields: &str) -> String {
    let tls = if fields.is_empty() { String::new() } else { format!(", tls: {{{fields}}}") };
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {{name: {name}}}\n\
         spec: {{hostname: {name}.example, tlsSecret: {{name: {name}}}{tls}}}\n"
    )
}
