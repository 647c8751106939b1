//! The map of rules to tests: a rule of spiffe.md that a verifier can hold has a test that carries its name.

const TESTS: &str = concat!(
    include_str!("id_rules.rs"),
    include_str!("x_rules.rs"),
    include_str!("webpki_gaps.rs"),
    include_str!("revocation.rs"),
    include_str!("trust.rs"),
);

/// Rules of spiffe.md 1.1 and 1.2. X-16 is about JWK bundles, which no verifier reads; W-18 is about revocation lists.
const NUMBERED: &[(&str, std::ops::RangeInclusive<u32>)] = &[("id", 1..=9), ("x", 1..=15), ("w", 18..=18)];

/// Rows of the table of spiffe.md 6.2, in its order.
const ROWS: &[&str] = &[
    "w62_expired_trust_anchor",
    "w62_trust_anchor_that_is_no_ca",
    "w62_trust_anchor_without_key_cert_sign",
    "w62_intermediate_without_key_cert_sign",
    "w62_leaf_with_key_cert_sign",
    "w62_leaf_without_basic_constraints_and_key_usage",
    "x7_extended_key_usage_fits_the_role_or_is_absent",
    "w62_extended_key_usage_of_an_intermediate_nests",
    "x13_uri_constraints_of_an_anchor_are_held",
    "w62_dns_constraint_leaves_uris_alone",
    "w62_120_roots_of_one_name",
    "w62_100_intermediates_of_one_name",
];

#[test]
fn every_rule_has_a_test_of_its_name() {
    let numbered = NUMBERED
        .iter()
        .flat_map(|(kind, numbers)| numbers.clone().map(move |number| format!("{kind}{number}_")));
    for rule in numbered.chain(ROWS.iter().map(|row| (*row).to_owned())) {
        assert!(TESTS.contains(&format!("#[test]\nfn {rule}")), "no test is named {rule}");
    }
}
