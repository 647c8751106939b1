//! Making one connection: TCP, TLS, and the identity check before the first application byte.

use std::{
    io,
    net::SocketAddr,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{ClientTls, PeerId, SpiffeId, verify};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

use super::{Endpoint, Transport, UpstreamTls, stream::Stream};
use crate::{Error, Reason};

/// A connection with what the pool and the access log must know of it.
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) facts: Arc<ConnFacts>,
    /// ALPN chose HTTP/2.
    pub(super) h2: bool,
    /// Protocols were offered by ALPN.
    pub(super) offered_alpn: bool,
}

/// What a connection was made with.
#[derive(Debug, Default)]
pub(super) struct ConnFacts {
    /// Of the client profile.
    pub(super) generation: Option<u64>,
    /// Shortly before the end of our own certificate: no new requests from then on.
    pub(super) retire_at: Option<SystemTime>,
    pub(super) tls: Option<&'static str>,
    pub(super) peer: Option<Arc<PeerId>>,
    pub(super) local_id: Option<SpiffeId>,
    pub(super) verified: bool,
}

/// Why there is no connection, and what was known of it by then.
#[derive(Debug)]
pub(super) struct Failed {
    pub(super) error: Error,
    pub(super) facts: ConnFacts,
}

impl From<Error> for Failed {
    fn from(error: Error) -> Self {
        Self { error, facts: ConnFacts::default() }
    }
}

/// Connections are not used for new requests from this long before the end of our own certificate.
const RETIRE_BEFORE_END: Duration = Duration::from_secs(2);
/// A connection that rests this long is probed.
const KEEPALIVE_AFTER: Duration = Duration::from_mins(1);
/// Between two probes.
const KEEPALIVE_EVERY: Duration = Duration::from_secs(15);

/// Connects within the caller's deadline. `http1`: for HTTP/1.1 alone, whatever else the profile offers.
pub(super) async fn connect(endpoint: &Endpoint, http1: bool) -> Result<Connected, Failed> {
    let addr = endpoint.addr;
    // An identity that is not there must not cost the upstream a connection.
    let tls = match &*endpoint.transport {
        Transport::Plain => None,
        Transport::Tls(tls) => Some((
            tls,
            tls.profile.current().map_err(|problem| Error::Identity {
                upstream: addr.to_string(),
                reason: Reason::new(problem.code),
                message: problem.message.to_string(),
            })?,
        )),
    };
    let tcp = TcpStream::connect(addr)
        .await
        .map_err(|error| failed(addr, Reason::CONNECT_FAILED, error.to_string()))?;
    // Without it each new connection waits 40 ms for a delayed ACK (performance.md, traps).
    let _not_fatal = tcp.set_nodelay(true);
    // A peer that vanished is noticed on idle connections too.
    let keepalive = socket2::TcpKeepalive::new().with_time(KEEPALIVE_AFTER).with_interval(KEEPALIVE_EVERY);
    let _not_fatal = socket2::SockRef::from(&tcp).set_tcp_keepalive(&keepalive);
    let Some((tls, current)) = tls else {
        return Ok(Connected {
            stream: Stream::plain(tcp),
            facts: Arc::default(),
            h2: false,
            offered_alpn: false,
        });
    };
    secure(tls, endpoint, &current, tcp, http1).await
}

