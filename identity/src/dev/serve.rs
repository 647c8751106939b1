//! The Workload API of one entry's socket.

use std::{
    pin::{Pin, pin},
    sync::Arc,
    time::{Duration, SystemTime},
};

use futures_util::{Stream, stream};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use proto::workload::{
    JwtBundlesRequest, JwtBundlesResponse, Jwtsvid, JwtsvidRequest, JwtsvidResponse, ValidateJwtsvidRequest,
    ValidateJwtsvidResponse, X509BundlesRequest, X509BundlesResponse, X509svid, X509svidRequest,
    X509svidResponse,
    spiffe_workload_api_server::{SpiffeWorkloadApi, SpiffeWorkloadApiServer},
};
use tokio::{
    net::{UnixListener, UnixStream},
    sync::watch,
    task::JoinSet,
};
use tokio_util::sync::CancellationToken;
use tonic::{Request, Response, Status};
use tower_service::Service as _;

use super::{Authority, Entry};

/// The server behind one socket.
pub(super) struct Workload {
    pub(super) socket: String,
    pub(super) state: watch::Receiver<Arc<Authority>>,
    /// Ends the server and its streams.
    pub(super) stop: CancellationToken,
}

/// Lifetime of an SVID whose entry does not say.
const DEFAULT_TTL: Duration = Duration::from_hours(1);
/// How long connections may take to close once their streams have ended.
const CLOSE_DEADLINE: Duration = Duration::from_secs(1);

/// Most connections to one socket at a time.
const MAX_CONNECTIONS: usize = 1024;

/// Serves until stopped. Open streams then end with Unavailable, as with an agent that stops.
pub(super) async fn serve(listener: UnixListener, workload: Workload) {
    let stop = workload.stop.clone();
    let service = SpiffeWorkloadApiServer::new(workload);
    let mut connections = JoinSet::new();
    let accept = async {
        loop {
            match listener.accept().await {
                Ok((stream, _)) if connections.len() < MAX_CONNECTIONS => {
                    connections.spawn(serve_connection(stream, service.clone(), stop.clone()));
                }
                Ok((refused, _)) => drop(refused),
                Err(error) => {
                    tracing::warn!(%error, "dev authority: accept failed");
                    tokio::time::sleep(Duration::from_millis(100)).await;
                }
            }
            while connections.try_join_next().is_some() {}
        }
    };
    stop.run_until_cancelled(accept).await;
    drop(listener);
    let closed = async { while connections.join_next().await.is_some() {} };
    if tokio::time::timeout(CLOSE_DEADLINE, closed).await.is_err() {
        tracing::debug!("dev authority: connections cut that did not close");
    }
}

