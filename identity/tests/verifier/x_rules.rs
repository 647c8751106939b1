//! X-1 to X-15 (reference: X509-SVID). X-16 is about JWK bundles, which a verifier does not read.

use std::time::SystemTime;

use identity::{Bundle, IdPattern, PeerRule, Trust, TrustDomain, Verify, VerifyFailure as F};
use rcgen::{
    BasicConstraints, CustomExtension, DistinguishedName, ExtendedKeyUsagePurpose as Eku, IsCa,
    KeyUsagePurpose as Usage,
};

use crate::mint::{
    Authority, DAY, ID, client, constraints, dns, judge, judge_client, judge_under, judge_web, raw_uris,
    refused, spiffe, trust, uri, valid,
};

#[test]
fn x1_two_uri_sans_are_refused() {
    let root = Authority::root("root");
    for second in ["https://td/x", "spiffe://td/other", ID] {
        let leaf = root.leaf(|params| params.subject_alt_names = vec![uri(ID), uri(second)]);
        assert_eq!(refused(judge(&root, &[leaf.cert])), F::SeveralUriSans, "{second}");
    }
}

#[test]
fn x1_a_second_uri_that_is_no_text_is_counted() {
    let root = Authority::root("root");
    for uris in [[ID.as_bytes(), b"spiffe://td/\xff".as_slice()], [b"\xff".as_slice(), ID.as_bytes()]] {
        let leaf = root.leaf(|params| {
            params.subject_alt_names = Vec::new();
            params.custom_extensions = vec![raw_uris(&uris)];
        });
        assert_eq!(refused(judge(&root, &[leaf.cert])), F::SeveralUriSans);
    }
}

#[test]
fn x2_a_certificate_without_uri_is_refused() {
    let root = Authority::root("root");
    let named = root.leaf(|params| params.subject_alt_names = vec![dns("td")]);
    assert_eq!(refused(judge(&root, &[named.cert])), F::NoUriSan);
    let bare = root.leaf(|params| params.subject_alt_names = Vec::new());
    assert_eq!(refused(judge(&root, &[bare.cert])), F::NoUriSan);
}

#[test]
fn x3_other_names_are_accepted_and_mean_nothing() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| params.subject_alt_names = vec![dns("other.example"), uri(ID)]);
    let peer = judge(&root, &[leaf.cert]).expect("accepted");
    assert_eq!(peer.spiffe_id.as_ref().map(ToString::to_string).as_deref(), Some(ID));
    let rule = PeerRule::Spiffe {
        ids: vec!["spiffe://td/other".parse::<IdPattern>().expect("id")],
        trust_domains: Vec::new(),
    };
    assert_eq!(rule.check(Some(&peer)).expect_err("another ID").code, "peer_id_mismatch");
}

#[test]
fn x4_a_leaf_that_is_a_ca_is_refused_and_absent_constraints_are_accepted() {
    let root = Authority::root("root");
    let ca = root.leaf(|params| params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained));
    assert_eq!(refused(judge(&root, &[ca.cert])), F::LeafIsCa);
    let absent = root.leaf(|params| params.is_ca = IsCa::NoCa);
    assert!(judge(&root, &[absent.cert]).is_ok());
}

#[test]
fn x5_a_leaf_that_may_sign_is_refused() {
    let root = Authority::root("root");
    for usage in [Usage::KeyCertSign, Usage::CrlSign] {
        let leaf = root.leaf(|params| params.key_usages.push(usage));
        assert_eq!(refused(judge(&root, &[leaf.cert])), F::LeafMaySign, "{usage:?}");
    }
}

#[test]
fn x6_key_usage_without_digital_signature_is_refused_and_absent_accepted() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| params.key_usages = vec![Usage::KeyAgreement]);
    assert_eq!(refused(judge(&root, &[leaf.cert])), F::NoDigitalSignature);
    let absent = root.leaf(|params| params.key_usages = Vec::new());
    assert!(judge(&root, &[absent.cert]).is_ok());
}

