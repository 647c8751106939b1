//! Authorisation: comparing a proven identity with the rule of an endpoint or a listener.

use rustls_pki_types::ServerName;

use crate::{PeerId, SpiffeId, TrustDomain};

/// An exact SPIFFE ID, or a pattern of path segments: `*` stands for one segment, `**` for one or more, last only.
/// `spiffe://<td>/spire/**` never matches.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdPattern {
    /// Exactly this ID.
    Exact(SpiffeId),
    /// Segments under a trust domain.
    Segments {
        /// The trust domain, always literal.
        trust_domain: TrustDomain,
        /// Literal segments, or `*`.
        segments: Vec<String>,
        /// Whether `**` follows.
        rest: bool,
    },
}

/// Who a peer has to be. Evaluated after authentication, before the first application byte.
#[derive(Clone, Debug)]
pub enum PeerRule {
    /// Whoever the verifier let through (`verify: none`, `chain_only`, no client certificate asked for).
    Anyone,
    /// One of these IDs, or any workload of these trust domains.
    Spiffe {
        /// Exact IDs and patterns.
        ids: Vec<IdPattern>,
        /// Whole trust domains.
        trust_domains: Vec<TrustDomain>,
    },
    /// A workload of the trust domain that our own SVID of this source is in (Host `spiffe` block without ids and domains).
    OwnTrustDomain(std::sync::Arc<crate::Source>),
    /// The certificate is valid for one of these DNS names or addresses.
    Names(Vec<ServerName<'static>>),
}

/// Why a rule refused a peer. The message is for our log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// `peer_id_mismatch` or `peer_name_mismatch`.
    pub code: &'static str,
    /// What was expected and what came.
    pub message: String,
}

impl PeerRule {
    /// Whether the peer satisfies the rule.
    pub fn check(&self, peer: Option<&PeerId>) -> Result<(), Denied> {
        let _ = peer;
        todo!()
    }
}
