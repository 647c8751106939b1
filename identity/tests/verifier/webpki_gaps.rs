//! spiffe.md 6.2: what webpki alone accepts, or spends its time on.

use std::time::{Duration, Instant, SystemTime};

use identity::{Bundle, PeerRule, VerifyFailure as F};
use rcgen::{CustomExtension, ExtendedKeyUsagePurpose as Eku, IsCa, KeyUsagePurpose as Usage};

use crate::mint::{
    Authority, Cert, DAY, ID, dns, judge, judge_under, judge_web, refused, spiffe, uri, valid,
};

#[test]
fn w62_expired_trust_anchor_is_refused() {
    let now = SystemTime::now();
    let root = Authority::root_with("root", |params| valid(params, now - DAY * 9, now - DAY * 5));
    let leaf = root.svid(ID).cert;
    assert_eq!(refused(judge(&root, std::slice::from_ref(&leaf))), F::AuthorityUnusable);
    assert_eq!(refused(judge_web(&root, &[leaf])), F::AuthorityUnusable);
    assert_eq!(Bundle::new("b", vec![root.cert], now).expect_err("left out").code, "ca_unusable");
}

#[test]
fn w62_trust_anchor_that_is_not_valid_yet_is_refused() {
    let now = SystemTime::now();
    let root = Authority::root_with("root", |params| valid(params, now + DAY, now + DAY * 2));
    assert_eq!(refused(judge(&root, &[root.svid(ID).cert])), F::AuthorityUnusable);
}

#[test]
fn w62_a_valid_anchor_beside_an_expired_one_of_the_same_name_is_used() {
    let now = SystemTime::now();
    let old = Authority::root_with("root", |params| valid(params, now - DAY * 9, now - DAY * 5));
    let new = Authority::root("root");
    assert!(judge_under(spiffe(&[("td", &[&old.cert, &new.cert])]), &[new.svid(ID).cert]).is_ok());
}

#[test]
fn w62_trust_anchor_that_is_no_ca_is_refused() {
    let root = Authority::root_with("root", |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(refused(judge(&root, &[root.svid(ID).cert])), F::AuthorityUnusable);
    assert_eq!(refused(judge_web(&root, &[root.svid(ID).cert])), F::AuthorityUnusable);
    assert_eq!(
        Bundle::new("b", vec![root.cert], SystemTime::now()).expect_err("left out").code,
        "ca_unusable"
    );
}

#[test]
fn w62_trust_anchor_without_key_cert_sign_is_refused() {
    let root = Authority::root_with("root", |params| params.key_usages = vec![Usage::CrlSign]);
    assert_eq!(refused(judge(&root, &[root.svid(ID).cert])), F::AuthorityUnusable);
    assert_eq!(
        Bundle::new("b", vec![root.cert], SystemTime::now()).expect_err("left out").code,
        "ca_unusable"
    );
}

#[test]
fn w62_intermediate_without_key_cert_sign_is_refused() {
    let root = Authority::root("root");
    let mute = root.intermediate("mute", |params| params.key_usages = vec![Usage::DigitalSignature]);
    let chain = [mute.svid(ID).cert, mute.cert.clone()];
    assert_eq!(refused(judge(&root, &chain)), F::IssuerMayNotSign);
    assert_eq!(refused(judge_web(&root, &chain)), F::IssuerMayNotSign);
}

#[test]
fn w62_leaf_with_key_cert_sign_is_refused() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| params.key_usages.push(Usage::KeyCertSign));
    assert_eq!(refused(judge(&root, &[leaf.cert])), F::LeafMaySign);
}

#[test]
fn w62_leaf_without_basic_constraints_and_key_usage_is_accepted() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| {
        params.is_ca = IsCa::NoCa;
        params.key_usages = Vec::new();
    });
    assert!(judge(&root, &[leaf.cert]).is_ok());
}

#[test]
fn w62_extended_key_usage_of_an_intermediate_nests() {
    let root = Authority::root("root");
    let clients = root.intermediate("clients", |params| params.extended_key_usages = vec![Eku::ClientAuth]);
    assert_eq!(refused(judge(&root, &[clients.svid(ID).cert, clients.cert.clone()])), F::Purpose);
}

#[test]
fn w62_dns_constraint_leaves_uris_alone() {
    let root = Authority::root_with("root", |params| {
        params.custom_extensions = vec![crate::mint::constraints(0xa0, &[(0x82, "example.org")])];
    });
    assert!(judge(&root, &[root.svid(ID).cert]).is_ok());
    let named = root.leaf(|params| params.subject_alt_names = vec![uri(ID), dns("other.org")]);
    assert_eq!(refused(judge(&root, &[named.cert])), F::NameConstraint);
}

