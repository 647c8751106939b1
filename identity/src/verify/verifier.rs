//! The verifier of one profile and one state of its trust, for both roles of rustls.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{
    DigitallySignedStruct, DistinguishedName, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{
        CryptoProvider, verify_tls12_signature, verify_tls13_signature, verify_tls13_signature_with_raw_key,
    },
    server::danger::{ClientCertVerified, ClientCertVerifier},
};
use rustls_pki_types::{
    CertificateDer, CertificateRevocationListDer, ServerName, SubjectPublicKeyInfoDer, UnixTime,
};
use webpki::{CertRevocationList, KeyUsage, OwnedCertRevocationList, RevocationOptionsBuilder};
use x509_parser::prelude::{FromDer as _, X509Certificate};

use super::{
    VerifyFailure,
    anchors::{Anchors, Candidates},
    failure::to_rustls,
    leaf,
};
use crate::{
    Bundle, ClientAuth, PeerId, SpiffeId, TrustDomain,
    chain_cache::{ChainCache, ChainHash},
    material::{parse, serial, time},
};

/// Largest leaf that is looked at, in bytes.
const MAX_LEAF_BYTES: usize = 16 * 1024;
/// Most intermediates of a peer: 100 of one name cost 166 ms of CPU (spiffe.md 6.2).
const MAX_INTERMEDIATES: usize = 6;

/// Which side the peer is on; decides the extended key usage.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Role {
    /// The peer is a server.
    Server,
    /// The peer is a client.
    Client,
}

/// Trust as plain data. Two equal inputs need one verifier, so that a rotation of the own SVID keeps the chain cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrustInput {
    /// Nobody is verified.
    Nothing,
    /// Web PKI.
    Roots(Bundle),
    /// SPIFFE bundles.
    Spiffe(BTreeMap<TrustDomain, Bundle>),
    /// SPIFFE rules over a plain CA that vouches for these trust domains.
    SpiffeRoots(Bundle, Vec<TrustDomain>),
}

#[derive(Debug)]
enum Mode {
    Nothing,
    Roots(Anchors),
    Spiffe(BTreeMap<TrustDomain, Anchors>),
    SpiffeRoots(Anchors, Vec<TrustDomain>),
}

/// A verifier over one state of trust.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    mode: Mode,
    crls: Vec<CertRevocationList<'static>>,
    /// When each revocation list ends: what was proved under it is proved again after that.
    crl_ends: Vec<SystemTime>,
    client_auth: ClientAuth,
    provider: Arc<CryptoProvider>,
    cache: ChainCache,
}

