//! The W rules of spiffe.md 1.3 that a client holds, each against a served message.

use std::time::Duration;

use bytes::Bytes;
use identity::{
    Error, SourceStatus, Trust, TrustDomain,
    dev::Ca,
    source::{WorkloadApi, fetch},
};
use proto::workload::{X509svid, X509svidResponse};
use rcgen::{
    CertificateParams, CertificateRevocationListParams, Issuer, KeyIdMethod, KeyPair, KeyUsagePurpose,
};
use tonic::Code;

use crate::{
    material::{Running, authorities, ca, code, ids, message, pem, svid, until},
    scripted::{HOLD, Scripted, Step},
};

const A: &str = "spiffe://td/a";
const B: &str = "spiffe://td/b";
const GRACE: Duration = WorkloadApi::DENIED_GRACE;

/// The second message, sent on a stream that delivered a good one, must be discarded. Gives its problem.
async fn discarded(bad: X509svidResponse) -> String {
    let script = vec![Step::Send(message(vec![svid(&ca(), A)])), Step::Gate(1), Step::Send(bad), HOLD];
    let server = Scripted::start(vec![script]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.revision == 1).await;
    server.open_gate();
    let state = until(&client.source, "discarded", |state| state.problem.is_some()).await;
    assert_eq!((state.revision, state.status, ids(&state)), (1, SourceStatus::Ready, vec![A.to_owned()]));
    assert_eq!(server.calls(), 1, "the stream goes on");
    let problem = state.problem.clone().expect("problem");
    format!("{}: {}", problem.code, problem.message)
}

/// The state after one good message.
async fn accepted(good: X509svidResponse) -> std::sync::Arc<identity::SourceState> {
    let server = Scripted::start(vec![vec![Step::Send(good), HOLD]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.revision == 1).await
}

#[tokio::test]
async fn w1_and_w2_one_header_on_unix_and_tcp_without_tls() {
    let script = vec![vec![Step::Send(message(vec![svid(&ca(), A)])), HOLD]];
    for server in [Scripted::start(script.clone()), Scripted::tcp(script.clone()).await] {
        let client = Running::start(&server.uri, GRACE);
        let state = until(&client.source, "delivered", |state| state.revision == 1).await;
        assert_eq!(ids(&state), [A]);
        assert_eq!(server.headers(), [["true"]]);
    }
}

#[tokio::test]
async fn w4_a_path_with_spaces_and_percents_is_the_path() {
    let folder = tempfile::tempdir().expect("folder");
    let server = Scripted::at(
        &folder.path().join("a b%20.sock"),
        vec![vec![Step::Send(message(vec![svid(&ca(), A)])), HOLD]],
    );
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.revision == 1).await;
}

#[tokio::test]
async fn w11_a_message_replaces_everything_and_w12_what_is_absent_is_gone() {
    let (ca, other) = (ca(), Ca::new("other.org").expect("ca"));
    let mut first = message(vec![svid(&ca, A), svid(&ca, B)]);
    first.federated_bundles.insert("spiffe://other.org".to_owned(), other.certificate().to_vec().into());
    let second = message(vec![svid(&ca, B)]);
    let script = vec![Step::Send(first), Step::Gate(1), Step::Send(second), HOLD];
    let server = Scripted::start(vec![script]);
    let client = Running::start(&server.uri, GRACE);
    let state = until(&client.source, "first", |state| state.revision == 1).await;
    assert_eq!((ids(&state), authorities(&state, "other.org")), (vec![A.to_owned(), B.to_owned()], Some(1)));
    server.open_gate();
    let state = until(&client.source, "second", |state| state.revision == 2).await;
    assert_eq!((ids(&state), authorities(&state, "other.org")), (vec![B.to_owned()], None));
}

#[tokio::test]
async fn w13_empty_svids_are_discarded() {
    assert!(discarded(message(vec![])).await.starts_with("svid_malformed"));
}

#[tokio::test]
async fn w13_a_mandatory_field_with_its_default_discards_the_message() {
    let empty: [fn(&mut X509svid); 4] = [
        |svid| svid.spiffe_id.clear(),
        |svid| svid.x509_svid = Bytes::new(),
        |svid| svid.x509_svid_key = Bytes::new(),
        |svid| svid.bundle = Bytes::new(),
    ];
    for (field, clear) in empty.into_iter().enumerate() {
        let ca = ca();
        let mut bad = svid(&ca, B);
        clear(&mut bad);
        // Also when it is not the first: half a message is not used.
        let why = discarded(message(vec![svid(&ca, B), bad])).await;
        assert!(why.starts_with("svid_malformed"), "field {field}: {why}");
    }
}

#[tokio::test]
async fn w14_the_first_svid_is_the_default() {
    let ca = ca();
    let state = accepted(message(vec![svid(&ca, B), svid(&ca, A)])).await;
    assert_eq!(ids(&state), [B, A]);
}

