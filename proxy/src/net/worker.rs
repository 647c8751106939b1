//! A worker: one thread with its own runtime, upstream pools and view of the table.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    thread,
    time::Duration,
};

use parking_lot::Mutex;
use tokio::{
    runtime::{Builder, LocalOptions},
    sync::mpsc,
    time::Instant,
};

use super::{ListenerSpec, Shared};
use crate::{
    Reason,
    observe::{Counter, Gauge, WorkerObserve},
    registry::Drain,
    route::{Router, View},
    serve,
    upstream::Upstream,
};

/// Period of the pool sweep and of the loop-lag measurement.
const TICK: Duration = Duration::from_secs(1);

enum Job {
    Serve(std::net::TcpStream, SocketAddr, Arc<ListenerSpec>),
    Renew,
    Stop,
}

/// The control side's handle on a worker.
pub(super) struct WorkerHandle {
    jobs: mpsc::UnboundedSender<Job>,
    load: Arc<AtomicUsize>,
    /// Gone once it was told to stop.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl WorkerHandle {
    /// Starts the thread.
    pub(super) fn start<R: Router>(index: usize, shared: &Arc<Shared<R>>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let load = Arc::new(AtomicUsize::new(0));
        let runtime_of = (Arc::clone(shared), Arc::clone(&load));
        let thread = thread::Builder::new().name(format!("worker-{index}")).spawn(move || {
            let (shared, load) = runtime_of;
            // A local runtime belongs to the thread that builds it.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(256)
                .build_local(LocalOptions::default());
            match runtime {
                Ok(runtime) => runtime.block_on(run(shared, load, waiting)),
                Err(error) => tracing::error!(%error, "a worker cannot start"),
            }
        })?;
        Ok(Self { jobs, load, thread: Mutex::new(Some(thread)) })
    }

    /// Open connections.
    pub(super) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// Gives it a connection.
    pub(super) fn take(&self, stream: std::net::TcpStream, peer: SocketAddr, spec: Arc<ListenerSpec>) {
        self.load.fetch_add(1, Relaxed);
        self.send(Job::Serve(stream, peer, spec));
    }

    /// Tells it to look at the published table.
    pub(super) fn renew(&self) {
        self.send(Job::Renew);
    }

    /// Tells it to end, and gives its thread to wait for.
    pub(super) fn stop(&self) -> Option<thread::JoinHandle<()>> {
        let thread = self.thread.lock().take()?;
        self.send(Job::Stop);
        Some(thread)
    }

    fn send(&self, job: Job) {
        // After a drain its end is no news.
        if self.jobs.send(job).is_err() && self.thread.lock().is_some() {
            tracing::error!("a worker has ended");
        }
    }
}

/// What the connections of one worker share.
pub(crate) struct Worker<R> {
    pub(crate) shared: Arc<Shared<R>>,
    pub(crate) upstream: Rc<Upstream>,
    pub(crate) observe: Rc<WorkerObserve>,
    view: RefCell<View<R>>,
    load: Arc<AtomicUsize>,
}

impl<R: Router> Worker<R> {
    /// The table to decide with, for the whole life of a request.
    pub(crate) fn view(&self) -> View<R> {
        self.view.borrow().clone()
    }
}

impl<R> Worker<R> {
    /// Counts a connection that a drain's deadline has cut.
    pub(crate) fn cut(&self, drain: &Drain) {
        self.observe.count(Counter::DrainCut);
        if drain.reason == Reason::DRAIN_TIMEOUT {
            self.shared.cut.fetch_add(1, Relaxed);
        }
    }
}

/// Counts a connection out.
struct Open<R: Router>(Rc<Worker<R>>);

impl<R: Router> Drop for Open<R> {
    fn drop(&mut self) {
        self.0.observe.gauge(Gauge::DownstreamOpen, -1);
        self.0.load.fetch_sub(1, Relaxed);
        self.0.shared.closed();
    }
}

async fn run<R: Router>(
    shared: Arc<Shared<R>>,
    load: Arc<AtomicUsize>,
    mut jobs: mpsc::UnboundedReceiver<Job>,
) {
    let observe = shared.observe.worker();
    let upstream = Upstream::new(
        Arc::clone(&shared.limits),
        Arc::clone(&shared.addresses),
        Arc::clone(&shared.registry),
        Rc::clone(&observe),
    );
    let view = RefCell::new(View::new(shared.table.load_full()));
    let worker = Rc::new(Worker { shared, upstream, observe, view, load });
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            job = jobs.recv() => match job {
                Some(Job::Serve(stream, peer, spec)) => start(&worker, stream, peer, spec),
                Some(Job::Renew) => {
                    worker.view.replace(View::new(worker.shared.table.load_full()));
                    worker.observe.renew();
                }
                Some(Job::Stop) | None => break,
            },
            due = tick.tick() => {
                worker.observe.loop_lag(Instant::now().saturating_duration_since(due));
                worker.observe.set(Gauge::Tasks, tokio::runtime::Handle::current().metrics().num_alive_tasks());
                worker.upstream.sweep(&worker.shared.clusters.load());
            }
        }
    }
    worker.upstream.drain();
}

fn start<R: Router>(
    worker: &Rc<Worker<R>>,
    stream: std::net::TcpStream,
    peer: SocketAddr,
    spec: Arc<ListenerSpec>,
) {
    worker.observe.gauge(Gauge::DownstreamOpen, 1);
    let open = Open(Rc::clone(worker));
    match tokio::net::TcpStream::from_std(stream) {
        Ok(stream) => {
            let worker = Rc::clone(worker);
            tokio::task::spawn_local(async move {
                serve::connection(worker, stream, peer, spec).await;
                drop(open);
            });
        }
        Err(error) => tracing::warn!(%error, "a connection cannot be served"),
    }
}
