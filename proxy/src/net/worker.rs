//! A worker: one thread with its own runtime, upstream pools and view of the table.

use std::{
    cell::RefCell,
    io,
    net::SocketAddr,
    panic::{AssertUnwindSafe, catch_unwind},
    rc::Rc,
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, AtomicUsize, Ordering::Relaxed},
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
    observe::{Counter, Gauge, Lag, WorkerObserve},
    registry::Drain,
    route::{Router, View},
    serve,
    upstream::Upstream,
};

/// Period of the pool sweep and of the loop-lag measurement.
const TICK: Duration = Duration::from_secs(1);
/// A worker whose timer is later than this is stuck: new connections go to others.
const STUCK: Duration = Duration::from_secs(2);
/// A worker that panics again and again must not take a core for it.
const RESTART_PAUSE: Duration = Duration::from_millis(100);

enum Job {
    Serve(std::net::TcpStream, SocketAddr, Arc<ListenerSpec>),
    Renew,
    Stop,
}

/// The control side's handle on a worker.
pub(super) struct WorkerHandle {
    jobs: mpsc::UnboundedSender<Job>,
    load: Arc<AtomicUsize>,
    lag: Arc<OnceLock<Lag>>,
    /// Was stuck when it was last looked at.
    stuck: AtomicBool,
    /// Gone once it was told to stop.
    thread: Mutex<Option<thread::JoinHandle<()>>>,
}

impl WorkerHandle {
    /// Starts the thread.
    pub(super) fn start<R: Router>(index: usize, shared: &Arc<Shared<R>>) -> io::Result<Self> {
        let (jobs, waiting) = mpsc::unbounded_channel();
        let (load, lag) = (Arc::<AtomicUsize>::default(), Arc::<OnceLock<Lag>>::default());
        let life = Life { shared: Arc::clone(shared), load: Arc::clone(&load), waiting };
        let of_thread = Arc::clone(&lag);
        let name = format!("worker-{index}");
        let thread = thread::Builder::new().name(name).spawn(move || life.live(&of_thread))?;
        Ok(Self { jobs, load, lag, stuck: AtomicBool::new(false), thread: Mutex::new(Some(thread)) })
    }

    /// Open connections.
    pub(super) fn load(&self) -> usize {
        self.load.load(Relaxed)
    }

    /// How late its timer is.
    pub(super) fn lag(&self) -> Duration {
        self.lag.get().map(Lag::now).unwrap_or_default()
    }

    /// It does not come round: what it has waits, and nothing new should.
    pub(super) fn is_stuck(&self) -> bool {
        self.lag() > STUCK
    }

    /// Whether it is stuck now, if that was otherwise when it was last asked.
    pub(super) fn changed(&self) -> Option<bool> {
        let stuck = self.is_stuck();
        (self.stuck.swap(stuck, Relaxed) != stuck).then_some(stuck)
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
    /// Belongs to the thread that makes it.
    pub(crate) fn new(shared: Arc<Shared<R>>, observe: Rc<WorkerObserve>, load: Arc<AtomicUsize>) -> Self {
        let upstream = Upstream::new(
            Arc::clone(&shared.limits),
            Arc::clone(&shared.addresses),
            Arc::clone(&shared.registry),
            Rc::clone(&observe),
        );
        let view = RefCell::new(View::new(shared.table.load_full()));
        Self { shared, upstream, observe, view, load }
    }

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

/// What a worker's thread lives by, from one of its runtimes to the next.
struct Life<R> {
    shared: Arc<Shared<R>>,
    load: Arc<AtomicUsize>,
    waiting: mpsc::UnboundedReceiver<Job>,
}

impl<R: Router> Life<R> {
    /// Runs until it is told to stop. A panic that none of its tasks has caused ends what runs on it, and it begins anew: a
    /// worker that is gone would take every connection that it is given along.
    fn live(mut self, lag: &OnceLock<Lag>) {
        let observe = self.shared.observe.worker();
        lag.get_or_init(|| observe.lag());
        loop {
            // A local runtime belongs to the thread that builds it.
            let runtime = Builder::new_current_thread()
                .enable_all()
                .event_interval(256)
                .build_local(LocalOptions::default());
            let runtime = match runtime {
                Ok(runtime) => runtime,
                Err(error) => return tracing::error!(%error, "a worker cannot start"),
            };
            let ended = catch_unwind(AssertUnwindSafe(|| runtime.block_on(self.run(&observe))));
            // What still runs is dropped, which writes its record.
            let _panics_again = catch_unwind(AssertUnwindSafe(|| drop(runtime)));
            observe.loop_lag(Duration::ZERO, None);
            if ended.is_ok() {
                return;
            }
            observe.count(Counter::WorkerRestarts);
            tracing::error!(
                reason = "internal",
                "a worker has panicked; its connections are lost, and it begins anew"
            );
            thread::sleep(RESTART_PAUSE);
        }
    }

    async fn run(&mut self, observe: &Rc<WorkerObserve>) {
        let (shared, load) = (Arc::clone(&self.shared), Arc::clone(&self.load));
        let worker = Rc::new(Worker::new(shared, Rc::clone(observe), load));
        observe.loop_lag(Duration::ZERO, Some(TICK));
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                job = self.waiting.recv() => match job {
                    Some(Job::Serve(stream, peer, spec)) => start(&worker, stream, peer, spec),
                    Some(Job::Renew) => {
                        worker.view.replace(View::new(worker.shared.table.load_full()));
                        worker.observe.renew();
                    }
                    Some(Job::Stop) | None => break,
                },
                due = tick.tick() => {
                    worker.observe.loop_lag(Instant::now().saturating_duration_since(due), Some(TICK));
                    let tasks = tokio::runtime::Handle::current().metrics().num_alive_tasks();
                    worker.observe.set(Gauge::Tasks, tasks);
                    worker.upstream.sweep(&worker.shared.clusters.load());
                }
            }
        }
        worker.upstream.drain();
    }
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
