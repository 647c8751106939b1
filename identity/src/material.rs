//! Material: own certificates and trust, parsed and checked once, never half.

use std::{
    collections::BTreeMap,
    fmt,
    sync::Arc,
    time::{Duration, SystemTime},
};

use rustls::{crypto::aws_lc_rs::sign::any_supported_type, sign::CertifiedKey};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer, pem::PemObject as _};
use x509_parser::prelude::{FromDer as _, ParsedExtension, X509Certificate};

use crate::{Problem, SourceRef, SpiffeId, TrustDomain, verify::leaf};

/// Mark of certificates that the dev authority issues: an arc under the documentation's private-enterprise example number.
pub const DEV_OID: &[u64] = &[1, 3, 6, 1, 4, 1, 32473, 7, 1];

/// Longest chain read from a source, and most authorities of a bundle.
const MAX_CERTIFICATES: usize = 64;
/// SPIRE and most CAs backdate by seconds; a certificate that starts within this is loaded already.
const SKEW: Duration = Duration::from_mins(1);

/// One coherent delivery of a source. Own certificates and trust may both be there, or one of them.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Own certificates; the first is the default (Workload API, W-14).
    pub own: Vec<Arc<Credential>>,
    /// Whom to trust. `None`: this source says nothing about trust.
    pub trust: Option<Arc<Trust>>,
}

/// An own certificate chain with its private key. The key was checked against the leaf.
pub struct Credential {
    /// Leaf first, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key, ready to sign. Never printed.
    pub key: Arc<dyn rustls::sign::SigningKey>,
    /// The SPIFFE ID of the leaf, if it has exactly one valid one.
    pub spiffe_id: Option<SpiffeId>,
    /// The hint of the Workload API, if any.
    pub hint: Option<String>,
    /// The leaf's serial number, upper-case hexadecimal, as `openssl x509 -serial` and nginx print it.
    pub serial: String,
    /// Start of validity of the leaf.
    pub not_before: SystemTime,
    /// End of validity of the leaf.
    pub not_after: SystemTime,
    /// The leaf carries the mark of the dev authority.
    pub dev: bool,
    /// The leaf says that it is a CA, as `openssl req -x509` makes them: no SVID, and refused where Secrets are validated
    /// in full (`AMBASSADOR_FORCE_SECRET_VALIDATION`).
    pub is_ca: bool,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub enum Trust {
    /// One bundle for each trust domain; bundles are never pooled.
    Spiffe(BTreeMap<TrustDomain, Bundle>),
    /// Plain CA certificates that belong to no trust domain, from a file or a Secret.
    Roots(Bundle),
    /// Revocation lists alone.
    Crls(Vec<CertificateRevocationListDer<'static>>),
}

/// Trust anchors and revocation lists that belong together.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Bundle {
    /// CA certificates, DER, each a usable CA when the bundle was made.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Certificate revocation lists, DER.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}

impl Material {
    /// Refuses an own certificate that is a CA, where that counts (`AMBASSADOR_FORCE_SECRET_VALIDATION`).
    pub fn refuse_ca(&self, what: &str) -> Result<(), Problem> {
        self.own.iter().try_for_each(|own| own.refuse_ca(what))
    }
}

impl Credential {
    /// Whether it has ended, and what is to be said about that.
    pub(crate) fn expired(&self, source: &SourceRef, now: SystemTime) -> Option<Problem> {
        (self.not_after <= now).then(|| {
            let ended = rfc3339(self.not_after);
            Problem::new(
                "identity_expired",
                format!("certificate {} of {source} expired at {ended}", self.serial),
            )
        })
    }

    /// Why a leaf that is a CA is refused, where that counts.
    pub(crate) fn refuse_ca(&self, what: &str) -> Result<(), Problem> {
        if !self.is_ca {
            return Ok(());
        }
        let serial = &self.serial;
        let message = format!("certificate {serial} of {what} is a CA; a workload needs a leaf certificate");
        Err(Problem::new("certificate_is_ca", message))
    }

    /// Reads a PEM chain and a PEM key (PKCS#8, PKCS#1 or SEC1). `what` names them in messages.
    pub fn from_pem(what: &str, chain: &[u8], key: &[u8], now: SystemTime) -> Result<Self, Problem> {
        let chain = pem_certificates(what, chain)?;
        if chain.is_empty() {
            let message = format!("{what} has no certificate; it must hold the chain as PEM, leaf first");
            return Err(Problem::new("bad_certificate", message));
        }
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|error| match error {
            rustls_pki_types::pem::Error::NoItemsFound => Problem::new(
                "bad_key",
                format!(
                    "{what} has no usable private key; it must be unencrypted PEM (PKCS#8, PKCS#1 or SEC1)"
                ),
            ),
            _ => Problem::new("bad_key", format!("the private key of {what} is not PEM")),
        })?;
        Self::new(what, chain, &key, now)
    }

    /// From a chain and a key in DER.
    pub fn new(
        what: &str,
        chain: Vec<CertificateDer<'static>>,
        key: &PrivateKeyDer<'_>,
        now: SystemTime,
    ) -> Result<Self, Problem> {
        let key = any_supported_type(key).map_err(|_details_may_name_bytes| {
            Problem::new(
                "bad_key",
                format!("the private key of {what} is not RSA, ECDSA or Ed25519, or is malformed"),
            )
        })?;
        let facts = LeafFacts::read(what, chain.first())?;
        facts.check(what, now)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_mismatch| {
            let message = format!(
                "the private key of {what} does not belong to its certificate {}; replace both together",
                facts.serial
            );
            Problem::new("key_mismatch", message)
        })?;
        Ok(Self {
            chain: certified.cert,
            key: certified.key,
            spiffe_id: facts.spiffe_id,
            hint: None,
            serial: facts.serial,
            not_before: facts.not_before,
            not_after: facts.not_after,
            dev: facts.dev,
            is_ca: facts.is_ca,
        })
    }
}

