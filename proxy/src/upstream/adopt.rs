//! A connection that nobody dialled: a pipe in memory, for counting instructions.

use std::sync::Arc;

use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};

use super::{
    Cluster, Upstream,
    conn::Pooled,
    connect::{ConnFacts, failed},
    dial::no_endpoints,
    pool::PlaceKey,
    stream::Heard,
};
use crate::{Error, Reason};

impl Upstream {
    /// Speaks HTTP/1.1 on the pipe and puts it into the pool, at the cluster's first endpoint.
    pub(crate) async fn adopt<S>(&self, cluster: &Arc<Cluster>, pipe: S) -> Result<(), Error>
    where
        S: AsyncRead + AsyncWrite + Unpin + 'static,
    {
        let endpoints = cluster.endpoints();
        let endpoint = endpoints.first().ok_or_else(|| no_endpoints(cluster))?;
        let opened = http1::handshake(TokioIo::new(pipe)).await;
        let (sender, running) =
            opened.map_err(|error| failed(endpoint.addr, Reason::UPSTREAM_PROTOCOL, error.to_string()))?;
        self.driving.borrow_mut().spawn_local(async move {
            if let Err(error) = running.await {
                tracing::debug!(%error, "upstream connection ended");
            }
        });
        let conn = Pooled::new(endpoint, Arc::<ConnFacts>::default(), Arc::<Heard>::default(), None);
        self.pool.give_back(PlaceKey::of(cluster, endpoint), sender, conn);
        Ok(())
    }
}
