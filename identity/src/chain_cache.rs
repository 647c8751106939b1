//! The verified-chain cache: hash of a peer's chain -> what was proved about it, until its validity or its trust ends.
//!
//! A cache belongs to one verifier, that is to one state of trust and revocation lists: when these change, a new verifier
//! starts with an empty one.

use std::{collections::HashMap, sync::Arc, time::SystemTime};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

use crate::SpiffeId;

/// Most chains remembered by one verifier.
const CAPACITY: usize = 4096;

/// SHA-256 over the lengths and bytes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

impl ChainHash {
    /// The hash of a chain, leaf first.
    pub fn of(chain: &[CertificateDer<'_>]) -> Self {
        let mut context = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        for cert in chain {
            context.update(&(cert.len() as u64).to_be_bytes());
            context.update(cert);
        }
        let mut hash = [0; 32];
        for (to, from) in hash.iter_mut().zip(context.finish().as_ref()) {
            *to = *from;
        }
        Self(hash)
    }
}

/// Who a peer is, as proved (or, when `verified` is false, as merely claimed) by its chain.
#[derive(Clone, Debug)]
pub struct PeerId {
    /// The SPIFFE ID, if the chain was verified in SPIFFE mode.
    pub spiffe_id: Option<SpiffeId>,
    /// Whether the chain was verified.
    pub verified: bool,
    /// The chain as presented, leaf first: what a recheck verifies again.
    pub chain: Arc<[CertificateDer<'static>]>,
    /// Its hash.
    pub hash: ChainHash,
    /// The leaf's serial number, upper-case hexadecimal.
    pub serial: String,
    /// The earliest end of validity in the path.
    pub not_after: SystemTime,
}

/// Chains proven under one state of trust.
#[derive(Debug, Default)]
pub(crate) struct ChainCache {
    known: Mutex<HashMap<ChainHash, (Arc<PeerId>, SystemTime), foldhash::fast::RandomState>>,
}

impl ChainCache {
    /// A chain that was proved and is still valid.
    pub(crate) fn get(&self, hash: &ChainHash, now: SystemTime) -> Option<Arc<PeerId>> {
        let mut known = self.known.lock();
        let (peer, until) = known.get(hash)?;
        if now < *until {
            return Some(Arc::clone(peer));
        }
        known.remove(hash);
        None
    }

    /// Remembers a chain for as long as its path and its revocation lists are valid.
    pub(crate) fn insert(&self, peer: Arc<PeerId>, until: SystemTime) {
        let mut known = self.known.lock();
        if known.len() >= CAPACITY {
            // Rare: drop everything rather than keep an order that every handshake would have to maintain.
            known.clear();
        }
        known.insert(peer.hash, (peer, until));
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn peer(number: usize) -> Arc<PeerId> {
        let chain: Arc<[_]> = Arc::from([CertificateDer::from(number.to_be_bytes().to_vec())]);
        Arc::new(PeerId {
            spiffe_id: None,
            verified: true,
            hash: ChainHash::of(&chain),
            chain,
            serial: String::new(),
            not_after: SystemTime::UNIX_EPOCH,
        })
    }

    #[test]
    fn chains_that_are_cut_differently_have_different_hashes() {
        let cut = |parts: &[&[u8]]| {
            let chain: Vec<_> = parts.iter().map(|part| CertificateDer::from(part.to_vec())).collect();
            ChainHash::of(&chain)
        };
        assert_ne!(cut(&[b"ab", b"c"]), cut(&[b"a", b"bc"]));
        assert_eq!(cut(&[b"ab", b"c"]), cut(&[b"ab", b"c"]));
    }

    #[test]
    fn strangers_do_not_make_it_grow_without_bound() {
        let (cache, now) = (ChainCache::default(), SystemTime::UNIX_EPOCH);
        let until = now + Duration::from_secs(1);
        for number in 0..CAPACITY {
            cache.insert(peer(number), until);
        }
        assert!(cache.get(&peer(0).hash, now).is_some(), "full, and nothing is lost");
        cache.insert(peer(CAPACITY), until);
        assert!(cache.get(&peer(0).hash, now).is_none());
        assert!(cache.get(&peer(CAPACITY).hash, now).is_some());
    }
}
