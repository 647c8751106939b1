//! The running ingress: control loop, publishing, admin, drain.

mod control;
mod graces;
mod logging;
mod state;
mod status;
mod sweeper;

use std::{
    io,
    path::{Path, PathBuf},
    sync::Arc,
};

use arc_swap::ArcSwap;
use identity::{
    Source,
    dev::{DevAuthority, Entries},
    source::{WorkloadApi, WorkloadEndpoint},
};
use proxy::{
    admin::{self, Surface},
    net::{Drained, Server},
    observe::Observe,
    upstream::{AddressPolicy, Clusters, Resolver},
};
use resource::FileSource;
use serde_json::json;
use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::{
    cli::{IngressSettings, SpiffeSocket},
    publish::Publisher,
    route::Table,
};
use control::Control;
pub use logging::{flush as flush_log, init as init_logging};
pub use state::State;
use status::Conditions;

/// Why the ingress cannot start, with its exit status.
#[derive(Debug, thiserror::Error)]
#[error("{message}")]
pub struct StartFailure {
    /// 2: input that cannot be read; 3: anything else.
    pub status: u8,
    /// What, why, and what to do.
    pub message: String,
}

impl StartFailure {
    fn new(message: &impl ToString) -> Self {
        Self { status: 3, message: message.to_string() }
    }
}

/// An ingress that serves.
pub struct App {
    settings: IngressSettings,
    state: Arc<State>,
    server: Arc<Server<Table>>,
    observe: Arc<Observe>,
    admin: std::net::SocketAddr,
    health: Option<std::net::SocketAddr>,
    tasks: tokio::task::JoinSet<()>,
    cancel: CancellationToken,
    /// Serves the SVIDs of `--spiffe-socket dev`.
    dev: Option<Arc<DevAuthority>>,
}

/// Where this process listens: an upstream there would be a request to itself, and that one another.
struct OwnAddresses {
    policy: Arc<ArcSwap<AddressPolicy>>,
    /// Admin and health; listeners come and go.
    lasting: Vec<std::net::SocketAddr>,
}

impl OwnAddresses {
    /// After the listeners have changed, and before a table is published that may name the new ones.
    fn refresh(&self, server: &Server<Table>) {
        let own = server.listeners().into_iter().map(|(_, addr)| addr).chain(self.lasting.iter().copied());
        self.policy.store(Arc::new(AddressPolicy {
            own: own.collect(),
            ..AddressPolicy::clone(&self.policy.load())
        }));
    }
}

impl App {
    /// Starts everything; returns once it listens. Must run on the control runtime.
    pub async fn start(settings: IngressSettings) -> Result<Self, StartFailure> {
        let manifests =
            FileSource::load(&settings.manifests, &settings.decision.namespace).map_err(|error| {
                StartFailure {
                    status: 2,
                    message: format!("{error}; name a file or folder that can be read"),
                }
            })?;
        let cancel = CancellationToken::new();
        let mut tasks = tokio::task::JoinSet::new();
        let observe = observe(&settings, &mut tasks);
        let (spiffe, dev) = spiffe(&settings, &mut tasks, &cancel)?;
        let addresses = Arc::new(ArcSwap::from_pointee(AddressPolicy {
            allow_loopback: true,
            allow: settings.decision.allow_upstream.clone(),
            own: Vec::new(),
        }));
        let clusters = Clusters::new(Some(Resolver::system(tokio::runtime::Handle::current())));
        let conditions = Arc::new(Conditions::default());
        let mut control = Control::new(
            &settings,
            manifests,
            settings.decision.keyring(spiffe.clone()),
            Publisher::new(clusters),
            Arc::<Conditions>::clone(&conditions),
        );
        let (table, in_use) = control.build().await.map_err(|error| StartFailure::new(&error))?;
        let server = Server::start(
            settings.server.clone(),
            Arc::clone(&addresses),
            Arc::clone(&observe),
            Arc::clone(&table),
        )
        .map_err(|error| StartFailure::new(&error))?;
        server.publish(Arc::clone(&table), in_use);
        for opened in server.set_listeners(control::listeners(&table)) {
            opened.map_err(|error| StartFailure::new(&error))?;
        }
        let state = State::new(
            table,
            (control.outcome(), conditions),
            spiffe,
            Arc::clone(&observe),
            Arc::clone(&server),
        );
        state.register_metrics();
        let admin = listen(settings.admin, Surface::Admin, &state, &mut tasks).await?;
        let health = match settings.health {
            Some(addr) => Some(listen(addr, Surface::Health, &state, &mut tasks).await?),
            None => None,
        };
        let own = OwnAddresses { policy: addresses, lasting: [admin].into_iter().chain(health).collect() };
        own.refresh(&server);
        tasks.spawn(control.sweeper().run(Arc::clone(&server), state.spiffe_source(), cancel.clone()));
        tasks.spawn(control.run(Arc::clone(&server), Arc::clone(&state), own, cancel.clone()));
        state.expect_identity(settings.identity_timeout, &mut tasks);
        let app = Self { settings, state, server, observe, admin, health, tasks, cancel, dev };
        app.announce().map_err(|error| StartFailure::new(&error))?;
        Ok(app)
    }

