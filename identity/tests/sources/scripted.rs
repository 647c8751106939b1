//! A Workload API that does what a good one will not: each stream follows the next script.

use std::{
    collections::VecDeque,
    path::Path,
    pin::{Pin, pin},
    sync::Arc,
};

use futures_util::{Stream, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svidRequest, X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::watch,
    task::JoinSet,
};
use tokio_stream::{
    StreamExt as _,
    wrappers::{TcpListenerStream, UnixListenerStream},
};
use tokio_util::sync::CancellationToken;
use tonic::{Code, Request, Response, Status};
use tower_service::Service as _;

/// One step of a stream.
#[derive(Clone)]
pub(crate) enum Step {
    /// The call itself is answered with an error. Only as the first step.
    Refuse(Code),
    Send(X509svidResponse),
    /// Nothing more until the gate has been opened this often.
    Gate(usize),
    /// The stream ends with an error.
    Fail(Code),
    /// The stream ends well. So does one whose script is over.
    End,
}

/// A step that lasts for as long as the test.
pub(crate) const HOLD: Step = Step::Gate(usize::MAX);

#[derive(Clone)]
struct Script {
    /// The last one is for all later streams too.
    streams: Arc<Mutex<VecDeque<Vec<Step>>>>,
    gate: watch::Receiver<usize>,
    calls: watch::Sender<usize>,
    headers: Arc<Mutex<Vec<Vec<String>>>>,
}

/// The server; dropping it closes its connections and leaves a dead socket, as a killed agent does.
pub(crate) struct Scripted {
    pub(crate) uri: String,
    gate: watch::Sender<usize>,
    calls: watch::Receiver<usize>,
    headers: Arc<Mutex<Vec<Vec<String>>>>,
    _server: tokio_util::sync::DropGuard,
    /// Holds the socket; removed with the server.
    folder: Option<tempfile::TempDir>,
}

impl Scripted {
    pub(crate) fn start(streams: Vec<Vec<Step>>) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        let path = folder.path().join("api.sock");
        let mut server = Self::at(&path, streams);
        server.folder = Some(folder);
        server
    }

    pub(crate) fn at(path: &Path, streams: Vec<Vec<Step>>) -> Self {
        let listener = UnixListener::bind(path).expect("bind");
        Self::serve(format!("unix://{}", path.display()), UnixListenerStream::new(listener), streams)
    }

    pub(crate) async fn tcp(streams: Vec<Vec<Step>>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let uri = format!("tcp://{}", listener.local_addr().expect("addr"));
        Self::serve(uri, TcpListenerStream::new(listener), streams)
    }

    fn serve<L, I>(uri: String, mut listener: L, streams: Vec<Vec<Step>>) -> Self
    where
        L: Stream<Item = std::io::Result<I>> + Unpin + Send + 'static,
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (gate, gates) = watch::channel(0);
        let (calls, called) = watch::channel(0);
        let headers = Arc::new(Mutex::new(Vec::new()));
        let script = Script {
            streams: Arc::new(Mutex::new(streams.into())),
            gate: gates,
            calls,
            headers: Arc::clone(&headers),
        };
        let stop = CancellationToken::new();
        let server = stop.clone();
        tokio::spawn(async move {
            let mut connections = JoinSet::new();
            let accepting = async {
                while let Some(stream) = listener.next().await {
                    let stream = stream.expect("accept");
                    let service =
                        SpiffeWorkloadApiServer::new(script.clone()).max_encoding_message_size(64 << 20);
                    connections.spawn(async move {
                        let call = service_fn(move |request: http::Request<Incoming>| {
                            let mut service = service.clone();
                            async move { service.call(request).await }
                        });
                        let connection = http2::Builder::new(TokioExecutor::new())
                            .serve_connection(TokioIo::new(stream), call);
                        drop(pin!(connection).await);
                    });
                }
            };
            server.run_until_cancelled(accepting).await;
        });
        Self { uri, gate, calls: called, headers, _server: stop.drop_guard(), folder: None }
    }

    pub(crate) fn open_gate(&self) {
        self.gate.send_modify(|opened| *opened += 1);
    }

    pub(crate) fn calls(&self) -> usize {
        *self.calls.borrow()
    }

    /// Waits until this many streams were asked for.
    pub(crate) async fn called(&self, times: usize) {
        let mut calls = self.calls.clone();
        let reached = calls.wait_for(|calls| *calls >= times);
        drop(
            tokio::time::timeout(std::time::Duration::from_secs(10), reached)
                .await
                .expect("in time")
                .expect("lives"),
        );
    }

    /// The values of the security header of each call.
    pub(crate) fn headers(&self) -> Vec<Vec<String>> {
        self.headers.lock().clone()
    }
}

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl SpiffeWorkloadApi for Script {
    type FetchX509SVIDStream = Boxed<X509svidResponse>;
    type FetchX509BundlesStream = Boxed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Boxed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let values = request.metadata().get_all("workload.spiffe.io").iter();
        self.headers.lock().push(values.map(|value| value.to_str().expect("ascii").to_owned()).collect());
        self.calls.send_modify(|calls| *calls += 1);
        let steps: VecDeque<Step> = {
            let mut streams = self.streams.lock();
            if streams.len() > 1 { streams.pop_front() } else { streams.front().cloned() }
                .expect("a script")
                .into()
        };
        if let Some(Step::Refuse(code)) = steps.front() {
            return Err(Status::new(*code, "as scripted"));
        }
        let gate = self.gate.clone();
        let stream = stream::unfold((steps, gate), async |(mut steps, mut gate)| {
            loop {
                match steps.pop_front()? {
                    Step::Send(message) => return Some((Ok(message), (steps, gate))),
                    Step::Gate(times) => drop(gate.wait_for(|opened| *opened >= times).await.ok()?),
                    Step::Refuse(code) | Step::Fail(code) => {
                        return Some((Err(Status::new(code, "as scripted")), (VecDeque::new(), gate)));
                    }
                    Step::End => return None,
                }
            }
        });
        Ok(Response::new(Box::pin(stream)))
    }

    async fn fetch_x509_bundles(
        &self,
        _: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwtsvid(&self, _: Request<JwtsvidRequest>) -> Result<Response<JwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn fetch_jwt_bundles(
        &self,
        _: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        Err(Status::unimplemented("not scripted"))
    }

    async fn validate_jwtsvid(
        &self,
        _: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        Err(Status::unimplemented("not scripted"))
    }
}
