//! Verification of peers: X509-SVID rules and web PKI, both on webpki's path building.

/// Which rule a peer's chain broke. Each has its own code in `docs/reasons.md`; the peer sees only a TLS alert.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
#[error("{}", self.code())]
#[non_exhaustive]
pub enum VerifyFailure {
    /// more than one URI SAN.
    SeveralUriSans,
}

impl VerifyFailure {
    /// The stable code, for example `peer_several_uri_sans`.
    pub fn code(self) -> &'static str {
        match self {
            Self::SeveralUriSans => "peer_several_uri_sans",
        }
    }
}
