//! Revocation lists: W-18, and what a configured list demands of every chain, as in Envoy.

use std::{sync::Arc, time::SystemTime};

use identity::{Bundle, Material, Source, Trust, Verify, VerifyFailure as F};
use rcgen::{
    CertificateRevocationListParams, KeyIdMethod, RevocationReason, RevokedCertParams, SerialNumber,
};
use rustls_pki_types::CertificateRevocationListDer;

use crate::mint::{Authority, Cert, DAY, Judged, by_spiffe, client, crls, refused, source, spiffe, trust};

fn crl(root: &Authority, revoked: &[u64], ends: SystemTime) -> CertificateRevocationListDer<'static> {
    let now = SystemTime::now();
    let entry = |serial: &u64| RevokedCertParams {
        serial_number: SerialNumber::from(*serial),
        revocation_time: (now - DAY).into(),
        reason_code: Some(RevocationReason::KeyCompromise),
        invalidity_date: None,
    };
    let params = CertificateRevocationListParams {
        this_update: (now - DAY).into(),
        next_update: ends.into(),
        crl_number: SerialNumber::from(1_u64),
        issuing_distribution_point: None,
        revoked_certs: revoked.iter().map(entry).collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    params.signed_by(&root.issuer).expect("crl").der().clone()
}

fn numbered(root: &Authority, serial: u64) -> Cert {
    root.leaf(|params| params.serial_number = Some(SerialNumber::from(serial))).cert
}

#[test]
fn w18_a_revoked_certificate_is_refused_and_others_are_not() {
    let root = Authority::root("root");
    let anchors = spiffe(&[("td", &[&root.cert])]);
    let list = crls(vec![crl(&root, &[77], SystemTime::now() + DAY)]);
    let profile = client(by_spiffe(trust(anchors)), None, Some(list));
    assert_eq!(refused(profile.peer(&[numbered(&root, 77)])), F::Revoked);
    assert!(profile.peer(&[numbered(&root, 78)]).is_ok());
}

#[test]
fn w18_the_list_of_a_bundle_counts_too() {
    let root = Authority::root("root");
    let bundle = Bundle {
        authorities: vec![root.cert.clone()],
        crls: vec![crl(&root, &[77], SystemTime::now() + DAY)],
    };
    let profile = client(Verify::Roots(trust(Trust::Roots(bundle))), None, None);
    assert_eq!(refused(profile.peer(&[numbered(&root, 77)])), F::Revoked);
    assert!(profile.peer(&[numbered(&root, 78)]).is_ok());
}

#[test]
fn a_revocation_list_that_ended_or_is_forged_fails_closed() {
    let root = Authority::root("root");
    let judged = |list| {
        client(by_spiffe(trust(spiffe(&[("td", &[&root.cert])]))), None, Some(crls(vec![list])))
            .peer(&[numbered(&root, 78)])
    };
    assert_eq!(refused(judged(crl(&root, &[77], SystemTime::now() - DAY / 2))), F::RevocationList);
    assert_eq!(
        refused(judged(crl(&Authority::root("root"), &[77], SystemTime::now() + DAY))),
        F::RevocationList
    );
}

#[test]
fn a_new_revocation_list_reaches_a_chain_that_was_already_proved() {
    let root = Authority::root("root");
    let lists = crls(vec![crl(&root, &[1], SystemTime::now() + DAY)]);
    let profile = client(by_spiffe(trust(spiffe(&[("td", &[&root.cert])]))), None, Some(Arc::clone(&lists)));
    let chain = [numbered(&root, 77)];
    let peer = profile.peer(&chain).expect("accepted");
    assert!(Arc::ptr_eq(&peer, &profile.peer(&chain).expect("again")), "the second time from the cache");
    let list = Trust::Crls(vec![crl(&root, &[1, 77], SystemTime::now() + DAY)]);
    lists.publish(Material { own: Vec::new(), trust: Some(list.into()) });
    assert_eq!(profile.recheck(&chain), Err(F::Revoked));
}

/// Judges a chain under a root, with a source of revocation lists.
fn judge_listed(root: &Authority, lists: Arc<Source>, chain: &[Cert]) -> Judged {
    client(by_spiffe(trust(spiffe(&[("td", &[&root.cert])]))), None, Some(lists)).peer(chain)
}