/// What is read from an own leaf.
struct LeafFacts {
    spiffe_id: Option<SpiffeId>,
    serial: String,
    not_before: SystemTime,
    not_after: SystemTime,
    dev: bool,
    is_ca: bool,
}

impl LeafFacts {
    fn read(what: &str, leaf: Option<&CertificateDer<'_>>) -> Result<Self, Problem> {
        let parsed = leaf.and_then(|leaf| parse(leaf));
        let Some(cert) = parsed else {
            return Err(Problem::new(
                "bad_certificate",
                format!("the first certificate of {what} is not X.509"),
            ));
        };
        let dev = cert
            .extensions()
            .iter()
            .any(|extension| extension.oid.iter().is_some_and(|arcs| arcs.eq(DEV_OID.iter().copied())));
        Ok(Self {
            spiffe_id: leaf::spiffe_id(&cert).ok(),
            serial: serial(&cert),
            not_before: time(cert.validity().not_before),
            not_after: time(cert.validity().not_after),
            dev,
            is_ca: cert.is_ca(),
        })
    }

    fn check(&self, what: &str, now: SystemTime) -> Result<(), Problem> {
        let serial = &self.serial;
        if self.not_after <= now {
            let message =
                format!("certificate {serial} of {what} expired at {}; renew it", rfc3339(self.not_after));
            return Err(Problem::new("certificate_expired", message));
        }
        if self.not_before > now + SKEW {
            let message =
                format!("certificate {serial} of {what} is not valid before {}", rfc3339(self.not_before));
            return Err(Problem::new("certificate_not_yet_valid", message));
        }
        Ok(())
    }
}

impl Bundle {
    /// Reads CA certificates from PEM. Authorities that cannot be used are left out and named in the warnings; a bundle
    /// without a usable one is a problem.
    pub fn from_pem(what: &str, pem: &[u8], now: SystemTime) -> Result<(Self, Vec<String>), Problem> {
        Self::new(what, pem_certificates(what, pem)?, now)
    }

    /// From CA certificates in DER.
    pub fn new(
        what: &str,
        certificates: Vec<CertificateDer<'static>>,
        now: SystemTime,
    ) -> Result<(Self, Vec<String>), Problem> {
        let mut warnings = Vec::new();
        let mut authorities = Vec::new();
        for (index, certificate) in certificates.into_iter().enumerate() {
            match unusable_authority(&certificate, now) {
                None => authorities.push(certificate),
                Some(why) => warnings.push(format!("certificate {} of {what} {why}", index + 1)),
            }
        }
        if authorities.is_empty() {
            let why = warnings.first().map_or("it holds no certificate", String::as_str);
            return Err(Problem::new("ca_unusable", format!("{what} has no usable CA certificate: {why}")));
        }
        Ok((Self { authorities, crls: Vec::new() }, warnings))
    }
}