#[tokio::test]
async fn w15_of_two_svids_with_one_hint_the_first_wins() {
    let ca = ca();
    let hinted = |id, hint: &str| X509svid { hint: hint.to_owned(), ..svid(&ca, id) };
    let svids = vec![
        hinted(A, "internal"),
        hinted(B, "internal"),
        hinted("spiffe://td/c", ""),
        hinted("spiffe://td/d", ""),
    ];
    let state = accepted(message(svids)).await;
    assert_eq!(ids(&state), [A, "spiffe://td/c", "spiffe://td/d"]);
    assert_eq!(state.material.as_ref().expect("material").own[0].hint.as_deref(), Some("internal"));
}

#[tokio::test]
async fn w16_a_hint_of_1024_bytes_is_taken_and_a_longer_one_never_cut() {
    let hinted = |len: usize| message(vec![X509svid { hint: "h".repeat(len), ..svid(&ca(), B) }]);
    let state = accepted(hinted(1024)).await;
    assert_eq!(ids(&state), [B]);
    assert!(discarded(hinted(1025)).await.contains("hint"));
}

fn crl() -> Bytes {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::default();
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let issuer = Issuer::new(params, key);
    let list = CertificateRevocationListParams {
        this_update: std::time::SystemTime::now().into(),
        next_update: (std::time::SystemTime::now() + Duration::from_hours(1)).into(),
        crl_number: 1.into(),
        issuing_distribution_point: None,
        revoked_certs: Vec::new(),
        key_identifier_method: KeyIdMethod::Sha256,
    };
    list.signed_by(&issuer).expect("crl").der().to_vec().into()
}

#[tokio::test]
async fn w18_revocation_lists_reach_every_bundle() {
    let other = Ca::new("other.org").expect("ca");
    let mut good = message(vec![svid(&ca(), A)]);
    good.crl = vec![crl()];
    good.federated_bundles.insert("spiffe://other.org".to_owned(), other.certificate().to_vec().into());
    let state = accepted(good).await;
    let trust = state.material.as_ref().expect("material").trust.clone().expect("trust");
    let Trust::Spiffe(bundles) = &*trust else { panic!("{trust:?}") };
    assert_eq!(bundles.len(), 2);
    assert!(bundles.values().all(|bundle| bundle.crls.len() == 1));
}

#[tokio::test]
async fn w18_a_malformed_revocation_list_discards_the_message() {
    let mut bad = message(vec![svid(&ca(), B)]);
    bad.crl = vec![Bytes::from_static(b"not a list")];
    assert!(discarded(bad).await.contains("revocation list"));
}

#[tokio::test]
async fn w20_pem_instead_of_der_discards_the_message() {
    let good = svid(&ca(), B);
    let certificate = X509svid { x509_svid: pem("CERTIFICATE", &good.x509_svid).into(), ..good.clone() };
    let key = X509svid { x509_svid_key: pem("PRIVATE KEY", &good.x509_svid_key).into(), ..good.clone() };
    let bundle = X509svid { bundle: pem("CERTIFICATE", &good.bundle).into(), ..good };
    for bad in [certificate, key, bundle] {
        discarded(message(vec![bad])).await;
    }
}

#[tokio::test]
async fn w21_a_key_of_another_certificate_discards_the_message() {
    let ca = ca();
    let bad = X509svid { x509_svid_key: svid(&ca, B).x509_svid_key, ..svid(&ca, B) };
    assert!(discarded(message(vec![bad])).await.starts_with("key_mismatch"));
}

#[tokio::test]
async fn w22_an_id_that_is_not_the_certificates_discards_the_message() {
    let bad = X509svid { spiffe_id: "spiffe://td/admin".to_owned(), ..svid(&ca(), B) };
    let why = discarded(message(vec![bad])).await;
    assert!(why.contains("spiffe://td/admin") && why.contains(B), "{why}");
}

#[tokio::test]
async fn one_bad_foreign_bundle_is_left_out_and_everything_else_is_live() {
    let (ca, other) = (ca(), Ca::new("other.org").expect("ca"));
    let mut good = message(vec![svid(&ca, A)]);
    good.federated_bundles.insert("spiffe://other.org".to_owned(), other.certificate().to_vec().into());
    for key in ["spiffe://broken.org", "spiffe://other.org/with/path", "https://third.org"] {
        good.federated_bundles.insert(key.to_owned(), Bytes::from_static(b"not DER"));
    }
    let script = vec![Step::Send(good.clone()), Step::Gate(1), Step::Send(good), Step::Gate(2), Step::End];
    let server = Scripted::start(vec![script, vec![HOLD]]);
    let client = Running::start(&server.uri, GRACE);
    let state = until(&client.source, "warned", |state| code(state) == "bundle_unusable").await;
    assert_eq!((ids(&state), state.status), (vec![A.to_owned()], SourceStatus::Ready));
    assert_eq!((authorities(&state, "td"), authorities(&state, "other.org")), (Some(1), Some(1)));
    assert_eq!(authorities(&state, "broken.org"), None);
    let problem = state.problem.clone().expect("problem");
    for named in ["broken.org", "other.org/with/path", "third.org"] {
        assert!(problem.message.contains(named), "{problem}");
    }
    // The same again, warning included, is not a new revision.
    server.open_gate();
    server.open_gate();
    server.called(2).await;
    let state = client.source.state();
    assert_eq!((state.revision, code(&state)), (1, "bundle_unusable"));
}