    /// Name and address of each listener.
    pub fn listeners(&self) -> Vec<(Arc<str>, std::net::SocketAddr)> {
        self.server.listeners()
    }

    /// What the admin address shows.
    pub fn state(&self) -> &Arc<State> {
        &self.state
    }

    /// The admin address.
    pub fn admin(&self) -> std::net::SocketAddr {
        self.admin
    }

    /// Serves until SIGTERM, SIGINT or `POST /shutdown`, then drains; gives the exit status. `POST /drain` drains the data
    /// plane alone: the admin side goes on until one of the others comes.
    pub async fn run(mut self, mut termination: Termination) -> u8 {
        loop {
            tokio::select! {
                () = termination.requested() => break,
                () = self.state.shutdown_requested() => break,
                () = self.state.drain_requested() => {
                    tracing::info!("draining; the process stays");
                    let server = Arc::clone(&self.server);
                    self.tasks.spawn(async move {
                        let _shown_by_metrics = server.drain().await;
                    });
                }
            }
        }
        let observe = Arc::clone(&self.observe);
        tokio::select! {
            status = self.drain() => status,
            () = async {
                // The first one may have come by HTTP; a second signal means now.
                termination.requested().await;
            } => {
                tracing::warn!("a second signal: what still runs is cut");
                observe.flush();
                4
            }
        }
    }

    /// Drains and ends; gives the exit status.
    pub async fn drain(mut self) -> u8 {
        self.state.set_draining();
        tracing::info!("draining");
        let drained = self.server.drain().await;
        self.cancel.cancel();
        self.tasks.shutdown().await;
        if let Some(dev) = &self.dev {
            dev.stop().await;
        }
        self.observe.flush();
        match drained {
            Drained::Clean => 0,
            Drained::Cut(count) => {
                tracing::warn!(connections = count, "the drain deadline passed; connections were cut");
                4
            }
        }
    }

    /// Says what listens where: in the ready file, in the log, and with a curl line on a terminal.
    fn announce(&self) -> io::Result<()> {
        let listeners = self.server.listeners();
        if let Some(path) = &self.settings.ready_file {
            let named: serde_json::Map<_, _> =
                listeners.iter().map(|(name, addr)| (name.to_string(), json!(addr.to_string()))).collect();
            let mut ready =
                json!({"pid": std::process::id(), "listeners": named, "admin": self.admin.to_string()});
            if let (Some(health), Some(fields)) = (self.health, ready.as_object_mut()) {
                fields.insert("health".to_owned(), json!(health.to_string()));
            }
            write_by_rename(path, &ready.to_string()).map_err(|error| {
                let path = path.display();
                let remedy = "name a file in a folder that exists and can be written to with --ready-file";
                io::Error::other(format!("cannot write the ready file {path}: {error}; {remedy}"))
            })?;
        }
        for (name, addr) in &listeners {
            tracing::info!(listener = %name, %addr, "listening");
        }
        tracing::info!(addr = %self.admin, "admin");
        Ok(())
    }
}

