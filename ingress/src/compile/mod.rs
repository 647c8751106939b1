//! Compile: documents to a plan and a report; pure. The same for the running proxy, `check`, `explain` and conditions.

mod addresses;
mod attach;
mod codes;
pub mod conditions;
mod context;
mod edits;
mod group;
mod guard;
mod host;
mod listener;
mod mapping;
mod matching;
mod module;
mod origination;
mod service;
mod tcp;
#[cfg(test)]
mod tests;
mod weight;

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    hash::{BuildHasher as _, RandomState},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use resource::{Document, SourceError};
use smallvec::SmallVec;

use crate::{
    keyring::{KeyRef, Keys},
    plan::{ClusterPlan, Plan},
    report::{Finding, Report, Severity},
};
use addresses::Addresses;
pub use codes::CODES;
use context::Contexts;
use guard::Guards;
use module::Module;

/// Everything that decides, besides the documents.
#[derive(Clone, Debug)]
pub struct CompileSettings {
    /// `AMBASSADOR_ID`.
    pub ambassador_id: String,
    /// `AMBASSADOR_NAMESPACE`: the proxy's own.
    pub namespace: String,
    /// Only resources of the proxy's own namespace count.
    pub single_namespace: bool,
    /// An unverified upstream is an error.
    pub require_verified_upstreams: bool,
    /// Contexts are found in any namespace if only one has the name (files: one tenant).
    pub one_tenant: bool,
    /// Where listeners bind.
    pub bind: IpAddr,
    /// Port without Listeners.
    pub http_port: u16,
    /// TLS port without Listeners.
    pub https_port: u16,
    /// `--resolve`: host, port, addresses.
    pub resolve: Vec<(String, Option<u16>, Vec<SocketAddr>)>,
}

/// The input of a compile.
pub struct Input<'a> {
    /// All documents.
    pub documents: &'a [Arc<Document>],
    /// What could not be read.
    pub errors: &'a [SourceError],
    /// Key material by name.
    pub keys: &'a dyn Keys,
    /// Settings.
    pub settings: &'a CompileSettings,
}

/// What compiling has gathered so far.
pub(crate) struct Compiler<'a> {
    pub(crate) settings: &'a CompileSettings,
    pub(crate) keys: &'a dyn Keys,
    pub(crate) contexts: Contexts<'a>,
    pub(crate) addresses: Addresses<'a>,
    pub(crate) module: Module,
    pub(crate) guards: Guards,
    pub(crate) findings: Vec<Finding>,
    clusters: Vec<ClusterPlan>,
    /// Clusters by the hash of their key: a key is large, and is kept once.
    by_key: HashMap<u64, SmallVec<[usize; 1]>>,
    hasher: RandomState,
    names: BTreeMap<Arc<str>, usize>,
}

impl Compiler<'_> {
    /// The index of a cluster; one for each key.
    pub(crate) fn cluster(&mut self, mut cluster: ClusterPlan) -> usize {
        let hash = self.hasher.hash_one(&cluster.key);
        let same = |index: &usize| self.clusters.get(*index).is_some_and(|known| known.key == cluster.key);
        let known =
            self.by_key.get(&hash).and_then(|indices| indices.iter().copied().find(|index| same(index)));
        if let Some(known) = known {
            return known;
        }
        let index = self.clusters.len();
        let count = self.names.entry(Arc::clone(&cluster.name)).or_default();
        *count += 1;
        if *count > 1 {
            cluster.name = format!("{}-{count}", cluster.name).into();
        }
        self.by_key.entry(hash).or_default().push(index);
        self.clusters.push(cluster);
        index
    }
}

