//! Checks on one certificate that webpki does not make: SPIFFE IDs counted on raw names, `KeyUsage`, CA flags.

use x509_parser::{
    asn1_rs::{Any, FromDer as _, Sequence},
    oid_registry::OID_X509_EXT_SUBJECT_ALT_NAME,
    prelude::{KeyUsage, X509Certificate},
};

use super::VerifyFailure;
use crate::{SpiffeId, TrustDomain, id::parse_peer_id};

/// Context tag of `uniformResourceIdentifier` in a `GeneralName` (RFC 5280, 4.2.1.6).
const URI_TAG: u32 = 6;

/// The raw URI names of the SAN extension, parsable as text or not (X-1 counts them all).
pub(crate) fn uri_names<'a>(cert: &X509Certificate<'a>) -> Result<Vec<&'a [u8]>, VerifyFailure> {
    let malformed = |_not_der| VerifyFailure::Malformed;
    let mut names = Vec::new();
    for extension in
        cert.extensions().iter().filter(|extension| extension.oid == OID_X509_EXT_SUBJECT_ALT_NAME)
    {
        let (rest, sequence) =
            Sequence::from_der(extension.value).map_err(|_not_der| VerifyFailure::Malformed)?;
        if !rest.is_empty() {
            return Err(VerifyFailure::Malformed);
        }
        let std::borrow::Cow::Borrowed(mut content) = sequence.content else {
            return Err(VerifyFailure::Malformed);
        };
        while !content.is_empty() {
            let (rest, name) = Any::from_der(content).map_err(malformed)?;
            if name.header.is_contextspecific() && name.tag().0 == URI_TAG {
                names.push(name.data);
            }
            content = rest;
        }
    }
    Ok(names)
}

/// The one SPIFFE ID of a leaf (X-1, X-2, ID-1..8).
pub(crate) fn spiffe_id(cert: &X509Certificate<'_>) -> Result<SpiffeId, VerifyFailure> {
    match *uri_names(cert)? {
        [] => Err(VerifyFailure::NoUriSan),
        [uri] => {
            let text = std::str::from_utf8(uri).map_err(|_not_text| VerifyFailure::IdForm)?;
            Ok(parse_peer_id(text)?)
        }
        _ => Err(VerifyFailure::SeveralUriSans),
    }
}

fn key_usage(cert: &X509Certificate<'_>) -> Result<Option<KeyUsage>, VerifyFailure> {
    match cert.key_usage() {
        Ok(usage) => Ok(usage.map(|usage| *usage.value)),
        Err(_repeated_or_malformed) => Err(VerifyFailure::Malformed),
    }
}

/// An absent `BasicConstraints` or `KeyUsage` is accepted.
pub(super) fn check_svid(cert: &X509Certificate<'_>) -> Result<(), VerifyFailure> {
    let constraints = cert.basic_constraints().map_err(|_repeated_or_malformed| VerifyFailure::Malformed)?;
    if constraints.is_some_and(|constraints| constraints.value.ca) {
        return Err(VerifyFailure::LeafIsCa);
    }
    if let Some(usage) = key_usage(cert)? {
        if usage.key_cert_sign() || usage.crl_sign() {
            return Err(VerifyFailure::LeafMaySign);
        }
        if !usage.digital_signature() {
            return Err(VerifyFailure::NoDigitalSignature);
        }
    }
    Ok(())
}

/// an intermediate must be allowed to sign; a SPIFFE ID in it names a trust domain, without path. webpki has
/// checked that it is a CA.
pub(super) fn check_issuer(cert: &X509Certificate<'_>, spiffe: bool) -> Result<(), VerifyFailure> {
    if key_usage(cert)?.is_some_and(|usage| !usage.key_cert_sign()) {
        return Err(VerifyFailure::IssuerMayNotSign);
    }
    if !spiffe {
        return Ok(());
    }
    for uri in uri_names(cert)?.into_iter().filter(|uri| uri.starts_with(b"spiffe:")) {
        let name = uri.strip_prefix(b"spiffe://").and_then(|name| std::str::from_utf8(name).ok());
        match name {
            Some(name) if !name.contains('/') && TrustDomain::new(name).is_ok() => {}
            _ => return Err(VerifyFailure::IssuerId),
        }
    }
    Ok(())
}
