//! Counters of each cluster: one slab for each worker and cluster, found by name with one look-up and no lock.

use std::{
    cell::{OnceCell, RefCell},
    collections::BTreeMap,
    sync::{Arc, Weak, atomic::AtomicU64},
};

use foldhash::HashMap;
use parking_lot::Mutex;

use super::{Labelled, bump, names};

/// Clusters with series of their own. What comes later is counted together, so that ten thousand Mappings do not make a
/// scrape of megabytes.
pub const MAX_CLUSTERS: usize = 1000;
/// The name under which the others are counted together.
pub(super) const OTHERS: &str = "_others";

/// Envoy's bounds of `upstream_rq_time`, without those below a millisecond and above a minute.
pub(super) const BUCKETS_MS: [u64; 14] =
    [1, 5, 10, 25, 50, 100, 250, 500, 1_000, 2_500, 5_000, 10_000, 30_000, 60_000];

/// What one worker counts of one cluster.
#[derive(Debug, Default)]
pub(super) struct ClusterSlab {
    /// By status class: none, 1xx to 5xx.
    pub(super) classes: [AtomicU64; 6],
    pub(super) buckets: [AtomicU64; BUCKETS_MS.len() + 1],
    pub(super) sum_us: AtomicU64,
}

/// All workers' slabs by the cluster's name.
#[derive(Debug, Default)]
pub(super) struct Clusters(Mutex<BTreeMap<Arc<str>, Vec<Arc<ClusterSlab>>>>);

impl Clusters {
    /// A cluster's slab for a worker: the one it had (`known`), or a new one; `None` beyond the bound.
    fn slab(&self, name: &str, known: Option<Arc<ClusterSlab>>) -> Option<Arc<ClusterSlab>> {
        let mut clusters = self.0.lock();
        if clusters.len() >= MAX_CLUSTERS && !clusters.contains_key(name) && name != OTHERS {
            return None;
        }
        let slabs = clusters.entry(name.into()).or_default();
        if let Some(known) = known.filter(|known| slabs.iter().any(|slab| Arc::ptr_eq(slab, known))) {
            return Some(known);
        }
        let slab = Arc::new(ClusterSlab::default());
        slabs.push(Arc::clone(&slab));
        Some(slab)
    }

    pub(super) fn retain(&self, in_use: impl Fn(&str) -> bool) {
        self.0.lock().retain(|name, _| &**name == OTHERS || in_use(name));
    }

    /// Names with their slabs, for a scrape.
    pub(super) fn all(&self) -> Vec<(Arc<str>, Vec<Arc<ClusterSlab>>)> {
        self.0.lock().iter().map(|(name, slabs)| (Arc::clone(name), slabs.clone())).collect()
    }
}

/// Values of clusters as labelled ones; those beyond the bound together.
pub(super) fn bounded(counts: BTreeMap<Arc<str>, usize>) -> Vec<Labelled> {
    let value = |count: usize| f64::from(u32::try_from(count).unwrap_or(u32::MAX));
    let mut rest = counts.into_iter();
    let mut named: Vec<_> = rest
        .by_ref()
        .take(MAX_CLUSTERS)
        .map(|(name, count)| (vec![(names::CLUSTER_LABEL, name.to_string())], value(count)))
        .collect();
    let others: usize = rest.map(|(_, count)| count).sum();
    if others > 0 {
        named.push((vec![(names::CLUSTER_LABEL, OTHERS.to_owned())], value(others)));
    }
    named
}

/// A worker's side.
#[derive(Debug, Default)]
pub(super) struct ClusterSlabs {
    present: RefCell<HashMap<Arc<str>, Arc<ClusterSlab>>>,
    /// Slabs of the table before: the same cluster goes on with the same one.
    before: RefCell<HashMap<Arc<str>, Weak<ClusterSlab>>>,
    /// For clusters beyond the bound.
    others: OnceCell<Arc<ClusterSlab>>,
}

impl ClusterSlabs {
    /// Counts a finished request.
    pub(super) fn count(&self, process: &Clusters, cluster: &str, status: u16, took_us: u64) {
        let mut present = self.present.borrow_mut();
        if let Some(slab) = present.get(cluster) {
            return slab.count(status, took_us);
        }
        let known = self.before.borrow().get(cluster).and_then(Weak::upgrade);
        let slab = process.slab(cluster, known).unwrap_or_else(|| {
            let others = || process.slab(OTHERS, None).unwrap_or_default();
            Arc::clone(self.others.get_or_init(others))
        });
        slab.count(status, took_us);
        present.insert(cluster.into(), slab);
    }

    /// The table has changed: names are looked up again, so that those of clusters that are gone do not pile up.
    pub(super) fn forget(&self) {
        let mut present = self.present.borrow_mut();
        self.before.borrow_mut().extend(present.drain().map(|(name, slab)| (name, Arc::downgrade(&slab))));
        self.before.borrow_mut().retain(|_, slab| slab.strong_count() > 0);
    }
}

impl ClusterSlab {
    fn count(&self, status: u16, took_us: u64) {
        bump(self.classes.get(usize::from(status / 100).min(5)), 1);
        let bucket = BUCKETS_MS.iter().position(|bound| took_us <= bound * 1000).unwrap_or(BUCKETS_MS.len());
        bump(self.buckets.get(bucket), 1);
        bump(Some(&self.sum_us), took_us);
    }
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::Ordering::Relaxed;

    use super::*;

    fn totals(clusters: &Clusters) -> Vec<(String, u64)> {
        let total = |slabs: &[Arc<ClusterSlab>]| slabs.iter().map(|slab| slab.classes[2].load(Relaxed)).sum();
        clusters.all().iter().map(|(name, slabs)| (name.to_string(), total(slabs))).collect()
    }

    #[test]
    fn a_cluster_keeps_its_counts_from_table_to_table_and_loses_them_when_it_is_gone() {
        let (process, first, second) =
            (Clusters::default(), ClusterSlabs::default(), ClusterSlabs::default());
        for worker in [&first, &second, &first] {
            worker.count(&process, "a", 200, 1);
            worker.count(&process, "b", 200, 1);
        }
        process.retain(|name| name == "a");
        first.forget();
        for name in ["a", "b"] {
            first.count(&process, name, 200, 1);
        }
        assert_eq!(totals(&process), [("a".to_owned(), 4), ("b".to_owned(), 1)]);
        assert_eq!(process.all()[0].1.len(), 2, "one slab for each worker");
    }

    #[test]
    fn what_is_beyond_the_bound_is_counted_together() {
        let (process, worker) = (Clusters::default(), ClusterSlabs::default());
        for number in 0..MAX_CLUSTERS + 5 {
            worker.count(&process, &number.to_string(), 200, 1);
            worker.count(&process, &number.to_string(), 200, 1);
        }
        let totals = totals(&process);
        assert_eq!(totals.len(), MAX_CLUSTERS + 1);
        assert!(totals.contains(&(OTHERS.to_owned(), 10)), "{:?}", totals.last());
    }
}
