//! The verified-chain cache: hash of a peer's chain -> what was proved about it, until its validity or its trust ends.

use std::{sync::Arc, time::SystemTime};

use rustls_pki_types::CertificateDer;

use crate::SpiffeId;

/// SHA-256 over the lengths and bytes of a chain.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ChainHash(pub [u8; 32]);

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
