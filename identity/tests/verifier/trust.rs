//! Which source may vouch for whom, and what an unverified peer is worth.

use identity::{Bundle, Material, PeerRule, Trust, Verify, VerifyFailure as F};

use crate::mint::{Authority, ID, by_spiffe, client, crls, dns, judge_web, refused, source, spiffe, trust};

#[test]
fn withdrawn_trust_refuses_a_chain_that_was_already_proved() {
    let root = Authority::root("root");
    let source = trust(spiffe(&[("td", &[&root.cert])]));
    let profile = client(by_spiffe(std::sync::Arc::clone(&source)), None, None);
    let chain = [root.svid(ID).cert];
    let peer = profile.peer(&chain).expect("accepted");
    assert_eq!(profile.recheck(&chain), Ok(peer.not_after));
    source.publish(Material { own: Vec::new(), trust: Some(spiffe(&[("other", &[&root.cert])]).into()) });
    assert_eq!(profile.recheck(&chain), Err(F::NoBundle));
    source.withdraw(identity::Problem::new("gone", "the bundle was taken back"));
    assert_eq!(profile.recheck(&chain), Err(F::NoTrust));
    assert_eq!(profile.current().expect_err("fails closed").code, "gone");
}

/// Bundles of two trust domains as one pool of roots would let one speak for the other.
#[test]
fn x9_bundles_are_never_pooled_for_web_pki() {
    let (a, b) = (Authority::root("a"), Authority::root("b"));
    let bundles = trust(spiffe(&[("a.org", &[&a.cert]), ("b.org", &[&b.cert])]));
    let profile = client(Verify::Roots(bundles), None, None);
    assert_eq!(profile.current().expect_err("fails closed").code, "ca_missing");
    assert_eq!(refused(profile.peer(&[a.svid("spiffe://a.org/web").cert])), F::NoTrust);
}

#[test]
fn a_source_without_cas_verifies_nobody() {
    let root = Authority::root("root");
    let chain = [root.svid(ID).cert];
    for given in [crls(Vec::new()), source(Material::default())] {
        for verify in [Verify::Roots(std::sync::Arc::clone(&given)), by_spiffe(given)] {
            let profile = client(verify, None, None);
            assert_eq!(profile.current().expect_err("fails closed").code, "ca_missing");
            assert_eq!(refused(profile.peer(&chain)), F::NoTrust);
        }
    }
}

#[test]
fn an_unverified_peer_satisfies_no_rule_but_anyone() {
    let root = Authority::root("root");
    let chain = [root.leaf(|params| params.subject_alt_names = vec![dns("web.example")]).cert];
    let names = PeerRule::Names(vec!["web.example".to_owned().try_into().expect("name")]);
    let td = identity::TrustDomain::new("td").expect("trust domain");
    let spiffe = PeerRule::Spiffe { ids: Vec::new(), trust_domains: vec![td] };
    let claimed = client(Verify::Nothing, None, None).peer(&chain).expect("let through");
    assert!(!claimed.verified);
    for rule in [&names, &spiffe] {
        assert_eq!(rule.check(Some(&claimed)).expect_err("a claim").code, "peer_not_verified");
        assert_eq!(rule.check(None).expect_err("nobody").code, "peer_no_certificate");
    }
    assert_eq!(PeerRule::Anyone.check(Some(&claimed)), Ok(()));
    assert_eq!(names.check(Some(&judge_web(&root, &chain).expect("verified"))), Ok(()));
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: Vec::new() };
    let other = client(Verify::Roots(trust(Trust::Roots(bundle))), None, None);
    let stranger = root.leaf(|params| params.subject_alt_names = vec![dns("other.example")]).cert;
    let peer = other.peer(&[stranger]).expect("verified");
    assert_eq!(names.check(Some(&peer)).expect_err("another name").code, "peer_name_mismatch");
}

/// The peer as proved under the bundle of its trust domain.
fn proved(id: &str) -> std::sync::Arc<identity::PeerId> {
    let root = Authority::root("root");
    let domain = id.split('/').nth(2).expect("a trust domain");
    crate::mint::judge_under(spiffe(&[(domain, &[&root.cert])]), &[root.svid(id).cert]).expect("proved")
}

fn code(rule: &PeerRule, id: &str) -> &'static str {
    rule.check(Some(&proved(id))).err().map_or("", |denied| denied.code)
}

#[test]
fn a_trust_domain_means_its_workloads_and_not_spire_itself() {
    let td = |name| identity::TrustDomain::new(name).expect("trust domain");
    let rule = PeerRule::Spiffe { ids: Vec::new(), trust_domains: vec![td("td"), td("other")] };
    for id in [ID, "spiffe://other/a"] {
        assert_eq!(code(&rule, id), "", "{id}");
    }
    for id in ["spiffe://third/a", "spiffe://td/spire/agent/x", "spiffe://td/spire"] {
        assert_eq!(code(&rule, id), "peer_id_mismatch", "{id}");
    }
}

#[test]
fn the_own_trust_domain_is_that_of_the_svid_of_the_moment() {
    let own = identity::Source::new(identity::SourceRef::new("spiffe"));
    let rule = PeerRule::OwnTrustDomain(std::sync::Arc::clone(&own));
    assert_eq!(code(&rule, ID), "identity_unavailable");
    let root = Authority::root("root");
    own.publish(Material { own: vec![root.svid(ID).credential().into()], trust: None });
    assert_eq!(code(&rule, "spiffe://td/any"), "");
    assert_eq!(code(&rule, "spiffe://td/spire/server"), "peer_id_mismatch");
    assert_eq!(code(&rule, "spiffe://other/any"), "peer_id_mismatch");
    own.publish(Material { own: vec![root.svid("spiffe://other/web").credential().into()], trust: None });
    assert_eq!(code(&rule, "spiffe://other/any"), "");
    assert_eq!(rule.to_string(), "a workload of our own trust domain");
}

#[test]
fn a_rule_says_whom_it_means() {
    let rule = PeerRule::Spiffe {
        ids: vec!["spiffe://td/a/*".parse().expect("pattern"), ID.parse().expect("id")],
        trust_domains: vec![identity::TrustDomain::new("other").expect("trust domain")],
    };
    assert_eq!(rule.to_string(), "spiffe://td/a/* or spiffe://td/web or spiffe://other/**");
    let names = ["a.example", "b.example"].map(|name| name.to_owned().try_into().expect("name"));
    assert_eq!(PeerRule::Names(names.to_vec()).to_string(), "a.example or b.example");
    assert_eq!(PeerRule::Anyone.to_string(), "anyone");
    let denied = rule.check(Some(&proved("spiffe://td/b"))).expect_err("another");
    assert_eq!(denied.to_string(), format!("the peer is spiffe://td/b, expected {rule}"));
}
