//! What reads bytes of strangers never panics, whatever they are, and reads back what is valid.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may stop where it fails")]

use std::{
    collections::BTreeMap,
    sync::{Arc, LazyLock},
    time::{Duration, SystemTime},
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use identity::{
    Bundle, ClientProfile, ClientSpec, IdPattern, Material, Source, SourceRef, Trust, TrustDomain, Verify,
    Versions,
    dev::{Ca, Entries, Minted},
    id::parse_peer_id,
    material::{crls_from_pem, split_der},
    source::{
        WorkloadEndpoint,
        secret::{Usage, read},
    },
};
use proptest::{collection::vec, prelude::*, sample::Index};
use rustls_pki_types::CertificateDer;

const USAGES: [Usage; 3] = [Usage::Identity, Usage::Trust, Usage::Crl];
const KEYS: [&str; 7] =
    ["tls.crt", "tls.key", "ca.crt", "crl.pem", "cert-chain.pem", "key.pem", "root-cert.pem"];

/// Minted once: making keys is slow.
static PAIR: LazyLock<(Ca, Minted)> = LazyLock::new(|| {
    let ca = Ca::new("td").expect("ca");
    let minted = ca.mint("spiffe://td/a", Duration::from_hours(1)).expect("svid");
    (ca, minted)
});

fn pem(label: &str, der: &[u8]) -> Vec<u8> {
    format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der)).into_bytes()
}

/// Bytes that are nothing, bytes in PEM of a label that is read, or a valid certificate or key with some bytes replaced.
fn near_pem() -> impl Strategy<Value = Vec<u8>> {
    let label =
        prop::sample::select(vec!["CERTIFICATE", "PRIVATE KEY", "EC PRIVATE KEY", "X509 CRL", "-----"]);
    let broken = (any::<bool>(), vec((any::<Index>(), any::<u8>()), 0..4)).prop_map(|(key, changes)| {
        let (label, mut der) = if key {
            ("PRIVATE KEY", PAIR.1.key_der().to_vec())
        } else {
            ("CERTIFICATE", PAIR.1.certificate.to_vec())
        };
        let len = der.len();
        for (at, byte) in changes {
            der[at.index(len)] = byte;
        }
        pem(label, &der)
    });
    let labelled = (label, vec(any::<u8>(), 0..200)).prop_map(|(label, der)| pem(label, &der));
    let cut = (any::<Index>(), 0..2_usize).prop_map(|(at, repeat)| {
        let whole = pem("CERTIFICATE", &PAIR.1.certificate);
        let part = &whole[..at.index(whole.len())];
        [part, &whole.repeat(repeat)].concat()
    });
    prop_oneof![vec(any::<u8>(), 0..200), labelled, broken, cut]
}

fn profile() -> Arc<ClientProfile> {
    let authorities = vec![PAIR.0.certificate().clone()];
    let bundles = [(TrustDomain::new("td").expect("name"), Bundle { authorities, crls: Vec::new() })].into();
    let trust = Source::new(SourceRef::new("test"));
    trust.publish(Material { own: Vec::new(), trust: Some(Arc::new(Trust::Spiffe(bundles))) });
    ClientProfile::new(ClientSpec {
        identity: None,
        hint: None,
        verify: Verify::Spiffe { trust, trust_domains: Vec::new() },
        crl: None,
        alpn: Vec::new(),
        versions: Versions::ALL,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    })
}

