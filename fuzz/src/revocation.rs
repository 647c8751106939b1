//! Revocation lists: one that was demanded and is not what the authority signed lets nobody in.

use std::sync::LazyLock;

use identity::{Trust, material::crls_from_pem};
use rustls_pki_types::CertificateRevocationListDer;

use crate::fixtures::{self, CRL, DIRECT, REVOKING_CRL};

static CHAIN: LazyLock<[rustls_pki_types::CertificateDer<'static>; 1]> =
    LazyLock::new(|| [fixtures::certificate(DIRECT)]);

/// The first letter: `g` and `v` take a list that revokes nobody, or the peer, and flip bits at the places that follow; `p` reads
/// PEM; anything else is DER.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Some((letter, rest)) = bytes.split_first() else { return };
    let lists = match letter {
        b'g' => vec![flipped(CRL, rest)],
        b'v' => vec![flipped(REVOKING_CRL, rest)],
        b'p' => match crls_from_pem("it", rest) {
            Ok(lists) => lists.iter().map(|list| list.as_ref().to_vec()).collect(),
            Err(problem) => return assert!(problem.message.contains("it"), "{problem}"),
        },
        _ => vec![bytes.to_vec()],
    };
    let signed = lists.iter().any(|list| list == CRL);
    let whole = lists.iter().all(|list| list == CRL);
    let lists = lists.into_iter().map(CertificateRevocationListDer::from).collect();
    let judged =
        fixtures::profile(fixtures::spiffe(), Some(fixtures::source(Trust::Crls(lists)))).peer(&*CHAIN);
    assert!(signed || judged.is_err(), "a list that nobody signed counts");
    assert!(!whole || judged.is_ok(), "a good list refuses: {judged:?}");
}

fn flipped(list: &[u8], changes: &[u8]) -> Vec<u8> {
    let mut list = list.to_vec();
    for change in changes.chunks_exact(3) {
        if let [high, low, bits] = *change {
            let at = usize::from(u16::from_be_bytes([high, low])) % list.len();
            list.iter_mut().skip(at).take(1).for_each(|byte| *byte ^= bits);
        }
    }
    list
}