fn write_by_rename(path: &Path, text: &str) -> io::Result<()> {
    let mut beside = path.as_os_str().to_owned();
    beside.push(".new");
    std::fs::write(&beside, text)?;
    std::fs::rename(&beside, path)
}

/// Metrics and the access log; what happens to the program's log is a part of them.
fn observe(settings: &IngressSettings, tasks: &mut tokio::task::JoinSet<()>) -> Arc<Observe> {
    let observe = Observe::new(settings.access_log);
    let shown = Arc::clone(&observe);
    tasks.spawn(async move { logging::watch(&shown).await });
    observe
}

/// The Workload API's source, and the dev authority when it runs in this process.
type Identity = (Option<Arc<Source>>, Option<Arc<DevAuthority>>);

/// Opens an admin or health port.
async fn listen(
    addr: std::net::SocketAddr,
    surface: Surface,
    state: &Arc<State>,
    tasks: &mut tokio::task::JoinSet<()>,
) -> Result<std::net::SocketAddr, StartFailure> {
    let opened = admin::serve(addr, surface, admin::DEADLINE, Arc::<State>::clone(state)).await;
    let (bound, serving) = opened.map_err(|error| {
        let remedy = "choose another address with --admin or --health";
        StartFailure::new(&format!("listen on {addr} for admin; {remedy}: {error}"))
    })?;
    tasks.spawn(serving);
    Ok(bound)
}

/// The Workload API's source and the tasks that feed it.
fn spiffe(
    settings: &IngressSettings,
    tasks: &mut tokio::task::JoinSet<()>,
    cancel: &CancellationToken,
) -> Result<Identity, StartFailure> {
    let Some(socket) = &settings.decision.spiffe else { return Ok((None, None)) };
    let (endpoint, dev) = match socket {
        SpiffeSocket::Uri(uri) => {
            let endpoint = uri.parse().map_err(|message| StartFailure { status: 2, message })?;
            (endpoint, None)
        }
        SpiffeSocket::Dev => {
            let entries = Entries::simple("dev.local", &["spiffe://dev.local/ingress"], "1h");
            let folder = fresh_folder("selvedge-dev");
            let authority =
                DevAuthority::start(entries, &folder, false).map_err(|error| StartFailure::new(&error))?;
            let socket = authority.sockets().into_iter().next().map(|(_, socket)| socket).unwrap_or_default();
            tracing::warn!(socket = %socket.display(), "the dev authority issues SVIDs for this machine; never use it elsewhere");
            (WorkloadEndpoint::Unix(socket), Some(Arc::new(authority)))
        }
    };
    let api = WorkloadApi::new(endpoint, socket.source_ref(), WorkloadApi::DENIED_GRACE);
    let source = Arc::clone(api.source());
    tasks.spawn(api.run(cancel.clone()));
    Ok((Some(source), dev))
}

/// A folder of this process alone, below the system's folder for temporary files.
pub fn fresh_folder(name: &str) -> PathBuf {
    std::env::temp_dir().join(format!("{name}-{}-{:08x}", std::process::id(), fastrand::u32(..)))
}

/// SIGTERM and SIGINT. SIGHUP is taken and ignored: files are watched anyway.
#[derive(Debug)]
pub struct Termination {
    terminate: Signal,
    interrupt: Signal,
    hangup: Signal,
}

impl Termination {
    /// Takes the signals over.
    pub fn new() -> io::Result<Self> {
        Ok(Self {
            terminate: signal(SignalKind::terminate())?,
            interrupt: signal(SignalKind::interrupt())?,
            hangup: signal(SignalKind::hangup())?,
        })
    }

    /// Waits for the next request to end.
    pub async fn requested(&mut self) {
        loop {
            tokio::select! {
                _ = self.terminate.recv() => return,
                _ = self.interrupt.recv() => return,
                _ = self.hangup.recv() => tracing::info!("SIGHUP changes nothing: manifests and certificates are watched"),
            }
        }
    }
}
