//! Observe: metrics in single-writer slabs, and the access log through a bounded channel.
//!
//! A blocked log pipe never stalls a worker: lines are dropped and counted.

mod clusters;
mod collect;
mod log;
pub mod names;
mod panics;
mod record;

use std::{
    collections::HashMap,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicI64, AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use parking_lot::Mutex;

pub use clusters::MAX_CLUSTERS;
pub use log::LogWriter;
pub use names::{Counter, Gauge};
pub use panics::watch as watch_panics;
pub use record::Record;

use crate::{
    ConnMeta, Reason,
    registry::{Registry, Role},
    route::Dice,
    upstream::Attempts,
};
use clusters::{ClusterSlabs, Clusters};
use names::Metric;

/// Form of the access log.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AccessLog {
    /// None.
    Off,
    /// One line of text.
    Text,
    /// One JSON object a line.
    Json,
}

/// A value with its labels.
pub type Labelled = (Vec<(&'static str, String)>, f64);

/// A gauge that the program adds: its values by labels at the moment of a scrape.
pub struct ExtraGauge {
    /// Name and help.
    pub metric: Metric,
    /// Labels and value of each series.
    pub read: Box<dyn Fn() -> Vec<Labelled> + Send + Sync>,
}

impl std::fmt::Debug for ExtraGauge {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ExtraGauge").field("name", &self.metric.name).finish_non_exhaustive()
    }
}

/// Process-wide side of metrics and access log.
#[derive(Debug)]
pub struct Observe {
    access_log: AccessLog,
    log: LogWriter,
    /// Of the workers, by their numbers.
    slabs: Mutex<Vec<Arc<Slab>>>,
    /// What the control side counts.
    control: Arc<Slab>,
    /// What is counted elsewhere, by whichever thread it happens to.
    elsewhere: Mutex<Vec<(Counter, Arc<AtomicU64>)>>,
    clusters: Clusters,
    extras: Mutex<Vec<ExtraGauge>>,
}

/// Lines of the access log that may wait for its writer.
const LINES_WAITING: usize = 16 * 1024;

/// Upper bounds of the latency buckets, in microseconds.
const BUCKETS_US: [u64; 14] = [
    500, 1_000, 2_500, 5_000, 10_000, 25_000, 50_000, 100_000, 250_000, 500_000, 1_000_000, 2_500_000,
    5_000_000, 10_000_000,
];

/// The counters of one worker, written by it alone and read at scrape.
#[derive(Debug)]
struct Slab {
    counters: [AtomicU64; Counter::COUNT],
    gauges: [AtomicI64; Gauge::COUNT],
    /// Requests by status class: none, 1xx to 5xx.
    classes: [AtomicU64; 6],
    buckets: [AtomicU64; BUCKETS_US.len() + 1],
    latency_sum_us: AtomicU64,
    /// Everything that is not `ok`, by reason: off the hot path.
    reasons: Mutex<HashMap<Reason, u64>>,
    /// How late the worker's timer last was, in microseconds.
    loop_lag_us: AtomicU64,
    /// When the worker's timer has to be heard of next, in microseconds since [`epoch`]; 0: it has none.
    due_us: AtomicU64,
}

/// What moments are counted from: monotonic, and the same for all threads.
fn epoch() -> std::time::Instant {
    static EPOCH: std::sync::LazyLock<std::time::Instant> = std::sync::LazyLock::new(std::time::Instant::now);
    *EPOCH
}

impl Default for Slab {
    fn default() -> Self {
        Self {
            counters: std::array::from_fn(|_| AtomicU64::new(0)),
            gauges: std::array::from_fn(|_| AtomicI64::new(0)),
            classes: Default::default(),
            buckets: Default::default(),
            latency_sum_us: AtomicU64::new(0),
            reasons: Mutex::default(),
            loop_lag_us: AtomicU64::new(0),
            due_us: AtomicU64::new(0),
        }
    }
}

impl Slab {
    /// How late the worker's timer is or last was: a worker that is stuck shows while it is.
    fn lag_us(&self) -> u64 {
        let last = self.loop_lag_us.load(Relaxed);
        match self.due_us.load(Relaxed) {
            0 => last,
            due => micros(epoch().elapsed()).saturating_sub(due).max(last),
        }
    }

    fn set(&self, gauge: Gauge, value: usize) {
        if let Some(cell) = self.gauges.get(gauge as usize) {
            cell.store(i64::try_from(value).unwrap_or(i64::MAX), Relaxed);
        }
    }
}

impl Observe {
    /// Starts the log writer (stdout).
    pub fn new(access_log: AccessLog) -> Arc<Self> {
        Self::logging_to(access_log, std::io::stdout())
    }

    /// Starts the log writer.
    pub fn logging_to(access_log: AccessLog, out: impl std::io::Write + Send + 'static) -> Arc<Self> {
        let log = if access_log == AccessLog::Off {
            LogWriter::off()
        } else {
            LogWriter::start(("access-log", LINES_WAITING), out, |failing| {
                if let Some(error) = failing {
                    tracing::error!(
                        %error,
                        "the access log cannot be written; its lines are lost until it can: is the disk full, or its reader gone?"
                    );
                } else {
                    tracing::info!("the access log is written again");
                }
            })
        };
        let elsewhere =
            vec![(Counter::AccessLogDropped, log.lost()), (Counter::Panics, Arc::clone(panics::count()))];
        Arc::new(Self {
            access_log,
            log,
            slabs: Mutex::default(),
            control: Arc::default(),
            elsewhere: Mutex::new(elsewhere),
            clusters: Clusters::default(),
            extras: Mutex::default(),
        })
    }

    /// Adds to a counter what is counted in a cell of somebody else's.
    pub fn count_elsewhere(&self, counter: Counter, cell: Arc<AtomicU64>) {
        self.elsewhere.lock().push((counter, cell));
    }

    /// The slab of a new worker, written by that worker alone and summed at scrape.
    pub fn worker(self: &Arc<Self>) -> Rc<WorkerObserve> {
        let slab = Arc::new(Slab::default());
        self.slabs.lock().push(Arc::clone(&slab));
        Rc::new(WorkerObserve { process: Arc::clone(self), slab, clusters: ClusterSlabs::default() })
    }

    /// Drops the series of clusters that are in use no longer.
    pub(crate) fn retain_clusters(&self, in_use: impl Fn(&str) -> bool) {
        self.clusters.retain(in_use);
    }

    /// Shows how many connections are open to each cluster.
    pub(crate) fn watch(&self, registry: &Arc<Registry>) {
        let registry = Arc::downgrade(registry);
        let read = move || {
            let counts = registry.upgrade().map(|registry| registry.count_by_name(Role::Upstream));
            clusters::bounded(counts.unwrap_or_default())
        };
        self.register(ExtraGauge { metric: names::CLUSTER_OPEN, read: Box::new(read) });
    }

    /// Adds a gauge of the program's own.
    pub fn register(&self, gauge: ExtraGauge) {
        self.extras.lock().push(gauge);
    }

    /// Everything in the Prometheus text format.
    pub fn render(&self) -> String {
        collect::render(self)
    }

    /// Adds one to a counter from the control thread, on a slab of its own.
    pub fn count_on_control(&self, counter: Counter) {
        if let Some(cell) = self.control.counters.get(counter as usize) {
            cell.fetch_add(1, Relaxed);
        }
    }

    /// Sets a gauge of the control thread's.
    pub(crate) fn set_on_control(&self, gauge: Gauge, value: usize) {
        self.control.set(gauge, value);
    }

    /// The sum of a counter over all threads.
    pub fn total(&self, counter: Counter) -> u64 {
        let slabs = self.slabs.lock();
        let slabs =
            slabs.iter().chain([&self.control]).filter_map(|slab| slab.counters.get(counter as usize));
        let elsewhere = self.elsewhere.lock();
        let elsewhere = elsewhere.iter().filter(|(counted, _)| *counted == counter).map(|(_, cell)| &**cell);
        slabs.chain(elsewhere).map(|cell| cell.load(Relaxed)).sum()
    }

    /// Waits until every line that was accepted is written.
    pub fn flush(&self) {
        self.log.flush();
    }
}

/// A request that was refused before its head was read whole.
pub(crate) struct Refused {
    /// `HTTP/1.1`, `HTTP/2`.
    pub(crate) protocol: &'static str,
    /// What the client was told; 0: nothing.
    pub(crate) status: u16,
    pub(crate) reason: Reason,
    /// Since its first byte.
    pub(crate) after: Duration,
}

/// How late the timer of a worker is, while it is.
#[derive(Clone, Debug)]
pub(crate) struct Lag(Arc<Slab>);

impl Lag {
    /// Now.
    pub(crate) fn now(&self) -> Duration {
        Duration::from_micros(self.0.lag_us())
    }
}

/// A worker's side.
#[derive(Debug)]
pub struct WorkerObserve {
    process: Arc<Observe>,
    slab: Arc<Slab>,
    clusters: ClusterSlabs,
}

/// Adds to a cell that only this thread writes: no locked instruction.
fn bump(cell: Option<&AtomicU64>, by: u64) {
    if let Some(cell) = cell {
        cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
    }
}

impl WorkerObserve {
    /// Adds one to a counter.
    pub fn count(&self, counter: Counter) {
        bump(self.slab.counters.get(counter as usize), 1);
    }

    /// Adds to a gauge (connections, streams in flight): positive or negative.
    pub fn gauge(&self, gauge: Gauge, by: i64) {
        if let Some(cell) = self.slab.gauges.get(gauge as usize) {
            cell.store(cell.load(Relaxed).wrapping_add(by), Relaxed);
        }
    }

    /// Sets a gauge of this worker's.
    pub(crate) fn set(&self, gauge: Gauge, value: usize) {
        self.slab.set(gauge, value);
    }

    /// The table has changed: clusters may be gone.
    pub(crate) fn renew(&self) {
        self.clusters.forget();
    }

    /// Notes how late the worker's timer was, and when it will come round next; `None`: never, as it ends.
    pub fn loop_lag(&self, lag: Duration, next: Option<Duration>) {
        self.slab.loop_lag_us.store(micros(lag), Relaxed);
        let due = next.map_or(0, |next| micros(epoch().elapsed() + next).max(1));
        self.slab.due_us.store(due, Relaxed);
    }

    /// How late the worker's timer is, for the control side.
    pub(crate) fn lag(&self) -> Lag {
        Lag(Arc::clone(&self.slab))
    }

    /// Counts a request of which no head was read, and writes what is known of it.
    pub(crate) fn refused(&self, conn: &ConnMeta, refused: Refused) {
        self.record(&Record {
            conn,
            method: "",
            authority: conn.sni.as_deref().unwrap_or_default(),
            path: "",
            protocol: refused.protocol,
            status: refused.status,
            grpc_status: None,
            reason: refused.reason,
            duration: refused.after,
            bytes_in: 0,
            bytes_out: 0,
            client: conn.client(),
            route: "",
            cluster: "",
            attempts: &Attempts::default(),
            dice: Dice::new(0),
            request_id: "",
            trace_id: "",
        });
    }

    /// Counts a finished request or connection and writes its access line.
    pub fn record(&self, record: &Record<'_>) {
        let slab = &self.slab;
        bump(slab.classes.get(usize::from(record.status / 100).min(5)), 1);
        let took = micros(record.duration);
        let bucket = BUCKETS_US.iter().position(|bound| took <= *bound).unwrap_or(BUCKETS_US.len());
        bump(slab.buckets.get(bucket), 1);
        bump(Some(&slab.latency_sum_us), took);
        if !record.cluster.is_empty() {
            self.clusters.count(&self.process.clusters, record.cluster, record.status, took);
        }
        if record.reason != Reason::OK {
            *slab.reasons.lock().entry(record.reason.clone()).or_default() += 1;
        }
        let line = match self.process.access_log {
            AccessLog::Off => return,
            AccessLog::Json => record.to_json(),
            AccessLog::Text => record.to_text(),
        };
        self.process.log.write(line);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
