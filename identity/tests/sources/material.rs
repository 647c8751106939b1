//! Certificates for the tests, and waiting for a source with a deadline.

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::{
    Source, SourceState, Trust, TrustDomain,
    dev::{Ca, Minted},
    source::WorkloadApi,
};
use proto::workload::{X509svid, X509svidResponse};
use tokio_util::sync::CancellationToken;

pub(crate) const HOUR: Duration = Duration::from_hours(1);
const DEADLINE: Duration = Duration::from_secs(10);

pub(crate) fn ca() -> Ca {
    Ca::new("td").expect("ca")
}

pub(crate) fn svid(ca: &Ca, id: &str) -> X509svid {
    svid_of(ca, id, HOUR)
}

pub(crate) fn svid_of(ca: &Ca, id: &str, ttl: Duration) -> X509svid {
    let minted = ca.mint(id, ttl).expect("svid");
    X509svid {
        spiffe_id: id.to_owned(),
        x509_svid: minted.certificate.to_vec().into(),
        x509_svid_key: minted.key_der().to_vec().into(),
        bundle: ca.certificate().to_vec().into(),
        hint: String::new(),
    }
}

pub(crate) fn message(svids: Vec<X509svid>) -> X509svidResponse {
    X509svidResponse { svids, ..Default::default() }
}

pub(crate) fn pem(label: &str, der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<_> =
        text.as_bytes().chunks(64).map(|line| std::str::from_utf8(line).expect("ascii")).collect();
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", lines.join("\n"))
}

pub(crate) fn cert_pem(minted: &Minted) -> String {
    pem("CERTIFICATE", &minted.certificate)
}

pub(crate) fn key_pem(minted: &Minted) -> String {
    pem("PRIVATE KEY", minted.key_der())
}

/// Waits until the source is in a state.
pub(crate) async fn until(
    source: &Source,
    what: &str,
    wanted: impl Fn(&SourceState) -> bool,
) -> Arc<SourceState> {
    let mut changes = source.watch();
    let reached = async {
        loop {
            changes.borrow_and_update();
            let state = source.state();
            if wanted(&state) {
                return state;
            }
            changes.changed().await.expect("the source lives");
        }
    };
    tokio::time::timeout(DEADLINE, reached)
        .await
        .unwrap_or_else(|_late| panic!("never: {what}; now {:?}", source.state()))
}

pub(crate) fn code(state: &SourceState) -> &'static str {
    state.problem.as_ref().map_or("", |problem| problem.code)
}

pub(crate) fn ids(state: &SourceState) -> Vec<String> {
    let own = state.material.iter().flat_map(|material| &material.own);
    own.map(|credential| credential.spiffe_id.as_ref().expect("an id").to_string()).collect()
}

pub(crate) fn serial(state: &SourceState) -> String {
    state.material.as_ref().expect("material").own[0].serial.clone()
}

/// How many authorities the bundle of a trust domain holds; `None` without such a bundle.
pub(crate) fn authorities(state: &SourceState, domain: &str) -> Option<usize> {
    match state.material.as_ref()?.trust.as_deref()? {
        Trust::Spiffe(bundles) => {
            Some(bundles.get(&TrustDomain::new(domain).expect("name"))?.authorities.len())
        }
        _ => None,
    }
}

/// A client that runs until dropped.
pub(crate) struct Running {
    pub(crate) source: Arc<Source>,
    cancel: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

impl Running {
    pub(crate) fn start(uri: &str, grace: Duration) -> Self {
        let api = WorkloadApi::new(
            uri.parse().expect("uri"),
            identity::SourceRef::new(format!("spiffe:{uri}")),
            grace,
        );
        let source = Arc::clone(api.source());
        let cancel = CancellationToken::new();
        let task = tokio::spawn(api.run(cancel.clone()));
        Self { source, cancel, task }
    }

    /// The client gave up by itself.
    pub(crate) async fn ended(&mut self) {
        tokio::time::timeout(DEADLINE, &mut self.task).await.expect("the client ends").expect("no panic");
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        self.cancel.cancel();
        self.task.abort();
    }
}

/// Counts rebuilds, as a profile would make them.
#[derive(Default)]
pub(crate) struct Rebuilds(AtomicUsize);

impl Rebuilds {
    pub(crate) fn of(source: &Source) -> Arc<Self> {
        let counter = Arc::new(Self::default());
        let dependent: Arc<dyn identity::source::Dependent> = Arc::<Self>::clone(&counter);
        source.follow(Arc::downgrade(&dependent));
        counter
    }

    pub(crate) fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl identity::source::Dependent for Rebuilds {
    fn rebuild(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }
}