#[test]
fn x7_extended_key_usage_fits_the_role_or_is_absent() {
    let root = Authority::root("root");
    let with = |usages: Vec<Eku>| root.leaf(|params| params.extended_key_usages = usages).cert;
    let server_only = with(vec![Eku::ServerAuth]);
    assert_eq!(refused(judge_client(&root, std::slice::from_ref(&server_only))), F::Purpose);
    assert!(judge(&root, &[server_only]).is_ok());
    let client_only = with(vec![Eku::ClientAuth]);
    assert_eq!(refused(judge(&root, std::slice::from_ref(&client_only))), F::Purpose);
    assert!(judge_client(&root, &[client_only]).is_ok());
    assert_eq!(refused(judge(&root, &[with(vec![Eku::Any])])), F::Purpose);
    let absent = with(Vec::new());
    assert!(judge(&root, std::slice::from_ref(&absent)).is_ok());
    assert!(judge_client(&root, &[absent]).is_ok());
}

#[test]
fn x8_a_signing_certificate_does_not_authenticate() {
    let root = Authority::root("root");
    let signing = root.intermediate("signing", |params| params.subject_alt_names = vec![uri(ID)]);
    assert_eq!(refused(judge(&root, &[signing.cert])), F::LeafIsCa);
    let own = Authority::root_with("own", |params| params.subject_alt_names = vec![uri(ID)]);
    assert_eq!(refused(judge(&own, std::slice::from_ref(&own.cert))), F::LeafIsCa);
}

#[test]
fn x9_only_the_bundle_of_the_leafs_own_trust_domain_counts() {
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let leaf = b.svid("spiffe://a.org/web");
    let both = spiffe(&[("a.org", &[&a.cert]), ("b.org", &[&b.cert])]);
    assert_eq!(refused(judge_under(both, &[leaf.cert])), F::UnknownIssuer);
}

#[test]
fn x10_no_bundle_or_an_empty_one_is_refused() {
    let root = Authority::root("root");
    let foreign = root.svid("spiffe://elsewhere/web");
    assert_eq!(refused(judge(&root, &[foreign.cert])), F::NoBundle);
    let leaf = root.svid(ID);
    assert_eq!(refused(judge_under(spiffe(&[("td", &[])]), &[leaf.cert])), F::NoBundle);
}

#[test]
fn x10_a_plain_ca_vouches_only_for_its_trust_domains() {
    let root = Authority::root("root");
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: Vec::new() };
    let profile = client(
        Verify::Spiffe {
            trust: trust(Trust::Roots(bundle)),
            trust_domains: vec![TrustDomain::new("td").expect("trust domain")],
        },
        None,
        None,
    );
    assert!(profile.peer(&[root.svid(ID).cert]).is_ok());
    assert_eq!(refused(profile.peer(&[root.svid("spiffe://other/web").cert])), F::NoBundle);
}

#[test]
fn x11_an_intermediate_must_be_allowed_to_sign() {
    let root = Authority::root("root");
    let signing = root.intermediate("signing", |_| {});
    assert!(judge(&root, &[signing.svid(ID).cert, signing.cert.clone()]).is_ok());
    let mute = root.intermediate("mute", |params| params.key_usages = vec![Usage::CrlSign]);
    assert_eq!(refused(judge(&root, &[mute.svid(ID).cert, mute.cert.clone()])), F::IssuerMayNotSign);
    let no_ca = root.intermediate("no ca", |params| params.is_ca = IsCa::ExplicitNoCa);
    assert_eq!(refused(judge(&root, &[no_ca.svid(ID).cert, no_ca.cert.clone()])), F::IssuerMayNotSign);
}

#[test]
fn x11_a_spiffe_id_of_an_intermediate_has_no_path() {
    let root = Authority::root("root");
    let named = root.intermediate("named", |params| params.subject_alt_names = vec![uri("spiffe://td")]);
    assert!(judge(&root, &[named.svid(ID).cert, named.cert.clone()]).is_ok());
    let workload =
        root.intermediate("workload", |params| params.subject_alt_names = vec![uri("spiffe://td/ca")]);
    let chain = [workload.svid(ID).cert, workload.cert.clone()];
    assert_eq!(refused(judge(&root, &chain)), F::IssuerId);
    assert!(judge_web(&root, &chain).is_ok(), "web PKI knows no such rule");
    for bad in ["spiffe://t%64", "spiffe:td", "spiffe://"] {
        let wrong = root.intermediate("wrong", |params| params.subject_alt_names = vec![uri(bad)]);
        assert_eq!(refused(judge(&root, &[wrong.svid(ID).cert, wrong.cert.clone()])), F::IssuerId, "{bad}");
    }
}