async fn serve_connection(
    stream: UnixStream,
    service: SpiffeWorkloadApiServer<Workload>,
    stop: CancellationToken,
) {
    let caller = CallerIds(stream.peer_cred().ok().map(|cred| (cred.uid(), cred.gid())));
    let call = service_fn(move |mut request: http::Request<Incoming>| {
        request.extensions_mut().insert(caller);
        let mut service = service.clone();
        async move { service.call(request).await }
    });
    let connection = http2::Builder::new(TokioExecutor::new())
        .max_concurrent_streams(64)
        .serve_connection(TokioIo::new(stream), call);
    let mut connection = pin!(connection);
    let served = tokio::select! {
        served = connection.as_mut() => served,
        () = stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = served {
        tracing::debug!(%error, "dev authority: a connection ended");
    }
}

/// uid and gid of the process at the other end, taken when it connected.
#[derive(Clone, Copy)]
struct CallerIds(Option<(u32, u32)>);

type Boxed<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

impl Workload {
    /// What every call must pass: the header (W-2), an entry on this socket, its selectors.
    fn admit<T>(&self, request: &Request<T>) -> Result<Caller, Status> {
        let mut values = request.metadata().get_all("workload.spiffe.io").iter();
        if values.next().is_none_or(|value| value != "true") || values.next().is_some() {
            return Err(Status::invalid_argument("security header missing from request"));
        }
        let ids = request.extensions().get::<CallerIds>().and_then(|caller| caller.0);
        let caller = Caller { socket: self.socket.clone(), ids };
        caller.entries(&self.state.borrow())?;
        Ok(caller)
    }
}

/// Who called, on which socket.
#[derive(Clone)]
struct Caller {
    socket: String,
    /// uid and gid.
    ids: Option<(u32, u32)>,
}

impl Caller {
    /// The entries of this socket whose selectors hold, in the file's order; the first is the default identity.
    fn entries<'a>(&self, authority: &'a Authority) -> Result<Vec<&'a Entry>, Status> {
        let all = authority.entries.entries.iter();
        let mine: Vec<_> =
            all.filter(|entry| entry.socket == self.socket && entry.admits(self.ids)).collect();
        if mine.is_empty() { Err(Status::permission_denied("no identity issued")) } else { Ok(mine) }
    }

    /// All SVIDs of the caller, and when to renew them.
    fn svids(&self, authority: &Authority) -> Result<(X509svidResponse, Duration), Status> {
        let entries = self.entries(authority)?;
        let lifetimes = entries.iter().map(|entry| entry.lifetime().unwrap_or(DEFAULT_TTL));
        let renewal = lifetimes.min().unwrap_or(DEFAULT_TTL) / 2;
        let svids =
            entries.into_iter().map(|entry| Self::svid(authority, entry)).collect::<Result<_, _>>()?;
        let foreign = authority.federated.iter().map(|(domain, der)| (domain.clone(), der.clone().into()));
        Ok((X509svidResponse { svids, crl: Vec::new(), federated_bundles: foreign.collect() }, renewal))
    }

    fn svid(authority: &Authority, entry: &Entry) -> Result<X509svid, Status> {
        let internal = |why: String| Status::unavailable(why);
        let ca = authority.signer().ok_or_else(|| internal("no CA signs".to_owned()))?;
        let ttl = entry.lifetime().unwrap_or(DEFAULT_TTL);
        let minted = ca.mint(&entry.spiffe_id, ttl).map_err(|error| internal(error.to_string()))?;
        Ok(X509svid {
            spiffe_id: entry.spiffe_id.clone(),
            x509_svid: minted.certificate.to_vec().into(),
            x509_svid_key: minted.key_der().to_vec().into(),
            bundle: authority.bundle().into(),
            hint: entry.hint.clone(),
        })
    }
}

/// One message at once, one at each change, and one at each renewal if there is one.
fn follow<T, F>(workload: &Workload, make: F) -> Boxed<T>
where
    T: Send + 'static,
    F: Fn(&Authority) -> Result<(T, Option<Duration>), Status> + Send + 'static,
{
    let stop = workload.stop.clone();
    let start = (workload.state.clone(), make, Some(Duration::ZERO), false);
    Box::pin(stream::unfold(start, move |(mut state, make, wait, ended)| {
        let stop = stop.clone();
        async move {
            if ended {
                return None;
            }
            let renewal = async {
                match wait {
                    Some(wait) => tokio::time::sleep(wait).await,
                    None => std::future::pending().await,
                }
            };
            let goes_on = tokio::select! {
                changed = state.changed() => changed.is_ok(),
                () = stop.cancelled() => false,
                () = renewal => true,
            };
            if !goes_on {
                return Some((
                    Err(Status::unavailable("the dev authority stops")),
                    (state, make, None, true),
                ));
            }
            let authority = Arc::clone(&state.borrow_and_update());
            match make(&authority) {
                Ok((message, next)) => Some((Ok(message), (state, make, next, false))),
                Err(status) => Some((Err(status), (state, make, None, true))),
            }
        }
    }))
}

#[tonic::async_trait]
impl SpiffeWorkloadApi for Workload {
    type FetchX509SVIDStream = Boxed<X509svidResponse>;
    type FetchX509BundlesStream = Boxed<X509BundlesResponse>;
    type FetchJWTBundlesStream = Boxed<JwtBundlesResponse>;

    async fn fetch_x509svid(
        &self,
        request: Request<X509svidRequest>,
    ) -> Result<Response<Self::FetchX509SVIDStream>, Status> {
        let caller = self.admit(&request)?;
        let stream = follow(self, move |authority| {
            caller.svids(authority).map(|(message, renewal)| (message, Some(renewal)))
        });
        Ok(Response::new(stream))
    }

