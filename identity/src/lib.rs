//! Who we are and whom we trust: sources of key material turned into hot rustls configurations.
//!
//! A [`Source`] delivers coherent [`Material`] (own certificates, trust, or both). A [`ClientProfile`] or a
//! [`ServerProfile`] names its sources and holds one whole rustls configuration that is rebuilt, validated and then swapped
//! whenever a source publishes. The verifier proves the chain and the trust domain; the exact identity is compared afterwards
//! with a [`PeerRule`] on the [`PeerId`] of the connection. No HTTP, no Kubernetes and no YAML in this crate.

pub mod authorize;
pub mod chain_cache;
pub mod dev;
pub mod error;
pub mod id;
pub mod material;
pub mod profile;
pub mod provider;
pub mod source;
pub mod verify;

pub use authorize::{Denied, IdPattern, PeerRule};
pub use chain_cache::{ChainHash, PeerId};
pub use error::{Error, Problem};
pub use id::{SpiffeId, TrustDomain};
pub use material::{Bundle, Credential, Material, Trust};
pub use profile::{
    ClientAuth, ClientProfile, ClientSpec, ClientTls, ServerProfile, ServerSpec, ServerTls, Verify, Versions,
};
pub use source::{Source, SourceRef, SourceState, SourceStatus};
pub use verify::VerifyFailure;

/// A name that can be sent as SNI or verified: a DNS name or an address. `None` for anything else.
pub fn server_name(text: &str) -> Option<rustls_pki_types::ServerName<'static>> {
    rustls_pki_types::ServerName::try_from(text.trim_end_matches('.').to_owned()).ok()
}
