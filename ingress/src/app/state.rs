//! What the admin address shows of the running ingress.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use identity::{Source, SourceStatus, Trust, material::rfc3339};
use parking_lot::Mutex;
use proxy::{
    admin::AdminSource,
    net::Server,
    observe::{Counter, ExtraGauge, Labelled, Observe, names},
    registry::Role,
    upstream::Transport,
};
use serde_json::{Value, json};
use tokio::{sync::Notify, task::JoinSet};

use super::{control::Build, status::Conditions};
use crate::{
    command::explain::{Question, answer, tls},
    plan::Outcome,
    report::Finding,
    route::Table,
};

/// The admin side of a running ingress.
pub struct State {
    table: ArcSwap<Table>,
    build: Arc<Mutex<Build>>,
    spiffe: Option<Arc<Source>>,
    observe: Arc<Observe>,
    server: Arc<Server<Table>>,
    conditions: Arc<Conditions>,
    draining: AtomicBool,
    drain: Notify,
    identity_awaited: AtomicBool,
    shutdown: Notify,
}

impl State {
    pub(super) fn new(
        table: Arc<Table>,
        (build, conditions): (Arc<Mutex<Build>>, Arc<Conditions>),
        spiffe: Option<Arc<Source>>,
        observe: Arc<Observe>,
        server: Arc<Server<Table>>,
    ) -> Arc<Self> {
        Arc::new(Self {
            table: ArcSwap::new(table),
            build,
            identity_awaited: AtomicBool::new(spiffe.is_some()),
            spiffe,
            observe,
            server,
            conditions,
            draining: AtomicBool::new(false),
            drain: Notify::new(),
            shutdown: Notify::new(),
        })
    }

    pub(super) fn set_table(&self, table: Arc<Table>) {
        self.table.store(table);
    }

    pub(super) fn set_draining(&self) {
        self.draining.store(true, Relaxed);
    }

    pub(super) async fn drain_requested(&self) {
        self.drain.notified().await;
    }

    pub(super) async fn shutdown_requested(&self) {
        self.shutdown.notified().await;
    }

    /// Unready until the first SVID is there, or until the time for it is over: the ingress then serves on.
    pub(super) fn expect_identity(self: &Arc<Self>, timeout: Duration, tasks: &mut JoinSet<()>) {
        let Some(source) = self.spiffe.clone() else { return };
        let state = Arc::clone(self);
        tasks.spawn(async move {
            let mut changes = source.watch();
            let there = changes.wait_for(|_| source.state().material.is_some());
            if tokio::time::timeout(timeout, there).await.is_err() {
                let problem = source.state().problem.clone();
                let why = problem.map_or_else(|| "it did not answer".to_owned(), |problem| problem.to_string());
                tracing::error!(source = %source.name(), "no SVID after {timeout:?}: {why}; Mappings that need it answer 503");
            }
            state.identity_awaited.store(false, Relaxed);
        });
    }

    pub(super) fn register_metrics(self: &Arc<Self>) {
        let gauge = |metric, read: fn(&Self) -> Vec<Labelled>| {
            let state = Arc::downgrade(self);
            let read = move || state.upgrade().map(|state| read(&state)).unwrap_or_default();
            ExtraGauge { metric, read: Box::new(read) }
        };
        self.observe.register(gauge(names::SVID_NOT_AFTER, Self::expiries));
        self.observe.register(gauge(names::SOURCE_UP, Self::up));
        self.observe.register(gauge(names::CONFIG_PROBLEMS, Self::problems));
    }

    /// The data plane.
    pub fn server(&self) -> &Arc<Server<Table>> {
        &self.server
    }

    /// The Workload API's source.
    pub fn spiffe_source(&self) -> Option<Arc<Source>> {
        self.spiffe.clone()
    }

    /// How many times SVIDs were delivered.
    pub fn svid_revision(&self) -> u64 {
        self.spiffe.as_ref().map_or(0, |source| source.state().revision)
    }

    /// A counter, over all workers.
    pub fn total(&self, counter: Counter) -> u64 {
        self.observe.total(counter)
    }

    fn sources(&self) -> Vec<Arc<Source>> {
        self.build.lock().keyring.sources()
    }

