//! Certificates minted for one test.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::{Duration, SystemTime},
};

use identity::dev::Minted;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, CertifiedIssuer, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, KeyIdMethod, KeyPair, KeyUsagePurpose as Usage, RevokedCertParams,
    SanType, SerialNumber,
};
use rustls::{
    crypto::aws_lc_rs::sign::any_supported_type,
    pki_types::{CertificateDer, PrivateKeyDer},
    sign::CertifiedKey,
};

/// Serial numbers are counted, so that a test can say which certificate is newer.
static SERIALS: AtomicU64 = AtomicU64::new(0x1000);
const DAY: Duration = Duration::from_hours(24);

/// A certificate authority.
pub(crate) struct Authority(CertifiedIssuer<'static, KeyPair>);

/// A certificate with its key.
pub(crate) struct Pair {
    pub(crate) cert: String,
    pub(crate) key: String,
    /// As upstreams and `/config` write it: upper-case hex.
    pub(crate) serial: String,
    pub(crate) der: CertificateDer<'static>,
    key_der: Vec<u8>,
}

impl Authority {
    pub(crate) fn new(name: &str) -> Self {
        let mut params = CertificateParams::default();
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![Usage::KeyCertSign, Usage::CrlSign];
        params.distinguished_name.push(DnType::CommonName, name);
        Self(CertifiedIssuer::self_signed(params, KeyPair::generate().expect("key")).expect("authority"))
    }

    pub(crate) fn pem(&self) -> String {
        self.0.pem()
    }

    pub(crate) fn der(&self) -> &CertificateDer<'static> {
        self.0.der()
    }

    /// A leaf for both sides of TLS, valid for a day.
    pub(crate) fn leaf(&self, name: &str) -> Pair {
        self.mint(name, SystemTime::now() - DAY, SystemTime::now() + DAY)
    }

    /// A workload's certificate: a SPIFFE ID and no name.
    pub(crate) fn workload(&self, id: &str) -> Pair {
        let mut params = params(id, SystemTime::now() - DAY, SystemTime::now() + DAY);
        params.subject_alt_names = vec![SanType::URI(id.try_into().expect("an ID"))];
        self.sign(params)
    }

    /// A leaf with a name and a SPIFFE ID, valid for a day or less.
    pub(crate) fn svid(&self, name: &str, id: &str, ttl: Duration) -> Pair {
        let mut params = params(name, SystemTime::now() - DAY, SystemTime::now() + ttl);
        params.subject_alt_names.push(SanType::URI(id.try_into().expect("an ID")));
        self.sign(params)
    }

    /// A revocation list with these certificates on it.
    pub(crate) fn crl(&self, number: u64, revoked: &[&Pair]) -> String {
        let now = SystemTime::now();
        let entry = |pair: &&Pair| RevokedCertParams {
            serial_number: SerialNumber::from(u64::from_str_radix(&pair.serial, 16).expect("hex")),
            revocation_time: now.into(),
            reason_code: None,
            invalidity_date: None,
        };
        let params = CertificateRevocationListParams {
            this_update: (now - DAY).into(),
            next_update: (now + DAY).into(),
            crl_number: SerialNumber::from(number),
            issuing_distribution_point: None,
            revoked_certs: revoked.iter().map(entry).collect(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.0).expect("list").pem().expect("PEM")
    }

    /// A leaf that expired an hour ago.
    pub(crate) fn expired(&self, name: &str) -> Pair {
        self.mint(name, SystemTime::now() - DAY, SystemTime::now() - Duration::from_hours(1))
    }

    /// A leaf that is valid from tomorrow.
    pub(crate) fn early(&self, name: &str) -> Pair {
        self.mint(name, SystemTime::now() + DAY, SystemTime::now() + 2 * DAY)
    }

    fn mint(&self, name: &str, not_before: SystemTime, not_after: SystemTime) -> Pair {
        self.sign(params(name, not_before, not_after))
    }

    fn sign(&self, mut params: CertificateParams) -> Pair {
        let key = KeyPair::generate().expect("key");
        let serial = SERIALS.fetch_add(1, Relaxed);
        params.serial_number = Some(SerialNumber::from(serial));
        let cert = params.signed_by(&key, &self.0).expect("leaf");
        Pair {
            cert: cert.pem(),
            key: key.serialize_pem(),
            serial: format!("{serial:X}"),
            der: cert.der().clone(),
            key_der: key.serialized_der().to_vec(),
        }
    }
}

fn params(name: &str, not_before: SystemTime, not_after: SystemTime) -> CertificateParams {
    let mut params = CertificateParams::new([name.to_owned()]).expect("name");
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name.push(DnType::CommonName, name);
    params.not_before = not_before.into();
    params.not_after = not_after.into();
    params
}

impl Pair {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key_der.clone()).expect("PKCS#8")
    }

    /// For either side of TLS.
    pub(crate) fn certified(&self) -> Arc<CertifiedKey> {
        certified(&self.der, &self.private_key())
    }
}

/// What a dev authority has made, for either side of TLS.
pub(crate) fn minted(minted: &Minted) -> Arc<CertifiedKey> {
    certified(&minted.certificate, &PrivateKeyDer::try_from(minted.key_der().to_vec()).expect("PKCS#8"))
}

fn certified(der: &CertificateDer<'static>, key: &PrivateKeyDer<'_>) -> Arc<CertifiedKey> {
    Arc::new(CertifiedKey::new(vec![der.clone()], any_supported_type(key).expect("key")))
}

/// A `kubernetes.io/tls` Secret; keys without a value are left out.
pub(crate) fn secret(name: &str, data: &[(&str, &str)]) -> String {
    let entry = |(key, value): &(&str, &str)| {
        let lines: Vec<_> = value.lines().map(|line| format!("    {line}\n")).collect();
        format!("  {key}: |\n{}", lines.concat())
    };
    let data: Vec<_> = data.iter().map(entry).collect();
    format!(
        "---\napiVersion: v1\nkind: Secret\nmetadata: {{name: {name}}}\ntype: kubernetes.io/tls\nstringData:\n{}",
        data.concat()
    )
}
