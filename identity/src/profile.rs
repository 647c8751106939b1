//! TLS profiles: a specification that names sources, and one whole rustls configuration behind an `ArcSwap`.

use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::{Credential, PeerId, Problem, Source, VerifyFailure};

/// How the peer's chain is verified. The peer's name or SPIFFE ID is compared later, by its [`crate::PeerRule`].
#[derive(Clone, Debug)]
pub enum Verify {
    /// Encrypted, but nobody is verified (Emissary without a CA). Visible in status, metric and log.
    Nothing,
    /// Web PKI: chain, dates, EKU and CRLs against the roots of this source.
    Roots(Arc<Source>),
    /// Web PKI against the operating system's roots.
    System,
    /// X509-SVID rules against the bundle of the peer's own trust domain, from this source. When the source is a plain CA
    /// (no trust domain of its own), only these trust domains are accepted under it.
    Spiffe {
        /// Where the bundles come from.
        trust: Arc<Source>,
        /// The trust domains that a plain CA vouches for; empty when the bundles carry their own.
        trust_domains: Vec<crate::TrustDomain>,
    },
}

/// The protocol versions that may be negotiated, inclusive.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Versions {
    /// TLS 1.2 may be spoken.
    pub tls12: bool,
    /// TLS 1.3 may be spoken.
    pub tls13: bool,
}

/// What a client configuration is made from.
#[derive(Clone, Debug)]
pub struct ClientSpec {
    /// Where the own certificate comes from; `None`: no client certificate.
    pub identity: Option<Arc<Source>>,
    /// Which SVID to present; `None`: the first (W-14, W-15).
    pub hint: Option<String>,
    /// How the upstream is verified.
    pub verify: Verify,
    /// An extra source of revocation lists.
    pub crl: Option<Arc<Source>>,
    /// Protocols offered, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Versions offered.
    pub versions: Versions,
    /// Cipher suites by their OpenSSL or IANA name; empty: the provider's. Names were checked by `provider::suites`.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups by name; empty: the provider's. Names were checked by `provider::groups`.
    pub groups: Vec<String>,
}

/// A whole client configuration, with what the pool must know of it.
#[derive(Debug)]
pub struct ClientTls {
    /// For `TlsConnector`. SNI is chosen by the connection's `ServerName`.
    pub config: Arc<rustls::ClientConfig>,
    /// What is presented.
    pub credential: Option<Arc<Credential>>,
    /// Grows with every rebuild of the profile: connections made with an older one are retired by the pool.
    pub generation: u64,
    /// Whether the upstream is verified at all.
    pub verified: bool,
}

/// Client certificates on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClientAuth {
    /// Not asked for.
    Off,
    /// Asked for; a bad one is refused, none is accepted.
    Optional,
    /// Required.
    Required,
}

/// What a server configuration is made from.
#[derive(Clone, Debug)]
pub struct ServerSpec {
    /// A name for logs and `/config`: `namespace/name` of the Host or TLSContext.
    pub name: Arc<str>,
    /// Where the certificate comes from.
    pub identity: Arc<Source>,
    /// Which SVID to present; `None`: the first.
    pub hint: Option<String>,
    /// Whether client certificates are asked for.
    pub client_auth: ClientAuth,
    /// How client certificates are verified; `None` with [`ClientAuth::Off`].
    pub verify: Option<Verify>,
    /// An extra source of revocation lists.
    pub crl: Option<Arc<Source>>,
    /// Protocols accepted, in order.
    pub alpn: Vec<Vec<u8>>,
    /// Versions accepted.
    pub versions: Versions,
    /// Cipher suites by name; empty: the provider's.
    pub cipher_suites: Vec<String>,
    /// Key exchange groups by name; empty: the provider's.
    pub groups: Vec<String>,
}

/// A whole server configuration.
#[derive(Debug)]
pub struct ServerTls {
    /// For `LazyConfigAcceptor::into_stream`.
    pub config: Arc<rustls::ServerConfig>,
    /// What is presented.
    pub credential: Arc<Credential>,
    /// Grows with every rebuild of the profile.
    pub generation: u64,
}

/// A hot client configuration. `current` is loaded once for each handshake.
#[derive(Debug)]
pub struct ClientProfile {
    spec: ClientSpec,
    live: ArcSwap<Result<Arc<ClientTls>, Problem>>,
}

impl ClientProfile {
    /// Builds from the sources' present states and follows them from now on. A source that is still pending gives a
    /// profile that answers its problem until the source delivers.
    pub fn new(spec: ClientSpec) -> Arc<Self> {
        drop(spec);
        todo!()
    }

    /// What it is made from.
    pub fn spec(&self) -> &ClientSpec {
        &self.spec
    }

    /// The configuration to use for a handshake now, or why there is none: pending, withdrawn, expired (checked against the
    /// wall clock at this moment), unusable.
    pub fn current(&self) -> Result<Arc<ClientTls>, Problem> {
        self.live.load().as_ref().clone()
    }

    /// The identity of a peer whose handshake this profile has just finished, from the verified-chain cache. With
    /// [`Verify::Nothing`] the result says only what the peer presented, and is marked unverified.
    pub fn peer(&self, chain: &[rustls_pki_types::CertificateDer<'_>]) -> Result<Arc<PeerId>, VerifyFailure> {
        let _ = chain;
        todo!()
    }

    /// Verifies a chain again against the present trust: the revocation sweep.
    pub fn recheck(&self, peer: &PeerId) -> Result<(), VerifyFailure> {
        let _ = peer;
        todo!()
    }
}

/// A hot server configuration. `current` is loaded once for each handshake.
#[derive(Debug)]
pub struct ServerProfile {
    spec: ServerSpec,
    /// Hot: an edited rule changes nothing else; the sweep reads it again.
    rule: ArcSwap<crate::PeerRule>,
    live: ArcSwap<Result<Arc<ServerTls>, Problem>>,
}

impl ServerProfile {
    /// Builds from the sources' present states and follows them from now on.
    pub fn new(spec: ServerSpec, rule: crate::PeerRule) -> Arc<Self> {
        drop((spec, rule));
        todo!()
    }

    /// Who may connect, compared after the handshake and before the first application byte.
    pub fn rule(&self) -> Arc<crate::PeerRule> {
        self.rule.load_full()
    }

    /// Replaces the rule; connections that it no longer lets through are found by the sweep.
    pub fn set_rule(&self, rule: crate::PeerRule) {
        self.rule.store(Arc::new(rule));
    }

    /// What it is made from.
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// The configuration to use for a handshake now, or why there is none.
    pub fn current(&self) -> Result<Arc<ServerTls>, Problem> {
        self.live.load().as_ref().clone()
    }

    /// The identity of a client whose handshake this profile has just finished. `Ok(None)`: no certificate, and none was required.
    pub fn peer(
        &self,
        chain: Option<&[rustls_pki_types::CertificateDer<'_>]>,
    ) -> Result<Option<Arc<PeerId>>, VerifyFailure> {
        let _ = chain;
        todo!()
    }

    /// Verifies a chain again against the present trust: the revocation sweep.
    pub fn recheck(&self, peer: &PeerId) -> Result<(), VerifyFailure> {
        let _ = peer;
        todo!()
    }
}
