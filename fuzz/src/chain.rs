//! Certificate chains of peers: what is believed was signed, byte for byte.

use std::time::SystemTime;

use identity::{Bundle, Credential, material::split_der};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::fixtures::{self, DIRECT, INTERMEDIATE, LEAF, ROOT, STRANGE_LEAF, STRANGE_ROOT, SVIDS, WEB};

/// Longest chain that is built.
const MAX_CHAIN: usize = 12;

/// Builds a chain by the letters of the input: a certificate each, `f` and three bytes flips bits of the last one, `t` and three
/// cuts it, and from anything else on the bytes are a certificate of their own.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let chain = chain(bytes);
    for profile in [&SVIDS, &WEB] {
        if let Ok(peer) = profile.peer(&chain) {
            let leaf = chain.first().map(AsRef::as_ref).unwrap_or_default();
            let below_intermediate =
                leaf == LEAF && chain.iter().skip(1).any(|sent| sent.as_ref() == INTERMEDIATE);
            assert!(leaf == DIRECT || below_intermediate, "a chain that nobody signed is believed");
            assert!(peer.verified && profile.recheck(&chain).is_ok());
        }
    }
    let first = chain.first().cloned().into_iter().collect();
    let _usable_or_not = Bundle::new("it", first, SystemTime::now());
    let joined: Vec<u8> = chain.iter().flat_map(AsRef::as_ref).copied().collect();
    if let Some(split) = split_der(&joined) {
        assert_eq!(split.iter().flat_map(AsRef::as_ref).copied().collect::<Vec<_>>(), joined);
    }
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(fixtures::DIRECT_KEY));
    if let Ok(own) = Credential::new("it", chain, &key, SystemTime::now()) {
        // The key is the fixture's, and a certificate with it is its own or one of its bytes changed.
        assert!(!own.serial.is_empty());
    }
    if matches!(bytes, b"li" | b"d") {
        assert!(SVIDS.peer(&self::chain(bytes)).is_ok(), "a good chain is refused");
    }
}

fn chain(mut bytes: &[u8]) -> Vec<CertificateDer<'static>> {
    let mut chain: Vec<Vec<u8>> = Vec::new();
    while let Some((letter, rest)) = bytes.split_first()
        && chain.len() < MAX_CHAIN
    {
        bytes = rest;
        let known = match letter {
            b'l' => LEAF,
            b'i' => INTERMEDIATE,
            b'r' => ROOT,
            b'd' => DIRECT,
            b's' => STRANGE_LEAF,
            b'S' => STRANGE_ROOT,
            b'f' | b't' => {
                let Some((change, rest)) = rest.split_first_chunk::<3>() else { break };
                bytes = rest;
                if let Some(last) = chain.last_mut() {
                    edit(last, *letter, *change);
                }
                continue;
            }
            _ => {
                chain.push([&[*letter], rest].concat());
                break;
            }
        };
        chain.push(known.to_vec());
    }
    chain.into_iter().map(CertificateDer::from).collect()
}

/// Flips bits of a byte, or cuts.
fn edit(der: &mut Vec<u8>, how: u8, [high, low, bits]: [u8; 3]) {
    let at = usize::from(u16::from_be_bytes([high, low])) % der.len().max(1);
    match der.get_mut(at) {
        Some(byte) if how == b'f' => *byte ^= bits,
        _ => der.truncate(at),
    }
}
