//! A worker without sockets, for counting instructions: the real engine and the real upstream side over byte pipes in
//! memory. For benches and tests; no program uses it.

use std::{rc::Rc, sync::Arc};

use arc_swap::ArcSwap;
use tokio::io::{AsyncRead, AsyncWrite, DuplexStream};

use crate::{
    ConnMeta, http,
    limits::Limits,
    net::{Abort, Settings, Shared, Worker},
    observe::Observe,
    registry::{Facts, Role},
    route::{Route, Router},
    upstream::AddressPolicy,
};

/// One worker of a server that listens nowhere. To be used inside of a local runtime.
pub struct InMemory<R: Router> {
    worker: Rc<Worker<R>>,
}

impl<R: Router> std::fmt::Debug for InMemory<R> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("InMemory").finish_non_exhaustive()
    }
}

impl<R: Router> InMemory<R> {
    /// A worker that decides with this table.
    pub fn new(table: Arc<R>, observe: Arc<Observe>) -> Self {
        let settings = Settings { workers: 1, limits: Limits::default(), allow_dev_identity: false };
        let addresses = Arc::new(ArcSwap::from_pointee(AddressPolicy::default()));
        let shared = Arc::new(Shared::new(settings, addresses, observe, table));
        let observe = shared.observe.worker();
        Self { worker: Rc::new(Worker::new(shared, observe, Arc::default())) }
    }

    /// Speaks HTTP/1.1 on the pipe as a client and offers it to requests of this route, as if it had been dialled.
    pub async fn upstream<S>(&self, route: &Route, pipe: S) -> Result<(), crate::Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        self.worker.upstream.adopt(&route.cluster, pipe).await
    }

    /// Serves HTTP/1.1 on the pipe to its end.
    pub async fn serve(&self, meta: ConnMeta, pipe: DuplexStream) {
        let facts = Facts::new(Role::Downstream, Arc::clone(&meta.listener));
        let entry = self.worker.shared.registry.register(facts);
        http::serve(Rc::clone(&self.worker), pipe, Arc::new(meta), entry).await;
    }
}

/// A pipe knows no reset.
impl Abort for DuplexStream {
    fn abort(&self) {}
}
