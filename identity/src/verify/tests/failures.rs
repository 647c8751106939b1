//! Each failure keeps its own code on the way from webpki through rustls to our log, and the peer gets the alert that fits.

use std::io;

use rustls::{CertificateError as C, PeerMisbehaved};
use rustls_pki_types::{ServerName, UnixTime};
use webpki::Error as W;

use super::super::failure::{VerifyFailure as F, failure_of, to_rustls};

const THEN: UnixTime = UnixTime::since_unix_epoch(std::time::Duration::ZERO);

#[test]
fn each_error_of_webpki_has_its_failure() {
    let context = webpki::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: Vec::new(),
        supported_algorithms: Vec::new(),
    };
    let for_key = webpki::UnsupportedSignatureAlgorithmForPublicKeyContext {
        signature_algorithm_id: Vec::new(),
        public_key_algorithm_id: Vec::new(),
    };
    let rows = [
        (W::CertExpired { time: THEN, not_after: THEN }, F::Expired),
        (W::CertNotValidYet { time: THEN, not_before: THEN }, F::NotYetValid),
        (W::CertRevoked, F::Revoked),
        (W::UnknownRevocationStatus, F::NoRevocationList),
        (W::CrlExpired { time: THEN, next_update: THEN }, F::RevocationList),
        (W::InvalidCrlSignatureForPublicKey, F::RevocationList),
        (W::IssuerNotCrlSigner, F::RevocationList),
        (W::InvalidCrlNumber, F::RevocationList),
        (W::CaUsedAsEndEntity, F::LeafIsCa),
        (W::EndEntityUsedAsCa, F::IssuerMayNotSign),
        (W::UnknownIssuer, F::UnknownIssuer),
        (W::PathLenConstraintViolated, F::PathLength),
        (W::NameConstraintViolation, F::NameConstraint),
        (W::MalformedNameConstraint, F::NameConstraint),
        (W::EmptyEkuExtension, F::Purpose),
        (W::InvalidSignatureForPublicKey, F::BadSignature),
        (W::UnsupportedCriticalExtension, F::UnknownExtension),
        (W::MaximumPathBuildCallsExceeded, F::TooCostly),
        (W::MaximumSignatureChecksExceeded, F::TooCostly),
        (W::MaximumPathDepthExceeded, F::TooCostly),
        (W::MaximumNameConstraintComparisonsExceeded, F::TooCostly),
        (W::UnsupportedSignatureAlgorithmContext(context), F::Algorithm),
        (W::UnsupportedSignatureAlgorithmForPublicKeyContext(for_key), F::Algorithm),
        (W::SignatureAlgorithmMismatch, F::Algorithm),
        (W::BadDer, F::Malformed),
        (W::UnsupportedCertVersion, F::Malformed),
    ];
    for (error, failure) in rows {
        assert_eq!(F::from(error.clone()), failure, "{error:?}");
    }
}

/// A failed handshake as tokio-rustls reports it.
fn failed(error: rustls::Error) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

const ALL: [F; 32] = [
    F::NoCertificate,
    F::Malformed,
    F::TooLarge,
    F::SeveralUriSans,
    F::NoUriSan,
    F::IdForm,
    F::IdAuthority,
    F::IdTrustDomain,
    F::IdPath,
    F::IdTooLong,
    F::IdNoPath,
    F::LeafIsCa,
    F::LeafMaySign,
    F::NoDigitalSignature,
    F::Purpose,
    F::NoBundle,
    F::UnknownIssuer,
    F::IssuerMayNotSign,
    F::IssuerId,
    F::Expired,
    F::NotYetValid,
    F::AuthorityUnusable,
    F::PathLength,
    F::NameConstraint,
    F::Revoked,
    F::RevocationList,
    F::NoRevocationList,
    F::BadSignature,
    F::Algorithm,
    F::UnknownExtension,
    F::TooCostly,
    F::NoTrust,
];

#[test]
fn each_failure_comes_back_from_rustls_as_itself() {
    assert_eq!(ALL.map(F::code), F::CODES, "a failure is missing here");
    for failure in ALL {
        assert_eq!(failure.to_string(), failure.code());
        assert_eq!(failure_of(&failed(to_rustls(failure))), Some(failure));
    }
}

#[test]
fn the_peer_gets_the_alert_that_fits() {
    let alert = |failure| match to_rustls(failure) {
        rustls::Error::InvalidCertificate(error) => Some(error),
        rustls::Error::NoCertificatesPresented => None,
        other => panic!("{other:?}"),
    };
    for failure in ALL {
        let expected = match failure {
            F::NoCertificate => None,
            F::Malformed | F::TooLarge => Some(C::BadEncoding),
            F::Expired | F::AuthorityUnusable => Some(C::Expired),
            F::NotYetValid => Some(C::NotValidYet),
            F::Revoked => Some(C::Revoked),
            F::NoBundle | F::UnknownIssuer | F::NoTrust => Some(C::UnknownIssuer),
            F::BadSignature => Some(C::BadSignature),
            F::Purpose => Some(C::InvalidPurpose),
            _ => {
                let error = alert(failure).expect("an error");
                assert!(matches!(error, C::Other(_)), "{failure}: {error:?}");
                continue;
            }
        };
        assert_eq!(alert(failure), expected, "{failure}");
    }
}

/// rustls judges the signature of a handshake by itself, and a failure of ours may be left over from another handshake.
#[test]
fn what_rustls_found_by_itself_is_not_taken_for_ours() {
    let after = |left_over: F, error: rustls::Error| {
        let _left_over = to_rustls(left_over);
        failure_of(&failed(error))
    };
    let invalid = rustls::Error::InvalidCertificate;
    assert_eq!(after(F::Expired, invalid(C::BadSignature)), Some(F::BadSignature));
    assert_eq!(after(F::Expired, invalid(C::BadEncoding)), Some(F::Malformed));
    let context = C::UnsupportedSignatureAlgorithmContext {
        signature_algorithm_id: Vec::new(),
        supported_algorithms: Vec::new(),
    };
    assert_eq!(after(F::Expired, invalid(context)), Some(F::Algorithm));
    let for_key = C::UnsupportedSignatureAlgorithmForPublicKeyContext {
        signature_algorithm_id: Vec::new(),
        public_key_algorithm_id: Vec::new(),
    };
    assert_eq!(after(F::Expired, invalid(for_key)), Some(F::Algorithm));
    let name = ServerName::try_from("a.example").expect("name");
    let context = C::NotValidForNameContext { expected: name.to_owned(), presented: Vec::new() };
    assert_eq!(after(F::Expired, invalid(context)), None);
    assert_eq!(after(F::Expired, rustls::Error::NoCertificatesPresented), Some(F::NoCertificate));
    assert_eq!(after(F::Expired, rustls::Error::PeerMisbehaved(PeerMisbehaved::TooManyEmptyFragments)), None);
    assert_eq!(failure_of(&io::ErrorKind::UnexpectedEof.into()), None);
    // It was taken: the next failed handshake does not see it.
    let _expired = to_rustls(F::AuthorityUnusable);
    assert_eq!(failure_of(&io::ErrorKind::UnexpectedEof.into()), None);
    assert_eq!(failure_of(&failed(invalid(C::Expired))), None);
}
