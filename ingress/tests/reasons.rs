//! `docs/reasons.md` explains every code that the sources can give, once, and none that they cannot.

use std::collections::BTreeSet;

const PAGE: &str = include_str!("../../docs/reasons.md");

/// The codes of the page's tables, in order.
fn documented() -> Vec<&'static str> {
    PAGE.lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .filter_map(|rest| rest.split_once('`'))
        .map(|(code, _)| code)
        .collect()
}

#[test]
fn every_code_is_explained() {
    let page: BTreeSet<_> = documented().into_iter().collect();
    let lists = [
        proxy::Reason::ALL,
        identity::VerifyFailure::CODES,
        identity::Denied::CODES,
        ingress::compile::CODES,
    ];
    for code in lists.into_iter().flatten() {
        assert!(page.contains(code), "docs/reasons.md does not explain {code}");
    }
}

#[test]
fn every_code_says_what_to_do_and_stands_once() {
    let codes = documented();
    let distinct: BTreeSet<_> = codes.iter().collect();
    assert_eq!(codes.len(), distinct.len(), "a code stands twice");
    for line in PAGE.lines().filter(|line| line.starts_with("| `")) {
        let cells: Vec<_> = line.trim_matches('|').split(" | ").map(str::trim).collect();
        assert_eq!(cells.len(), 3, "{line}");
        assert!(cells.iter().all(|cell| !cell.is_empty()), "{line}");
    }
}
