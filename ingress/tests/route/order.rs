//! The order of routes in a Host (emissary.md 3.2).

use crate::harness::{Ask, ask, mapping, table};

/// The first of two Mappings, whichever was written first.
fn first(one: &str, other: &str) -> String {
    let asked = Ask {
        method: "POST",
        target: "/api/v1/x?q=long",
        headers: &[("x-a", "1"), ("x-long-name", "1"), ("x-b", "2")],
        ..Ask::default()
    };
    let forth = ask(&table(&(mapping("one", one) + &mapping("other", other))), &asked).route;
    let back = ask(&table(&(mapping("other", other) + &mapping("one", one))), &asked).route;
    assert_eq!(forth, back, "the order of writing decides between {one} and {other}");
    forth
}

#[test]
fn each_key_beats_the_next() {
    for (winner, loser) in [
        // precedence > length of the prefix
        ("hostname: \"*\", prefix: /, precedence: 1", "hostname: \"*\", prefix: /api/v1/"),
        ("hostname: \"*\", prefix: /", "hostname: \"*\", prefix: /api/v1/, precedence: -1"),
        // prefix > headers and hostname
        (
            "hostname: \"*\", prefix: /api/v1/",
            "hostname: a.example.com, prefix: /api/, headers: {x-a: \"1\", x-b: \"2\"}",
        ),
        // hostname counts as a header
        ("hostname: a.example.com, prefix: /api/", "hostname: \"*\", prefix: /api/"),
        ("hostname: a.example.com, prefix: /api/", "hostname: \"*.com\", prefix: /api/"),
        // so does the method
        ("hostname: \"*\", prefix: /api/, method: POST", "hostname: \"*\", prefix: /api/"),
        // long names beat short ones
        (
            "hostname: \"*\", prefix: /api/, headers: {x-long-name: \"1\"}",
            "hostname: \"*\", prefix: /api/, headers: {x-a: \"1\"}",
        ),
        // headers > query
        (
            "hostname: \"*\", prefix: /api/, headers: {x-a: \"1\"}",
            "hostname: \"*\", prefix: /api/, query_parameters: {q: long}",
        ),
        // query beats nothing
        ("hostname: \"*\", prefix: /api/, query_parameters: {q: long}", "hostname: \"*\", prefix: /api/"),
        // the length of a pattern's text
        (
            "hostname: \"*\", prefix: \"/api/v[0-9]+/.*\", prefix_regex: true",
            "hostname: \"*\", prefix: /api/v1/x",
        ),
        ("hostname: \"*\", prefix: /api/v1/", "hostname: \"*\", prefix: \"/a.*\", prefix_regex: true"),
    ] {
        assert_eq!(first(winner, loser), "one", "{winner} against {loser}");
        assert_eq!(first(loser, winner), "other", "{winner} against {loser}");
    }
}

#[test]
fn equal_lengths_go_in_reverse_alphabetical_order_of_the_prefix() {
    let manifests = mapping("a", "hostname: \"*\", prefix: \"/a.i/\", prefix_regex: true")
        + &mapping("p", "hostname: \"*\", prefix: \"/.pi/\", prefix_regex: true");
    assert_eq!(ask(&table(&manifests), &Ask { target: "/api/", ..Ask::default() }).route, "a");
}
