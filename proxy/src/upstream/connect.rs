//! Making one connection: TCP, TLS, and the identity check before the first application byte.

use std::{io, net::SocketAddr, sync::Arc, time::SystemTime};

use identity::{PeerId, SpiffeId, verify};
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::{Endpoint, Transport, UpstreamTls};
use crate::{Error, Reason};

/// Bytes to and from an endpoint.
pub(super) enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

/// A connection with what the pool and the access log must know of it.
pub(super) struct Connected {
    pub(super) stream: Stream,
    pub(super) facts: Arc<ConnFacts>,
    /// ALPN chose HTTP/2.
    pub(super) h2: bool,
}

/// What a connection was made with.
#[derive(Debug, Default)]
pub(super) struct ConnFacts {
    /// Of the client profile.
    pub(super) generation: Option<u64>,
    /// End of our own certificate.
    pub(super) own_not_after: Option<SystemTime>,
    pub(super) tls: Option<&'static str>,
    pub(super) peer: Option<Arc<PeerId>>,
    pub(super) local_id: Option<SpiffeId>,
    pub(super) verified: bool,
}

/// Connects within the caller's deadline.
pub(super) async fn connect(endpoint: &Endpoint) -> Result<Connected, Error> {
    let addr = endpoint.addr;
    // An identity that is not there must not cost the upstream a connection.
    let tls = match &*endpoint.transport {
        Transport::Plain => None,
        Transport::Tls(tls) => Some((tls, tls.profile.current().map_err(|problem| Error::Identity {
            upstream: addr.to_string(),
            reason: Reason::new(problem.code),
            message: problem.message.to_string(),
        })?)),
    };
    let tcp = TcpStream::connect(addr).await.map_err(|error| failed(addr, Reason::CONNECT_FAILED, error.to_string()))?;
    // Without it each new connection waits 40 ms for a delayed ACK (performance.md, traps).
    let _not_fatal = tcp.set_nodelay(true);
    let Some((tls, current)) = tls else {
        return Ok(Connected { stream: Stream::Plain(tcp), facts: Arc::default(), h2: false });
    };
    let name = tls.sni.clone().unwrap_or_else(|| ServerName::IpAddress(addr.ip().into()));
    let connector = TlsConnector::from(Arc::clone(&current.config));
    let stream = connector.connect(name, tcp).await.map_err(|error| handshake_failed(addr, &error))?;
    let session = stream.get_ref().1;
    let peer = authorise(tls, endpoint, session.peer_certificates().unwrap_or_default())?;
    let facts = ConnFacts {
        generation: Some(current.generation),
        own_not_after: current.credential.as_ref().map(|own| own.not_after),
        tls: session.protocol_version().map(version),
        peer: Some(peer),
        local_id: current.credential.as_ref().and_then(|own| own.spiffe_id.clone()),
        verified: current.verified,
    };
    let h2 = session.alpn_protocol() == Some(b"h2");
    Ok(Connected { stream: Stream::Tls(Box::new(stream)), facts: Arc::new(facts), h2 })
}

/// The exact identity, compared before any application byte.
fn authorise(
    tls: &UpstreamTls,
    endpoint: &Endpoint,
    chain: &[rustls_pki_types::CertificateDer<'_>],
) -> Result<Arc<PeerId>, Error> {
    let refuse = |code, message| failed(endpoint.addr, Reason::new(code), message);
    let peer = tls.profile.peer(chain).map_err(|failure| refuse(failure.code(), failure.to_string()))?;
    let hot = tls.rule.load();
    let rule = endpoint.peer.as_deref().unwrap_or(&hot);
    rule.check(Some(&peer)).map_err(|denied| refuse(denied.code, denied.message))?;
    Ok(peer)
}

fn handshake_failed(addr: SocketAddr, error: &io::Error) -> Error {
    match verify::failure_of(error) {
        Some(failure) => failed(addr, Reason::new(failure.code()), error.to_string()),
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

/// Whether the upstream ended the session by an alert: in TLS 1.3 that is how it refuses our certificate, after our side
/// of the handshake was done.
pub(super) fn is_alert(error: &(dyn std::error::Error + 'static)) -> bool {
    let mut source = Some(error);
    while let Some(inner) = source {
        if let Some(rustls::Error::AlertReceived(_)) = inner.downcast_ref::<rustls::Error>() {
            return true;
        }
        let io = inner.downcast_ref::<io::Error>().and_then(io::Error::get_ref);
        source = io.map(|inner| inner as &(dyn std::error::Error + 'static)).or_else(|| inner.source());
    }
    false
}
