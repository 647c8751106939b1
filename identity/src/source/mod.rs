//! A source of material: what it last delivered, its health, and who must be rebuilt when it delivers again.

pub mod delivery;
mod endpoint;
pub mod files;
pub mod secret;
mod service_fn;
mod workload_api;

pub use endpoint::WorkloadEndpoint;
pub use workload_api::{WorkloadApi, fetch};

use std::{fmt, sync::Arc, time::SystemTime};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{Material, Problem};

/// Names a source, never its contents: `spiffe:unix:///run/api.sock`, `secret:default/certs`, `file:/etc/tls/tls.crt`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceRef(Arc<str>);

impl SourceRef {
    /// A reference from its text.
    pub fn new(name: impl Into<Arc<str>>) -> Self {
        Self(name.into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl fmt::Display for SourceRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Where a source stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SourceStatus {
    /// Nothing was delivered yet.
    Pending,
    /// Material is there and may be used, even if the latest update was refused.
    Ready,
    /// The material was taken back: fail closed.
    Withdrawn,
    /// The source gave up for good (W-5, W-8); material held is used until it ends.
    Failed,
}

/// One moment of a source. Replaced as a whole.
#[derive(Clone, Debug)]
pub struct SourceState {
    /// The last good material.
    pub material: Option<Arc<Material>>,
    /// Where the source stands.
    pub status: SourceStatus,
    /// What is wrong at the moment, if anything: a refused update, a withdrawal, a lost connection.
    pub problem: Option<Problem>,
    /// Counts accepted deliveries, from 1; 0 while pending.
    pub revision: u64,
    /// When this state came about.
    pub since: SystemTime,
}

/// Something that is made from material and has to follow it: a profile.
pub trait Dependent: Send + Sync {
    /// Builds anew from the sources' present states. Called before [`Source::publish`] returns.
    fn rebuild(&self);
}

/// A named source of material. Whoever feeds it calls `publish`, `reject` or `withdraw`; profiles follow.
pub struct Source {
    name: SourceRef,
    state: ArcSwap<SourceState>,
    dependents: Mutex<Vec<std::sync::Weak<dyn Dependent>>>,
    changed: watch::Sender<u64>,
    /// Serialises publishers, so that a rebuild never sees an older state after a newer one.
    publishing: Mutex<()>,
}

impl fmt::Debug for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Source").field("name", &self.name).finish_non_exhaustive()
    }
}

impl Source {
    /// A source that has delivered nothing yet.
    pub fn new(name: SourceRef) -> Arc<Self> {
        Arc::new(Self {
            name,
            state: ArcSwap::from_pointee(SourceState {
                material: None,
                status: SourceStatus::Pending,
                problem: None,
                revision: 0,
                since: SystemTime::now(),
            }),
            dependents: Mutex::new(Vec::new()),
            changed: watch::channel(0).0,
            publishing: Mutex::new(()),
        })
    }

    /// Its name.
    pub fn name(&self) -> &SourceRef {
        &self.name
    }

    /// The present state, whole.
    pub fn state(&self) -> Arc<SourceState> {
        self.state.load_full()
    }

    /// What is wrong at a moment: that an own certificate has ended, and why no newer one came; otherwise what the source
    /// itself has reported.
    pub fn problem(&self, now: SystemTime) -> Option<Problem> {
        let state = self.state();
        let mut own = state.material.iter().flat_map(|material| &material.own);
        let Some(expired) = own.find_map(|own| own.expired(&self.name, now)) else {
            return state.problem.clone();
        };
        let why = state.problem.as_ref().map(|problem| format!("{expired}; {problem}"));
        Some(why.map_or_else(|| expired.clone(), |why| Problem::new(expired.code, why)))
    }

    /// Wakes whenever the state changes in any way. The value is a counter of changes.
    pub fn watch(&self) -> watch::Receiver<u64> {
        self.changed.subscribe()
    }

    /// Registers a profile that follows this source for as long as it lives.
    pub fn follow(&self, dependent: std::sync::Weak<dyn Dependent>) {
        let mut dependents = self.dependents.lock();
        // A source that never delivers again would keep the place of each profile that has gone.
        dependents.retain(|dependent| dependent.strong_count() > 0);
        dependents.push(dependent);
    }

    /// New good material: stored, then every dependent is rebuilt before this returns.
    pub fn publish(&self, material: Material) {
        self.replace(|old| SourceState {
            material: Some(Arc::new(material)),
            status: SourceStatus::Ready,
            problem: None,
            revision: old.revision + 1,
            since: SystemTime::now(),
        });
    }

    /// An update that cannot be used: the last good material stays, and the problem is shown beside it.
    pub fn reject(&self, problem: Problem) {
        self.replace(|old| SourceState { problem: Some(problem), since: SystemTime::now(), ..old.clone() });
    }

    /// The source gave up for good: what is held is used until it ends.
    pub fn fail(&self, problem: Problem) {
        self.replace(|old| SourceState {
            status: SourceStatus::Failed,
            problem: Some(problem),
            since: SystemTime::now(),
            ..old.clone()
        });
    }

    /// The material must not be used any longer: dependents fail closed.
    pub fn withdraw(&self, problem: Problem) {
        self.replace(|old| SourceState {
            material: None,
            status: SourceStatus::Withdrawn,
            problem: Some(problem),
            revision: old.revision + 1,
            since: SystemTime::now(),
        });
    }

    /// The held material is good and current again: the problem shown beside it goes, and nothing is rebuilt.
    pub fn recover(&self) {
        if self.state().material.is_some() && self.state().problem.is_some() {
            self.replace(|old| SourceState {
                status: SourceStatus::Ready,
                problem: None,
                since: SystemTime::now(),
                ..old.clone()
            });
        }
    }

    fn replace(&self, make: impl FnOnce(&SourceState) -> SourceState) {
        let _publishing = self.publishing.lock();
        let old = self.state.load_full();
        let next = Arc::new(make(&old));
        // A rebuild retires pooled connections: an agent that is away for an hour must not cause one at each retry.
        let same_material = match (&old.material, &next.material) {
            (Some(old), Some(next)) => Arc::ptr_eq(old, next),
            _ => false,
        };
        self.state.store(next);
        if !same_material {
            self.rebuild_dependents();
        }
        self.changed.send_modify(|changes| *changes += 1);
    }

    fn rebuild_dependents(&self) {
        let dependents: Vec<_> = {
            let mut held = self.dependents.lock();
            held.retain(|dependent| dependent.strong_count() > 0);
            held.iter().filter_map(std::sync::Weak::upgrade).collect()
        };
        for dependent in dependents {
            dependent.rebuild();
        }
    }
}
