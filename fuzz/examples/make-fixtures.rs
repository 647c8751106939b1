//! Makes the certificates, keys and lists of `fuzz/fixtures/`, anew and for a hundred years. What is kept of past findings speaks
//! of the bytes that are there: run it only to add something, then look at what became of `fuzz/corpus/`.

use std::{fs, path::Path};

use anyhow::Result;
use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose, IsCa, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose, RevokedCertParams, SanType,
    SerialNumber, date_time_ymd,
};

const DIRECT_SERIAL: u64 = 0x4d49;

fn main() -> Result<()> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures");
    let write = |name: &str, der: &[u8]| fs::write(folder.join(name), der);
    let (root, root_der) = root("root")?;
    let key = KeyPair::generate()?;
    let params = authority("intermediate");
    write("intermediate.der", params.signed_by(&key, &root)?.der())?;
    let intermediate = Issuer::new(params, key);
    write("root.der", &root_der)?;
    let (leaf, _) = leaf("spiffe://td/web", 1, &intermediate)?;
    write("leaf.der", &leaf)?;
    let (direct, direct_key) = self::leaf("spiffe://td/direct", DIRECT_SERIAL, &root)?;
    write("direct.der", &direct)?;
    write("direct.key.der", &direct_key)?;
    let (strange, strange_der) = self::root("root")?;
    write("strange-root.der", &strange_der)?;
    write("strange-leaf.der", &self::leaf("spiffe://td/web", 1, &strange)?.0)?;
    write("good.crl.der", &list(&root, 0x7777)?)?;
    write("revoking.crl.der", &list(&root, DIRECT_SERIAL)?)?;
    Ok(())
}

fn base(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    params.not_before = date_time_ymd(2025, 1, 1);
    params.not_after = date_time_ymd(2125, 1, 1);
    params
}

fn authority(name: &str) -> CertificateParams {
    let mut params = base(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn root(name: &str) -> Result<(Issuer<'static, KeyPair>, Vec<u8>)> {
    let (key, params) = (KeyPair::generate()?, authority(name));
    let der = params.self_signed(&key)?.der().to_vec();
    Ok((Issuer::new(params, key), der))
}

fn leaf(id: &str, serial: u64, issuer: &Issuer<'_, KeyPair>) -> Result<(Vec<u8>, Vec<u8>)> {
    let key = KeyPair::generate()?;
    let mut params = base("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.serial_number = Some(SerialNumber::from(serial));
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![SanType::URI(id.try_into()?)];
    Ok((params.signed_by(&key, issuer)?.der().to_vec(), key.serialize_der()))
}

fn list(issuer: &Issuer<'_, KeyPair>, revoked: u64) -> Result<Vec<u8>> {
    let params = CertificateRevocationListParams {
        this_update: date_time_ymd(2025, 1, 1),
        next_update: date_time_ymd(2125, 1, 1),
        crl_number: SerialNumber::from(1),
        issuing_distribution_point: None,
        revoked_certs: vec![RevokedCertParams {
            serial_number: SerialNumber::from(revoked),
            revocation_time: date_time_ymd(2025, 2, 1),
            reason_code: None,
            invalidity_date: None,
        }],
        key_identifier_method: KeyIdMethod::Sha256,
    };
    Ok(params.signed_by(issuer)?.der().to_vec())
}
