//! What is known about a downstream connection before its first request.

use std::{net::SocketAddr, sync::Arc};

use identity::{PeerId, ServerProfile};

/// Facts of a downstream connection. Immutable once the handshake is done; shared by its requests.
#[derive(Clone, Debug)]
pub struct ConnMeta {
    /// Name of the listener: `namespace/name`, `http`, `https`.
    pub listener: Arc<str>,
    /// The port the listener was configured with (an ephemeral port is resolved).
    pub listener_port: u16,
    /// The socket's peer.
    pub peer: SocketAddr,
    /// The socket's own address.
    pub local: SocketAddr,
    /// `SO_ORIGINAL_DST`, for captured connections.
    pub original_dst: Option<SocketAddr>,
    /// The client as a trusted PROXY protocol header names it.
    pub proxy_protocol_source: Option<SocketAddr>,
    /// Server name of the `ClientHello`, lower case.
    pub sni: Option<Arc<str>>,
    /// The protocol negotiated by ALPN.
    pub alpn: Option<Alpn>,
    /// Facts of the TLS session; `None` on cleartext.
    pub tls: Option<TlsMeta>,
    /// Who the client is, if it presented a certificate.
    pub peer_id: Option<Arc<PeerId>>,
}

impl ConnMeta {
    /// A connection of which the sockets alone are known.
    pub fn new(listener: Arc<str>, listener_port: u16, peer: SocketAddr, local: SocketAddr) -> Self {
        Self {
            listener,
            listener_port,
            peer: SocketAddr::new(peer.ip().to_canonical(), peer.port()),
            local,
            original_dst: None,
            proxy_protocol_source: None,
            sni: None,
            alpn: None,
            tls: None,
            peer_id: None,
        }
    }

    /// The client's address: the PROXY protocol's if trusted, otherwise the socket's.
    pub fn client(&self) -> SocketAddr {
        self.proxy_protocol_source.unwrap_or(self.peer)
    }
}

/// Protocols that ALPN may choose.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Alpn {
    /// `h2`
    H2,
    /// `http/1.1`
    Http1,
    /// Any other.
    Other,
}

/// Facts of a TLS session.
#[derive(Clone, Debug)]
pub struct TlsMeta {
    /// `TLSv1.2` or `TLSv1.3`.
    pub version: &'static str,
    /// Name of the cipher suite.
    pub cipher: &'static str,
    /// The profile that the handshake used; a request's Host must belong to it, else 421.
    pub profile: Arc<ServerProfile>,
}
