//! Which rule a peer's chain broke, under its own code; and how it is carried through rustls.

use std::{cell::Cell, io};

use rustls::{CertificateError, OtherError};

use crate::id::IdError;

macro_rules! failures {
    ($($(#[$doc:meta])* $name:ident = $code:literal,)*) => {
        /// Which rule a peer's chain broke. Each has its own code in `docs/reasons.md`; the peer sees only a TLS alert.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        #[non_exhaustive]
        pub enum VerifyFailure {
            $($(#[$doc])* $name,)*
        }

        impl VerifyFailure {
            /// The stable code.
            pub fn code(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// Every code, for documentation tests.
            pub const CODES: &'static [&'static str] = &[$($code,)*];
        }
    };
}

failures! {
    /// No certificate was presented although one is required.
    NoCertificate = "peer_no_certificate",
    /// A certificate that is not X.509 v3 in DER.
    Malformed = "peer_malformed",
    /// The leaf or the chain is larger than we read.
    TooLarge = "peer_chain_too_large",
    /// more than one URI SAN.
    SeveralUriSans = "peer_several_uri_sans",
    /// no URI SAN.
    NoUriSan = "peer_no_uri_san",
    /// ID-1: not `spiffe://<trust domain>/<path>`.
    IdForm = "peer_id_form",
    /// ID-2: port or user information.
    IdAuthority = "peer_id_authority",
    /// ID-3, ID-6: characters of the trust domain.
    IdTrustDomain = "peer_id_trust_domain",
    /// ID-5: path.
    IdPath = "peer_id_path",
    /// ID-7: too long.
    IdTooLong = "peer_id_too_long",
    /// ID-8: no path.
    IdNoPath = "peer_id_no_path",
    /// the leaf is a CA.
    LeafIsCa = "peer_leaf_is_ca",
    /// the leaf may sign certificates or CRLs.
    LeafMaySign = "peer_leaf_may_sign",
    /// `KeyUsage` without digitalSignature.
    NoDigitalSignature = "peer_no_digital_signature",
    /// an extended key usage that does not fit the role.
    Purpose = "peer_wrong_purpose",
    /// no bundle for the trust domain of the leaf, or an empty one.
    NoBundle = "peer_no_bundle",
    /// no path to an authority of the leaf's own trust domain.
    UnknownIssuer = "peer_unknown_issuer",
    /// an intermediate that is no CA, or without keyCertSign.
    IssuerMayNotSign = "peer_issuer_may_not_sign",
    /// an intermediate whose SPIFFE ID has a path, or is malformed.
    IssuerId = "peer_issuer_id",
    /// expired.
    Expired = "peer_expired",
    /// not valid yet.
    NotYetValid = "peer_not_yet_valid",
    /// the trust anchor itself has expired or is no CA.
    AuthorityUnusable = "peer_authority_unusable",
    /// path length exceeded.
    PathLength = "peer_path_length",
    /// outside the name constraints of an issuer.
    NameConstraint = "peer_name_constraint",
    /// Revoked.
    Revoked = "peer_revoked",
    /// The revocation list has expired or does not verify.
    RevocationList = "peer_revocation_list",
    /// Revocation lists are configured, but there is none of an issuer in the chain.
    NoRevocationList = "peer_no_revocation_list",
    /// A signature in the chain is wrong.
    BadSignature = "peer_bad_signature",
    /// A signature algorithm we do not accept.
    Algorithm = "peer_signature_algorithm",
    /// A critical extension that we do not know.
    UnknownExtension = "peer_unknown_extension",
    /// Building the path cost more than we allow.
    TooCostly = "peer_path_too_costly",
    /// The trust for this profile is not there.
    NoTrust = "peer_no_trust",
}

impl std::fmt::Display for VerifyFailure {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str(self.code())
    }
}

impl std::error::Error for VerifyFailure {}

impl From<IdError> for VerifyFailure {
    fn from(error: IdError) -> Self {
        match error {
            IdError::Form => Self::IdForm,
            IdError::Authority => Self::IdAuthority,
            IdError::TrustDomain => Self::IdTrustDomain,
            IdError::Path => Self::IdPath,
            IdError::TooLong => Self::IdTooLong,
            IdError::NoPath => Self::IdNoPath,
        }
    }
}

impl From<webpki::Error> for VerifyFailure {
    fn from(error: webpki::Error) -> Self {
        use webpki::Error as W;
        match error {
            W::CertExpired { .. } => Self::Expired,
            W::CertNotValidYet { .. } => Self::NotYetValid,
            W::CertRevoked => Self::Revoked,
            W::UnknownRevocationStatus => Self::NoRevocationList,
            W::CrlExpired { .. }
            | W::InvalidCrlSignatureForPublicKey
            | W::IssuerNotCrlSigner
            | W::InvalidCrlNumber => Self::RevocationList,
            W::CaUsedAsEndEntity => Self::LeafIsCa,
            W::EndEntityUsedAsCa => Self::IssuerMayNotSign,
            W::UnknownIssuer => Self::UnknownIssuer,
            W::PathLenConstraintViolated => Self::PathLength,
            W::NameConstraintViolation | W::MalformedNameConstraint => Self::NameConstraint,
            W::RequiredEkuNotFoundContext(_) | W::EmptyEkuExtension => Self::Purpose,
            W::InvalidSignatureForPublicKey => Self::BadSignature,
            W::UnsupportedCriticalExtension => Self::UnknownExtension,
            W::MaximumPathBuildCallsExceeded
            | W::MaximumSignatureChecksExceeded
            | W::MaximumPathDepthExceeded
            | W::MaximumNameConstraintComparisonsExceeded => Self::TooCostly,
            W::UnsupportedSignatureAlgorithmContext(_)
            | W::UnsupportedSignatureAlgorithmForPublicKeyContext(_)
            | W::SignatureAlgorithmMismatch => Self::Algorithm,
            _ => Self::Malformed,
        }
    }
}

thread_local! {
    /// The failure of the handshake that is being processed on this thread. rustls answers some alerts only for its own
    /// `CertificateError` values, which cannot carry ours; the caller takes it in the same poll in which the handshake failed.
    static LAST: Cell<Option<VerifyFailure>> = const { Cell::new(None) };
}

/// The rustls error with the right alert for the peer; our own code is kept for [`failure_of`].
pub(super) fn to_rustls(failure: VerifyFailure) -> rustls::Error {
    LAST.set(Some(failure));
    match failure.alert() {
        Some(error) => rustls::Error::InvalidCertificate(error),
        None => rustls::Error::NoCertificatesPresented,
    }
}

impl VerifyFailure {
    /// The rustls error whose alert fits. `None`: there is no certificate to speak of.
    fn alert(self) -> Option<CertificateError> {
        Some(match self {
            Self::NoCertificate => return None,
            Self::Malformed | Self::TooLarge => CertificateError::BadEncoding,
            Self::Expired | Self::AuthorityUnusable => CertificateError::Expired,
            Self::NotYetValid => CertificateError::NotValidYet,
            Self::Revoked => CertificateError::Revoked,
            Self::NoBundle | Self::UnknownIssuer | Self::NoTrust => CertificateError::UnknownIssuer,
            Self::BadSignature => CertificateError::BadSignature,
            Self::Purpose => CertificateError::InvalidPurpose,
            _ => CertificateError::Other(OtherError(std::sync::Arc::new(self))),
        })
    }
}

/// The verification failure behind a failed handshake, if that is what it was. Call it on the thread that drove the
/// handshake, right after it failed.
pub fn failure_of(error: &io::Error) -> Option<VerifyFailure> {
    let last = LAST.take();
    let mut source = error.get_ref().map(|inner| inner as &(dyn std::error::Error + 'static));
    while let Some(inner) = source {
        match inner.downcast_ref::<rustls::Error>() {
            Some(rustls::Error::InvalidCertificate(error)) => return of_certificate(error, last),
            Some(rustls::Error::NoCertificatesPresented) => return Some(VerifyFailure::NoCertificate),
            _ => source = inner.source(),
        }
    }
    None
}

/// What `LAST` holds counts only if this error came of it: it may be left over from another handshake, and a signature
/// of the handshake itself is judged by rustls.
fn of_certificate(error: &CertificateError, last: Option<VerifyFailure>) -> Option<VerifyFailure> {
    if let CertificateError::Other(other) = error {
        return other.0.downcast_ref::<VerifyFailure>().copied();
    }
    if last.is_some_and(|last| last.alert().as_ref() == Some(error)) {
        return last;
    }
    match error {
        CertificateError::BadSignature => Some(VerifyFailure::BadSignature),
        CertificateError::UnsupportedSignatureAlgorithmContext { .. }
        | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => {
            Some(VerifyFailure::Algorithm)
        }
        CertificateError::BadEncoding => Some(VerifyFailure::Malformed),
        _ => None,
    }
}