/// Compiles everything. One bad resource never stops another.
pub fn compile(input: &Input<'_>) -> (Plan, Report) {
    let mut findings = Vec::new();
    let ours = guard::readable(ours(input.documents, input.settings), &mut findings);
    let mut guards = Guards::read(&ours, &mut findings);
    let module = Module::read(&ours, &mut guards, &mut findings);
    let contexts = Contexts::read(&ours, &module, &mut findings);
    let mut compiler = Compiler {
        settings: input.settings,
        keys: input.keys,
        contexts,
        addresses: Addresses::read(&ours, &input.settings.resolve),
        module,
        guards,
        findings,
        clusters: Vec::new(),
        by_key: HashMap::new(),
        hasher: RandomState::new(),
        names: BTreeMap::new(),
    };
    let mappings = mapping::compile(&mut compiler, &ours);
    let hosts = host::compile(&mut compiler, &ours, &mappings);
    attach::unattached(&mut compiler, &ours, &mappings, &hosts);
    let mut listeners = listener::compile(&mut compiler, &ours, &hosts);
    let tcp_mappings = tcp::compile(&mut compiler, &ours, (&mut listeners, &hosts));
    let mut findings = compiler.findings;
    findings.extend(input.errors.iter().map(source_finding));
    let plan = Plan {
        listeners,
        hosts: hosts.into_iter().map(|host| host.plan).collect(),
        mappings: mappings.into_iter().map(|mapping| mapping.plan).collect(),
        tcp_mappings,
        clusters: compiler.clusters,
    };
    (plan, Report::new(findings))
}

/// The key material that the documents name: what the keyring has to have before a compile.
pub fn wants(documents: &[Arc<Document>], settings: &CompileSettings) -> BTreeSet<KeyRef> {
    let mut ignored = Vec::new();
    let ours = guard::readable(ours(documents, settings), &mut ignored);
    let module = Module::read(&ours, &mut Guards::default(), &mut ignored);
    let mut wanted = Contexts::read(&ours, &module, &mut ignored).wants();
    wanted.extend(host::wants(&ours, &module));
    wanted
}

/// Resources of this instance: `ambassador_id`, and the namespace where only one counts.
fn ours<'a>(documents: &'a [Arc<Document>], settings: &CompileSettings) -> Vec<&'a Document> {
    let mine = |document: &&'a Arc<Document>| {
        let own = !settings.single_namespace || *document.object.namespace == *settings.namespace;
        own && (&*document.object.kind.group != "getambassador.io"
            || has_id(document, &settings.ambassador_id))
    };
    let mut ours: Vec<&Document> = documents.iter().filter(mine).map(|document| &**document).collect();
    ours.sort_by(|a, b| a.origin.cmp(&b.origin));
    ours
}

fn has_id(document: &Document, id: &str) -> bool {
    let spec = document.root.get("spec");
    let ids = spec.and_then(|spec| spec.get("ambassador_id").or_else(|| spec.get("ambassadorId")));
    let Some(ids) = ids else { return id == "default" };
    let listed: Vec<&str> = match ids.as_text() {
        Some(one) => vec![one],
        None => ids.items().iter().filter_map(resource::Node::as_text).collect(),
    };
    let listed = if listed.is_empty() { vec!["default"] } else { listed };
    listed.iter().any(|listed| *listed == id || *listed == "_automatic_")
}

/// Documents of one of our kinds.
pub(crate) fn of_kind<'a>(documents: &[&'a Document], kind: &str) -> Vec<&'a Document> {
    let group = |document: &Document| &*document.object.kind.group == "getambassador.io";
    let mut found: Vec<_> = documents
        .iter()
        .copied()
        .filter(|document| &*document.object.kind.kind == kind && group(document))
        .collect();
    found.sort_by(|a, b| (&a.object, &a.origin).cmp(&(&b.object, &b.origin)));
    found
}

fn source_finding(error: &SourceError) -> Finding {
    let path = error.path.clone().unwrap_or_default();
    let kept = if error.kept_last_good { "; the last good state stays in use" } else { "" };
    Finding {
        origin: resource::Origin::File { path, line: error.line },
        line: error.line,
        object: None,
        field: String::new(),
        severity: Severity::Error,
        code: "unreadable",
        message: format!("{}{kept}", error.message),
        remedy: error.remedy.clone(),
    }
}