#[test]
fn x12_dates_of_leaf_and_intermediate() {
    let (root, now) = (Authority::root("root"), SystemTime::now());
    let past = root.leaf(|params| valid(params, now - DAY * 2, now - DAY));
    assert_eq!(refused(judge(&root, &[past.cert])), F::Expired);
    let future = root.leaf(|params| valid(params, now + DAY, now + DAY * 2));
    assert_eq!(refused(judge(&root, &[future.cert])), F::NotYetValid);
    let old = root.intermediate("old", |params| valid(params, now - DAY * 2, now - DAY));
    assert_eq!(refused(judge(&root, &[old.svid(ID).cert, old.cert.clone()])), F::Expired);
    let early = root.intermediate("early", |params| valid(params, now + DAY, now + DAY * 2));
    assert_eq!(refused(judge(&root, &[early.svid(ID).cert, early.cert.clone()])), F::NotYetValid);
}

#[test]
fn x12_path_length_is_respected() {
    let root = Authority::root("root");
    let first =
        root.intermediate("first", |params| params.is_ca = IsCa::Ca(BasicConstraints::Constrained(0)));
    assert!(judge(&root, &[first.svid(ID).cert, first.cert.clone()]).is_ok());
    let second = first.intermediate("second", |_| {});
    let chain = [second.svid(ID).cert, second.cert.clone(), first.cert.clone()];
    assert_eq!(refused(judge(&root, &chain)), F::PathLength);
}

#[test]
fn x12_the_identity_ends_with_the_first_certificate_of_its_path() {
    let (root, now) = (Authority::root("root"), SystemTime::now());
    let short = root.intermediate("short", |params| valid(params, now - DAY, now + DAY / 2));
    let unused = root.intermediate("unused", |params| valid(params, now - DAY * 2, now - DAY));
    let peer =
        judge(&root, &[short.svid(ID).cert, short.cert.clone(), unused.cert.clone()]).expect("accepted");
    assert!(peer.not_after <= now + DAY / 2, "the intermediate ends first");
    assert!(peer.not_after > now, "a certificate that is not in the path has no say");
    let brief = Authority::root_with("brief", |params| valid(params, now - DAY, now + DAY / 4));
    let peer = judge(&brief, &[brief.svid(ID).cert]).expect("accepted");
    assert!(peer.not_after <= now + DAY / 4, "the anchor ends first");
}

#[test]
fn x13_uri_constraints_of_an_anchor_are_held() {
    const PERMITTED: u8 = 0xa0;
    const EXCLUDED: u8 = 0xa1;
    let judged = |list: u8, names: &[(u8, &str)]| {
        let root = Authority::root_with("constrained", |params| {
            params.custom_extensions = vec![constraints(list, names)];
        });
        judge(&root, &[root.svid(ID).cert]).map(drop)
    };
    assert_eq!(judged(PERMITTED, &[(0x86, "td")]), Ok(()));
    assert_eq!(judged(PERMITTED, &[(0x86, "other"), (0x86, "td")]), Ok(()));
    assert_eq!(judged(PERMITTED, &[(0x86, "other")]), Err(F::NameConstraint));
    assert_eq!(judged(PERMITTED, &[(0x86, ".td")]), Err(F::NameConstraint));
    assert_eq!(judged(EXCLUDED, &[(0x86, "other")]), Ok(()));
    assert_eq!(judged(EXCLUDED, &[(0x86, "td")]), Err(F::NameConstraint));
    assert_eq!(judged(PERMITTED, &[(0x82, "td")]), Ok(()), "names of other types are not constrained");
}