#[tokio::test]
async fn a_bad_svid_behind_a_good_one_is_left_out_and_everything_else_is_live() {
    let ca = ca();
    let torn = |id| X509svid { x509_svid_key: svid(&ca, B).x509_svid_key, ..svid(&ca, id) };
    let state = accepted_with_problem(message(vec![svid(&ca, A), torn(B), svid(&ca, "spiffe://td/c")])).await;
    assert_eq!(
        (ids(&state), state.status),
        (vec![A.to_owned(), "spiffe://td/c".to_owned()], SourceStatus::Ready)
    );
    assert_eq!(code(&state), "key_mismatch");
    let problem = state.problem.clone().expect("problem");
    assert!(problem.message.contains("left out: ") && problem.message.contains(B), "{problem}");
    // The first is the default identity: without it there is none.
    assert!(discarded(message(vec![torn(A), svid(&ca, B)])).await.starts_with("key_mismatch"));
}

/// The state after one message that is good but for something.
async fn accepted_with_problem(message: X509svidResponse) -> std::sync::Arc<identity::SourceState> {
    let server = Scripted::start(vec![vec![Step::Send(message), HOLD]]);
    let client = Running::start(&server.uri, GRACE);
    until(&client.source, "delivered", |state| state.revision == 1 && state.problem.is_some()).await
}

#[tokio::test]
async fn a_message_beyond_the_limits_is_discarded() {
    let ca = ca();
    let one = svid(&ca, B);
    let svids = (0..201).map(|_| one.clone()).collect();
    assert!(discarded(message(svids)).await.contains("more than 200"));
    let mut bad = message(vec![one]);
    bad.crl = (0..201).map(|_| Bytes::new()).collect();
    assert!(discarded(bad).await.contains("more than 200"));
}

#[tokio::test]
async fn a_big_federated_set_loads() {
    let other = Ca::new("other.org").expect("ca");
    let bundle: Bytes =
        std::iter::repeat_n(other.certificate().to_vec(), 60).collect::<Vec<_>>().concat().into();
    let mut good = message(vec![svid(&ca(), A)]);
    good.federated_bundles = (0..200).map(|n| (format!("spiffe://other{n}.org"), bundle.clone())).collect();
    assert!(bundle.len() * 200 > 4 << 20, "beyond tonic's default limit");
    let state = accepted(good).await;
    assert_eq!(authorities(&state, "other199.org"), Some(60));
}

#[tokio::test]
async fn debug_output_shows_no_key() {
    let held = svid(&ca(), A);
    let key = format!("{:?}", held.x509_svid_key);
    let state = accepted(message(vec![held])).await;
    assert!(!format!("{state:?}").contains(&key));
}

async fn why_not(uri: &str) -> String {
    match fetch(&uri.parse().expect("uri"), Duration::from_millis(300)).await {
        Err(error @ Error::Material(_)) => error.to_string(),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn fetch_gives_one_message_or_a_helpful_reason() {
    let server = Scripted::start(vec![vec![Step::Send(message(vec![svid(&ca(), A)])), HOLD]]);
    let endpoint = server.uri.parse().expect("uri");
    let (material, warnings) = fetch(&endpoint, Duration::from_secs(5)).await.expect("svid");
    assert_eq!((material.own.len(), warnings.len()), (1, 0));
    let Some(Trust::Spiffe(bundles)) = material.trust.as_deref() else { panic!("no trust") };
    assert!(bundles.contains_key(&TrustDomain::new("td").expect("name")));

    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("api.sock");
    let uri = format!("unix://{}", path.display());
    let missing = why_not(&uri).await;
    assert!(missing.contains("No such file") && missing.contains("is the agent running"), "{missing}");
    drop(std::os::unix::net::UnixListener::bind(&path).expect("bind"));
    let refused = why_not(&uri).await;
    assert!(refused.contains("nobody listens"), "{refused}");
    std::fs::remove_file(&path).expect("remove");
    let _listens_but_never_answers = std::os::unix::net::UnixListener::bind(&path).expect("bind");
    let silent = why_not(&uri).await;
    assert!(silent.contains("did not answer within"), "{silent}");

    let server = Scripted::start(vec![vec![Step::Refuse(Code::PermissionDenied)]]);
    let denied = why_not(&server.uri).await;
    assert!(denied.contains("registration entry"), "{denied}");
}