impl PeerVerifier {
    /// Prepares anchors and revocation lists. Lists that do not parse were refused when the material was made.
    pub(crate) fn new(
        trust: &TrustInput,
        extra_crls: &[CertificateRevocationListDer<'static>],
        client_auth: ClientAuth,
    ) -> Self {
        let mut crls = extra_crls.to_vec();
        let mut anchors = |bundle: &Bundle| {
            crls.extend(bundle.crls.iter().cloned());
            Anchors::new(&bundle.authorities)
        };
        let mode = match trust {
            TrustInput::Nothing => Mode::Nothing,
            TrustInput::Roots(bundle) => Mode::Roots(anchors(bundle)),
            TrustInput::Spiffe(bundles) => Mode::Spiffe(
                bundles.iter().map(|(domain, bundle)| (domain.clone(), anchors(bundle))).collect(),
            ),
            TrustInput::SpiffeRoots(bundle, domains) => Mode::SpiffeRoots(anchors(bundle), domains.clone()),
        };
        let crl_ends = crls.iter().filter_map(|crl| next_update(crl)).collect();
        let crls = crls
            .iter()
            .filter_map(|crl| OwnedCertRevocationList::from_der(crl).ok())
            .map(Into::into)
            .collect();
        Self {
            mode,
            crls,
            crl_ends,
            client_auth,
            provider: crate::provider::provider(),
            cache: ChainCache::default(),
        }
    }

    /// Whether anybody is verified at all.
    pub(crate) fn verifies(&self) -> bool {
        !matches!(self.mode, Mode::Nothing)
    }

    /// What is proved about a chain: from the cache, or by verifying it now.
    pub(crate) fn identify(
        &self,
        chain: &[CertificateDer<'_>],
        role: Role,
        now: SystemTime,
    ) -> Result<Arc<PeerId>, VerifyFailure> {
        let hash = ChainHash::of(chain);
        if let Some(known) = self.cache.get(&hash, now) {
            return Ok(known);
        }
        let peer = Arc::new(self.verify(chain, hash, role, now)?);
        let crl_end = self.crl_ends.iter().filter(|end| now < **end).min();
        self.cache.insert(Arc::clone(&peer), crl_end.map_or(peer.not_after, |end| peer.not_after.min(*end)));
        Ok(peer)
    }

    fn verify(
        &self,
        chain: &[CertificateDer<'_>],
        hash: ChainHash,
        role: Role,
        now: SystemTime,
    ) -> Result<PeerId, VerifyFailure> {
        let (leaf, intermediates) = chain.split_first().ok_or(VerifyFailure::NoCertificate)?;
        if matches!(self.mode, Mode::Nothing) {
            return Ok(claimed(chain, hash, now));
        }
        if leaf.len() > MAX_LEAF_BYTES || intermediates.len() > MAX_INTERMEDIATES {
            return Err(VerifyFailure::TooLarge);
        }
        let parsed = chain.iter().map(parse).collect::<Option<Vec<_>>>().ok_or(VerifyFailure::Malformed)?;
        let first = parsed.first().ok_or(VerifyFailure::NoCertificate)?;
        let (anchors, spiffe_id) = self.anchors_for(first)?;
        let path = Path { leaf, intermediates, parsed: &parsed, spiffe: spiffe_id.is_some() };
        let not_after = self.build_path(anchors, &path, role, now)?;
        Ok(PeerId { spiffe_id, verified: true, chain: owned(chain), hash, serial: serial(first), not_after })
    }

    /// The anchors of the leaf's own trust domain, chosen before anything is verified.
    fn anchors_for(&self, leaf: &X509Certificate<'_>) -> Result<(&Anchors, Option<SpiffeId>), VerifyFailure> {
        if let Mode::Roots(anchors) = &self.mode {
            return Ok((anchors, None));
        }
        leaf::check_svid(leaf)?;
        let id = leaf::spiffe_id(leaf)?;
        let anchors = match &self.mode {
            Mode::Spiffe(bundles) => bundles.get(id.trust_domain()),
            Mode::SpiffeRoots(anchors, domains) => domains.contains(id.trust_domain()).then_some(anchors),
            Mode::Roots(_) | Mode::Nothing => None,
        };
        anchors.map(|anchors| (anchors, Some(id))).ok_or(VerifyFailure::NoBundle)
    }

    /// Builds and checks a path; gives the earliest end of validity in it.
    fn build_path(
        &self,
        anchors: &Anchors,
        path: &Path<'_>,
        role: Role,
        now: SystemTime,
    ) -> Result<SystemTime, VerifyFailure> {
        let candidates = match anchors.candidates(path.parsed, now) {
            Candidates::Some(candidates) => candidates,
            Candidates::Unusable => return Err(VerifyFailure::AuthorityUnusable),
            Candidates::None => return Err(VerifyFailure::UnknownIssuer),
        };
        let leaf = webpki::EndEntityCert::try_from(path.leaf)?;
        let usage = match role {
            Role::Server => KeyUsage::server_auth(),
            Role::Client => KeyUsage::client_auth(),
        };
        let crls: Vec<_> = self.crls.iter().collect();
        let revocation = RevocationOptionsBuilder::new(&crls).ok().map(|options| {
            options
                .with_status_policy(webpki::UnknownStatusPolicy::Allow)
                .with_expiration_policy(webpki::ExpirationPolicy::Enforce)
                .build()
        });
        // webpki reports the callback's errors in its own words; ours is kept here.
        let own = std::cell::Cell::new(None);
        let check = |built: &webpki::VerifiedPath<'_>| {
            check_built(anchors, path, built).map_err(|failure| {
                own.set(Some(failure));
                webpki::Error::UnknownIssuer
            })
        };
        let since_epoch = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO);
        let verified = leaf.verify_for_usage(
            self.provider.signature_verification_algorithms.all,
            &candidates,
            path.intermediates,
            UnixTime::since_unix_epoch(since_epoch),
            usage,
            revocation,
            Some(&check),
        );
        match verified {
            Ok(built) => {
                let used = path.used(&built)?.into_iter().map(|cert| time(cert.validity().not_after));
                used.chain(anchors.not_after(built.anchor())).min().ok_or(VerifyFailure::Malformed)
            }
            // A path that only our own rules refused says more than the paths that led nowhere.
            Err(error) => Err(own.get().unwrap_or_else(|| error.into())),
        }
    }

    fn check_signature(
        &self,
        verified: Result<HandshakeSignatureValid, rustls::Error>,
        raw: impl FnOnce() -> Option<Result<HandshakeSignatureValid, rustls::Error>>,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        match verified {
            // X.509 v1 certificates, as `openssl x509 -req` makes them, are unknown to webpki. Where nobody is verified
            // they are let through, as Envoy does.
            Err(_unreadable) if !self.verifies() => {
                raw().unwrap_or_else(|| Ok(HandshakeSignatureValid::assertion()))
            }
            other => other,
        }
    }
}

/// A chain being verified.
struct Path<'a> {
    leaf: &'a CertificateDer<'a>,
    intermediates: &'a [CertificateDer<'a>],
    parsed: &'a [X509Certificate<'a>],
    spiffe: bool,
}

