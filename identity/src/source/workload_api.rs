//! The SPIFFE Workload API as a source: a client of our own, supervised by the error table of spiffe.md 1.3.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use hyper_util::rt::TokioIo;
use proto::workload::{
    X509svidRequest, X509svidResponse, spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tokio::{
    net::{TcpStream, UnixStream},
    time::{Instant, timeout, timeout_at},
};
use tokio_util::sync::CancellationToken;
use tonic::{
    Code, Request, Status, Streaming,
    metadata::MetadataValue,
    transport::{Channel, Endpoint, Uri},
};

use super::{Source, SourceRef, WorkloadEndpoint, delivery, service_fn::service_fn};
use crate::{Error, Material, Problem};

/// Largest message: a big federated set must load.
const MAX_MESSAGE_BYTES: usize = 16 * 1024 * 1024;
/// Connecting, and the first answer of a stream.
const ANSWER_DEADLINE: Duration = Duration::from_secs(10);
/// Backoff after failures: from the first to the second, doubled, jittered.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(30));
/// A stream that does not renew an SVID in the first three quarters of what it has left is asked anew: it may be dead without
/// its end having been heard (a middlebox, an agent that hangs). Not where less than the second is left: certificates end on whole
/// seconds, so that of an SVID of seconds too much of what is left may have passed when its renewal is in time.
const RENEWAL: (f64, Duration) = (0.75, Duration::from_secs(3));
/// Retries after a refusal that may be an attestation race.
const DENIED_RETRY: (Duration, Duration) = (Duration::from_millis(250), Duration::from_secs(2));

/// A Workload API that is followed for as long as [`WorkloadApi::run`] runs.
#[derive(Debug)]
pub struct WorkloadApi {
    endpoint: WorkloadEndpoint,
    source: Arc<Source>,
    /// How long material is kept when the first answer after a reconnect is a refusal; zero: strict.
    denied_grace: Duration,
}

impl WorkloadApi {
    /// How long material is kept through a refusal, unless told otherwise (spiffe.md 4.3).
    pub const DENIED_GRACE: Duration = Duration::from_mins(1);

    /// A source for this endpoint; pending until `run` gets a message.
    pub fn new(endpoint: WorkloadEndpoint, name: SourceRef, denied_grace: Duration) -> Self {
        let source = Source::new(name);
        Self { endpoint, source, denied_grace }
    }

    /// The source that is fed.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// Follows the API until cancelled, or until it answers that retrying is of no use.
    pub async fn run(self, cancel: CancellationToken) {
        let mut follower = Follower { api: self, backoff: BACKOFF.0, denied_since: None };
        cancel.run_until_cancelled(follower.follow()).await;
    }
}

/// The state of following.
struct Follower {
    api: WorkloadApi,
    backoff: Duration,
    /// Since when the API refuses us although we hold material.
    denied_since: Option<Instant>,
}

/// How one stream ended.
struct Ended {
    status: Status,
    /// A valid message came before.
    delivered: bool,
}

impl Follower {
    async fn follow(&mut self) {
        loop {
            let ended = self.stream().await;
            let status = &ended.status;
            tracing::debug!(endpoint = %self.api.endpoint, code = ?status.code(), "workload api stream ended");
            match status.code() {
                Code::InvalidArgument | Code::Unimplemented => {
                    let message =
                        format!("{} answered {}: {}", self.api.endpoint, status.code(), status.message());
                    let problem = Problem::new("svid_source_failed", message);
                    tracing::error!(source = %self.api.source.name(), code = problem.code, "{problem}; it is not asked again");
                    self.api.source.fail(problem);
                    return;
                }
                Code::PermissionDenied => self.denied(&ended).await,
                // At once (W-10), but never in step with every other client, nor in a spin against a server that ends
                // each stream after its message.
                _ if ended.delivered => {
                    self.backoff = BACKOFF.0;
                    tokio::time::sleep(BACKOFF.0.mul_f64(fastrand::f64())).await;
                }
                _ => {
                    self.reject(unreachable(&self.api.endpoint, status));
                    tokio::time::sleep(jitter(self.backoff)).await;
                    self.backoff = (self.backoff * 2).min(BACKOFF.1);
                }
            }
        }
    }

    /// On a stream that had delivered a refusal is a revocation; as a first answer it may be an attestation race.
    async fn denied(&mut self, ended: &Ended) {
        let message = format!(
            "{} refuses an identity: {}; is there a registration entry for this process (uid, path, pod)?",
            self.api.endpoint,
            ended.status.message()
        );
        let problem = Problem::new("svid_denied", message);
        let held = self.api.source.state().material.is_some();
        let since = *self.denied_since.get_or_insert_with(Instant::now);
        let grace_over = ended.delivered || since.elapsed() >= self.api.denied_grace;
        if held && grace_over {
            let source = self.api.source.name();
            tracing::error!(%source, code = problem.code, "{problem}; identity and bundles are withdrawn");
            self.api.source.withdraw(problem);
        } else {
            self.reject(problem);
        }
        let wait = if since.elapsed() < Duration::from_secs(30) { DENIED_RETRY.0 } else { DENIED_RETRY.1 };
        tokio::time::sleep(jitter(wait)).await;
    }

    /// Shows a problem beside what is held, and says it once.
    fn reject(&self, problem: Problem) {
        let source = &self.api.source;
        if source.state().problem.as_ref() != Some(&problem) {
            tracing::warn!(source = %source.name(), code = problem.code, "{problem}");
        }
        source.reject(problem);
    }

    /// When the stream has to have said something new.
    fn renewal_due(&self) -> Instant {
        let state = self.api.source.state();
        let own = state.material.iter().flat_map(|material| &material.own);
        let left = own.map(|own| own.not_after.duration_since(SystemTime::now()).unwrap_or_default()).min();
        let left = left.filter(|left| *left >= RENEWAL.1);
        let wait = left.map_or(ANSWER_DEADLINE, |left| left.mul_f64(RENEWAL.0));
        Instant::now() + wait
    }

    async fn stream(&mut self) -> Ended {
        let (mut answered, mut delivered) = (false, false);
        let status = match self.open().await {
            Err(status) => status,
            Ok(mut stream) => loop {
                // A malformed first message is an answer too: the stream goes on (error table).
                let next = if delivered {
                    timeout_at(self.renewal_due(), stream.message())
                        .await
                        .unwrap_or_else(|_late| Err(Status::unavailable("the SVID was not renewed in time")))
                } else if answered {
                    stream.message().await
                } else {
                    timeout(ANSWER_DEADLINE, stream.message())
                        .await
                        .unwrap_or_else(|_late| Err(Status::deadline_exceeded("no first message")))
                };
                answered = true;
                match next {
                    Ok(Some(message)) => delivered |= self.take(&message),
                    Ok(None) => break Status::unavailable("the stream ended"),
                    Err(status) => break status,
                }
            },
        };
        Ended { status, delivered }
    }

    async fn open(&self) -> Result<Streaming<X509svidResponse>, Status> {
        let opened = timeout(ANSWER_DEADLINE, open(&self.api.endpoint)).await;
        opened.unwrap_or_else(|_late| Err(Status::deadline_exceeded("no answer")))
    }

    /// Publishes a message unless it is malformed, or the same as before. Whether it was valid.
    fn take(&mut self, message: &X509svidResponse) -> bool {
        let source = &self.api.source;
        match delivery::read(message, SystemTime::now()) {
            Err(problem) => {
                self.reject(problem);
                false
            }
            Ok((material, left_out)) => {
                self.denied_since = None;
                let state = source.state();
                let warning = warning(&left_out);
                let was = state.problem.as_ref().map(|problem| problem.code);
                if !state.material.as_ref().is_some_and(|held| same(held, &material)) {
                    source.publish(material);
                } else if warning.is_none() {
                    source.recover();
                }
                match (warning, was) {
                    (Some(warning), _) => self.reject(warning),
                    (None, Some(was)) => tracing::info!(source = %source.name(), was, "delivers again"),
                    (None, None) => {}
                }
                true
            }
        }
    }
}

/// What was left out of a message, as one problem.
fn warning(left_out: &[Problem]) -> Option<Problem> {
    let first = left_out.first()?;
    let all: Vec<_> = left_out.iter().map(ToString::to_string).collect();
    Some(Problem::new(first.code, all.join("; ")))
}

/// One message, for the `identity` command.
pub async fn fetch(
    endpoint: &WorkloadEndpoint,
    deadline: Duration,
) -> Result<(Material, Vec<String>), Error> {
    let one = async {
        let mut stream = open(endpoint).await?;
        stream.message().await?.ok_or_else(|| Status::unavailable("the stream ended"))
    };
    match timeout(deadline, one).await {
        Ok(Ok(message)) => {
            let (material, left_out) = delivery::read(&message, SystemTime::now())?;
            Ok((material, left_out.iter().map(ToString::to_string).collect()))
        }
        Ok(Err(status)) => Err(unreachable(endpoint, &status).into()),
        Err(_late) => {
            let message = format!("{endpoint} did not answer within {deadline:?}; is the agent healthy?");
            Err(Problem::new("svid_source_unreachable", message).into())
        }
    }
}

async fn open(endpoint: &WorkloadEndpoint) -> Result<Streaming<X509svidResponse>, Status> {
    let mut client =
        SpiffeWorkloadApiClient::new(connect(endpoint).await?).max_decoding_message_size(MAX_MESSAGE_BYTES);
    let mut request = Request::new(X509svidRequest {});
    request.metadata_mut().insert("workload.spiffe.io", MetadataValue::from_static("true"));
    client.fetch_x509svid(request).await.map(tonic::Response::into_inner)
}

async fn connect(endpoint: &WorkloadEndpoint) -> Result<Channel, Status> {
    let channel = Endpoint::from_static("http://localhost").connect_timeout(ANSWER_DEADLINE);
    let connected = match endpoint.clone() {
        WorkloadEndpoint::Unix(path) => {
            let dial = service_fn(move |_uri: Uri| {
                let path = path.clone();
                async move { UnixStream::connect(path).await.map(TokioIo::new) }
            });
            channel.connect_with_connector(dial).await
        }
        WorkloadEndpoint::Tcp(addr) => {
            let dial =
                service_fn(move |_uri: Uri| async move { TcpStream::connect(addr).await.map(TokioIo::new) });
            channel.connect_with_connector(dial).await
        }
    };
    connected.map_err(|error| Status::unavailable(root_cause(&error)))
}

fn root_cause(error: &dyn std::error::Error) -> String {
    let mut cause = error;
    while let Some(next) = cause.source() {
        cause = next;
    }
    cause.to_string()
}

/// What is wrong with an API that does not deliver, and what to do about it.
fn unreachable(endpoint: &WorkloadEndpoint, status: &Status) -> Problem {
    let why = status.message();
    let remedy = match status.code() {
        Code::PermissionDenied => "is there a registration entry for this process (uid, path, pod)?",
        _ if why.contains("No such file") => "is the agent running, and its socket's folder mounted?",
        _ if why.contains("refused") => {
            "the socket is there but nobody listens; mount the folder, not the socket file"
        }
        _ if why.contains("Permission denied") => {
            "this user may not open the socket; check the modes of its folder"
        }
        _ => "the agent's log says more",
    };
    let code =
        if status.code() == Code::PermissionDenied { "svid_denied" } else { "svid_source_unreachable" };
    Problem::new(code, format!("{endpoint}: {why}; {remedy}"))
}

/// Whether two deliveries say the same: an unchanged re-delivery after a reconnect must not rebuild anything.
fn same(a: &Material, b: &Material) -> bool {
    let own = |material: &Material| -> Vec<_> {
        material.own.iter().map(|credential| (credential.chain.clone(), credential.hint.clone())).collect()
    };
    let trust = match (a.trust.as_deref(), b.trust.as_deref()) {
        (Some(crate::Trust::Spiffe(a)), Some(crate::Trust::Spiffe(b))) => a == b,
        _ => false,
    };
    trust && own(a) == own(b)
}

fn jitter(wait: Duration) -> Duration {
    wait.mul_f64(0.8 + 0.4 * fastrand::f64())
}
