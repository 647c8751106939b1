//! Steps 8 and 9: pick an endpoint and dispatch to it, with retries.

use std::{net::SocketAddr, rc::Rc, sync::Arc};

use http::{Request, Response};
use identity::{PeerId, SpiffeId};
use tokio::io::{AsyncRead, AsyncWrite};

use super::Cluster;
use crate::{
    Error,
    limits::Limits,
    message::{ReqBody, ResBody},
    observe::WorkerObserve,
    route::Route,
};

/// What the access log says about the upstream side of a request. Filled while it is tried.
#[derive(Clone, Debug, Default)]
pub struct Attempts {
    /// How many times a request was sent or a connection tried.
    pub count: u32,
    /// The last endpoint.
    pub upstream: Option<SocketAddr>,
    /// `TLSv1.3`...; `None`: cleartext.
    pub tls: Option<&'static str>,
    /// The upstream, as verified.
    pub peer: Option<Arc<PeerId>>,
    /// What we presented.
    pub local_id: Option<SpiffeId>,
    /// The text of the last error, for the program's log.
    pub failure: Option<String>,
}

/// A worker's upstream side: its pools. Not `Send`; one for each worker.
pub struct Upstream {
    _private: (),
}

/// A raw connection to an endpoint, for tunnels.
pub trait UpstreamIo: AsyncRead + AsyncWrite + Unpin + Send {}
impl<T: AsyncRead + AsyncWrite + Unpin + Send> UpstreamIo for T {}

impl Upstream {
    /// Pools of one worker. `control` is the control runtime, where names are resolved.
    pub fn new(limits: Arc<Limits>, observe: Rc<WorkerObserve>) -> Rc<Self> {
        drop((limits, observe));
        todo!()
    }

    /// Picks an endpoint, takes or makes a connection, checks the peer's identity before the first byte, sends, and gives
    /// the head of the answer with its body. Honours [`Error::retry`] and the route's policy. The deadline of the whole
    /// request is the caller's; connect deadlines and per-try deadlines are kept here.
    ///
    /// Cancel-safe: dropping the future gives up the request and its connection.
    pub async fn send(
        &self,
        route: &Route,
        request: Request<ReqBody>,
        attempts: &mut Attempts,
    ) -> Result<Response<ResBody>, Error> {
        let _ = (route, request, attempts);
        todo!()
    }

    /// A fresh connection for bytes, identity checked.
    pub async fn connect(
        &self,
        cluster: &Arc<Cluster>,
        attempts: &mut Attempts,
    ) -> Result<Box<dyn UpstreamIo>, Error> {
        let _ = (cluster, attempts);
        todo!()
    }

    /// Retires every idle connection and tells the others to close after their present streams: drain.
    pub fn drain(&self) {}
}
