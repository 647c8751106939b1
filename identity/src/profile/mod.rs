//! TLS profiles: a specification that names sources, and one whole rustls configuration behind an `ArcSwap`.

mod inputs;

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use rustls::{
    client::Resumption,
    server::NoServerSessionStorage,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::CertificateDer;

use self::inputs::{not_expired, own, pending, trust_inputs};
use crate::{
    Credential, PeerId, PeerRule, Problem, Source, VerifyFailure, provider,
    source::Dependent,
    verify::{PeerVerifier, Role, TrustInputs},
};

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
    live: ArcSwap<Live<ClientTls>>,
    building: Mutex<u64>,
}

/// A hot server configuration. `current` is loaded once for each handshake.
#[derive(Debug)]
pub struct ServerProfile {
    spec: ServerSpec,
    /// Hot: an edited rule changes nothing else; the sweep reads it again.
    rule: ArcSwap<PeerRule>,
    live: ArcSwap<Live<ServerTls>>,
    building: Mutex<u64>,
}

/// One state of a profile: the verifier may be there although the own certificate is not.
#[derive(Debug)]
struct Live<T> {
    tls: Result<Arc<T>, Problem>,
    verifier: Option<Arc<PeerVerifier>>,
    inputs: Option<TrustInputs>,
    /// The generation that changed the verifier last.
    trust: u64,
}

impl<T> Live<T> {
    fn nothing() -> Self {
        Self { tls: Err(pending("the profile")), verifier: None, inputs: None, trust: 0 }
    }
}

impl ClientProfile {
    /// Builds from the sources' present states and follows them from now on. A source that is still pending gives a
    /// profile that answers its problem until the source delivers.
    pub fn new(spec: ClientSpec) -> Arc<Self> {
        let profile =
            Arc::new(Self { spec, live: ArcSwap::from_pointee(Live::nothing()), building: Mutex::new(0) });
        let dependent: Arc<dyn Dependent> = Arc::<Self>::clone(&profile);
        let spec = &profile.spec;
        follow(&dependent, [spec.identity.as_ref(), spec.verify.source(), spec.crl.as_ref()]);
        profile.rebuild();
        profile
    }

    /// What it is made from.
    pub fn spec(&self) -> &ClientSpec {
        &self.spec
    }

    /// The configuration to use for a handshake now, or why there is none: pending, withdrawn, expired (by the wall clock
    /// at this moment), unusable.
    pub fn current(&self) -> Result<Arc<ClientTls>, Problem> {
        let tls = self.live.load().tls.clone()?;
        if let (Some(credential), Some(source)) = (&tls.credential, &self.spec.identity) {
            not_expired(credential, source)?;
        }
        Ok(tls)
    }

