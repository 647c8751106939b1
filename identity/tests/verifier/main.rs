//! Each rule of the SPIFFE ID and X509-SVID standards that a verifier can hold, and each case in which webpki alone is not
//! enough, has a test named after it. Certificates are made to break exactly one rule.

mod handshake;
mod id_rules;
mod mint;
mod webpki_gaps;
mod x_rules;
