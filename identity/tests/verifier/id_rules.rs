//! ID-1 to ID-9 on certificates (reference: SPIFFE-ID).

use identity::VerifyFailure;

use crate::mint::{Authority, judge_under, raw_uris, refused, spiffe};

fn judge(uri: &[u8]) -> Result<String, VerifyFailure> {
    let root = Authority::root("root");
    let leaf = root.leaf(|params| {
        params.subject_alt_names = Vec::new();
        params.custom_extensions = vec![raw_uris(&[uri])];
    });
    let trust = spiffe(&[("td", &[&root.cert]), ("10.0.0.1", &[&root.cert]), ("example.org", &[&root.cert])]);
    judge_under(trust, &[leaf.cert]).map(|peer| peer.spiffe_id.as_ref().expect("an ID").to_string())
}

fn all(uris: &[&str], failure: VerifyFailure) {
    for uri in uris {
        assert_eq!(judge(uri.as_bytes()), Err(failure), "{uri}");
    }
}

#[test]
fn id1_scheme_trust_domain_query_and_fragment_are_refused() {
    all(
        &["https://td/x", "spiffe:///x", "spiffe://td/x?y", "spiffe://td/x#y", "", "spiffe:td/x"],
        VerifyFailure::IdForm,
    );
}

#[test]
fn id2_userinfo_and_port_are_refused() {
    all(&["spiffe://u@td/x", "spiffe://td:8443/x", "spiffe://td:/x"], VerifyFailure::IdAuthority);
}

#[test]
fn id3_characters_of_the_trust_domain_are_refused() {
    all(&["spiffe://t%64/x", "spiffe://t d/x"], VerifyFailure::IdTrustDomain);
    all(&["spiffe://[::1]/x"], VerifyFailure::IdAuthority);
    assert_eq!(judge(b"spiffe://10.0.0.1/x"), Ok("spiffe://10.0.0.1/x".to_owned()));
}

#[test]
fn id4_a_trailing_dot_is_another_trust_domain() {
    all(&["spiffe://example.org./x"], VerifyFailure::NoBundle);
    assert!(judge(b"spiffe://example.org/x").is_ok());
}

#[test]
fn id5_bad_paths_are_refused_and_dots_in_names_accepted() {
    all(
        &[
            "spiffe://td/a//b",
            "spiffe://td/a/",
            "spiffe://td/.",
            "spiffe://td/a/../b",
            "spiffe://td/%41",
            "spiffe://td/",
        ],
        VerifyFailure::IdPath,
    );
    for good in ["spiffe://td/...", "spiffe://td/..a"] {
        assert_eq!(judge(good.as_bytes()), Ok(good.to_owned()));
    }
}

#[test]
fn id6_upper_case_is_refused_and_paths_keep_their_case() {
    all(&["spiffe://TD/x"], VerifyFailure::IdTrustDomain);
    all(&["SPIFFE://td/x"], VerifyFailure::IdForm);
    assert_eq!(judge(b"spiffe://td/X"), Ok("spiffe://td/X".to_owned()));
}

#[test]
fn id7_2048_bytes_are_accepted_and_more_refused() {
    let id = |len: usize| format!("spiffe://td/{}", "a".repeat(len - "spiffe://td/".len()));
    assert_eq!(judge(id(2048).as_bytes()), Ok(id(2048)));
    all(&[&id(2049), &format!("spiffe://{}/x", "a".repeat(256))], VerifyFailure::IdTooLong);
}

#[test]
fn id8_an_id_without_path_is_refused() {
    all(&["spiffe://td"], VerifyFailure::IdNoPath);
}

#[test]
fn id9_what_is_no_x509_document_is_refused() {
    let root = Authority::root("root");
    let jwt = b"eyJhbGciOiJFUzI1NiJ9.e30.x".to_vec().into();
    assert_eq!(refused(judge_under(spiffe(&[("td", &[&root.cert])]), &[jwt])), VerifyFailure::Malformed);
    assert_eq!(refused(judge_under(spiffe(&[("td", &[&root.cert])]), &[])), VerifyFailure::NoCertificate);
}