/// Revocation lists from PEM (`X509 CRL` blocks).
pub fn crls_from_pem(what: &str, pem: &[u8]) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let bad =
        || Problem::new("crl_unusable", format!("{what} holds no valid PEM revocation list (X509 CRL)"));
    let lists = CertificateRevocationListDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES)
        .collect::<Result<Vec<_>, _>>()
        .map_err(|_not_pem| bad())?;
    let parse =
        |crl: &CertificateRevocationListDer<'_>| webpki::OwnedCertRevocationList::from_der(crl).is_ok();
    if lists.is_empty() || !lists.iter().all(parse) { Err(bad()) } else { Ok(lists) }
}

/// Splits concatenated DER certificates (Workload API, W-20). `None` when it is not that.
pub fn split_der(mut bytes: &[u8]) -> Option<Vec<CertificateDer<'static>>> {
    let mut certificates = Vec::new();
    while !bytes.is_empty() {
        let (rest, _) = X509Certificate::from_der(bytes).ok()?;
        let (one, _) = bytes.split_at_checked(bytes.len().checked_sub(rest.len())?)?;
        certificates.push(CertificateDer::from(one.to_vec()));
        if certificates.len() > MAX_CERTIFICATES {
            return None;
        }
        bytes = rest;
    }
    Some(certificates)
}

fn pem_certificates(what: &str, pem: &[u8]) -> Result<Vec<CertificateDer<'static>>, Problem> {
    let pem = pem.strip_prefix(b"\xef\xbb\xbf").unwrap_or(pem);
    CertificateDer::pem_slice_iter(pem)
        .take(MAX_CERTIFICATES)
        .collect::<Result<_, _>>()
        .map_err(|_not_pem| Problem::new("bad_certificate", format!("{what} is not valid PEM")))
}

/// Why a certificate cannot be a trust anchor (spiffe.md 6.2: webpki itself checks none of this).
pub(crate) fn unusable_authority(certificate: &CertificateDer<'_>, now: SystemTime) -> Option<String> {
    let Some(cert) = parse(certificate) else { return Some("is not X.509".to_owned()) };
    if !cert.is_ca() {
        return Some("is not a CA (a leaf certificate cannot be trusted as one)".to_owned());
    }
    let signs = cert.key_usage().ok().flatten().is_none_or(|usage| usage.value.key_cert_sign());
    if !signs {
        return Some("may not sign certificates (KeyUsage without keyCertSign)".to_owned());
    }
    let not_after = time(cert.validity().not_after);
    (not_after <= now).then(|| format!("expired at {}", rfc3339(not_after)))
}

pub(crate) fn parse<'a>(certificate: &'a CertificateDer<'_>) -> Option<X509Certificate<'a>> {
    match X509Certificate::from_der(certificate) {
        Ok(([], cert)) => Some(cert),
        _ => None,
    }
}

/// Upper-case hexadecimal without separators or a sign octet.
pub(crate) fn serial(cert: &X509Certificate<'_>) -> String {
    let raw = cert.raw_serial();
    let raw = match raw {
        [0, rest @ ..] if !rest.is_empty() => rest,
        _ => raw,
    };
    let digit = |nibble: u8| char::from_digit(nibble.into(), 16).unwrap_or_default().to_ascii_uppercase();
    raw.iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 0xf)]).collect()
}

pub(crate) fn time(at: x509_parser::time::ASN1Time) -> SystemTime {
    let seconds = at.timestamp();
    let distance = Duration::from_secs(seconds.unsigned_abs());
    if seconds >= 0 { SystemTime::UNIX_EPOCH + distance } else { SystemTime::UNIX_EPOCH - distance }
}

/// `2026-11-24T08:00:00Z`
pub fn rfc3339(at: SystemTime) -> String {
    jiff::Timestamp::try_from(at).map_or_else(
        |_out_of_range| "a time out of range".to_owned(),
        |at| at.strftime("%Y-%m-%dT%H:%M:%SZ").to_string(),
    )
}

/// Subject key identifier of an authority, for choosing anchors.
pub(crate) fn subject_key_id<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0),
        _ => None,
    })
}
