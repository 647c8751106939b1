//! The control loop: documents and key material in, tables out.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::SourceRef;
use parking_lot::Mutex;
use proxy::{
    net::{ListenerSpec, Server},
    upstream::Cluster,
};
use resource::{FileSource, FolderWatch, Kind, Set, Source as _, StatusSink, Wants};
use tokio_util::sync::CancellationToken;

use super::{OwnAddresses, State, graces::Graces, sweeper::Sweeper};
use crate::{
    cli::IngressSettings,
    compile::{CompileSettings, Input, compile, conditions::conditions, wants},
    keyring::Keyring,
    publish::Publisher,
    report::{Finding, Report, Severity},
    route::Table,
};

/// Certificates in files, and graces of deletions, are looked at this often even without a hint.
const TICK: Duration = Duration::from_secs(2);
/// A hint is followed by quiet of this length before files are read.
const QUIET: Duration = Duration::from_millis(60);

/// What is carried from build to build.
pub(super) struct Build {
    pub(super) keyring: Keyring,
    pub(super) publisher: Publisher,
    pub(super) report: Report,
}

/// The control loop.
pub(super) struct Control {
    settings: Arc<CompileSettings>,
    manifests: Arc<FileSource>,
    build: Arc<Mutex<Build>>,
    status: Arc<dyn StatusSink>,
    sweeper: Arc<Sweeper>,
    key_folders: FolderWatch,
    graces: Graces,
    /// What the last build was made of.
    set: Arc<Set>,
    said: BTreeSet<String>,
    /// Sources whose own certificate has ended.
    expired: BTreeSet<SourceRef>,
}

impl Control {
    pub(super) fn new(
        settings: &IngressSettings,
        manifests: Arc<FileSource>,
        keyring: Keyring,
        publisher: Publisher,
        status: Arc<dyn StatusSink>,
    ) -> Self {
        let kind = |group: &str, kind: &str| Kind { group: group.into(), kind: kind.into() };
        let ours = ["Mapping", "TCPMapping", "TLSContext", "Host", "Listener", "Module"];
        let kinds = ours.iter().map(|name| kind("getambassador.io", name));
        let core = [kind("", "Secret"), kind("", "Service"), kind("discovery.k8s.io", "EndpointSlice")];
        manifests.want(Wants { kinds: kinds.chain(core).collect(), objects: Vec::new() });
        Self {
            settings: Arc::new(CompileSettings::from(&settings.decision)),
            manifests,
            build: Arc::new(Mutex::new(Build { keyring, publisher, report: Report::default() })),
            status,
            sweeper: Arc::default(),
            key_folders: FolderWatch::default(),
            graces: Graces::default(),
            set: Arc::default(),
            said: BTreeSet::new(),
            expired: BTreeSet::new(),
        }
    }

    /// What the last build has made, for the admin side.
    pub(super) fn outcome(&self) -> Arc<Mutex<Build>> {
        Arc::clone(&self.build)
    }

    /// Looks at open connections again after each change.
    pub(super) fn sweeper(&self) -> Arc<Sweeper> {
        Arc::clone(&self.sweeper)
    }

    /// Compiles the present documents and makes their table, off the control thread.
    pub(super) async fn build(&mut self) -> Result<(Arc<Table>, Vec<Arc<Cluster>>), tokio::task::JoinError> {
        let (set, in_grace) = self.graces.apply(self.manifests.set(), SystemTime::now());
        self.set = Arc::clone(&set);
        let (settings, build) = (Arc::clone(&self.settings), Arc::clone(&self.build));
        let status = Arc::clone(&self.status);
        let control = tokio::runtime::Handle::current();
        let (table, clusters, report, folders) = tokio::task::spawn_blocking(move || {
            let _lookups_run_there = control.enter();
            let build = &mut *build.lock();
            let wanted = wants(&set.documents, &settings);
            build.keyring.update(&wanted, &set.documents, SystemTime::now());
            let input = Input {
                documents: &set.documents,
                errors: &set.errors,
                keys: &build.keyring,
                settings: &settings,
            };
            let (plan, report) = compile(&input);
            let report = Report::new(report.findings.into_iter().chain(in_grace));
            status.report(conditions(&plan, &report));
            build.report = report.clone();
            let (table, clusters) = build.publisher.table(plan, &build.keyring);
            (table, clusters, report, build.keyring.folders())
        })
        .await?;
        self.key_folders.set(folders);
        self.say(&report);
        Ok((table, clusters))
    }

    /// Each finding is logged once while it lasts.
    fn say(&mut self, report: &Report) {
        let now: BTreeSet<String> = report.findings.iter().map(ToString::to_string).collect();
        for finding in report.findings.iter().filter(|finding| !self.said.contains(&finding.to_string())) {
            log(finding);
        }
        for gone in self.said.difference(&now) {
            tracing::info!("no longer so: {gone}");
        }
        self.said = now;
    }