#[test]
fn w62_mixed_constraints_fail_closed() {
    let root = Authority::root_with("root", |params| {
        params.custom_extensions =
            vec![crate::mint::constraints(0xa0, &[(0x82, "example.org"), (0x86, "td")])];
    });
    assert_eq!(refused(judge(&root, &[root.svid(ID).cert])), F::NameConstraint);
}

#[test]
fn web_pki_leaves_may_carry_uris_of_any_scheme() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| {
        params.subject_alt_names = vec![dns("web.example"), uri("urn:uuid:1"), uri("https://a/b")];
    });
    let peer = judge_web(&root, &[leaf.cert]).expect("no constraint speaks of URIs");
    assert!(peer.spiffe_id.is_none() && peer.verified);
    let name = |name: &str| PeerRule::Names(vec![name.to_owned().try_into().expect("name")]);
    assert!(name("web.example").check(Some(&peer)).is_ok());
    assert_eq!(name("other.example").check(Some(&peer)).expect_err("another").code, "peer_name_mismatch");
}

#[test]
fn w62_120_roots_of_one_name_find_the_right_one_quickly() {
    let roots: Vec<_> = (0..120).map(|_| Authority::root("same")).collect();
    let certs: Vec<&Cert> = roots.iter().map(|root| &root.cert).collect();
    let leaf = roots.last().expect("one").svid(ID);
    let begun = Instant::now();
    assert!(judge_under(spiffe(&[("td", &certs)]), &[leaf.cert]).is_ok());
    assert!(begun.elapsed() < Duration::from_secs(5));
    let stranger = Authority::root("same").svid(ID);
    assert_eq!(refused(judge_under(spiffe(&[("td", &certs)]), &[stranger.cert])), F::BadSignature);
}

#[test]
fn w62_anchors_are_capped_when_no_key_identifier_helps() {
    let roots: Vec<_> = (0..20).map(|_| Authority::root("same")).collect();
    let certs: Vec<&Cert> = roots.iter().map(|root| &root.cert).collect();
    let without =
        |root: &Authority| root.leaf(|params| params.use_authority_key_identifier_extension = false).cert;
    assert!(judge_under(spiffe(&[("td", &certs)]), &[without(&roots[7])]).is_ok(), "the eighth is tried");
    assert_eq!(
        refused(judge_under(spiffe(&[("td", &certs)]), &[without(&roots[8])])),
        F::BadSignature,
        "the ninth is not"
    );
}

#[test]
fn w62_100_intermediates_of_one_name_are_refused_unread() {
    let root = Authority::root("root");
    let many: Vec<_> = (0..7).map(|_| root.intermediate("same", |_| {})).collect();
    let chain = |count: usize| {
        let mut chain = vec![many[0].svid(ID).cert];
        chain.extend(many.iter().cycle().take(count).map(|authority| authority.cert.clone()));
        chain
    };
    assert_eq!(refused(judge(&root, &chain(100))), F::TooLarge);
    assert_eq!(refused(judge(&root, &chain(7))), F::TooLarge);
    assert!(judge(&root, &chain(6)).is_ok(), "six are read");
}

#[test]
fn a_leaf_over_16_kib_is_refused() {
    let root = Authority::root("root");
    let with = |bytes: usize| {
        root.leaf(|params| {
            let filler = crate::mint::tlv(0x04, &vec![0; bytes]);
            params.custom_extensions =
                vec![CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 98], filler)];
        })
        .cert
    };
    assert!(judge(&root, &[with(15 * 1024)]).is_ok());
    // Signatures differ in length by a few bytes: try until one fits.
    let around = (16 * 1024) - (with(15 * 1024).len() - 15 * 1024);
    let exact = (0..200).map(|_| with(around)).find(|leaf| leaf.len() == 16 * 1024).expect("one fits");
    assert!(judge(&root, &[exact]).is_ok(), "16 KiB are read");
    assert_eq!(refused(judge(&root, &[with(16 * 1024)])), F::TooLarge);
}

#[test]
fn a_wrong_signature_is_refused() {
    let root = Authority::root("root");
    let mut bytes = root.svid(ID).cert.to_vec();
    *bytes.last_mut().expect("bytes") ^= 1;
    assert_eq!(refused(judge(&root, &[bytes.into()])), F::BadSignature);
}