/// The handshake, and who the upstream is.
async fn secure(
    tls: &UpstreamTls,
    endpoint: &Endpoint,
    current: &ClientTls,
    tcp: TcpStream,
    http1: bool,
) -> Result<Connected, Failed> {
    let addr = endpoint.addr;
    let mut facts = ConnFacts {
        generation: Some(current.generation),
        retire_at: current.credential.as_ref().map(|own| retire_at(own.not_after, SystemTime::now())),
        local_id: current.credential.as_ref().and_then(|own| own.spiffe_id.clone()),
        verified: current.verified,
        ..ConnFacts::default()
    };
    let name = tls.sni.clone().unwrap_or_else(|| ServerName::IpAddress(addr.ip().into()));
    let mut config = Arc::clone(&current.config);
    if http1 && !config.alpn_protocols.is_empty() {
        Arc::make_mut(&mut config).alpn_protocols = vec![b"http/1.1".to_vec()];
    }
    let stream = match TlsConnector::from(config).connect(name, tcp).await {
        Ok(stream) => stream,
        Err(error) => return Err(Failed { error: handshake_failed(addr, &error), facts }),
    };
    let session = stream.get_ref().1;
    facts.tls = session.protocol_version().map(version);
    if let Err(error) = authorise(tls, endpoint, session.peer_certificates().unwrap_or_default(), &mut facts)
    {
        return Err(Failed { error, facts });
    }
    let offered_alpn = !tls.profile.spec().alpn.is_empty();
    let h2 = session.alpn_protocol() == Some(b"h2");
    Ok(Connected { stream: Stream::tls(stream), facts: Arc::new(facts), h2, offered_alpn })
}

/// A connection retires a little before the certificate it was made with ends; a certificate of seconds is used for half of
/// what it had left.
fn retire_at(end: SystemTime, now: SystemTime) -> SystemTime {
    let left = end.duration_since(now).unwrap_or_default();
    end - RETIRE_BEFORE_END.min(left / 2)
}

/// The exact identity, compared before any application byte. Who the upstream is becomes a fact before it is compared, so that
/// the log can name a wrong one; of an upstream that is not verified, only once it may be anyone.
fn authorise(
    tls: &UpstreamTls,
    endpoint: &Endpoint,
    chain: &[rustls_pki_types::CertificateDer<'_>],
    facts: &mut ConnFacts,
) -> Result<(), Error> {
    let refuse = |code, message| failed(endpoint.addr, Reason::new(code), message);
    let peer = tls.profile.peer(chain).map_err(|failure| refuse(failure.code(), failure.to_string()))?;
    let hot = tls.rule.load();
    let allowed = endpoint.peer.as_deref().unwrap_or(&hot).check(Some(&peer));
    if facts.verified || allowed.is_ok() {
        facts.peer = Some(peer);
    }
    allowed.map_err(|denied| refuse(denied.code, denied.message))
}

fn handshake_failed(addr: SocketAddr, error: &io::Error) -> Error {
    match verify::failure_of(error) {
        Some(failure) => failed(addr, Reason::new(failure.code()), error.to_string()),
        // In TLS 1.2 the upstream's verdict comes within the handshake.
        None if is_alert(error) => failed(addr, Reason::UPSTREAM_REFUSED_CERTIFICATE, error.to_string()),
        None => failed(addr, Reason::UPSTREAM_TLS, error.to_string()),
    }
}

pub(super) fn failed(addr: SocketAddr, reason: Reason, message: String) -> Error {
    Error::Connect { upstream: addr.to_string(), reason, message }
}

/// The name of a protocol version as nginx and OpenSSL print it.
pub(crate) fn version(version: rustls::ProtocolVersion) -> &'static str {
    match version {
        rustls::ProtocolVersion::TLSv1_2 => "TLSv1.2",
        rustls::ProtocolVersion::TLSv1_3 => "TLSv1.3",
        _ => "TLS",
    }
}

/// Whether an error is an alert that says the peer does not like our certificate, or misses one.
pub(super) fn is_alert(error: &io::Error) -> bool {
    use rustls::AlertDescription as Alert;
    let mut source = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = source {
        if let Some(rustls::Error::AlertReceived(alert)) = inner.downcast_ref::<rustls::Error>() {
            return matches!(
                alert,
                Alert::BadCertificate
                    | Alert::UnsupportedCertificate
                    | Alert::CertificateRevoked
                    | Alert::CertificateExpired
                    | Alert::CertificateUnknown
                    | Alert::UnknownCA
                    | Alert::AccessDenied
                    | Alert::CertificateRequired
            );
        }
        source = inner.source();
    }
    false
}
