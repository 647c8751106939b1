//! Listeners, workers and the server that owns them.

mod abort;
mod forward;
mod listen;
mod prefixed;
pub(crate) mod proxy_protocol;
mod worker;

use std::{
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use tokio::{
    sync::{Notify, OnceCell, oneshot},
    time::Instant,
};

use crate::{
    Reason,
    limits::Limits,
    observe::{Counter, Gauge, Observe},
    registry::Registry,
    revoke::{self, Present, Swept},
    route::Router,
    upstream::{AddressPolicy, Cluster},
};

pub(crate) use abort::Abort;
pub(crate) use forward::forward_write_end;
use listen::Listening;
pub use prefixed::Prefixed;
pub(crate) use worker::Worker;
use worker::WorkerHandle;

/// What to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// `namespace/name` of the Listener, or `http`, `https`.
    pub name: Arc<str>,
    /// Address and port; port 0 asks the system for one.
    pub bind: SocketAddr,
    /// Look for a TLS `ClientHello`; what is not TLS goes on in cleartext, with `Accept::Plain` asked of the router.
    pub tls: bool,
    /// A PROXY protocol header comes first.
    pub proxy_protocol: bool,
    /// What is spoken.
    pub layer: Layer,
}

/// What is spoken on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Layer {
    /// HTTP/1.1 and HTTP/2: `Router::request` decides.
    Http,
    /// Bytes: `Router::connection` decides.
    Tcp,
}

/// Settings of a server.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Worker threads.
    pub workers: usize,
    /// Limits and timeouts.
    pub limits: Limits,
    /// Dev certificates may be presented on listeners that are not on loopback.
    pub allow_dev_identity: bool,
}

/// Why a server cannot start or a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}; {remedy}")]
pub struct StartError {
    /// What could not be done: `listen on 0.0.0.0:8080`.
    pub what: String,
    /// The system's error.
    #[source]
    pub source: std::io::Error,
    /// What to do about it.
    pub remedy: &'static str,
}

/// How a drain ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Drained {
    /// Everything ended by itself.
    Clean,
    /// The deadline passed and this many connections were cut.
    Cut(usize),
}

/// What all workers share.
pub(crate) struct Shared<R> {
    pub(crate) table: ArcSwap<R>,
    pub(crate) limits: Arc<Limits>,
    pub(crate) addresses: Arc<ArcSwap<AddressPolicy>>,
    pub(crate) registry: Arc<Registry>,
    pub(crate) observe: Arc<Observe>,
    /// Clusters in use, for the pools' sweeps.
    pub(crate) clusters: ArcSwap<Vec<Arc<Cluster>>>,
    pub(crate) connections: AtomicUsize,
    /// The last connection has closed.
    idle: Notify,
    pub(crate) handshakes: AtomicUsize,
    /// Connections that the deadline of the process' drain has cut.
    pub(crate) cut: AtomicUsize,
    pub(crate) allow_dev_identity: bool,
}

impl<R> Shared<R> {
    /// Before anything listens.
    pub(crate) fn new(
        settings: Settings,
        addresses: Arc<ArcSwap<AddressPolicy>>,
        observe: Arc<Observe>,
        table: Arc<R>,
    ) -> Self {
        Self {
            table: ArcSwap::new(table),
            limits: Arc::new(settings.limits),
            addresses,
            registry: Registry::new(),
            observe,
            clusters: ArcSwap::default(),
            connections: AtomicUsize::new(0),
            idle: Notify::new(),
            handshakes: AtomicUsize::new(0),
            cut: AtomicUsize::new(0),
            allow_dev_identity: settings.allow_dev_identity,
        }
    }

    /// Counts a connection out.
    fn closed(&self) {
        if self.connections.fetch_sub(1, Relaxed) == 1 {
            self.idle.notify_one();
        }
    }

    /// Ends when no connection is open.
    async fn idle(&self) {
        while self.connections.load(Relaxed) > 0 {
            self.idle.notified().await;
        }
    }
}

