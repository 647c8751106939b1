//! Trust that is taken away reaches connections that are open: each way to take it, on each kind of connection.

mod case;
mod inbound;
mod outbound;
mod scene;
mod tunnels;

use std::{
    collections::BTreeMap,
    path::PathBuf,
    time::{Duration, SystemTime},
};

use identity::dev::Entries;

use self::{
    case::{CUT, Case, State},
    scene::run,
};
use super::harness::{
    Authority,
    certs::{minted, secret},
};

const HOUR: Duration = Duration::from_hours(1);
const REQUIRED: &str = "cert_required: true, ";

fn roots(authorities: &[&Authority]) -> String {
    let pem: String = authorities.iter().map(|authority| authority.pem()).collect();
    secret("roots", &[("ca.crt", &pem)])
}

/// The same fields for upstreams and clients; clients have to present a certificate.
fn both(fields: &str, shared: String) -> State {
    State { outbound: fields.to_owned(), inbound: format!("{REQUIRED}{fields}"), shared, ..State::default() }
}

/// Two authorities that one context trusts: the first is going to be taken away.
fn two_authorities() -> (Authority, Authority, Case) {
    let (gone, stays) = (Authority::new("gone"), Authority::new("stays"));
    let case = Case {
        doomed: Some(gone.leaf("peer.internal").certified()),
        kept: stays.leaf("peer.internal").certified(),
        before: State::default(),
        after: State::default(),
        apart: None,
        same_profile: true,
        withdrawn: None,
        expires: None,
        cut: (CUT, "trust_removed"),
        reasons: ("peer_unknown_issuer", "peer_unknown_issuer"),
        authority: None,
    };
    (gone, stays, case)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_is_taken_out_of_a_secret() {
    let (gone, stays, case) = two_authorities();
    let state = |authorities: &[&Authority]| both("ca_secret: roots", roots(authorities));
    run(Case { before: state(&[&gone, &stays]), after: state(&[&stays]), ..case }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_anchor_that_is_taken_out_of_a_file() {
    let (gone, stays, case) = two_authorities();
    let state = |pem: String| State {
        files: vec![("roots.pem", pem)],
        ..both("cacert_chain_file: roots.pem", String::new())
    };
    run(Case { before: state(gone.pem() + &stays.pem()), after: state(stays.pem()), ..case }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_put_on_a_revocation_list() {
    let (_, authority, case) = two_authorities();
    let doomed = authority.leaf("peer.internal");
    let state = |list: String| {
        let shared = roots(&[&authority]) + &secret("lists", &[("crl.pem", &list)]);
        both("ca_secret: roots, crl_secret: lists", shared)
    };
    let (before, after) = (state(authority.crl(1, &[])), state(authority.crl(2, &[&doomed])));
    let reasons = ("peer_revoked", "peer_revoked");
    run(Case { doomed: Some(doomed.certified()), before, after, reasons, ..case }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_revocation_list_that_is_named_for_the_first_time() {
    let (_, authority, case) = two_authorities();
    let doomed = authority.leaf("peer.internal");
    let list = secret("lists", &[("crl.pem", &authority.crl(1, &[&doomed]))]);
    let before = both("ca_secret: roots", roots(&[&authority]));
    let after = both("ca_secret: roots, crl_secret: lists", roots(&[&authority]) + &list);
    let reasons = ("peer_revoked", "peer_revoked");
    run(Case { doomed: Some(doomed.certified()), before, after, reasons, same_profile: false, ..case }).await;
}

/// One authority for two SPIFFE IDs; the first is going to be taken out of the rule.
fn two_ids(gone: &str, stays: &str) -> Case {
    let (_, authority, case) = two_authorities();
    let certified = |id: &str| authority.svid("peer.internal", id, HOUR).certified();
    let own = authority.leaf("ingress.internal");
    let own = secret("own", &[("tls.crt", &own.cert), ("tls.key", &own.key)]);
    let state = |ids: &str| {
        let fields = format!("secret: own, ca_secret: roots, spiffe: {{ids: [{ids}]}}");
        both(&fields, roots(&[&authority]) + &own)
    };
    Case {
        doomed: Some(certified(gone)),
        kept: certified(stays),
        before: state(&format!("\"{gone}\", \"{stays}\"")),
        after: state(&format!("\"{stays}\"")),
        ..case
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_id_that_is_taken_out_of_a_rule() {
    let case = two_ids("spiffe://td/gone", "spiffe://td/stays");
    run(Case { reasons: ("peer_id_mismatch", "peer_id_mismatch"), ..case }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_trust_domain_that_no_id_of_a_rule_is_in_any_longer() {
    let case = two_ids("spiffe://gone/a", "spiffe://td/stays");
    run(Case { reasons: ("peer_no_bundle", "peer_no_bundle"), same_profile: false, ..case }).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_name_that_is_taken_out_of_the_server_names() {
    let (_, authority, case) = two_authorities();
    let state = |names: &str| State {
        outbound: format!("ca_secret: roots, server_names: [{names}]"),
        shared: roots(&[&authority]),
        ..State::default()
    };
    run(Case {
        doomed: Some(authority.leaf("gone.internal").certified()),
        kept: authority.leaf("stays.internal").certified(),
        before: state("gone.internal, stays.internal"),
        after: state("stays.internal"),
        reasons: ("", "peer_name_mismatch"),
        ..case
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_is_required_from_now_on() {
    let (_, authority, case) = two_authorities();
    let state = |fields: &str| State {
        inbound: format!("ca_secret: roots{fields}"),
        shared: roots(&[&authority]),
        ..State::default()
    };
    run(Case {
        doomed: None,
        before: state(""),
        after: state(", cert_required: true"),
        apart: Some(State { inbound: "ca_secret: roots".to_owned(), ..State::default() }),
        reasons: ("peer_no_certificate", ""),
        ..case
    })
    .await;
}

/// Entries of a dev authority for the ingress alone.
fn entries(ca: u32, trusted_cas: &[u32]) -> Entries {
    let simple = Entries::simple("example.org", &["spiffe://example.org/ingress"], "1h");
    Entries { ca, trusted_cas: trusted_cas.to_vec(), ..simple }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_that_the_workload_api_trusts_no_longer() {
    let (_, _, case) = two_authorities();
    let authority = case::Authority::start(entries(1, &[1]));
    let mint = |id: &str| minted(&authority.dev.mint(id, HOUR).expect("minted"));
    let doomed = mint("spiffe://example.org/peer");
    authority.dev.update(entries(2, &[1, 2]), false).expect("entries");
    let kept = mint("spiffe://example.org/neighbour");
    let state = |entries| State {
        entries: Some(entries),
        ..both("spiffe: {trust_domains: [example.org]}", String::new())
    };
    run(Case {
        doomed: Some(doomed),
        kept,
        before: state(entries(2, &[1, 2])),
        after: state(entries(2, &[2])),
        authority: Some(authority),
        ..case
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_foreign_bundle_that_is_taken_away() {
    let (_, _, case) = two_authorities();
    let authority = case::Authority::start(entries(1, &[1]));
    let other = Authority::new("other.org");
    let doomed = other.svid("peer.internal", "spiffe://other.org/peer", HOUR).certified();
    let kept = minted(&authority.dev.mint("spiffe://example.org/neighbour", HOUR).expect("minted"));
    let file = authority.folder.path().join("other.pem");
    std::fs::write(&file, other.pem()).expect("write");
    let state = |federated: BTreeMap<String, PathBuf>| State {
        entries: Some(Entries { federated, ..entries(1, &[1]) }),
        ..both("spiffe: {trust_domains: [example.org, other.org]}", String::new())
    };
    run(Case {
        doomed: Some(doomed),
        kept,
        before: state([("other.org".to_owned(), file)].into()),
        after: state(BTreeMap::new()),
        reasons: ("peer_no_bundle", "peer_no_bundle"),
        authority: Some(authority),
        ..case
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_ca_whose_secret_was_deleted_a_minute_ago() {
    let (gone, stays, case) = two_authorities();
    let before = both("ca_secret: roots", roots(&[&gone]));
    let apart = both("ca_secret: beside", secret("beside", &[("ca.crt", &stays.pem())]));
    run(Case {
        after: State { shared: String::new(), ..before.clone() },
        before,
        apart: Some(apart),
        withdrawn: Some("secret:default/roots#trust"),
        reasons: ("secret_missing", "secret_missing"),
        ..case
    })
    .await;
}

/// Nobody takes trust away: the peers are late with newer certificates. What runs has half a minute.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_certificate_that_ends_while_its_connections_are_open() {
    let (_, authority, case) = two_authorities();
    let ttl = Duration::from_secs(30);
    let doomed = authority.svid("peer.internal", "spiffe://td/late", ttl);
    let state = both("ca_secret: roots", roots(&[&authority]));
    run(Case {
        doomed: Some(doomed.certified()),
        before: state.clone(),
        after: state,
        // Certificates know whole seconds alone.
        expires: Some(SystemTime::now() + ttl),
        cut: (Duration::from_secs(28)..Duration::from_secs(45), "peer_expired"),
        reasons: ("peer_expired", "peer_expired"),
        ..case
    })
    .await;
}
