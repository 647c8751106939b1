//! Named bytes of a Secret to material: which keys are read, and the code of each way in which they do not work.

use std::{
    collections::BTreeMap,
    time::{Duration, SystemTime},
};

use identity::{
    Material, Problem, Trust,
    source::secret::{Usage, read},
};

use crate::material::{HOUR, ca, cert_pem, key_pem, pem};

fn try_read(usage: Usage, data: &[(&str, &str)], now: SystemTime) -> Result<Material, Problem> {
    let data: BTreeMap<_, _> =
        data.iter().map(|(key, value)| ((*key).to_owned(), value.as_bytes().to_vec())).collect();
    read("Secret default/certs", usage, &data, now).map(|(material, _)| material)
}

fn code(usage: Usage, data: &[(&str, &str)]) -> &'static str {
    code_at(usage, data, SystemTime::now())
}

fn code_at(usage: Usage, data: &[(&str, &str)], now: SystemTime) -> &'static str {
    let problem = try_read(usage, data, now).expect_err("unusable");
    assert!(problem.message.contains("Secret default/certs"), "{problem} does not name the Secret");
    problem.code
}

#[test]
fn an_identity_is_tls_crt_with_tls_key_or_istios_pair() {
    let svid = ca().mint("spiffe://td/a", HOUR).expect("svid");
    let (cert, key) = (cert_pem(&svid), key_pem(&svid));
    for (crt, tls_key) in [("tls.crt", "tls.key"), ("cert-chain.pem", "key.pem")] {
        let data = [(crt, cert.as_str()), (tls_key, key.as_str()), ("ca.crt", "not read for an identity")];
        let material = try_read(Usage::Identity, &data, SystemTime::now()).expect("usable");
        assert_eq!(material.own.len(), 1);
        assert!(material.trust.is_none());
        assert!(material.own[0].dev, "the dev authority's mark");
    }
}

#[test]
fn an_identity_that_does_not_work_says_why() {
    let ca = ca();
    let (svid, other) =
        (ca.mint("spiffe://td/a", HOUR).expect("svid"), ca.mint("spiffe://td/b", HOUR).expect("svid"));
    let (cert, key, wrong_key) = (cert_pem(&svid), key_pem(&svid), key_pem(&other));
    let encrypted = pem("ENCRYPTED PRIVATE KEY", b"whatever");
    let usage = Usage::Identity;
    assert_eq!(code(usage, &[]), "secret_no_certificate");
    assert_eq!(code(usage, &[("tls.key", &key)]), "secret_no_certificate");
    assert_eq!(code(usage, &[("tls.crt", ""), ("tls.key", &key)]), "secret_no_certificate");
    assert_eq!(code(usage, &[("tls.crt", &key), ("tls.key", &key)]), "bad_certificate");
    assert_eq!(code(usage, &[("tls.crt", &cert)]), "secret_no_key");
    assert_eq!(code(usage, &[("tls.crt", &cert), ("tls.key", "")]), "secret_no_key");
    assert_eq!(code(usage, &[("tls.crt", &cert), ("tls.key", &encrypted)]), "bad_key");
    assert_eq!(code(usage, &[("tls.crt", &cert), ("tls.key", &cert)]), "bad_key");
    assert_eq!(code(usage, &[("tls.crt", &cert), ("tls.key", &wrong_key)]), "key_mismatch");
    assert_eq!(code(usage, &[("tls.crt", &pem("CERTIFICATE", b"x")), ("tls.key", &key)]), "bad_certificate");
    assert_eq!(code(usage, &[("tls.crt", &cert), ("tls.key", &pem("PRIVATE KEY", b"x"))]), "bad_key");
    let pair = [("tls.crt", cert.as_str()), ("tls.key", key.as_str())];
    assert_eq!(code_at(usage, &pair, SystemTime::now() + 2 * HOUR), "certificate_expired");
    assert_eq!(code_at(usage, &pair, SystemTime::now() - HOUR), "certificate_not_yet_valid");
}

#[test]
fn problems_hold_no_key_bytes() {
    let ca = ca();
    let (svid, other) =
        (ca.mint("spiffe://td/a", HOUR).expect("svid"), ca.mint("spiffe://td/b", HOUR).expect("svid"));
    let wrong = key_pem(&other);
    let data = [("tls.crt", cert_pem(&svid)), ("tls.key", wrong.clone())];
    let data: Vec<_> = data.iter().map(|(key, value)| (*key, value.as_str())).collect();
    let problem = try_read(Usage::Identity, &data, SystemTime::now()).expect_err("mismatch");
    let line = wrong.lines().nth(1).expect("base64");
    assert!(!problem.message.contains(line));
}

#[test]
fn trust_is_ca_crt_before_istios_root_and_tls_crt() {
    let (first, second, third) = (ca(), ca(), ca());
    let text = |ca: &identity::dev::Ca| pem("CERTIFICATE", ca.certificate());
    let (a, b, c) = (text(&first), text(&second), text(&third));
    let anchors = |data: &[(&str, &str)]| {
        let material = try_read(Usage::Trust, data, SystemTime::now()).expect("usable");
        assert!(material.own.is_empty());
        match material.trust.as_deref() {
            Some(Trust::Roots(bundle)) => bundle.authorities.clone(),
            other => panic!("{other:?}"),
        }
    };
    let all = [("tls.crt", c.as_str()), ("root-cert.pem", b.as_str()), ("ca.crt", a.as_str())];
    assert_eq!(anchors(&all), [first.certificate().clone()]);
    assert_eq!(anchors(&all[..2]), [second.certificate().clone()]);
    assert_eq!(anchors(&all[..1]), [third.certificate().clone()]);
    assert_eq!(anchors(&[("ca.crt", &format!("{a}{b}"))]).len(), 2);
}

#[test]
fn trust_that_does_not_work_says_why() {
    let ca = ca();
    let leaf = cert_pem(&ca.mint("spiffe://td/a", HOUR).expect("svid"));
    assert_eq!(code(Usage::Trust, &[]), "ca_missing");
    assert_eq!(code(Usage::Trust, &[("tls.key", "x")]), "ca_missing");
    assert_eq!(code(Usage::Trust, &[("ca.crt", "garbage")]), "ca_unusable");
    assert_eq!(code(Usage::Trust, &[("tls.crt", &leaf)]), "ca_unusable");
    let problem = try_read(Usage::Trust, &[("tls.crt", &leaf)], SystemTime::now()).expect_err("a leaf");
    assert!(problem.message.contains("leaf certificate cannot be trusted"), "{problem}");
    let later = SystemTime::now() + Duration::from_hours(20 * 365 * 24);
    assert_eq!(
        code_at(Usage::Trust, &[("ca.crt", &pem("CERTIFICATE", ca.certificate()))], later),
        "ca_unusable"
    );
}

#[test]
fn a_revocation_list_that_does_not_work_says_why() {
    assert_eq!(code(Usage::Crl, &[]), "crl_missing");
    assert_eq!(code(Usage::Crl, &[("crl.pem", "garbage")]), "crl_unusable");
    assert_eq!(code(Usage::Crl, &[("crl.pem", &pem("X509 CRL", b"x"))]), "crl_unusable");
}
