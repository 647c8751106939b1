//! Step 1, accept: one listening socket for each listener; a connection goes to the least loaded worker.

use std::{
    io,
    net::{Ipv4Addr, SocketAddr},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, atomic::Ordering::Relaxed},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use socket2::{Domain, Protocol, Socket, Type};
use tokio::{
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};
use tokio_util::sync::CancellationToken;

use super::{ListenerSpec, Shared, StartError, worker::WorkerHandle};
use crate::{observe::Counter, route::Router};

const BACKLOG: i32 = 1024;
/// After an accept error that is not the connection's own (no descriptors, no memory).
const BACKOFF: Duration = Duration::from_millis(50);
/// Descriptors that new connections leave to what is open: upstream connections, lookups of names, files, the admin port.
const RESERVED_DESCRIPTORS: usize = 32;

/// An open listener with its accepting task.
pub(super) struct Listening {
    spec: ListenerSpec,
    /// What connections are served by, with the address that the system gave.
    serving: Arc<ArcSwap<ListenerSpec>>,
    addr: SocketAddr,
    closing: CancellationToken,
    task: Mutex<Option<JoinHandle<()>>>,
}

impl Listening {
    /// Binds and starts to accept.
    pub(super) fn open<R: Router>(
        spec: ListenerSpec,
        shared: &Arc<Shared<R>>,
        workers: &Arc<[WorkerHandle]>,
    ) -> Result<Self, StartError> {
        let failed = |source: io::Error| StartError {
            what: format!("listen on {} for {}", spec.bind, spec.name),
            remedy: match source.kind() {
                io::ErrorKind::AddrInUse => {
                    "another program (or a second copy of this one) has the port; choose another"
                }
                io::ErrorKind::PermissionDenied => {
                    "ports below 1024 need CAP_NET_BIND_SERVICE; choose a higher one"
                }
                _ => "is this an address of this machine?",
            },
            source,
        };
        let listener = bind(spec.bind).map_err(failed)?;
        let addr = listener.local_addr().map_err(failed)?;
        let closing = CancellationToken::new();
        let serving = Arc::new(ArcSwap::from_pointee(ListenerSpec { bind: addr, ..spec.clone() }));
        let acceptor = Acceptor {
            listener,
            spec: Arc::clone(&serving),
            shared: Arc::clone(shared),
            workers: Arc::clone(workers),
        };
        let task = tokio::spawn(acceptor.run(closing.clone()));
        Ok(Self { spec, serving, addr, closing, task: Mutex::new(Some(task)) })
    }

    pub(super) fn spec(&self) -> &ListenerSpec {
        &self.spec
    }

    /// Whether the socket is the one that a spec asks for. Each port 0 is another.
    pub(super) fn is_for(&self, spec: &ListenerSpec) -> bool {
        self.spec.bind == spec.bind && (spec.bind.port() != 0 || self.spec.name == spec.name)
    }

    /// Serves the next connections by another spec, without closing the socket.
    pub(super) fn serve_by(&mut self, spec: ListenerSpec) {
        if self.spec != spec {
            self.serving.store(Arc::new(ListenerSpec { bind: self.addr, ..spec.clone() }));
            self.spec = spec;
        }
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Stops accepting once the queue is empty.
    pub(super) fn close(&self) {
        self.closing.cancel();
    }

    pub(super) async fn close_and_wait(self) {
        self.closing.cancel();
        let task = self.task.lock().take();
        if let Some(task) = task {
            // Ends by itself: the queue is finite once we stop.
            let _panicked_if_err = task.await;
        }
    }
}

struct Acceptor<R> {
    listener: TcpListener,
    spec: Arc<ArcSwap<ListenerSpec>>,
    shared: Arc<Shared<R>>,
    workers: Arc<[WorkerHandle]>,
}

impl<R: Router> Acceptor<R> {
    async fn run(self, closing: CancellationToken) {
        // Errors are counted on a slab of the acceptor's own: counters have one writer.
        while let Some(accepted) = closing.run_until_cancelled(self.listener.accept()).await {
            match accepted {
                Ok((stream, peer)) => {
                    if let Some(stream) = closing.run_until_cancelled(self.below_reserve(stream)).await {
                        self.hand_over(stream, peer);
                    }
                }
                Err(error) => {
                    tracing::warn!(listener = %self.spec.load().name, %error, "accept failed");
                    self.count(Counter::AcceptErrors);
                    if !is_connections_own(&error) {
                        tokio::time::sleep(BACKOFF).await;
                    }
                }
            }
        }
        // What the kernel has queued was promised to its clients.
        while let Some(Ok((stream, peer))) = futures_util::FutureExt::now_or_never(self.listener.accept()) {
            self.hand_over(stream, peer);
        }
    }

    /// Waits while only the last descriptors are left: the system gives the lowest that is free, so that a high number means
    /// that all others are in use. What is open needs them, and who wants to know what happens.
    async fn below_reserve(&self, mut stream: TcpStream) -> TcpStream {
        let limit = self.shared.limits.max_descriptors;
        let most = limit - RESERVED_DESCRIPTORS.min(limit / 4);
        while usize::try_from(stream.as_raw_fd()).is_ok_and(|number| number >= most) {
            tracing::warn!(listener = %self.spec.load().name, "descriptors are used up: new connections wait");
            self.count(Counter::AcceptErrors);
            tokio::time::sleep(BACKOFF).await;
            let lower = stream.as_fd().try_clone_to_owned().map(std::net::TcpStream::from);
            if let Ok(Ok(lower)) = lower.map(TcpStream::from_std) {
                stream = lower;
            }
        }
        stream
    }

    fn hand_over(&self, stream: TcpStream, peer: SocketAddr) {
        if self.shared.connections.load(Relaxed) >= self.shared.limits.max_connections {
            self.count(Counter::MaxConnections);
            let spec = self.spec.load();
            tracing::warn!(listener = %spec.name, "connection refused: --max-connections reached");
            return;
        }
        let _not_fatal = stream.set_nodelay(true);
        let Ok(stream) = stream.into_std() else { return };
        let least = self.workers.iter().min_by_key(|worker| (worker.is_stuck(), worker.load()));
        if let Some(worker) = least {
            self.shared.connections.fetch_add(1, Relaxed);
            worker.take(stream, peer, self.spec.load_full());
        }
    }

    fn count(&self, counter: Counter) {
        self.shared.observe.count_on_control(counter);
    }
}

/// The client went away between SYN and accept: nothing is wrong with us.
fn is_connections_own(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::ConnectionAborted | io::ErrorKind::ConnectionReset)
}

/// Without reuse-port, so that a second copy is told. `::` takes IPv4 as well; where IPv6 is off, 0.0.0.0 is bound.
fn bind(addr: SocketAddr) -> io::Result<TcpListener> {
    match socket(addr) {
        Err(error)
            if addr.ip().is_unspecified() && addr.is_ipv6() && error.kind() != io::ErrorKind::AddrInUse =>
        {
            socket(SocketAddr::new(Ipv4Addr::UNSPECIFIED.into(), addr.port()))
        }
        bound => bound,
    }
}

fn socket(addr: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(addr), Type::STREAM, Some(Protocol::TCP))?;
    if addr.is_ipv6() {
        socket.set_only_v6(false)?;
    }
    socket.set_reuse_address(true)?;
    socket.set_nonblocking(true)?;
    socket.bind(&addr.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
