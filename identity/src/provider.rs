//! The one crypto provider: aws-lc-rs with our suites and groups. Installed first thing in `main`.

use std::{
    sync::{Arc, LazyLock},
    time::SystemTime,
};

use rustls::crypto::{CryptoProvider, aws_lc_rs};

use crate::{Bundle, Problem};

/// The provider all our configurations are built with.
pub fn provider() -> Arc<CryptoProvider> {
    static PROVIDER: LazyLock<Arc<CryptoProvider>> =
        LazyLock::new(|| Arc::new(aws_lc_rs::default_provider()));
    Arc::clone(&PROVIDER)
}

/// Makes our provider the process default, for libraries that ask for it. Idempotent.
pub fn install() {
    // A second call finds the first one's provider installed, which is what is wanted.
    let _already_installed = provider().as_ref().clone().install_default();
}

/// Cipher suites: OpenSSL's name, IANA's name, ours.
const SUITES: &[(&str, &str, rustls::SupportedCipherSuite)] = &[
    ("TLS_AES_256_GCM_SHA384", "TLS13_AES_256_GCM_SHA384", aws_lc_rs::cipher_suite::TLS13_AES_256_GCM_SHA384),
    ("TLS_AES_128_GCM_SHA256", "TLS13_AES_128_GCM_SHA256", aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256),
    (
        "TLS_CHACHA20_POLY1305_SHA256",
        "TLS13_CHACHA20_POLY1305_SHA256",
        aws_lc_rs::cipher_suite::TLS13_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-ECDSA-AES256-GCM-SHA384",
        "TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-ECDSA-AES128-GCM-SHA256",
        "TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-ECDSA-CHACHA20-POLY1305",
        "TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
    (
        "ECDHE-RSA-AES256-GCM-SHA384",
        "TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384,
    ),
    (
        "ECDHE-RSA-AES128-GCM-SHA256",
        "TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256,
    ),
    (
        "ECDHE-RSA-CHACHA20-POLY1305",
        "TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256",
        aws_lc_rs::cipher_suite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256,
    ),
];

/// Key exchange groups: Envoy's name, ours.
static GROUPS: &[(&str, &dyn rustls::crypto::SupportedKxGroup)] = &[
    ("X25519MLKEM768", aws_lc_rs::kx_group::X25519MLKEM768),
    ("X25519", aws_lc_rs::kx_group::X25519),
    ("P-256", aws_lc_rs::kx_group::SECP256R1),
    ("P-384", aws_lc_rs::kx_group::SECP384R1),
];

/// Whether a cipher suite name is known; the error lists those that are. TLS 1.3 suites are always on.
pub fn check_suite(name: &str) -> Result<(), String> {
    if suite(name).is_some() {
        return Ok(());
    }
    let known: Vec<_> = SUITES.iter().map(|(openssl, _, _)| *openssl).collect();
    Err(format!("`{name}` is not a cipher suite that is spoken here; known: {}", known.join(", ")))
}

/// Whether a key exchange group is known; the error lists those that are.
pub fn check_group(name: &str) -> Result<(), String> {
    if group(name).is_some() {
        return Ok(());
    }
    let known: Vec<_> = GROUPS.iter().map(|(name, _)| *name).collect();
    Err(format!("`{name}` is not a key exchange group that is spoken here; known: {}", known.join(", ")))
}

fn suite(name: &str) -> Option<rustls::SupportedCipherSuite> {
    SUITES.iter().find(|(openssl, iana, _)| *openssl == name || *iana == name).map(|(_, _, suite)| *suite)
}

fn group(name: &str) -> Option<&'static dyn rustls::crypto::SupportedKxGroup> {
    GROUPS.iter().find(|(known, _)| known.eq_ignore_ascii_case(name)).map(|(_, group)| *group)
}

/// The provider narrowed to named suites (TLS 1.2; those of TLS 1.3 stay, as in Envoy) and groups; empty: all.
pub(crate) fn chosen(suites: &[String], groups: &[String]) -> Result<Arc<CryptoProvider>, String> {
    if suites.is_empty() && groups.is_empty() {
        return Ok(provider());
    }
    let mut narrowed = provider().as_ref().clone();
    if !suites.is_empty() {
        suites.iter().try_for_each(|name| check_suite(name))?;
        let named: Vec<_> = suites.iter().filter_map(|name| suite(name)).collect();
        narrowed.cipher_suites.retain(|suite| suite.tls13().is_some() || named.contains(suite));
    }
    if !groups.is_empty() {
        groups.iter().try_for_each(|name| check_group(name))?;
        narrowed.kx_groups = groups.iter().filter_map(|name| group(name)).collect();
    }
    Ok(Arc::new(narrowed))
}

/// The operating system's roots, read once.
pub(crate) fn system_roots() -> Result<Bundle, Problem> {
    static ROOTS: LazyLock<Result<Bundle, Problem>> = LazyLock::new(|| {
        let found = rustls_native_certs::load_native_certs();
        Bundle::new("the system's certificate store", found.certs, SystemTime::now())
            .map(|(bundle, _)| bundle)
    });
    ROOTS.clone()
}