/// The data plane: workers, listeners, the published table.
pub struct Server<R: Router> {
    shared: Arc<Shared<R>>,
    workers: Arc<[WorkerHandle]>,
    listening: Mutex<Vec<Listening>>,
    /// Tables that were replaced: dropped here, never on a worker, once nobody uses them.
    retired: Mutex<Vec<Arc<R>>>,
    /// A drain was ordered: nothing is opened any longer.
    draining: AtomicBool,
    drained: OnceCell<Drained>,
}

impl<R: Router> std::fmt::Debug for Server<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Server").field("workers", &self.workers.len()).finish_non_exhaustive()
    }
}

impl<R: Router> Server<R> {
    /// Starts the workers with a first table.
    pub fn start(
        settings: Settings,
        addresses: Arc<ArcSwap<AddressPolicy>>,
        observe: Arc<Observe>,
        table: Arc<R>,
    ) -> Result<Arc<Self>, StartError> {
        let count = settings.workers.max(1);
        let shared = Arc::new(Shared::new(settings, addresses, observe, table));
        shared.observe.watch(&shared.registry);
        let workers = (0..count).map(|index| WorkerHandle::start(index, &shared));
        let workers = workers.collect::<Result<Vec<_>, _>>().map_err(|source| StartError {
            what: "start a worker thread".to_owned(),
            source,
            remedy: "lower --workers, or raise the limit of threads",
        })?;
        Ok(Arc::new(Self {
            shared,
            workers: workers.into(),
            listening: Mutex::default(),
            retired: Mutex::default(),
            draining: AtomicBool::new(false),
            drained: OnceCell::new(),
        }))
    }

    /// Opens what is new, keeps what is there, closes what is gone. A socket whose address is still asked for stays open
    /// whatever else changes. Each listener succeeds or fails by itself. Nothing changes once a drain has begun. Must be called on the control runtime, which accepts.
    pub fn set_listeners(&self, specs: Vec<ListenerSpec>) -> Vec<Result<(Arc<str>, SocketAddr), StartError>> {
        let mut listening = self.listening.lock();
        if self.draining.load(Relaxed) {
            return Vec::new();
        }
        listening.retain(|open| {
            let keep = specs.iter().any(|spec| open.is_for(spec));
            if !keep {
                open.close();
            }
            keep
        });
        let mut results = Vec::with_capacity(specs.len());
        let mut given = Vec::with_capacity(specs.len());
        for spec in specs {
            let mut free = listening.iter_mut().filter(|open| !given.contains(&open.addr()));
            if let Some(open) = free.find(|open| open.is_for(&spec)) {
                given.push(open.addr());
                results.push(Ok((Arc::clone(&spec.name), open.addr())));
                open.serve_by(spec);
                continue;
            }
            let opened = Listening::open(spec, &self.shared, &self.workers);
            results.push(opened.map(|open| {
                let named = (Arc::clone(&open.spec().name), open.addr());
                given.push(open.addr());
                listening.push(open);
                named
            }));
        }
        results
    }

