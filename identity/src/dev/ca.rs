//! A certificate authority of the dev authority, and the certificates it makes.

use std::{
    fs,
    io::Write as _,
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CustomExtension, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, Issuer, KeyPair, KeyUsagePurpose as Usage, SanType, SerialNumber,
    string::Ia5String,
};
use rustls_pki_types::{CertificateDer, pem::PemObject as _};

use crate::{Error, material::DEV_OID};

/// SVIDs start this much in the past, as SPIRE's do.
const BACKDATE: Duration = Duration::from_secs(10);
/// Lifetime of a CA that is kept in memory or in a state folder of a developer.
const CA_LIFETIME: Duration = Duration::from_hours(10 * 365 * 24);

/// A CA.
pub struct Ca {
    issuer: Issuer<'static, KeyPair>,
    certificate: CertificateDer<'static>,
}

impl std::fmt::Debug for Ca {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Ca").finish_non_exhaustive()
    }
}

/// A certificate with its key.
pub struct Minted {
    /// DER.
    pub certificate: CertificateDer<'static>,
    key: KeyPair,
}

impl std::fmt::Debug for Minted {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Minted").finish_non_exhaustive()
    }
}

impl Minted {
    /// The private key, PKCS#8 DER.
    pub fn key_der(&self) -> &[u8] {
        self.key.serialized_der()
    }
}

impl Ca {
    /// A new CA, or the one kept in the folder.
    pub(crate) fn open(trust_domain: &str, number: u32, folder: Option<&Path>) -> Result<Self, Error> {
        let Some(folder) = folder else { return Self::generate(trust_domain, number).map(|(ca, _)| ca) };
        let path = folder.join(format!("ca-{number}.pem"));
        let io = |source| Error::Io { what: format!("{}", path.display()), source };
        if path.exists() {
            let pem = fs::read_to_string(&path).map_err(io)?;
            return Self::from_pem(&pem).ok_or_else(|| {
                Error::Setting(format!("{} is not a CA that was kept here; remove it", path.display()))
            });
        }
        let (ca, pem) = Self::generate(trust_domain, number)?;
        let mut file =
            fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(&path).map_err(io)?;
        file.write_all(pem.as_bytes()).map_err(io)?;
        Ok(ca)
    }

    /// A new CA for a trust domain, for tests and tools.
    pub fn new(trust_domain: &str) -> Result<Self, Error> {
        Self::generate(trust_domain, 1).map(|(ca, _)| ca)
    }

    fn generate(trust_domain: &str, number: u32) -> Result<(Self, String), Error> {
        let key = KeyPair::generate().map_err(|error| broken(&error))?;
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
        params.distinguished_name.push(DnType::OrganizationName, "Selvedge dev authority");
        params.distinguished_name.push(DnType::CommonName, format!("CA {number} of {trust_domain}"));
        // Verifiers find authorities by name: two CAs must never share one (spiffe.md 6.2).
        params
            .distinguished_name
            .push(DnType::CustomDnType(vec![2, 5, 4, 5]), format!("{:032x}", fastrand::u128(..)));
        params.subject_alt_names = vec![uri(&format!("spiffe://{trust_domain}"))?];
        validity(&mut params, CA_LIFETIME);
        let certificate = params.self_signed(&key).map_err(|error| broken(&error))?;
        let pem = format!("{}{}", certificate.pem(), key.serialize_pem());
        let issuer = Issuer::new(params, key);
        Ok((Self { issuer, certificate: certificate.der().clone() }, pem))
    }

    fn from_pem(pem: &str) -> Option<Self> {
        let key = KeyPair::from_pem(pem.get(pem.find("-----BEGIN PRIVATE KEY")?..)?).ok()?;
        let certificate = CertificateDer::from_pem_slice(pem.as_bytes()).ok()?;
        let issuer = Issuer::from_ca_cert_der(&certificate, key).ok()?;
        Some(Self { issuer, certificate })
    }

    /// The CA's certificate, DER.
    pub fn certificate(&self) -> &CertificateDer<'static> {
        &self.certificate
    }

    /// An X509-SVID with a fresh key, in the form that every client accepts (spiffe.md 7).
    pub fn mint(&self, spiffe_id: &str, ttl: Duration) -> Result<Minted, Error> {
        let mut params = svid_params(spiffe_id)?;
        validity(&mut params, ttl);
        self.sign(&params)
    }

    /// Signs parameters of the caller's, for tests.
    pub fn sign(&self, params: &CertificateParams) -> Result<Minted, Error> {
        let key = KeyPair::generate().map_err(|error| broken(&error))?;
        let certificate: Certificate =
            params.signed_by(&key, &self.issuer).map_err(|error| broken(&error))?;
        Ok(Minted { certificate: certificate.der().clone(), key })
    }
}

fn svid_params(spiffe_id: &str) -> Result<CertificateParams, Error> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.subject_alt_names = vec![uri(spiffe_id)?];
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::OrganizationName, "Selvedge dev authority");
    let mut serial = fastrand::u128(..).to_be_bytes();
    if let Some(first) = serial.first_mut() {
        *first = (*first & 0x7f) | 0x40;
    }
    params.serial_number = Some(SerialNumber::from_slice(&serial));
    params.custom_extensions = vec![CustomExtension::from_oid_content(DEV_OID, vec![0x05, 0x00])];
    Ok(params)
}

fn validity(params: &mut CertificateParams, ttl: Duration) {
    let now = SystemTime::now();
    params.not_before = (now - BACKDATE).into();
    params.not_after = (now + ttl).into();
}

fn uri(text: &str) -> Result<SanType, Error> {
    Ia5String::try_from(text).map(SanType::URI).map_err(|error| broken(&error))
}

fn broken(error: &rcgen::Error) -> Error {
    Error::Setting(format!("the dev authority cannot make a certificate: {error}"))
}