impl<'a> Path<'a> {
    /// The certificates of a built path, leaf first: a peer may send others, whose dates and names mean nothing.
    fn used(&self, built: &webpki::VerifiedPath<'_>) -> Result<Vec<&'a X509Certificate<'a>>, VerifyFailure> {
        let mut used: Vec<_> = self.parsed.first().into_iter().collect();
        for issuer in built.intermediate_certificates() {
            let der = issuer.der();
            let at = self.intermediates.iter().position(|sent| sent.as_ref() == der.as_ref());
            used.push(at.and_then(|at| self.parsed.get(at + 1)).ok_or(VerifyFailure::Malformed)?);
        }
        Ok(used)
    }
}

/// Our checks on a path that webpki has built: intermediates may sign, and the anchor's URI constraints hold.
fn check_built(
    anchors: &Anchors,
    path: &Path<'_>,
    built: &webpki::VerifiedPath<'_>,
) -> Result<(), VerifyFailure> {
    let used = path.used(built)?;
    for issuer in used.iter().skip(1) {
        leaf::check_issuer(issuer, path.spiffe)?;
    }
    if !anchors.constrains_uris(built.anchor()) {
        return Ok(());
    }
    let mut hosts = Vec::new();
    for uri in used.into_iter().map(leaf::uri_names).collect::<Result<Vec<_>, _>>()?.into_iter().flatten() {
        hosts.push(host(uri).ok_or(VerifyFailure::NameConstraint)?);
    }
    if anchors.permits(built.anchor(), &hosts) { Ok(()) } else { Err(VerifyFailure::NameConstraint) }
}

/// The host of a URI, to which URI name constraints apply.
fn host(uri: &[u8]) -> Option<&str> {
    let (_, rest) = std::str::from_utf8(uri).ok()?.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?;
    host.split(':').next()
}

/// When a revocation list ends.
fn next_update(crl: &CertificateRevocationListDer<'_>) -> Option<SystemTime> {
    let (_, list) = x509_parser::revocation_list::CertificateRevocationList::from_der(crl).ok()?;
    list.next_update().map(time)
}

/// What an unverified peer merely claims.
fn claimed(chain: &[CertificateDer<'_>], hash: ChainHash, now: SystemTime) -> PeerId {
    let cert = chain.first().and_then(parse);
    PeerId {
        spiffe_id: None,
        verified: false,
        chain: owned(chain),
        hash,
        serial: cert.as_ref().map(serial).unwrap_or_default(),
        not_after: cert.map_or(now, |cert| time(cert.validity().not_after)),
    }
}

fn owned(chain: &[CertificateDer<'_>]) -> Arc<[CertificateDer<'static>]> {
    chain.iter().map(|cert| cert.clone().into_owned()).collect()
}

fn chain_of<'a>(leaf: &CertificateDer<'a>, intermediates: &[CertificateDer<'a>]) -> Vec<CertificateDer<'a>> {
    std::iter::once(leaf.clone()).chain(intermediates.iter().cloned()).collect()
}

fn system_time(now: UnixTime) -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(now.as_secs())
}

fn raw_key(cert: &CertificateDer<'_>) -> Option<SubjectPublicKeyInfoDer<'static>> {
    parse(cert).map(|cert| SubjectPublicKeyInfoDer::from(cert.public_key().raw.to_vec()))
}

impl ServerCertVerifier for PeerVerifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        _server_name: &ServerName<'_>,
        _ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        self.identify(&chain_of(end_entity, intermediates), Role::Server, system_time(now))
            .map(|_peer| ServerCertVerified::assertion())
            .map_err(to_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.check_signature(verify_tls12_signature(message, cert, dss, algorithms), || None)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        self.check_signature(verify_tls13_signature(message, cert, dss, algorithms), || {
            raw_key(cert).map(|key| verify_tls13_signature_with_raw_key(message, &key, dss, algorithms))
        })
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}

impl ClientCertVerifier for PeerVerifier {
    fn offer_client_auth(&self) -> bool {
        self.client_auth != ClientAuth::Off
    }

    fn client_auth_mandatory(&self) -> bool {
        self.client_auth == ClientAuth::Required
    }

    fn root_hint_subjects(&self) -> &[DistinguishedName] {
        &[]
    }

    fn verify_client_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<ClientCertVerified, rustls::Error> {
        self.identify(&chain_of(end_entity, intermediates), Role::Client, system_time(now))
            .map(|_peer| ClientCertVerified::assertion())
            .map_err(to_rustls)
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls12_signature(self, message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        ServerCertVerifier::verify_tls13_signature(self, message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        ServerCertVerifier::supported_verify_schemes(self)
    }
}