    fn expiries(&self) -> Vec<Labelled> {
        let mut series = Vec::new();
        for source in self.sources() {
            let state = source.state();
            for own in state.material.iter().flat_map(|material| &material.own) {
                let id = own.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default();
                let end =
                    own.not_after.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_secs_f64();
                series.push((vec![("source", source.name().to_string()), ("spiffe_id", id)], end));
            }
        }
        series
    }

    fn up(&self) -> Vec<Labelled> {
        let sources = self.sources();
        let row = |source: &Arc<Source>| {
            let state = source.state();
            let problem = source.problem(SystemTime::now());
            let up = state.material.is_some() && problem.is_none();
            let code = problem.as_ref().map_or("", |problem| problem.code);
            (
                vec![("source", source.name().to_string()), ("problem", code.to_owned())],
                f64::from(u8::from(up)),
            )
        };
        sources.iter().map(row).collect()
    }

    fn problems(&self) -> Vec<Labelled> {
        let build = self.build.lock();
        let mut counted: std::collections::BTreeMap<Vec<(&'static str, String)>, f64> =
            std::collections::BTreeMap::new();
        for finding in &build.report.findings {
            let object = finding.object.as_ref();
            let labels = vec![
                ("kind", object.map_or(String::new(), |object| object.kind.kind.to_string())),
                ("namespace", object.map_or(String::new(), |object| object.namespace.to_string())),
                ("name", object.map_or(String::new(), |object| object.name.to_string())),
                ("severity", finding.severity.as_str().to_owned()),
                ("reason", finding.code.to_owned()),
            ];
            *counted.entry(labels).or_default() += 1.0;
        }
        counted.into_iter().collect()
    }
}

impl AdminSource for State {
    fn ready(&self) -> Result<(), String> {
        if self.draining.load(Relaxed) {
            return Err("draining".to_owned());
        }
        if self.identity_awaited.load(Relaxed) {
            return Err("waiting for the first SVID".to_owned());
        }
        Ok(())
    }

    /// A worker that has not come round for so long will not: only a restart frees what waits for it.
    fn live(&self) -> Result<(), String> {
        const DEAD_AFTER: Duration = Duration::from_secs(30);
        match self.server.latest() {
            late if late < DEAD_AFTER => Ok(()),
            late => Err(format!("a worker has not come round for {} s", late.as_secs())),
        }
    }

    fn refused(&self) {
        self.observe.count_on_control(Counter::AdminRefused);
    }

    fn config(&self) -> Value {
        let table = self.table.load();
        let build = self.build.lock();
        let listeners: Vec<_> = self
            .server
            .listeners()
            .iter()
            .map(|(name, addr)| json!({"name": &**name, "address": addr.to_string()}))
            .collect();
        let clusters: Vec<_> =
            build.publisher.clusters().iter().map(|cluster| self::cluster(cluster)).collect();
        let registry = self.server.registry();
        json!({
            "listeners": listeners,
            "tcp": table.tcp_mappings().iter().map(tcp).collect::<Vec<_>>(),
            "hosts": table.hosts().iter().map(|host| self::host(&table, host)).collect::<Vec<_>>(),
            "clusters": clusters,
            "identities": build.keyring.sources().iter().map(|source| self::source(source)).collect::<Vec<_>>(),
            "problems": build.report.findings.iter().map(Finding::to_json).collect::<Vec<_>>(),
            "conditions": self.conditions.to_json(),
            "connections": {"downstream": registry.count(Role::Downstream), "upstream": registry.count(Role::Upstream)},
            "draining": self.draining.load(Relaxed),
        })
    }

    fn explain(&self, method: &str, url: &str) -> Result<Value, String> {
        let question = Question { method: method.to_owned(), url: url.to_owned(), ..Question::default() };
        answer(&self.table.load(), &question)
    }

    fn metrics(&self) -> String {
        self.observe.render()
    }

    fn drain(&self) {
        self.set_draining();
        self.drain.notify_one();
    }

