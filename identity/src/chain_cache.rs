//! The verified-chain cache: hash of a peer's chain -> what was proved about it, until its validity or its trust ends.
//!
//! A cache belongs to one verifier, that is to one state of trust and revocation lists: when these change, a new verifier
//! starts with an empty one.

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;
use rustls_pki_types::CertificateDer;

use crate::SpiffeId;

/// Most chains remembered by one verifier.
const CAPACITY: usize = 4096;
/// A chain that was not asked for in this long, and not in as long before, is forgotten: peers rotate, and what they have
/// presented before would pile up to its end. Open connections hold theirs themselves.
const REMEMBERED: Duration = Duration::from_secs(30);

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
    known: Mutex<Known>,
}

type Chains = HashMap<ChainHash, (Arc<PeerId>, SystemTime), foldhash::fast::RandomState>;

/// Two generations: what is asked for moves to the younger one, and the older one goes as a whole. No order has to be kept
/// that every handshake would have to maintain.
#[derive(Debug, Default)]
struct Known {
    young: Chains,
    old: Chains,
    /// Since when there is this younger one.
    since: Option<SystemTime>,
}

impl Known {
    fn age(&mut self, now: SystemTime) {
        let since = *self.since.get_or_insert(now);
        // A clock that went back says nothing about age.
        let over = now.duration_since(since).map_or(true, |age| age >= REMEMBERED);
        if over || self.young.len() >= CAPACITY / 2 {
            self.old = std::mem::take(&mut self.young);
            self.since = Some(now);
        }
    }
}

impl ChainCache {
    /// A chain that was proved and is still valid.
    pub(crate) fn get(&self, hash: &ChainHash, now: SystemTime) -> Option<Arc<PeerId>> {
        let mut known = self.known.lock();
        known.age(now);
        if let Some(found) = known.old.remove(hash) {
            known.young.insert(*hash, found);
        }
        let (peer, until) = known.young.get(hash)?;
        if now < *until {
            return Some(Arc::clone(peer));
        }
        known.young.remove(hash);
        None
    }

    /// Remembers a chain for as long as its path and its revocation lists are valid, and it is asked for.
    pub(crate) fn insert(&self, peer: Arc<PeerId>, until: SystemTime, now: SystemTime) {
        let mut known = self.known.lock();
        known.age(now);
        known.young.insert(peer.hash, (peer, until));
    }
}

#[cfg(test)]
mod tests {
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
        for number in 0..3 * CAPACITY {
            cache.insert(peer(number), until, now);
            assert!(cache.get(&peer(0).hash, now).is_some(), "{number}: what is asked for stays");
            let known = cache.known.lock();
            assert!(known.young.len() + known.old.len() <= CAPACITY);
        }
    }

    #[test]
    fn what_peers_present_no_longer_is_forgotten_long_before_it_ends() {
        let (cache, start) = (ChainCache::default(), SystemTime::UNIX_EPOCH);
        let until = start + Duration::from_hours(1);
        // Ten rotations a second for ten minutes.
        for tenth in 0..6000 {
            let now = start + Duration::from_millis(tenth * 100);
            cache.insert(peer(usize::try_from(tenth).expect("small")), until, now);
            let known = cache.known.lock();
            assert!(known.young.len() + known.old.len() <= 601, "{tenth}");
        }
        let now = start - Duration::from_secs(5);
        cache.insert(peer(7), until, now);
        assert!(cache.get(&peer(7).hash, now).is_some(), "also when the clock went back");
    }

    #[test]
    fn a_chain_is_known_no_longer_than_it_is_valid() {
        let (cache, now) = (ChainCache::default(), SystemTime::UNIX_EPOCH);
        let until = now + Duration::from_secs(5);
        cache.insert(peer(1), until, now);
        assert!(cache.get(&peer(1).hash, until - Duration::from_secs(1)).is_some());
        assert!(cache.get(&peer(1).hash, until).is_none());
    }
}
