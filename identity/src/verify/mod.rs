//! Verification of peers: X509-SVID rules and web PKI, both on webpki's path building.
//!
//! webpki alone is not enough (it ignores `KeyUsage`, the validity of anchors and URI name constraints), so our own checks
//! stand before and inside its path building. Names and SPIFFE IDs are not compared here: that is [`crate::PeerRule`].

mod anchors;
mod failure;
mod handshake;
pub(crate) mod leaf;
mod path;
mod revocation;
#[cfg(test)]
mod tests;
mod trust;
mod verifier;

pub use failure::{VerifyFailure, failure_of};
pub(crate) use trust::{TrustInput, TrustInputs};
pub(crate) use verifier::{PeerVerifier, Role};