    fn shutdown(&self) {
        self.shutdown.notify_one();
    }
}

/// Most routes of a Host that are shown.
const MAX_SHOWN: usize = 10_000;

fn tcp(mapping: &crate::plan::TcpMappingPlan) -> Value {
    let (action, reason) = action(&mapping.outcome);
    json!({
        "mapping": &*mapping.name,
        "port": mapping.port,
        "address": mapping.address.map(|ip| ip.to_string()),
        "host": mapping.host.as_ref().map(crate::plan::HostGlob::text),
        "share": mapping.share.end - mapping.share.start,
        "action": action,
        "unavailable": reason,
    })
}

/// What a route does, and why it cannot.
fn action(outcome: &Outcome) -> (&'static str, Option<Value>) {
    match outcome {
        Outcome::Forward { .. } => ("forward", None),
        Outcome::Redirect(_) => ("redirect", None),
        Outcome::Unavailable(unavailable) => (
            "unavailable",
            Some(json!({"reason": unavailable.reason.code(), "message": &*unavailable.message})),
        ),
    }
}

fn host(table: &Table, host: &crate::route::HostEntry) -> Value {
    let route = |mapping: &crate::plan::MappingPlan| {
        let (action, reason) = action(&mapping.outcome);
        json!({"mapping": &*mapping.name, "prefix": &*mapping.prefix, "action": action, "unavailable": reason})
    };
    let unavailable = host.unavailable.as_ref();
    json!({
        "name": &*host.name,
        "hostname": host.hostname.text(),
        "tls": host.profile.as_ref().map(|profile| {
            let spec = profile.spec();
            json!({
                "identity": spec.identity.name().as_str(),
                "client_certificates": format!("{:?}", spec.client_auth).to_ascii_lowercase(),
                "peer": profile.rule().to_string(),
            })
        }),
        "unavailable": unavailable.map(|why| json!({"reason": why.reason.code(), "message": &*why.message})),
        "routes": table.mappings_of(host).take(MAX_SHOWN).map(route).collect::<Vec<_>>(),
    })
}

fn cluster(cluster: &proxy::upstream::Cluster) -> Value {
    let endpoints: Vec<_> = cluster
        .endpoints()
        .iter()
        .map(|endpoint| {
            json!({
                "address": endpoint.addr.to_string(),
                "in_flight": endpoint.load.in_flight(),
                "penalised": endpoint.load.is_penalised(),
            })
        })
        .collect();
    let problem = match &*cluster.transport {
        Transport::Tls(tls) => tls
            .profile
            .current()
            .err()
            .map(|problem| json!({"reason": problem.code, "message": &*problem.message})),
        Transport::Plain => None,
    };
    json!({"name": &*cluster.name, "endpoints": endpoints, "tls": tls(cluster), "problem": problem})
}

fn source(source: &Source) -> Value {
    let state = source.state();
    let material = state.material.as_ref();
    let own: Vec<_> = material
        .iter()
        .flat_map(|material| &material.own)
        .map(|own| {
            json!({
                "spiffe_id": own.spiffe_id.as_ref().map(ToString::to_string),
                "serial": own.serial,
                "not_after": rfc3339(own.not_after),
                "hint": own.hint,
            })
        })
        .collect();
    let trust: Vec<_> = match material.and_then(|material| material.trust.as_deref()) {
        Some(Trust::Spiffe(bundles)) => bundles
            .iter()
            .map(|(domain, bundle)| json!({"trust_domain": domain.to_string(), "authorities": bundle.authorities.len()}))
            .collect(),
        Some(Trust::Roots(bundle)) => vec![json!({"authorities": bundle.authorities.len()})],
        Some(Trust::Crls(crls)) => vec![json!({"crls": crls.len()})],
        None => Vec::new(),
    };
    let status = match state.status {
        SourceStatus::Pending => "pending",
        SourceStatus::Ready => "ready",
        SourceStatus::Withdrawn => "withdrawn",
        SourceStatus::Failed => "failed",
    };
    json!({
        "source": source.name().as_str(),
        "status": status,
        "revision": state.revision,
        "own": own,
        "trust": trust,
        "problem": source.problem(SystemTime::now()).map(|problem| json!({"reason": problem.code, "message": &*problem.message})),
    })
}