proptest! {
    #[test]
    fn any_text_is_an_id_or_not(text in "(spiffe://)?[a-zA-Z0-9./@:%?#*_ü-]{0,40}|\\PC{0,40}") {
        if let Ok(id) = parse_peer_id(&text) {
            prop_assert_eq!(id.to_string(), text.clone());
        }
        if let Ok(pattern) = text.parse::<IdPattern>() {
            let printed = pattern.to_string();
            prop_assert_eq!(printed.parse::<IdPattern>(), Ok(pattern));
        }
        let _any_endpoint = text.parse::<WorkloadEndpoint>();
        let _any_name = identity::server_name(&text);
    }

    #[test]
    fn a_valid_id_reads_back(td in "[a-z0-9._-]{1,255}", path in "(/[a-zA-Z0-9_-][a-zA-Z0-9._-]{0,20}){1,8}") {
        let text = format!("spiffe://{td}{path}");
        let id = parse_peer_id(&text).expect("valid");
        prop_assert_eq!((id.trust_domain_name(), id.path()), (td.as_str(), path.as_str()));
        prop_assert_eq!(id.to_string(), text.clone());
        prop_assert!(text.parse::<IdPattern>().expect("exact").matches(&id));
    }

    #[test]
    fn any_secret_is_material_or_a_problem_that_names_it(
        data in prop::collection::btree_map(prop::sample::select(KEYS.to_vec()), near_pem(), 0..5),
    ) {
        let data: BTreeMap<_, _> = data.into_iter().map(|(key, bytes)| (key.to_owned(), bytes)).collect();
        for usage in USAGES {
            if let Err(problem) = read("Secret a/b", usage, &data, SystemTime::now()) {
                prop_assert!(problem.message.contains("Secret a/b"), "{}", problem);
            }
        }
    }

    #[test]
    fn a_pair_is_read_among_whatever_stands_around_its_pem(before in "[a-zA-Z0-9 :=\r\n]{0,60}", crlf: bool, bom: bool) {
        let around = |label: &str, der: &[u8]| {
            let text = String::from_utf8(pem(label, der)).expect("ascii");
            let text = format!("{}{before}\n{text}", if bom { "\u{feff}" } else { "" });
            if crlf { text.replace("\r\n", "\n").replace('\n', "\r\n") } else { text }.into_bytes()
        };
        let (ca, pair) = &*PAIR;
        let data = [
            ("tls.crt".to_owned(), around("CERTIFICATE", &pair.certificate)),
            ("tls.key".to_owned(), around("PRIVATE KEY", pair.key_der())),
            ("ca.crt".to_owned(), around("CERTIFICATE", ca.certificate())),
        ]
        .into();
        let (own, _) = read("it", Usage::Identity, &data, SystemTime::now()).expect("a pair");
        prop_assert_eq!(own.own[0].chain.as_slice(), std::slice::from_ref(&pair.certificate));
        let (trust, _) = read("it", Usage::Trust, &data, SystemTime::now()).expect("a CA");
        prop_assert!(matches!(trust.trust.as_deref(), Some(Trust::Roots(roots)) if roots.authorities == [ca.certificate().clone()]));
    }

    #[test]
    fn concatenated_certificates_split_where_they_were_joined(count in 0..5_usize, tail in vec(any::<u8>(), 0..8)) {
        let one = &PAIR.1.certificate;
        let mut joined = one.as_ref().repeat(count);
        prop_assert_eq!(split_der(&joined), Some(vec![one.clone(); count]));
        joined.extend(&tail);
        prop_assert_eq!(split_der(&joined).is_some(), tail.is_empty());
    }

    #[test]
    fn any_bytes_are_certificates_lists_or_neither(bytes in near_pem()) {
        let _any = split_der(&bytes);
        let _any = crls_from_pem("it", &bytes);
        let _any = Bundle::from_pem("it", &bytes, SystemTime::now());
    }

    #[test]
    fn any_chain_is_judged(chain in vec(vec(any::<u8>(), 0..300), 0..4)) {
        let chain: Vec<_> = chain.into_iter().map(CertificateDer::from).collect();
        prop_assert!(profile().peer(&chain).is_err());
    }

    /// Everything in a certificate is signed, or is the signature.
    #[test]
    fn a_leaf_of_which_a_byte_was_changed_is_refused(at: Index, flip in 1..=255_u8) {
        let profile = profile();
        let mut leaf = PAIR.1.certificate.to_vec();
        prop_assert!(profile.peer(&[leaf.clone().into()]).is_ok());
        let at = at.index(leaf.len());
        leaf[at] ^= flip;
        prop_assert!(profile.peer(&[leaf.into()]).is_err(), "byte {}", at);
    }

    #[test]
    fn any_entries_are_checked(text in "\\PC{0,20}", ttl in "[0-9]{0,25}[a-z]{0,2}") {
        let mut entries = Entries::simple(&text, &[&format!("spiffe://td/{text}")], &ttl);
        entries.entries[0].selectors = vec![text];
        let _any = entries.check();
    }
}
