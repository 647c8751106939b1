//! Which Host a request belongs to, and what it does with insecure requests (emissary.md 3.1, 3.4).

use ingress::plan::HostGlob;

use crate::harness::{Ask, HTTP, ask, ask_on, connection, host, mapping, route, table};

const ROUTE: &str = "requestPolicy: {insecure: {action: Route}}";

#[test]
fn exact_then_longest_suffix_then_longest_prefix_then_any() {
    let names = ["\"*\"", "a.example.com", "\"*.example.com\"", "\"*.com\"", "\"a.*\"", "\"a.example.*\""];
    let mut manifests = HTTP.to_owned();
    for (index, name) in names.iter().enumerate() {
        let label = format!("labels: {{host: h{index}}}");
        manifests += &host(
            &format!("h{index}"),
            &format!("hostname: {name}, mappingSelector: {{matchLabels: {{host: h{index}}}}}, {ROUTE}"),
        );
        manifests += &mapping(&format!("m{index}"), "prefix: /")
            .replace("metadata: {", &format!("metadata: {{{label}, "));
    }
    let table = table(&manifests);
    for (authority, expected) in [
        ("a.example.com", "m1"),
        ("b.example.com", "m2"),
        (".example.com", "m3"),
        ("example.com", "m3"),
        ("a.example.org", "m5"),
        ("a.net", "m4"),
        ("b.net", "m0"),
        // A port is part of the name.
        ("a.example.com:8080", "m5"),
        ("b.example.com:8080", "m0"),
    ] {
        assert_eq!(route(&table, authority, "/"), expected, "{authority}");
    }
}

#[test]
fn only_the_one_host_is_tried() {
    let table = table(
        &(HTTP.to_owned()
            + &host("any", &format!("hostname: \"*\", {ROUTE}"))
            + &host("a", &format!("hostname: a.example.com, {ROUTE}"))
            + &mapping("everywhere", "hostname: \"*\", prefix: /all/")
            + &mapping("elsewhere", "hostname: b.example.com, prefix: /")),
    );
    assert_eq!(route(&table, "a.example.com", "/all/"), "everywhere");
    assert_eq!(ask(&table, &Ask { target: "/x", ..Ask::default() }).reason, "no_route");
    assert_eq!(route(&table, "b.example.com", "/x"), "elsewhere");
}

#[test]
fn no_host_is_404_under_its_own_reason() {
    let table = table(
        &(HTTP.to_owned()
            + &host("a", &format!("hostname: a.example.com, {ROUTE}"))
            + &mapping("m", "hostname: \"*\", prefix: /")),
    );
    let found = ask(&table, &Ask { authority: "b.example.com", ..Ask::default() });
    assert_eq!((found.status, found.reason.as_str(), found.route.as_str()), (404, "no_host", ""));
}

#[test]
fn the_port_is_stripped_only_on_request_and_only_the_listeners() {
    let base = HTTP.to_owned()
        + &host("a", &format!("hostname: a.example.com, {ROUTE}"))
        + &mapping("m", "hostname: a.example.com, prefix: /");
    let module = "
---
apiVersion: getambassador.io/v3alpha1
kind: Module
metadata: {name: ambassador}
spec: {config: {strip_matching_host_port: true}}
";
    let (kept, stripped) = (table(&base), table(&(base.clone() + module)));
    assert_eq!(route(&kept, "a.example.com", "/"), "m");
    assert_eq!(route(&kept, "a.example.com:8080", "/"), "");
    assert_eq!(route(&stripped, "a.example.com:8080", "/"), "m");
    assert_eq!(route(&stripped, "a.example.com:8081", "/"), "");
    assert_eq!(route(&stripped, "a.example.com", "/"), "m");
}

