//! `docs/security.md` names the tests that prove it: each exists, and every threat has one or says why not.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

mod proof;

use std::path::Path;

const PAGE: &str = include_str!("../../docs/security.md");

/// What stands between backticks and has the form `FILE::FUNCTION`.
fn named(line: &str) -> impl Iterator<Item = (&str, &str)> {
    let code = line.split('`').skip(1).step_by(2);
    code.filter_map(|code| code.split_once("::")).filter(|(file, _)| {
        let file = Path::new(file);
        file.components().count() > 1 && file.extension().is_some_and(|end| end == "rs")
    })
}

#[test]
fn every_test_that_is_named_exists() {
    let mut count = 0;
    for (file, function) in PAGE.lines().flat_map(named) {
        proof::test(file, function);
        count += 1;
    }
    assert!(count > 80, "only {count} tests are named");
}

#[test]
fn every_threat_has_its_proof() {
    let threats = PAGE.split("## Threats").nth(1).unwrap().split("\n## ").next().unwrap();
    let rows: Vec<_> = threats
        .lines()
        .filter(|line| line.starts_with("| ") && !line.starts_with("| Threat") && !line.starts_with("| ---"))
        .collect();
    assert!(rows.len() > 40, "{}", rows.len());
    for row in rows {
        let cells: Vec<_> = row.trim_matches('|').split(" | ").collect();
        assert_eq!(cells.len(), 3, "{row}");
        let proof = cells.last().unwrap();
        assert!(named(proof).count() > 0 || proof.contains("no unit test"), "{row}");
    }
}
