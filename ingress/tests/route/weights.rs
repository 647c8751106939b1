//! Groups and weights (emissary.md 3.3), every row of its table.

use crate::harness::{Ask, ask, compiled, mapping};

/// How many of the hundred faces of the dice each name takes; the last is what nobody takes.
fn shares(manifests: &str, names: &[&str]) -> Vec<usize> {
    let (table, _report) = compiled(manifests);
    let mut counts = vec![0; names.len() + 1];
    for dice in 0..100 {
        let found = ask(&table, &Ask { target: "/w/x", dice, ..Ask::default() });
        let place = names.iter().position(|name| *name == found.route).unwrap_or(names.len());
        counts[place] += 1;
        if place == names.len() {
            assert_eq!((found.status, found.reason.as_str()), (404, "no_route"));
        }
    }
    counts
}

fn group(weights: &[(&str, Option<i64>)]) -> String {
    let member = |(name, weight): &(&str, Option<i64>)| {
        let weight = weight.map(|weight| format!(", weight: {weight}")).unwrap_or_default();
        mapping(name, &format!("hostname: \"*\", prefix: /w/{weight}"))
    };
    weights.iter().map(member).collect()
}

#[test]
fn every_row_of_the_table() {
    for (weights, expected) in [
        (vec![("a", Some(7))], vec![100, 0]),
        (vec![("a", Some(0))], vec![100, 0]),
        (vec![("a", Some(10)), ("b", None)], vec![10, 90, 0]),
        (vec![("a", None), ("b", Some(10))], vec![90, 10, 0]),
        (vec![("a", None), ("b", None), ("c", None)], vec![33, 33, 34, 0]),
        (vec![("a", Some(100)), ("b", None)], vec![100, 0, 0]),
        (vec![("a", Some(0)), ("b", None)], vec![0, 100, 0]),
        (vec![("a", Some(30)), ("b", Some(20))], vec![30, 20, 50]),
        (vec![("a", Some(60)), ("b", Some(70))], vec![60, 40, 0]),
        (vec![("a", Some(150)), ("b", Some(10))], vec![0, 0, 100]),
    ] {
        let names: Vec<_> = weights.iter().map(|(name, _)| *name).collect();
        assert_eq!(shares(&group(&weights), &names), expected, "{weights:?}");
    }
}

#[test]
fn what_a_group_leaves_falls_through_to_the_next_matching_route() {
    let manifests =
        group(&[("a", Some(30)), ("b", Some(20))]) + &mapping("rest", "hostname: \"*\", prefix: /");
    assert_eq!(shares(&manifests, &["a", "b", "rest"]), [30, 20, 50, 0]);
}

#[test]
fn members_agree_in_all_conditions() {
    // Another method, header, query parameter, host or precedence is another group: each takes all.
    for other in [
        "method: POST",
        "headers: {x-a: \"1\"}",
        "query_parameters: {q: \"1\"}",
        "hostname: a.example.com",
        "precedence: 1",
    ] {
        let hostname =
            if other.starts_with("hostname") { String::new() } else { "hostname: \"*\", ".to_owned() };
        let manifests = mapping("a", "hostname: \"*\", prefix: /w/, weight: 10")
            + &mapping("b", &format!("{hostname}prefix: /w/, weight: 10, {other}"));
        let (table, _report) = compiled(&manifests);
        let asked =
            Ask { method: "POST", target: "/w/?q=1", headers: &[("x-a", "1")], dice: 99, ..Ask::default() };
        assert_eq!(ask(&table, &asked).route, "b", "{other}");
    }
}

#[test]
fn too_much_weight_is_a_finding() {
    for weights in [[Some(60), Some(70)], [Some(150), Some(10)]] {
        let (_table, report) = compiled(&group(&[("a", weights[0]), ("b", weights[1])]));
        assert!(
            report
                .findings
                .iter()
                .any(|finding| finding.field.ends_with("weight") && finding.message.contains("100")),
            "{weights:?}: {:#?}",
            report.findings,
        );
    }
}

#[test]
fn a_member_that_disagrees_with_its_group_is_left_out_and_named() {
    for (later, field) in [
        ("prefix: /w/, prefix_exact: true", "spec.prefix_exact"),
        ("prefix: /w/, host_redirect: true, service: other.example.org", "spec.host_redirect"),
    ] {
        let manifests = mapping("a", "hostname: \"*\", prefix: /w/")
            + &mapping("b", &format!("hostname: \"*\", {later}"));
        let (table, report) = compiled(&manifests);
        let found: Vec<_> =
            report.findings.iter().filter(|finding| finding.code == "group_conflict").collect();
        assert_eq!(found.iter().map(|finding| &*finding.field).collect::<Vec<_>>(), [field]);
        assert_eq!(found[0].object.as_ref().map(|object| &*object.name), Some("b"));
        for dice in [0, 99] {
            assert_eq!(ask(&table, &Ask { target: "/w/", dice, ..Ask::default() }).route, "a");
        }
    }
}