    async fn fetch_x509_bundles(
        &self,
        request: Request<X509BundlesRequest>,
    ) -> Result<Response<Self::FetchX509BundlesStream>, Status> {
        let caller = self.admit(&request)?;
        let stream = follow(self, move |authority| {
            caller.entries(authority)?;
            let own = (format!("spiffe://{}", authority.entries.trust_domain), authority.bundle().into());
            let foreign =
                authority.federated.iter().map(|(domain, der)| (domain.clone(), der.clone().into()));
            Ok((X509BundlesResponse { crl: Vec::new(), bundles: foreign.chain([own]).collect() }, None))
        });
        Ok(Response::new(stream))
    }

    async fn fetch_jwtsvid(
        &self,
        request: Request<JwtsvidRequest>,
    ) -> Result<Response<JwtsvidResponse>, Status> {
        let caller = self.admit(&request)?;
        let authority = Arc::clone(&self.state.borrow());
        let entries = caller.entries(&authority)?;
        let asked = request.into_inner();
        if asked.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let now = SystemTime::now();
        let mut svids = Vec::new();
        for entry in entries {
            if asked.spiffe_id.is_empty() || asked.spiffe_id == entry.spiffe_id {
                let token = authority.jwt.issue(&entry.spiffe_id, &asked.audience, now);
                let svid = token.ok_or_else(|| Status::unavailable("the token could not be signed"))?;
                svids.push(Jwtsvid { spiffe_id: entry.spiffe_id.clone(), svid, hint: entry.hint.clone() });
            }
        }
        if svids.is_empty() {
            return Err(Status::permission_denied("no identity issued"));
        }
        Ok(Response::new(JwtsvidResponse { svids }))
    }

    async fn fetch_jwt_bundles(
        &self,
        request: Request<JwtBundlesRequest>,
    ) -> Result<Response<Self::FetchJWTBundlesStream>, Status> {
        let caller = self.admit(&request)?;
        let stream = follow(self, move |authority| {
            caller.entries(authority)?;
            let own = (format!("spiffe://{}", authority.entries.trust_domain), authority.jwt.jwks().into());
            Ok((JwtBundlesResponse { bundles: [own].into() }, None))
        });
        Ok(Response::new(stream))
    }

    async fn validate_jwtsvid(
        &self,
        request: Request<ValidateJwtsvidRequest>,
    ) -> Result<Response<ValidateJwtsvidResponse>, Status> {
        self.admit(&request)?;
        let authority = Arc::clone(&self.state.borrow());
        let asked = request.into_inner();
        if asked.audience.is_empty() {
            return Err(Status::invalid_argument("audience must be specified"));
        }
        let claims = authority.jwt.validate(&asked.svid, &asked.audience, SystemTime::now());
        let claims = claims.map_err(Status::invalid_argument)?;
        let spiffe_id = claims.get("sub").and_then(serde_json::Value::as_str).unwrap_or_default().to_owned();
        Ok(Response::new(ValidateJwtsvidResponse { spiffe_id, claims: Some(to_struct(&claims)) }))
    }
}

fn to_struct(claims: &serde_json::Value) -> prost_types::Struct {
    let fields = claims.as_object().into_iter().flatten();
    prost_types::Struct { fields: fields.map(|(name, value)| (name.clone(), to_value(value))).collect() }
}

fn to_value(value: &serde_json::Value) -> prost_types::Value {
    use prost_types::value::Kind;
    use serde_json::Value as Json;
    let kind = match value {
        Json::Null => Kind::NullValue(0),
        Json::Bool(flag) => Kind::BoolValue(*flag),
        Json::Number(number) => Kind::NumberValue(number.as_f64().unwrap_or_default()),
        Json::String(text) => Kind::StringValue(text.clone()),
        Json::Array(items) => {
            Kind::ListValue(prost_types::ListValue { values: items.iter().map(to_value).collect() })
        }
        Json::Object(_) => Kind::StructValue(to_struct(value)),
    };
    prost_types::Value { kind: Some(kind) }
}