    /// Own certificates that have ended are named once: nobody delivers such news.
    fn say_expired(&mut self) {
        let sources = self.build.lock().keyring.sources();
        let now = SystemTime::now();
        let problems = sources.iter().filter_map(|source| Some((source.name(), source.problem(now)?)));
        let expired: BTreeMap<_, _> =
            problems.filter(|(_, problem)| problem.code == "identity_expired").collect();
        for (source, problem) in &expired {
            if !self.expired.contains(*source) {
                tracing::error!(%source, code = problem.code, "{problem}; what needs it answers 503 until a new one is there");
            }
        }
        for source in self.expired.iter().filter(|source| !expired.contains_key(source)) {
            tracing::info!(%source, "has a valid certificate again");
        }
        self.expired = expired.into_keys().cloned().collect();
    }

    /// Follows documents and key material until cancelled.
    pub(super) async fn run(
        mut self,
        server: Arc<Server<Table>>,
        state: Arc<State>,
        own: OwnAddresses,
        cancel: CancellationToken,
    ) {
        let mut following = tokio::task::JoinSet::new();
        following.spawn(Arc::clone(&self.manifests).run());
        let mut deliveries = self.manifests.watch();
        deliveries.mark_unchanged();
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                changed = deliveries.changed() => if changed.is_ok() {
                    self.republish(&server, &state, &own).await;
                },
                () = self.key_folders.changed() => {
                    tokio::time::sleep(QUIET).await;
                    self.refresh_keys(&server, &state, &own).await;
                }
                () = tokio::time::sleep(TICK) => self.refresh_keys(&server, &state, &own).await,
            }
            self.sweeper.ask();
            self.say_expired();
            // At the latest a tick after the last edit: nobody may ever edit again.
            server.sweep();
        }
    }

    async fn republish(&mut self, server: &Server<Table>, state: &State, own: &OwnAddresses) {
        let started = std::time::Instant::now();
        match self.build().await {
            Ok((table, clusters)) => {
                for opened in server.set_listeners(listeners(&table)) {
                    if let Err(error) = opened {
                        tracing::error!("{error}");
                    }
                }
                own.refresh(server);
                state.set_table(Arc::clone(&table));
                server.publish(table, clusters);
                tracing::info!(took_us = started.elapsed().as_micros(), "configuration published");
            }
            Err(error) => tracing::error!(%error, "compiling failed; the table before stays in use"),
        }
    }

    /// Looks at certificate files and graces again. A table is only made when a reference became usable or unusable, or when
    /// a deleted context's time is over.
    async fn refresh_keys(&mut self, server: &Server<Table>, state: &State, own: &OwnAddresses) {
        let before = self.usable();
        let (settings, set, build) =
            (Arc::clone(&self.settings), Arc::clone(&self.set), Arc::clone(&self.build));
        let refreshed = tokio::task::spawn_blocking(move || {
            let wanted = wants(&set.documents, &settings);
            let keyring = &mut build.lock().keyring;
            keyring.update(&wanted, &set.documents, SystemTime::now());
            keyring.folders()
        })
        .await;
        let Ok(folders) = refreshed else {
            return tracing::error!("reading keys failed; the last good ones stay in use");
        };
        // A folder may have been made anew.
        self.key_folders.set(folders);
        if self.usable() != before || self.graces.is_over(SystemTime::now()) {
            self.republish(server, state, own).await;
        }
    }

    fn usable(&self) -> Vec<(String, bool)> {
        let sources = self.build.lock().keyring.sources();
        let mut usable: Vec<_> = sources
            .iter()
            .map(|source| (source.name().to_string(), source.state().material.is_some()))
            .collect();
        usable.sort();
        usable
    }
}

fn log(finding: &Finding) {
    match finding.severity {
        Severity::Error => tracing::error!(code = finding.code, "{finding}"),
        Severity::Warning => tracing::warn!(code = finding.code, "{finding}"),
        Severity::Notice => tracing::info!(code = finding.code, "{finding}"),
    }
}

/// What a table wants to listen on.
pub(super) fn listeners(table: &Table) -> Vec<ListenerSpec> {
    let spec = |plan: &crate::plan::ListenerPlan| ListenerSpec {
        name: Arc::clone(&plan.name),
        bind: plan.bind,
        tls: plan.tls,
        proxy_protocol: plan.proxy_protocol,
        layer: plan.layer,
    };
    let mut specs: Vec<_> = table.listeners().map(spec).collect();
    specs.sort_by(|a, b| a.name.cmp(&b.name));
    specs
}
