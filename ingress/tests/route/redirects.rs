//! Redirects of Mappings (emissary.md 2.5, 3.5).

use crate::harness::{Ask, ask, mapping, table};

#[test]
fn locations() {
    for (fields, target, status, location) in [
        ("", "/old/x?q=1", 301, "http://new.example.org/old/x?q=1"),
        ("path_redirect: /fresh", "/old/x?q=1", 301, "http://new.example.org/fresh?q=1"),
        // Its own query wins.
        ("path_redirect: \"/fresh?z=2\"", "/old/x?q=1", 301, "http://new.example.org/fresh?z=2"),
        ("prefix_redirect: /new/", "/old/x?q=1", 301, "http://new.example.org/new/x?q=1"),
        (
            "regex_redirect: {pattern: \"/old/([a-z]+)\", substitution: \"/\\\\1\"}",
            "/old/x",
            301,
            "http://new.example.org/x",
        ),
        ("redirect_response_code: 308", "/old/x", 308, "http://new.example.org/old/x"),
        ("redirect_response_code: 302", "/old/", 302, "http://new.example.org/old/"),
    ] {
        let comma = if fields.is_empty() { "" } else { ", " };
        let spec = format!(
            "hostname: \"*\", prefix: /old/, host_redirect: true, service: new.example.org{comma}{fields}"
        );
        let found = ask(&table(&mapping("m", &spec)), &Ask { target, ..Ask::default() });
        assert_eq!((found.status, found.location.as_str()), (status, location), "{fields}");
        assert_eq!((found.route.as_str(), found.reason.as_str()), ("m", "redirect"), "{fields}");
    }
}