    /// Name and address of each open listener.
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        self.listening.lock().iter().map(|open| (Arc::clone(&open.spec().name), open.addr())).collect()
    }

    /// Publishes a table: every worker renews its view, also an idle one; the table before is dropped off the workers, by
    /// [`Self::sweep`].
    pub fn publish(&self, table: Arc<R>, clusters: Vec<Arc<Cluster>>) {
        let published = Arc::as_ptr(&table);
        let old = self.shared.table.swap(table);
        let names: std::collections::HashSet<_> =
            clusters.iter().map(|cluster| Arc::clone(&cluster.name)).collect();
        self.shared.observe.retain_clusters(|name| names.contains(name));
        self.shared.clusters.store(Arc::new(clusters));
        for worker in self.workers.iter() {
            worker.renew();
        }
        // What is published again is in use: kept twice, it would never be dropped.
        if Arc::as_ptr(&old) != published {
            self.retired.lock().push(old);
        }
        self.sweep();
    }

    /// Drops the retired tables that nobody uses any longer, and with them their clusters and what follows their names.
    /// Workers let go of a table some time after another was published: whoever publishes calls this on a tick, too.
    pub fn sweep(&self) {
        let mut retired = self.retired.lock();
        let (used, unused): (Vec<_>, Vec<_>) =
            retired.drain(..).partition(|table| Arc::strong_count(table) > 1);
        *retired = used;
        self.shared.observe.set_on_control(Gauge::RetiredTables, retired.len());
        drop(retired);
        if let Ok(control) = tokio::runtime::Handle::try_current() {
            self.shared.observe.set_on_control(Gauge::Tasks, control.metrics().num_alive_tasks());
        }
        drop(unused);
        self.look_at_workers();
    }

    /// Says which workers have come to be stuck, or go on.
    fn look_at_workers(&self) {
        for (index, worker) in self.workers.iter().enumerate() {
            match worker.changed() {
                Some(true) => {
                    self.shared.observe.count_on_control(Counter::WorkerStuck);
                    let (connections, late) = (worker.load(), worker.lag());
                    tracing::error!(
                        worker = index,
                        connections,
                        "a worker is stuck: it has not come round for {late:?}; new connections go to the others"
                    );
                }
                Some(false) => tracing::info!(worker = index, "a worker that was stuck goes on"),
                None => {}
            }
        }
    }

    /// How late the worker is that is latest: the process as a whole is as live as that one.
    pub fn latest(&self) -> Duration {
        self.workers.iter().map(WorkerHandle::lag).max().unwrap_or_default()
    }

    /// Looks at the peers of open connections again, after trust, lists, rules or the table have changed: those that may
    /// not be here any longer drain, and are cut some seconds after `known`, when the change was. Every distinct chain is
    /// verified once, which takes CPU: not for the control thread.
    pub fn recheck(&self, known: Instant) -> Swept {
        let (table, clusters) = (self.shared.table.load_full(), self.shared.clusters.load_full());
        revoke::sweep(&self.shared.registry, &Present::new(&*table, &clusters), &self.shared.observe, known)
    }

    /// The registry of connections.
    pub fn registry(&self) -> &Arc<Registry> {
        &self.shared.registry
    }

    /// Drains: accepts for `drain_delay`, then closes the listeners, says goodbye on every connection, waits for the
    /// deadline, cuts what is left, and ends the workers. Whoever asks again waits for the same drain; one whose caller gave
    /// up goes on with the next.
    pub async fn drain(&self) -> Drained {
        *self.drained.get_or_init(|| self.drain_once()).await
    }

    async fn drain_once(&self) -> Drained {
        /// Cut connections, and then the workers, have this long to go away.
        const GRACE: Duration = Duration::from_secs(1);
        let limits = Arc::clone(&self.shared.limits);
        tokio::time::sleep(limits.drain_delay).await;
        self.draining.store(true, Relaxed);
        let closing: Vec<_> = self.listening.lock().drain(..).collect();
        for open in closing {
            open.close_and_wait().await;
        }
        self.shared.registry.drain(&Reason::DRAIN_TIMEOUT, limits.drain_timeout);
        let wait = limits.drain_timeout + GRACE;
        let left = match tokio::time::timeout(wait, self.shared.idle()).await {
            Ok(()) => 0,
            Err(_late) => self.shared.connections.load(Relaxed),
        };
        let cut = left + self.shared.cut.load(Relaxed);
        let threads: Vec<_> = self.workers.iter().filter_map(WorkerHandle::stop).collect();
        if tokio::time::timeout(GRACE, joined(threads)).await.is_err() {
            tracing::error!("a worker is stuck; its connections end with the process");
        }
        if cut == 0 { Drained::Clean } else { Drained::Cut(cut) }
    }
}

/// Waits for the workers' ends: what runs on them is dropped, and has written its record then. On a thread of its own: a
/// runtime does not end before its blocking tasks, and a stuck worker must not keep the process.
async fn joined(workers: Vec<std::thread::JoinHandle<()>>) {
    let (done, wait) = oneshot::channel::<()>();
    let join = move || {
        for worker in workers {
            if worker.join().is_err() {
                tracing::error!("a worker has panicked");
            }
        }
        drop(done);
    };
    match std::thread::Builder::new().name("workers-end".to_owned()).spawn(join) {
        Ok(_detached) => {
            let _dropped_when_done = wait.await;
        }
        Err(error) => tracing::warn!(%error, "the workers' ends are not waited for"),
    }
}
