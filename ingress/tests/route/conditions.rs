//! Matching (emissary.md 2.1): path, method, headers, query.

use crate::harness::{Ask, ask, mapping, route, table};

#[test]
fn prefixes_are_bytes_and_exact_paths_are_whole() {
    let table = table(
        &(mapping("foo", "hostname: \"*\", prefix: /foo")
            + &mapping("exact", "hostname: \"*\", prefix: /foo/exact, prefix_exact: true")
            + &mapping("loud", "hostname: \"*\", prefix: /LOUD/, case_sensitive: false")
            + &mapping("pattern", "hostname: \"*\", prefix: \"/re/(a|ab)\", prefix_regex: true")),
    );
    for (path, expected) in [
        ("/foo", "foo"),
        ("/foobar", "foo"),
        ("/foo/exact", "exact"),
        ("/foo/exact/", "foo"),
        ("/Foo", ""),
        ("/loud/x", "loud"),
        ("/LoUd/x", "loud"),
        ("/loud", ""),
        // The whole path, also where the first alternative is shorter.
        ("/re/ab", "pattern"),
        ("/re/a", "pattern"),
        ("/re/abc", ""),
        ("/x/re/a", ""),
        ("/", ""),
    ] {
        assert_eq!(route(&table, "a.example.com", path), expected, "{path}");
    }
}

#[test]
fn methods() {
    let table = table(
        &(mapping("get", "hostname: \"*\", prefix: /m/, method: GET")
            + &mapping("some", "hostname: \"*\", prefix: /m/, method: \"P(OST|UT)\", method_regex: true")),
    );
    for (method, expected) in
        [("GET", "get"), ("POST", "some"), ("PUT", "some"), ("PATCH", ""), ("get", ""), ("POSTS", "")]
    {
        assert_eq!(ask(&table, &Ask { method, target: "/m/", ..Ask::default() }).route, expected, "{method}");
    }
}

#[test]
fn headers() {
    let exact = table(&mapping("m", "hostname: \"*\", prefix: /, headers: {X-Tenant: blue}"));
    let pattern = table(&mapping("m", "hostname: \"*\", prefix: /, regex_headers: {x-tenant: \"b.*\"}"));
    for (headers, is_exact, is_pattern) in [
        (&[("x-tenant", "blue")][..], "m", "m"),
        (&[("x-tenant", "black")], "", "m"),
        (&[("x-tenant", "Blue")], "", ""),
        (&[("x-tenant", "a blue")], "", ""),
        (&[("x-other", "blue")], "", ""),
        (&[], "", ""),
        // Several fields are one value (RFC 9110 5.3): a second one cannot be hidden behind the first.
        (&[("x-tenant", "blue"), ("x-tenant", "red")], "", "m"),
    ] {
        let asked = Ask { headers, ..Ask::default() };
        assert_eq!(ask(&exact, &asked).route, is_exact, "{headers:?}");
        assert_eq!(ask(&pattern, &asked).route, is_pattern, "{headers:?}");
    }
}

#[test]
fn query_parameters() {
    let table = table(
        &(mapping("exact", "hostname: \"*\", prefix: /, query_parameters: {q: \"1\"}")
            + &mapping("present", "hostname: \"*\", prefix: /, regex_query_parameters: {p: \".*\"}")),
    );
    for (target, expected) in [
        ("/?q=1", "exact"),
        ("/?x=2&q=1", "exact"),
        ("/?q=2&q=1", ""),
        ("/?q=12", ""),
        ("/?qq=1", ""),
        ("/?p", "present"),
        ("/?p=", "present"),
        ("/?p=anything", "present"),
        ("/", ""),
    ] {
        assert_eq!(route(&table, "a.example.com", target), expected, "{target}");
    }
}

#[test]
fn v2_headers_may_be_just_present() {
    let manifests = "
---
apiVersion: getambassador.io/v2
kind: Mapping
metadata: {name: m}
spec: {prefix: /, service: upstream, headers: {x-any: true}}
";
    let table = table(manifests);
    assert_eq!(ask(&table, &Ask { headers: &[("x-any", "")], ..Ask::default() }).route, "m");
    assert_eq!(ask(&table, &Ask::default()).reason, "no_route");
}

#[test]
fn a_mapping_that_cannot_be_meant_keeps_its_place() {
    let manifests = mapping("less", "hostname: \"*\", prefix: /")
        + &mapping("broken", "hostname: \"*\", prefix: /api/, service: \"https://upstream\", tls: missing");
    let (table, report) = crate::harness::compiled(&manifests);
    let found = ask(&table, &Ask { target: "/api/x", ..Ask::default() });
    assert_eq!((found.route.as_str(), found.status), ("broken", 503));
    assert!(
        report.findings.iter().any(|finding| finding.code == found.reason),
        "{} is in no finding",
        found.reason
    );
    assert_eq!(route(&table, "a.example.com", "/other"), "less");
}
