//! emissary.md 3.3: what the members of a group share.

use super::{document, find, rows, usual};

fn pair(first: &str, later: &str) -> (crate::plan::Plan, Vec<String>) {
    let one = |name: &str, fields: &str| {
        document(
            "v3alpha1",
            "Mapping",
            name,
            &format!("hostname: \"*\"\nprefix: /x/\nservice: svc-{name}\n{fields}"),
        )
    };
    let (plan, report) = usual(&(one("a", first) + &one("b", later)));
    (plan, rows(&report))
}

#[test]
fn headers_retries_and_upgrades_are_one_for_the_group() {
    let (plan, rows) = pair(
        "add_request_headers: {x-both: one, x-first: \"1\"}\nremove_response_headers: [server]\ntimeout_ms: 100\nallow_upgrade: [websocket]",
        "weight: 10\nadd_request_headers: {x-both: two}\nretry_policy: {retry_on: 5xx, num_retries: 3}\nrewrite: /y/",
    );
    assert_eq!(rows, [""; 0]);
    let (a, b) = (find(&plan, "default/a"), find(&plan, "default/b"));
    for mapping in [a, b] {
        let added: Vec<_> = mapping
            .edits
            .add_request
            .iter()
            .map(|edit| (edit.name.as_str(), edit.value.to_str().unwrap()))
            .collect();
        assert_eq!(added, [("x-both", "two"), ("x-first", "1")]);
        assert_eq!(mapping.edits.remove_response, ["server"]);
        assert_eq!(mapping.retry().map(|retry| retry.tries), Some(3));
        let upgrades = mapping.upgrades().map(|upgrades| upgrades.names().collect::<Vec<_>>());
        assert_eq!(upgrades, Some(vec!["websocket"]), "of the last one that has any");
    }
    assert_eq!((a.share.clone(), b.share.clone()), (0..90, 90..100));
    assert_ne!(format!("{:?}", a.edits.path), format!("{:?}", b.edits.path));
}

#[test]
fn settings_of_the_connection_must_agree_unless_the_later_one_has_none() {
    let (plan, found) = pair("connect_timeout_ms: 100", "connect_timeout_ms: 100");
    assert_eq!((plan.mappings.len(), found), (2, vec![]));
    let (plan, found) = pair("connect_timeout_ms: 100", "weight: 10");
    assert_eq!((plan.mappings.len(), found), (2, vec![]));
    for first in ["connect_timeout_ms: 200", "weight: 10"] {
        let (plan, found) = pair(first, "connect_timeout_ms: 100");
        assert_eq!(plan.mappings.len(), 1);
        assert_eq!(find(&plan, "default/a").share, 0..100);
        assert!(
            matches!(&found[..], [row] if row.contains("group_conflict") && row.contains("connect_timeout_ms")),
            "{found:?}"
        );
    }
}

#[test]
fn a_header_and_a_parameter_of_one_name_are_two_groups() {
    let (plan, _) = pair("headers: {x: \"1\"}", "query_parameters: {x: \"1\"}");
    assert!(plan.mappings.iter().all(|mapping| mapping.share == (0..100)));
}

#[test]
fn without_a_hostname_the_labels_that_hosts_select_by_part_groups() {
    let labelled = |name: &str, label: &str| {
        document("v3alpha1", "Mapping", name, "prefix: /x/\nservice: svc\n")
            .replace("metadata: {", &format!("metadata: {{labels: {{{label}}}, "))
    };
    let host = |label: &str| {
        document(
            "v3alpha1",
            "Host",
            label,
            &format!("hostname: \"*.{label}\"\nmappingSelector: {{matchLabels: {{team: {label}}}}}"),
        )
    };
    let hosts = host("red") + &host("blue");
    let (plan, _) = usual(&(hosts.clone() + &labelled("a", "team: red") + &labelled("b", "team: blue")));
    assert!(plan.mappings.iter().all(|mapping| mapping.share == (0..100)));
    let (plan, _) =
        usual(&(hosts + &labelled("a", "team: red, x: \"1\"") + &labelled("b", "team: red, x: \"2\"")));
    assert!(plan.mappings.iter().all(|mapping| mapping.share != (0..100)));
}
