//! Each rule of the SPIFFE ID and X509-SVID standards that a verifier can hold, and each case in which webpki alone is not
//! enough, has a test named after it. Certificates are made to break exactly one rule. `cargo mutants -p identity` shows
//! that no rule can be left out without a test that fails (`.cargo/mutants.toml`).

#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may stop where it fails")]

mod handshake;

mod id_rules;
mod mint;
mod revocation;
mod rules;
mod trust;
mod webpki_gaps;
mod x_rules;
