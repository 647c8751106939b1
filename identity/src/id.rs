//! SPIFFE IDs and trust domains. Value types come from the `spiffe` crate; what a *peer* may present is stricter (rules ID-1..9).

pub use spiffe::{SpiffeId, TrustDomain};
