//! One authority and a leaf for each side, ECDSA P-256, for one run.

use std::{
    fs,
    path::{Path, PathBuf},
};

use anyhow::Context as _;
use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DistinguishedName, DnType,
    ExtendedKeyUsagePurpose as Eku, IsCa, KeyPair, KeyUsagePurpose as Usage,
};
use rustls::pki_types::{CertificateDer, PrivateKeyDer};

/// The name of the origin, by which every proxy verifies it.
pub(crate) const ORIGIN: &str = "origin.bench.local";

/// Files for the proxies, and the origin's own material.
#[derive(Debug)]
pub(crate) struct Certs {
    pub(crate) authority: CertificateDer<'static>,
    pub(crate) origin: CertificateDer<'static>,
    pub(crate) origin_key: PrivateKeyDer<'static>,
}

/// Files in the run's folder.
pub(crate) fn ca(dir: &Path) -> PathBuf {
    dir.join("ca.pem")
}
/// The client's certificate.
pub(crate) fn client(dir: &Path) -> PathBuf {
    dir.join("client.pem")
}
/// The client's key.
pub(crate) fn client_key(dir: &Path) -> PathBuf {
    dir.join("client.key")
}
/// Both in one file, as `HAProxy` wants them.
pub(crate) fn client_both(dir: &Path) -> PathBuf {
    dir.join("client-both.pem")
}

/// Mints everything and writes what the proxies read.
pub(crate) fn mint(dir: &Path) -> anyhow::Result<Certs> {
    let mut params = CertificateParams::default();
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![Usage::KeyCertSign];
    params.distinguished_name = named("bench authority");
    let authority = CertifiedIssuer::self_signed(params, KeyPair::generate()?)?;
    let (origin, origin_key) = leaf(&authority, ORIGIN)?;
    let (client_leaf, key) = leaf(&authority, "client.bench.local")?;
    write(&ca(dir), &authority.pem())?;
    write(&client(dir), &client_leaf.pem())?;
    write(&client_key(dir), &key.serialize_pem())?;
    write(&client_both(dir), &format!("{}{}", client_leaf.pem(), key.serialize_pem()))?;
    let origin_key = PrivateKeyDer::try_from(origin_key.serialized_der().to_vec());
    Ok(Certs {
        authority: authority.der().clone(),
        origin: origin.der().clone(),
        origin_key: origin_key.map_err(anyhow::Error::msg)?,
    })
}

fn leaf(
    authority: &CertifiedIssuer<'static, KeyPair>,
    name: &str,
) -> anyhow::Result<(rcgen::Certificate, KeyPair)> {
    let key = KeyPair::generate()?;
    let mut params = CertificateParams::new([name.to_owned()])?;
    params.key_usages = vec![Usage::DigitalSignature];
    params.extended_key_usages = vec![Eku::ServerAuth, Eku::ClientAuth];
    params.use_authority_key_identifier_extension = true;
    params.distinguished_name = named(name);
    Ok((params.signed_by(&key, authority)?, key))
}

/// OpenSSL takes a leaf with its issuer's name for a self-signed one.
fn named(name: &str) -> DistinguishedName {
    let mut named = DistinguishedName::new();
    named.push(DnType::CommonName, name);
    named
}

fn write(path: &Path, text: &str) -> anyhow::Result<()> {
    fs::write(path, text).with_context(|| format!("{} cannot be written", path.display()))
}
