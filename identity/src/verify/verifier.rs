//! The verifier of one profile and one state of its trust, and its cache.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::crypto::CryptoProvider;
use rustls_pki_types::{CertificateDer, UnixTime};
use webpki::KeyUsage;

use super::{
    VerifyFailure,
    anchors::{Anchors, Candidates},
    path::Path,
    revocation::Revocation,
    trust::{Mode, TrustInputs},
};
use crate::{
    ClientAuth, PeerId,
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

/// A verifier over one state of trust.
#[derive(Debug)]
pub(crate) struct PeerVerifier {
    mode: Mode,
    revocation: Revocation,
    pub(super) client_auth: ClientAuth,
    pub(super) provider: Arc<CryptoProvider>,
    cache: ChainCache,
}

impl PeerVerifier {
    /// Prepares anchors and revocation lists.
    pub(crate) fn new(inputs: &TrustInputs, client_auth: ClientAuth) -> Self {
        Self {
            mode: Mode::new(&inputs.trust),
            revocation: Revocation::new(inputs),
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
        let until = self.valid_until(&peer, now);
        self.cache.insert(Arc::clone(&peer), until, now);
        Ok(peer)
    }

    /// Until when a verdict holds: the end of the path, or of a revocation list.
    pub(crate) fn valid_until(&self, peer: &PeerId, now: SystemTime) -> SystemTime {
        self.revocation.next_end(now).map_or(peer.not_after, |end| peer.not_after.min(end))
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
        let (anchors, spiffe_id) = self.mode.anchors_for(first)?;
        let path = Path { leaf, intermediates, parsed: &parsed, spiffe: spiffe_id.is_some() };
        let not_after = self.build_path(anchors, &path, role, now)?;
        Ok(PeerId { spiffe_id, verified: true, chain: owned(chain), hash, serial: serial(first), not_after })
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
        let lists = self.revocation.lists();
        let revocation = self.revocation.options(&lists)?;
        // webpki reports the callback's errors in its own words; ours is kept here.
        let own = std::cell::Cell::new(None);
        let check = |built: &webpki::VerifiedPath<'_>| {
            path.check(built, anchors).map_err(|failure| {
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