#[test]
fn insecure_requests() {
    let with = |action: &str| {
        table(
            &(HTTP.to_owned()
                + &host("any", &format!("hostname: \"*\", {ROUTE}"))
                + &host(
                    "a",
                    &format!("hostname: a.example.com, requestPolicy: {{insecure: {{action: {action}}}}}"),
                )
                + &mapping("m", "hostname: \"*\", prefix: /api/")
                + &mapping("acme", "hostname: \"*\", prefix: /.well-known/acme-challenge/")),
        )
    };
    let redirect = ask(&with("Redirect"), &Ask { target: "/api/x?y=1", ..Ask::default() });
    assert_eq!((redirect.status, redirect.reason.as_str(), redirect.route.as_str()), (301, "redirect", "m"));
    assert_eq!(redirect.location, "https://a.example.com/api/x?y=1");
    let nowhere = ask(&with("Redirect"), &Ask { target: "/else", ..Ask::default() });
    assert_eq!((nowhere.status, nowhere.reason.as_str()), (404, "no_route"));
    assert_eq!(
        ask(&with("Redirect"), &Ask { target: "/.well-known/acme-challenge/t", ..Ask::default() }).reason,
        "forward"
    );

    assert_eq!(ask(&with("Route"), &Ask { target: "/api/x", ..Ask::default() }).reason, "forward");

    // A port is kept, as in Envoy, unless it is the one of http.
    for (authority, location) in [
        ("a.example.com:80", "https://a.example.com/api/"),
        ("a.example.com:8080", "https://a.example.com:8080/api/"),
        ("[::1]", "https://[::1]/api/"),
        ("[::1]:80", "https://[::1]/api/"),
    ] {
        let manifests = HTTP.to_owned()
            + &host("any", "hostname: \"*\"")
            + &mapping("m", "hostname: \"*\", prefix: /api/");
        let found = ask(&table(&manifests), &Ask { authority, target: "/api/", ..Ask::default() });
        assert_eq!(found.location, location);
    }

    // Never taken by the `*` Host, which would route it.
    let rejected = ask(&with("Reject"), &Ask { target: "/api/x", ..Ask::default() });
    assert_eq!((rejected.status, rejected.reason.as_str()), (404, "insecure_rejected"));
    // Only a Mapping that is there for the challenge passes.
    let challenge = Ask { target: "/.well-known/acme-challenge/t", ..Ask::default() };
    assert_eq!(ask(&with("Reject"), &challenge).route, "acme");
    let general = HTTP.to_owned()
        + &host("a", "hostname: a.example.com, requestPolicy: {insecure: {action: Reject}}")
        + &mapping("m", "hostname: \"*\", prefix: /");
    assert_eq!(ask(&table(&general), &challenge).reason, "insecure_rejected");
}

#[test]
fn a_port_that_the_system_chose_is_stripped_too() {
    let manifests = HTTP.replace("port: 8080", "port: 0")
        + &host("a", &format!("hostname: a.example.com, {ROUTE}"))
        + &mapping("m", "hostname: a.example.com, prefix: /")
        + "---\napiVersion: getambassador.io/v3alpha1\nkind: Module\nmetadata: {name: ambassador}\n\
           spec: {config: {strip_matching_host_port: true}}\n";
    let table = table(&manifests);
    let mut conn = connection(&table, 0);
    conn.local.set_port(40000);
    let asked = |authority| ask_on(&table, &Ask { authority, ..Ask::default() }, &conn).route;
    assert_eq!(asked("a.example.com:40000"), "m");
    assert_eq!(asked("a.example.com:40001"), "");
}

#[test]
fn mappings_belong_to_the_hosts_whose_names_overlap() {
    // The same table as compile's globs have, through the index that compile uses for thousands.
    let names = [
        "*",
        "a.example.com",
        "b.example.com",
        "*.example.com",
        "*.com",
        "*example.com",
        "a.*",
        "a.ex*",
        "b.a.*",
        "*.org",
    ];
    let mappings: String = (0..)
        .zip(names)
        .map(|(at, name)| mapping(&format!("m{at}"), &format!("hostname: \"{name}\", prefix: /{at}/")))
        .collect();
    for name in names {
        let table =
            table(&(HTTP.to_owned() + &host("h", &format!("hostname: \"{name}\", {ROUTE}")) + &mappings));
        let host = table.hosts().first().expect("one Host");
        let mut attached: Vec<_> =
            table.mappings_of(host).map(|mapping| mapping.prefix.to_string()).collect();
        attached.sort();
        let (own, all) = (HostGlob::parse(name), (0..).zip(names));
        let expected: Vec<_> = all
            .filter(|(_, other)| HostGlob::parse(other).overlaps(&own))
            .map(|(at, _)| format!("/{at}/"))
            .collect();
        assert_eq!(attached, expected, "{name}");
    }
}

#[test]
fn what_is_secure() {
    for (model, depth, header, secure) in [
        ("XFP", 0, None, false),
        // Without `l7Depth` the client's word counts nothing.
        ("XFP", 0, Some("https"), false),
        ("XFP", 1, Some("https"), true),
        ("XFP", 1, Some("http"), false),
        ("XFP", 1, None, false),
        ("SECURE", 0, None, true),
        ("INSECURE", 1, Some("https"), false),
    ] {
        let listener =
            HTTP.replace("XFP", model).replace("port: 8080,", &format!("port: 8080, l7Depth: {depth},"));
        let table =
            table(&(listener + &host("a", "hostname: \"*\"") + &mapping("m", "hostname: \"*\", prefix: /")));
        let sent: Vec<_> = header.iter().map(|value| ("x-forwarded-proto", *value)).collect();
        let found = ask(&table, &Ask { headers: &sent, ..Ask::default() });
        assert_eq!(found.reason, if secure { "forward" } else { "redirect" }, "{model} {depth} {header:?}");
    }
}
