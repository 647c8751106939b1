//! Listeners, workers and the server that owns them.

use std::{net::SocketAddr, sync::Arc};

use crate::{limits::Limits, observe::Observe, route::Router};

/// What to listen on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenerSpec {
    /// `namespace/name` of the Listener, or `http`, `https`.
    pub name: Arc<str>,
    /// Address and port; port 0 asks the system for one.
    pub bind: SocketAddr,
    /// Look for a TLS ClientHello; what is not TLS goes on in cleartext, with `Accept::Plain` asked of the router.
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

/// The data plane: workers, listeners, the published table.
pub struct Server<R: Router> {
    _table: std::marker::PhantomData<R>,
}

impl<R: Router> Server<R> {
    /// Starts the workers with a first table.
    pub fn start(settings: Settings, observe: Arc<Observe>, table: Arc<R>) -> Result<Arc<Self>, StartError> {
        drop((settings, observe, table));
        todo!()
    }

    /// Opens what is new, keeps what is there, drains what is gone. Each listener succeeds or fails by itself.
    pub fn set_listeners(&self, specs: Vec<ListenerSpec>) -> Vec<Result<(Arc<str>, SocketAddr), StartError>> {
        drop(specs);
        todo!()
    }

    /// Name and address of each open listener.
    pub fn listeners(&self) -> Vec<(Arc<str>, SocketAddr)> {
        todo!()
    }

    /// Publishes a table: every worker renews its view, also an idle one; retired tables are dropped off the workers.
    pub fn publish(&self, table: Arc<R>) {
        drop(table);
        todo!()
    }

    /// The registry of connections.
    pub fn registry(&self) -> &Arc<crate::registry::Registry> {
        todo!()
    }

    /// Drains: accepts for `drain_delay`, then closes the listeners, says goodbye on every connection, waits for the
    /// deadline, cuts what is left, and ends the workers.
    pub async fn drain(&self) -> Drained {
        todo!()
    }
}
