//! Certificates minted for one test.

use std::{
    sync::atomic::{AtomicU64, Ordering::Relaxed},
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyPair, KeyUsagePurpose as Usage, SanType, SerialNumber,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

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
        let uri = SanType::URI(id.try_into().expect("URI"));
        self.mint_for(vec![uri], id, SystemTime::now() - DAY, SystemTime::now() + DAY)
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
        let names = CertificateParams::new([name.to_owned()]).expect("name").subject_alt_names;
        self.mint_for(names, name, not_before, not_after)
    }

    fn mint_for(
        &self,
        names: Vec<SanType>,
        name: &str,
        not_before: SystemTime,
        not_after: SystemTime,
    ) -> Pair {
        let key = KeyPair::generate().expect("key");
        let serial = SERIALS.fetch_add(1, Relaxed);
        let mut params = CertificateParams::default();
        params.subject_alt_names = names;
        params.key_usages = vec![Usage::DigitalSignature];
        params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
        params.use_authority_key_identifier_extension = true;
        params.distinguished_name.push(DnType::CommonName, name);
        params.serial_number = Some(SerialNumber::from(serial));
        params.not_before = not_before.into();
        params.not_after = not_after.into();
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

impl Pair {
    pub(crate) fn private_key(&self) -> PrivateKeyDer<'static> {
        PrivateKeyDer::try_from(self.key_der.clone()).expect("PKCS#8")
    }
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