    /// The identity of a peer whose handshake this profile has just finished, from the verified-chain cache. With
    /// [`Verify::Nothing`] the result says only what the peer presented, and is marked unverified.
    pub fn peer(&self, chain: &[CertificateDer<'_>]) -> Result<Arc<PeerId>, VerifyFailure> {
        identify(self.live.load().verifier.as_ref(), chain, Role::Server)
    }

    /// Verifies a chain again against the present trust: the revocation sweep. Gives until when that holds if the trust
    /// stays as it is.
    pub fn recheck(&self, chain: &[CertificateDer<'_>]) -> Result<SystemTime, VerifyFailure> {
        recheck(self.live.load().verifier.as_ref(), chain, Role::Server)
    }

    /// Grows when trust or revocation lists change, and not when the own certificate does.
    pub fn trust_revision(&self) -> u64 {
        self.live.load().trust
    }

    fn build(&self, generation: u64) -> Live<ClientTls> {
        let spec = &self.spec;
        let inputs = match trust_inputs(&spec.verify, spec.crl.as_ref()) {
            Ok(inputs) => inputs,
            Err(problem) => return untrusted(problem, generation),
        };
        let (verifier, trust) = reuse(&self.live.load(), &inputs, ClientAuth::Off, generation);
        let tls = self.config(&verifier, generation).map(Arc::new);
        Live { tls, verifier: Some(verifier), inputs: Some(inputs), trust }
    }

    fn config(&self, verifier: &Arc<PeerVerifier>, generation: u64) -> Result<ClientTls, Problem> {
        let spec = &self.spec;
        let credential = match &spec.identity {
            Some(source) => Some(own(source, spec.hint.as_deref())?),
            None => None,
        };
        let provider = provider::chosen(&spec.cipher_suites, &spec.groups).map_err(settings)?;
        let builder = rustls::ClientConfig::builder_with_provider(provider)
            .with_protocol_versions(&spec.versions.list())
            .map_err(|error| settings(error.to_string()))?
            .dangerous()
            .with_custom_certificate_verifier(Arc::<PeerVerifier>::clone(verifier));
        let mut config = match &credential {
            Some(credential) => builder.with_client_cert_resolver(resolver(credential)),
            None => builder.with_no_client_auth(),
        };
        config.alpn_protocols.clone_from(&spec.alpn);
        // A resumed session would skip the verifier (spiffe.md 6.4); the pool saves the handshakes.
        config.resumption = Resumption::disabled();
        Ok(ClientTls { config: Arc::new(config), credential, generation, verified: verifier.verifies() })
    }
}

impl Dependent for ClientProfile {
    fn rebuild(&self) {
        let mut generation = self.building.lock();
        *generation += 1;
        self.live.store(Arc::new(self.build(*generation)));
    }
}

impl ServerProfile {
    /// Builds from the sources' present states and follows them from now on.
    pub fn new(spec: ServerSpec, rule: PeerRule) -> Arc<Self> {
        let profile = Arc::new(Self {
            spec,
            rule: ArcSwap::from_pointee(rule),
            live: ArcSwap::from_pointee(Live::nothing()),
            building: Mutex::new(0),
        });
        let dependent: Arc<dyn Dependent> = Arc::<Self>::clone(&profile);
        let spec = &profile.spec;
        let trust = spec.verify.as_ref().and_then(Verify::source);
        follow(&dependent, [Some(&spec.identity), trust, spec.crl.as_ref()]);
        profile.rebuild();
        profile
    }

    /// What it is made from.
    pub fn spec(&self) -> &ServerSpec {
        &self.spec
    }

    /// Who may connect, compared after the handshake and before the first application byte.
    pub fn rule(&self) -> Arc<PeerRule> {
        self.rule.load_full()
    }

    /// Replaces the rule; connections that it no longer lets through are found by the sweep.
    pub fn set_rule(&self, rule: PeerRule) {
        self.rule.store(Arc::new(rule));
    }

    /// The configuration to use for a handshake now, or why there is none.
    pub fn current(&self) -> Result<Arc<ServerTls>, Problem> {
        let tls = self.live.load().tls.clone()?;
        not_expired(&tls.credential, &self.spec.identity)?;
        Ok(tls)
    }

    /// The identity of a client whose handshake this profile has just finished. `Ok(None)`: no certificate, and none was
    /// required.
    pub fn peer(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<Option<Arc<PeerId>>, VerifyFailure> {
        match chain {
            None | Some([]) if self.spec.client_auth == ClientAuth::Required => {
                Err(VerifyFailure::NoCertificate)
            }
            None | Some([]) => Ok(None),
            Some(chain) => identify(self.live.load().verifier.as_ref(), chain, Role::Client).map(Some),
        }
    }

    /// Verifies a chain again against the present trust, or whether one is required: the revocation sweep. Gives until when
    /// that holds if the trust stays as it is.
    pub fn recheck(&self, chain: Option<&[CertificateDer<'_>]>) -> Result<SystemTime, VerifyFailure> {
        match chain {
            None if self.spec.client_auth == ClientAuth::Required => Err(VerifyFailure::NoCertificate),
            None => Ok(SystemTime::now() + UNVERIFIED_FOR),
            Some(chain) => recheck(self.live.load().verifier.as_ref(), chain, Role::Client),
        }
    }

    /// Grows when trust or revocation lists change, and not when the own certificate does.
    pub fn trust_revision(&self) -> u64 {
        self.live.load().trust
    }

    fn build(&self, generation: u64) -> Live<ServerTls> {
        let spec = &self.spec;
        let verify = spec.verify.as_ref().unwrap_or(&Verify::Nothing);
        let inputs = match trust_inputs(verify, spec.crl.as_ref()) {
            Ok(inputs) => inputs,
            Err(problem) => return untrusted(problem, generation),
        };
        let (verifier, trust) = reuse(&self.live.load(), &inputs, spec.client_auth, generation);
        let tls = self.config(&verifier, generation).map(Arc::new);
        Live { tls, verifier: Some(verifier), inputs: Some(inputs), trust }
    }

    fn config(&self, verifier: &Arc<PeerVerifier>, generation: u64) -> Result<ServerTls, Problem> {
        let spec = &self.spec;
        let credential = own(&spec.identity, spec.hint.as_deref())?;
        let provider = provider::chosen(&spec.cipher_suites, &spec.groups).map_err(settings)?;
        let builder = rustls::ServerConfig::builder_with_provider(provider)
            .with_protocol_versions(&spec.versions.list())
            .map_err(|error| settings(error.to_string()))?;
        let builder = match spec.client_auth {
            ClientAuth::Off => builder.with_no_client_auth(),
            _ => builder.with_client_cert_verifier(Arc::<PeerVerifier>::clone(verifier)),
        };
        let mut config = builder.with_cert_resolver(resolver(&credential));
        config.alpn_protocols.clone_from(&spec.alpn);
        if spec.client_auth != ClientAuth::Off || credential.spiffe_id.is_some() {
            config.session_storage = Arc::new(NoServerSessionStorage {});
            config.send_tls13_tickets = 0;
        }
        Ok(ServerTls { config: Arc::new(config), credential, generation })
    }
}

impl Dependent for ServerProfile {
    fn rebuild(&self) {
        let mut generation = self.building.lock();
        *generation += 1;
        self.live.store(Arc::new(self.build(*generation)));
    }
}

impl Verify {
    /// The source of trust, if there is one.
    pub fn source(&self) -> Option<&Arc<Source>> {
        match self {
            Self::Roots(source) | Self::Spiffe { trust: source, .. } => Some(source),
            Self::Nothing | Self::System => None,
        }
    }
}

impl Versions {
    /// TLS 1.2 and 1.3.
    pub const ALL: Self = Self { tls12: true, tls13: true };

    fn list(self) -> Vec<&'static rustls::SupportedProtocolVersion> {
        let all = [(self.tls13, &rustls::version::TLS13), (self.tls12, &rustls::version::TLS12)];
        all.into_iter().filter_map(|(on, version)| on.then_some(version)).collect()
    }
}

fn follow<const N: usize>(dependent: &Arc<dyn Dependent>, sources: [Option<&Arc<Source>>; N]) {
    for source in sources.into_iter().flatten() {
        source.follow(Arc::downgrade(dependent));
    }
}

fn settings(error: String) -> Problem {
    Problem::new("tls_settings", error)
}

fn resolver(credential: &Credential) -> Arc<SingleCertAndKey> {
    let certified = CertifiedKey::new(credential.chain.clone(), Arc::clone(&credential.key));
    Arc::new(SingleCertAndKey::from(certified))
}

/// The verifier of the present state when nothing it rests on has changed, and since which generation it is in use: its
/// chain cache stays warm over rotations.
fn reuse<T>(
    live: &Live<T>,
    inputs: &TrustInputs,
    client_auth: ClientAuth,
    generation: u64,
) -> (Arc<PeerVerifier>, u64) {
    match (&live.verifier, &live.inputs) {
        (Some(verifier), Some(before)) if before == inputs => (Arc::clone(verifier), live.trust),
        _ => (Arc::new(PeerVerifier::new(inputs, client_auth)), generation),
    }
}

/// A state in which nobody can be verified.
fn untrusted<T>(problem: Problem, generation: u64) -> Live<T> {
    Live { tls: Err(problem), verifier: None, inputs: None, trust: generation }
}

/// What nobody verifies does not end.
const UNVERIFIED_FOR: Duration = Duration::from_hours(365 * 24);

fn recheck(
    verifier: Option<&Arc<PeerVerifier>>,
    chain: &[CertificateDer<'_>],
    role: Role,
) -> Result<SystemTime, VerifyFailure> {
    let (verifier, now) = (verifier.ok_or(VerifyFailure::NoTrust)?, SystemTime::now());
    if !verifier.verifies() {
        return Ok(now + UNVERIFIED_FOR);
    }
    let peer = verifier.identify(chain, role, now)?;
    Ok(verifier.valid_until(&peer, now))
}

fn identify(
    verifier: Option<&Arc<PeerVerifier>>,
    chain: &[CertificateDer<'_>],
    role: Role,
) -> Result<Arc<PeerId>, VerifyFailure> {
    verifier.ok_or(VerifyFailure::NoTrust)?.identify(chain, role, SystemTime::now())
}
