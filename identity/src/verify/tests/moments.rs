//! Validity to the second: anchors, leaves and revocation lists, and what the cache may still say.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use rcgen::{
    BasicConstraints, CertificateParams, CertificateRevocationListParams, IsCa, Issuer, KeyIdMethod, KeyPair,
    KeyUsagePurpose, SanType, SerialNumber,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use super::super::{PeerVerifier, Role, TrustInput, TrustInputs, VerifyFailure as F};
use crate::{Bundle, ClientAuth, PeerId, TrustDomain};

const HOUR: Duration = Duration::from_hours(1);
const SECOND: Duration = Duration::from_secs(1);

/// A moment without fractions of a second: certificates have none.
fn start() -> SystemTime {
    SystemTime::UNIX_EPOCH + Duration::from_secs(2_000_000_000)
}

struct Root {
    issuer: Issuer<'static, KeyPair>,
    cert: CertificateDer<'static>,
}

impl Root {
    /// Valid from the start, for two hours.
    fn new() -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = valid(CertificateParams::default(), 2 * HOUR);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
        let cert = params.self_signed(&key).expect("root").der().clone();
        Self { issuer: Issuer::new(params, key), cert }
    }

    fn leaf(&self, lifetime: Duration) -> CertificateDer<'static> {
        let key = KeyPair::generate().expect("key");
        let mut params = valid(CertificateParams::default(), lifetime);
        params.subject_alt_names = vec![SanType::URI("spiffe://td/a".try_into().expect("ascii"))];
        params.signed_by(&key, &self.issuer).expect("leaf").der().clone()
    }

    fn list(&self, ends: Duration) -> CertificateRevocationListDer<'static> {
        let params = CertificateRevocationListParams {
            this_update: (start() - HOUR).into(),
            next_update: (start() + ends).into(),
            crl_number: SerialNumber::from(1_u64),
            issuing_distribution_point: None,
            revoked_certs: Vec::new(),
            key_identifier_method: KeyIdMethod::Sha256,
        };
        params.signed_by(&self.issuer).expect("list").der().clone()
    }
}

fn valid(mut params: CertificateParams, lifetime: Duration) -> CertificateParams {
    params.not_before = start().into();
    params.not_after = (start() + lifetime).into();
    params
}

fn verifier(root: &Root, crls: Vec<CertificateRevocationListDer<'static>>) -> PeerVerifier {
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls };
    let bundles = [(TrustDomain::new("td").expect("trust domain"), bundle)].into();
    let inputs = TrustInputs { trust: TrustInput::Spiffe(bundles), crls: None };
    PeerVerifier::new(&inputs, ClientAuth::Required)
}

fn at(verifier: &PeerVerifier, leaf: &CertificateDer<'static>, now: SystemTime) -> Result<Arc<PeerId>, F> {
    verifier.identify(std::slice::from_ref(leaf), Role::Server, now)
}

#[test]
fn an_anchor_is_used_from_its_first_second_and_no_more_at_its_last() {
    let root = Root::new();
    let leaf = root.leaf(4 * HOUR);
    let judged = |now| at(&verifier(&root, Vec::new()), &leaf, now).map(|peer| peer.not_after);
    assert_eq!(judged(start() - SECOND), Err(F::AuthorityUnusable));
    assert_eq!(judged(start()), Ok(start() + 2 * HOUR));
    assert_eq!(judged(start() + 2 * HOUR - SECOND), Ok(start() + 2 * HOUR));
    assert_eq!(judged(start() + 2 * HOUR), Err(F::AuthorityUnusable));
}

#[test]
fn a_proved_chain_is_remembered_until_it_ends_and_not_at_its_end() {
    let root = Root::new();
    let (leaf, verifier) = (root.leaf(HOUR), verifier(&root, Vec::new()));
    let peer = at(&verifier, &leaf, start()).expect("proved");
    let known = |now| at(&verifier, &leaf, now).map(|again| Arc::ptr_eq(&peer, &again));
    assert_eq!(known(start() + HOUR - SECOND), Ok(true));
    // RFC 5280 counts the last second in, so it is proved again then.
    assert_eq!(known(start() + HOUR), Ok(false));
    assert_eq!(known(start() + HOUR + SECOND), Err(F::Expired));
}

#[test]
fn what_was_proved_under_a_list_is_proved_again_when_the_list_ends() {
    let root = Root::new();
    let lists = [root.list(3 * HOUR), root.list(HOUR / 2)];
    let (leaf, verifier) = (root.leaf(HOUR), verifier(&root, lists[1..].to_vec()));
    let peer = at(&verifier, &leaf, start()).expect("proved");
    let known = |now| at(&verifier, &leaf, now).map(|again| Arc::ptr_eq(&peer, &again));
    assert_eq!(known(start() + HOUR / 2 - SECOND), Ok(true));
    assert_eq!(known(start() + HOUR / 2), Err(F::RevocationList));
    let later = PeerVerifier::new(
        &TrustInputs {
            trust: TrustInput::Roots(Bundle {
                authorities: vec![root.cert.clone()],
                crls: lists[..1].to_vec(),
            }),
            crls: None,
        },
        ClientAuth::Required,
    );
    let peer = at(&later, &leaf, start()).expect("proved");
    assert!(Arc::ptr_eq(&peer, &at(&later, &leaf, start() + HOUR - SECOND).expect("known")), "ends later");
}

#[test]
fn a_list_of_another_issuer_that_has_ended_costs_no_memory() {
    let root = Root::new();
    let key = KeyPair::generate().expect("key");
    let mut params = valid(CertificateParams::default(), 2 * HOUR);
    params.distinguished_name.push(rcgen::DnType::CommonName, "other");
    params.key_usages = vec![KeyUsagePurpose::CrlSign];
    let other = Root { cert: root.cert.clone(), issuer: Issuer::new(params, key) };
    let verifier = verifier(&root, vec![other.list(HOUR / 2)]);
    let leaf = root.leaf(HOUR);
    for now in [start() + HOUR / 2, start() + HOUR / 2 + SECOND] {
        let first = at(&verifier, &leaf, now).expect("proved");
        assert!(Arc::ptr_eq(&first, &at(&verifier, &leaf, now).expect("known")));
    }
}