fn good(root: &Authority) -> CertificateRevocationListDer<'static> {
    crl(root, &[77], SystemTime::now() + DAY)
}

#[test]
fn a_configured_list_is_demanded_of_every_issuer_in_the_chain() {
    let root = Authority::root("root");
    let signing = root.intermediate("signing", |_| {});
    let chain = [numbered(&signing, 1), signing.cert.clone()];
    let judged = |lists| judge_listed(&root, crls(lists), &chain);
    assert!(judged(vec![good(&root), good(&signing)]).is_ok());
    assert_eq!(refused(judged(vec![good(&root)])), F::NoRevocationList, "none of the intermediate");
    assert_eq!(refused(judged(vec![good(&signing)])), F::NoRevocationList, "none of the root");
    assert_eq!(refused(judged(vec![good(&Authority::root("other"))])), F::NoRevocationList);
}

#[test]
fn an_intermediate_on_a_list_is_refused_with_all_below_it() {
    let root = Authority::root("root");
    let signing =
        root.intermediate("signing", |params| params.serial_number = Some(SerialNumber::from(77_u64)));
    let chain = [numbered(&signing, 1), signing.cert.clone()];
    assert_eq!(refused(judge_listed(&root, crls(vec![good(&root), good(&signing)]), &chain)), F::Revoked);
}

#[test]
fn w18_the_lists_of_a_bundle_are_an_offer_and_no_demand() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: vec![good(&other)] };
    let profile = client(Verify::Roots(trust(Trust::Roots(bundle))), None, None);
    assert!(profile.peer(&[numbered(&root, 77)]).is_ok());
}

#[test]
fn w18_the_lists_of_spiffe_bundles_count_in_each_form_of_trust() {
    let root = Authority::root("root");
    let domain = identity::TrustDomain::new("td").expect("trust domain");
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: vec![good(&root)] };
    let bundles = Trust::Spiffe([(domain.clone(), bundle.clone())].into());
    let by_ca = Verify::Spiffe { trust: trust(Trust::Roots(bundle)), trust_domains: vec![domain] };
    for verify in [by_spiffe(trust(bundles)), by_ca] {
        let profile = client(verify, None, None);
        assert_eq!(refused(profile.peer(&[numbered(&root, 77)])), F::Revoked);
        assert!(profile.peer(&[numbered(&root, 78)]).is_ok());
    }
}

#[test]
fn a_list_that_cannot_be_read_fails_closed() {
    let root = Authority::root("root");
    let garbage = || CertificateRevocationListDer::from(b"garbage".to_vec());
    assert_eq!(
        refused(judge_listed(&root, crls(vec![garbage()]), &[numbered(&root, 1)])),
        F::NoRevocationList
    );
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: vec![garbage()] };
    let profile = client(Verify::Roots(trust(Trust::Roots(bundle))), None, None);
    assert_eq!(refused(profile.peer(&[numbered(&root, 1)])), F::NoRevocationList);
}

#[test]
fn a_source_of_lists_without_any_fails_closed() {
    let root = Authority::root("root");
    let nothing = [
        crls(Vec::new()),
        source(Material::default()),
        trust(spiffe(&[("td", &[&root.cert])])),
        trust(Trust::Roots(Bundle { authorities: vec![root.cert.clone()], crls: Vec::new() })),
    ];
    for lists in nothing {
        let profile = client(by_spiffe(trust(spiffe(&[("td", &[&root.cert])]))), None, Some(lists));
        assert_eq!(profile.current().expect_err("fails closed").code, "crl_missing");
        assert_eq!(refused(profile.peer(&[numbered(&root, 1)])), F::NoTrust);
    }
}

#[test]
fn the_lists_beside_a_ca_serve_as_a_source_of_lists() {
    let root = Authority::root("root");
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: vec![good(&root)] };
    let lists = trust(Trust::Roots(bundle));
    assert_eq!(refused(judge_listed(&root, lists, &[numbered(&root, 77)])), F::Revoked);
}

#[test]
fn nobody_verified_means_no_list_either() {
    let root = Authority::root("root");
    let profile = client(Verify::Nothing, None, Some(crls(vec![good(&root)])));
    assert!(!profile.peer(&[numbered(&root, 77)]).expect("let through").verified);
}