#[test]
fn x13_subdomains_of_a_uri_constraint() {
    let root = Authority::root_with("constrained", |params| {
        params.custom_extensions = vec![constraints(0xa0, &[(0x86, ".example.org")])];
    });
    let under = |td: &str| {
        let leaf = root.svid(&format!("spiffe://{td}/web"));
        judge_under(spiffe(&[(td, &[&root.cert])]), &[leaf.cert]).map(drop)
    };
    assert_eq!(under("a.example.org"), Ok(()));
    assert_eq!(under("example.org"), Err(F::NameConstraint));
    assert_eq!(under("badexample.org"), Err(F::NameConstraint));
    assert_eq!(under(".example.org"), Err(F::NameConstraint), "no label before the dot");
}

#[test]
fn x13_constraints_hold_for_the_hosts_of_web_uris_without_case() {
    let root = Authority::root_with("constrained", |params| {
        params.custom_extensions = vec![constraints(0xa1, &[(0x86, "example.org")])];
    });
    let under = |text: &str| {
        let leaf = root.leaf(|params| params.subject_alt_names = vec![uri(text)]);
        judge_web(&root, &[leaf.cert]).map(drop)
    };
    for good in ["https://other.org/x", "https://other.org:8443", "https://user@other.org?q"] {
        assert_eq!(under(good), Ok(()), "{good}");
    }
    for excluded in ["https://example.org", "https://EXAMPLE.org:1/x", "https://a@example.org#f"] {
        assert_eq!(under(excluded), Err(F::NameConstraint), "{excluded}");
    }
    for hostless in ["urn:uuid:1", "https:///x", "https://[::1]/x", "https://:80"] {
        assert_eq!(under(hostless), Err(F::NameConstraint), "{hostless}: RFC 5280 refuses what has no name");
    }
}

#[test]
fn x13_the_constraints_of_another_anchor_of_the_same_name_mean_nothing() {
    let narrow = Authority::root_with("same", |params| {
        params.custom_extensions = vec![constraints(0xa0, &[(0x86, "other")])];
    });
    let (wide, leaf) = (Authority::root("same"), |by: &Authority| by.svid(ID).cert);
    let both = || spiffe(&[("td", &[&narrow.cert, &wide.cert])]);
    assert!(judge_under(both(), &[leaf(&wide)]).is_ok());
    assert_eq!(refused(judge_under(both(), &[leaf(&narrow)])), F::NameConstraint);
}

#[test]
fn x13_uri_constraints_of_an_intermediate_fail_closed() {
    let root = Authority::root("root");
    let narrow = root.intermediate("narrow", |params| {
        params.custom_extensions = vec![constraints(0xa0, &[(0x86, "td")])];
    });
    assert_eq!(refused(judge(&root, &[narrow.svid(ID).cert, narrow.cert.clone()])), F::NameConstraint);
}

#[test]
fn x14_the_dialled_name_means_nothing_and_the_id_everything() {
    let root = Authority::root("root");
    let peer = judge(&root, &[root.svid(ID).cert]).expect("no DNS name is needed");
    let rule = |id: &str| PeerRule::Spiffe { ids: vec![id.parse().expect("id")], trust_domains: Vec::new() };
    assert!(rule(ID).check(Some(&peer)).is_ok());
    assert_eq!(rule("spiffe://td/we").check(Some(&peer)).expect_err("another").code, "peer_id_mismatch");
    assert_eq!(rule(ID).check(None).expect_err("nobody").code, "peer_no_certificate");
}

#[test]
fn x15_an_empty_subject_is_accepted() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| params.distinguished_name = DistinguishedName::new());
    assert!(judge(&root, &[leaf.cert]).is_ok());
}

#[test]
fn an_unknown_critical_extension_is_refused() {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| {
        let mut unknown = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 32473, 99], vec![0x05, 0x00]);
        unknown.set_criticality(true);
        params.custom_extensions = vec![unknown];
    });
    assert_eq!(refused(judge(&root, std::slice::from_ref(&leaf.cert))), F::UnknownExtension);
    assert_eq!(refused(judge_web(&root, &[leaf.cert])), F::UnknownExtension);
}

#[test]
fn an_impostor_of_the_same_name_is_refused() {
    let (root, impostor) = (Authority::root("root"), Authority::root("root"));
    assert_eq!(refused(judge(&root, &[impostor.svid(ID).cert])), F::BadSignature);
    assert_eq!(refused(judge(&root, &[impostor.svid(ID).cert, impostor.cert.clone()])), F::BadSignature);
}
