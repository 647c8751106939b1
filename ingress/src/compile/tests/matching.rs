//! emissary.md 2.1 to 2.7: matching, changing, redirects, and the older versions.

use proxy::message::PathEdit;

use super::{document, find, has, mapping, outcome, rows, usual};
use crate::plan::{FieldMatch, HostMatch, MappingPlan, Outcome, PathMatch, RedirectPath, TextMatch};

fn one(version: &str, fields: &str) -> (MappingPlan, Vec<String>) {
    let (plan, report) = usual(&document(version, "Mapping", "m", fields));
    (find(&plan, "default/m").clone(), rows(&report))
}

fn new(fields: &str) -> MappingPlan {
    let (plan, rows) = one("v3alpha1", &format!("hostname: \"*\"\nservice: svc\n{fields}"));
    assert_eq!(rows, [""; 0], "{fields}");
    plan
}

fn path(plan: &MappingPlan) -> String {
    match &plan.path {
        PathMatch::Prefix { text, case_sensitive } => format!("prefix {text} {case_sensitive}"),
        PathMatch::Exact { text, case_sensitive } => format!("exact {text} {case_sensitive}"),
        PathMatch::Regex(regex) => format!("regex {} {}", regex.is_match("/a/1"), regex.is_match("/a/1/b")),
    }
}

fn text(value: &TextMatch) -> String {
    match value {
        TextMatch::Exact(text) => text.to_string(),
        TextMatch::Regex { text, .. } => format!("~{text}"),
        TextMatch::Present => "*".to_owned(),
        TextMatch::Unreadable => "?".to_owned(),
    }
}

fn host(plan: &MappingPlan) -> String {
    match &plan.host {
        HostMatch::Any => "*".to_owned(),
        HostMatch::Glob(glob) => glob.text(),
        HostMatch::Regex { text, .. } => format!("~{text}"),
        HostMatch::Unreadable(text) => format!("?{text}"),
    }
}

#[test]
fn path_conditions() {
    let table = [
        ("prefix: /a", "prefix /a true"),
        ("prefix: /A\ncase_sensitive: false", "prefix /a false"),
        ("prefix: /a\nprefix_exact: true", "exact /a true"),
        ("prefix: /a/[0-9]+\nprefix_regex: true", "regex true false"),
        ("prefix: /a/[0-9]+\nprefix_regex: true\nprefix_exact: true", "regex true false"),
    ];
    for (fields, expected) in table {
        assert_eq!(path(&new(fields)), expected, "{fields}");
    }
}

#[test]
fn host_method_header_and_query_conditions() {
    let plan = new(
        "prefix: /\nmethod: get\nheaders: {X-A: \"1\", b: c}\nregex_headers: {d: e+, f: \".*\"}\nprecedence: -3\nweight: 20",
    );
    assert_eq!(plan.method.as_ref().map(text).as_deref(), Some("GET"));
    let headers: Vec<_> =
        plan.headers.iter().map(|field| format!("{}={}", field.name, text(&field.value))).collect();
    assert_eq!(headers, ["b=c", "d=~e+", "f=*", "x-a=1"]);
    assert_eq!((plan.precedence, plan.weight), (-3, Some(20)));
    let plan = new(
        "prefix: /\nmethod: GET|PUT\nmethod_regex: true\nquery_parameters: {Q: v}\nregex_query_parameters: {r: x}",
    );
    assert_eq!(plan.method.as_ref().map(text).as_deref(), Some("~GET|PUT"));
    let query: Vec<_> =
        plan.query.iter().map(|field| format!("{}={}", field.name, text(&field.value))).collect();
    assert_eq!(query, ["Q=v", "r=~x"]);
    assert_eq!(host(&new("prefix: /\nheaders: {\":authority\": A.b}")), "a.b");
}

#[test]
fn hosts_of_all_versions() {
    let table = [
        ("v2", "", "*", ""),
        ("v1", "host: A.b", "a.b", ""),
        ("v2", "host: \"*\"", "*", ""),
        ("v2", "host: \"a.*\"\nhost_regex: true", "~a.*", ""),
        ("v3alpha1", "hostname: \"*.b\"", "*.b", ""),
        ("v3alpha1", "host: a.b", "a.b", ""),
        ("v3alpha1", "hostname: x\nhost: a.b", "x", "notice no_effect spec.host"),
        ("v3alpha1", "host: \"*\"", "?*", "error unknown_value spec.host"),
        ("v3alpha1", "", "*", "warning mapping_unattached spec.hostname"),
    ];
    for (version, fields, expected, finding) in table {
        let (plan, rows) = one(version, &format!("prefix: /\nservice: svc\n{fields}"));
        assert_eq!(host(&plan), expected, "{version} {fields}");
        assert!(
            finding.is_empty() == rows.is_empty() && rows.iter().all(|row| row.ends_with(finding)),
            "{rows:?}"
        );
    }
}

#[test]
fn older_spellings_mean_the_same() {
    let table = [
        ("headers: {x: true}", "regex_headers: {x: \".*\"}"),
        ("headers: {x: false}", ""),
        ("query_parameters: {x: true}", "regex_query_parameters: {x: \".*\"}"),
        ("add_request_headers: {x: v}", "add_request_headers: {x: {value: v}}"),
        ("add_response_headers: {x: v}", "add_response_headers: {x: {value: v}}"),
        ("remove_request_headers: x", "remove_request_headers: [x]"),
        ("remove_response_headers: x", "remove_response_headers: [x]"),
        ("ambassador_id: default", "ambassador_id: [default]"),
        ("tls: true", "service: https://svc"),
        (
            "v2ExplicitTLS: {tls: x}\nv2BoolHeaders: [a]\nv2BoolQueryParameters: [b]\nstatus: {state: Running}",
            "",
        ),
    ];
    for (old, new) in table {
        let service = |fields: &str| {
            if fields.contains("service") { String::new() } else { "service: svc\n".to_owned() }
        };
        let (was, rows) = one("v2", &format!("prefix: /\n{}{old}", service(old)));
        let (is, _) = one("v3alpha1", &format!("hostname: \"*\"\nprefix: /\n{}{new}", service(new)));
        assert!(rows.iter().all(|row| row.contains("upstream_not_verified")), "{old}: {rows:?}");
        assert_eq!(format!("{was:?}"), format!("{is:?}"), "{old}");
    }
}

#[test]
fn resources_of_other_instances_are_not_seen() {
    for (ids, seen) in [
        ("[default]", true),
        ("[]", true),
        ("[other]", false),
        ("other", false),
        ("[other, default]", true),
        ("[_automatic_]", true),
    ] {
        let (plan, report) = usual(&mapping("m", &format!("prefix: /\nservice: svc\nambassador_id: {ids}")));
        assert_eq!(plan.mappings.len(), usize::from(seen), "{ids}");
        assert_eq!(rows(&report), [""; 0]);
    }
}

#[test]
fn path_edits() {
    let table = [
        ("prefix: /a/", "/a/x", Some("/x")),
        ("prefix: /a/\nrewrite: /b", "/a/x", Some("/bx")),
        ("prefix: /a/\nrewrite: \"\"", "/a/x", None),
        ("prefix: /a/\nrewrite: null", "/a/x", None),
        ("prefix: /a/\nrewrite: /a/", "/a/x", None),
        ("prefix: /A/\nrewrite: /a/\ncase_sensitive: false", "/A/x", Some("/a/x")),
        ("prefix: /a\nprefix_exact: true", "/a", Some("/")),
        ("prefix: /a.*\nprefix_regex: true\nrewrite: /whole", "/ab", Some("/whole")),
        (
            "prefix: /\nregex_rewrite: {pattern: \"/v([0-9])/\", substitution: \"/\\\\1/\"}",
            "/v2/x",
            Some("/2/x"),
        ),
    ];
    for (fields, given, expected) in table {
        assert_eq!(new(fields).edits.path.apply(given).as_deref(), expected, "{fields}");
    }
    let (plan, report) = usual(&mapping("m", "prefix: /\nservice: svc\nrewrite: x"));
    assert_eq!(outcome(&plan, "default/m"), "503 unknown_value");
    assert!(has(&report, "error unknown_value spec.rewrite"));
    assert!(matches!(new("prefix: /\nrewrite: /").edits.path, PathEdit::Keep));
}

#[test]
fn header_edits_and_the_modules_defaults() {
    let edits = new("prefix: /\nadd_request_headers: {x: {value: \"50%%\"}, y: {value: v, append: false}}\nremove_response_headers: [Z]").edits;
    let added: Vec<_> = edits
        .add_request
        .iter()
        .map(|edit| (edit.name.as_str(), edit.value.as_bytes(), edit.append))
        .collect();
    assert_eq!(added, [("x", &b"50%"[..], true), ("y", b"v", false)]);
    assert_eq!(edits.remove_response, ["z"]);
    let (plan, report) = usual(&mapping(
        "m",
        "prefix: /\nservice: svc\nadd_request_headers: {x: \"%DOWNSTREAM_LOCAL_PORT%\"}",
    ));
    assert_eq!(outcome(&plan, "default/m"), "503 unsupported_field");
    assert!(!format!("{report:?}").contains("DOWNSTREAM_LOCAL_PORT"), "a value is a secret");
    let module = document(
        "v3alpha1",
        "Module",
        "ambassador",
        "config: {defaults: {httpmapping: {add_request_headers: {d: {value: v}}, remove_request_headers: [r]}}, retry_policy: {retry_on: 5xx, num_retries: 4}, cluster_request_timeout_ms: 9}",
    );
    let yaml = module
        + &mapping("a", "prefix: /a\nservice: svc")
        + &mapping("b", "prefix: /b\nservice: svc\nadd_request_headers: {}\ntimeout_ms: 1");
    let (plan, report) = usual(&yaml);
    assert_eq!(rows(&report), [""; 0]);
    assert_eq!(find(&plan, "default/a").edits.add_request.len(), 1);
    assert_eq!(find(&plan, "default/b").edits.add_request.len(), 0);
    assert_eq!(find(&plan, "default/b").edits.remove_request, ["r"]);
    let timing = |name: &str| match &find(&plan, name).outcome {
        Outcome::Forward { timeout, retry, .. } => (timeout.expect("timeout").as_millis(), retry.tries),
        other => panic!("{other:?}"),
    };
    assert_eq!(timing("default/a"), (9, 4));
    assert_eq!(timing("default/b"), (1, 4));
}

#[test]
fn the_host_sent_upstream() {
    let table = [
        ("", None),
        ("host_rewrite: a.b:80", Some("a.b:80")),
        ("auto_host_rewrite: true", Some("svc")),
        ("auto_host_rewrite: false", None),
    ];
    for (fields, expected) in table {
        let edits = new(&format!("prefix: /\n{fields}")).edits;
        assert_eq!(edits.authority.as_ref().map(|value| value.to_str().expect("text")), expected, "{fields}");
    }
}

#[test]
fn upgrades() {
    let table: &[(&str, &[&str], &[&str])] = &[
        ("", &[], &[]),
        ("allow_upgrade: [WebSocket, spdy/3.1, CONNECT]", &["websocket", "spdy/3.1", "connect"], &[]),
        ("allow_upgrade: websocket", &["websocket"], &[]),
        ("use_websocket: true", &["websocket"], &[]),
        ("use_websocket: false", &[], &[]),
        ("use_websocket: true\nallow_upgrade: [tcp]", &["tcp", "websocket"], &[]),
        ("allow_upgrade: [h2c]", &["h2c"], &["no_effect"]),
        ("allow_upgrade: [\"web socket\"]", &[], &["unknown_value"]),
        ("allow_upgrade: [\"\"]", &[], &["unknown_value"]),
        ("allow_upgrade: [\"a/b/c\"]", &[], &["unknown_value"]),
        ("allow_upgrade: {websocket: true}", &[], &["wrong_type"]),
        ("grpc: true\nallow_upgrade: [websocket]", &["websocket"], &["no_effect"]),
        ("grpc: true\nallow_upgrade: [CONNECT]", &["connect"], &["no_effect"]),
    ];
    for (fields, allowed, codes) in table {
        let (plan, found) = one("v3alpha1", &format!("hostname: \"*\"\nprefix: /\nservice: svc\n{fields}"));
        let upgrades = plan.upgrades().cloned().unwrap_or_default();
        assert_eq!(upgrades.names().collect::<Vec<_>>(), *allowed, "{fields}");
        assert_eq!(found.len(), codes.len(), "{fields}: {found:?}");
        assert!(found.iter().zip(*codes).all(|(found, code)| found.contains(code)), "{fields}: {found:?}");
    }
}

#[test]
fn redirects() {
    let table = [
        ("", "redirect 301 x.y", "keep"),
        ("redirect_response_code: 308\npath_redirect: /p?q", "redirect 308 x.y", "replace /p?q"),
        ("prefix_redirect: /p", "redirect 301 x.y", "prefix /p"),
        ("regex_redirect: {pattern: a, substitution: b}", "redirect 301 x.y", "regex b"),
        ("path_redirect: /p\nprefix_redirect: /q", "redirect 301 x.y", "replace /p"),
        ("redirect_response_code: 200", "503 unknown_value", ""),
    ];
    for (fields, expected, path) in table {
        let (plan, _) =
            usual(&mapping("m", &format!("prefix: /\nservice: http://x.y\nhost_redirect: true\n{fields}")));
        assert_eq!(outcome(&plan, "default/m"), expected, "{fields}");
        if let Outcome::Redirect(redirect) = &find(&plan, "default/m").outcome {
            let found = match &redirect.path {
                RedirectPath::Keep => "keep".to_owned(),
                RedirectPath::Replace(text) => format!("replace {text}"),
                RedirectPath::Prefix(text) => format!("prefix {text}"),
                RedirectPath::Regex { substitution, .. } => format!("regex {substitution}"),
            };
            assert_eq!(found, path);
        }
    }
    let (plan, report) = usual(&mapping("m", "prefix: /\nservice: \"[::1]:8\"\nhost_redirect: true"));
    assert_eq!(outcome(&plan, "default/m"), "redirect 301 [::1]:8");
    assert_eq!(rows(&report), [""; 0]);
    let (_, report) = usual(&mapping("m", "prefix: /\nservice: x\npath_redirect: /p"));
    assert!(has(&report, "warning no_effect spec.path_redirect"));
}

#[test]
fn a_broken_pattern_takes_nothing_from_its_neighbours() {
    let table = [
        ("prefix: \"/foo/(\"\nprefix_regex: true", "prefix /foo/ true"),
        ("prefix: \"/fo?(\"\nprefix_regex: true", "prefix /f true"),
        ("prefix: \"(\"\nprefix_regex: true", "exact ( true"),
        ("prefix: \"/(\"\nprefix_regex: true", "exact /( true"),
        ("prefix: \"a)(b\"\nprefix_regex: true", "prefix a true"),
    ];
    for (fields, place) in table {
        let (plan, report) = usual(&mapping("m", &format!("service: svc\n{fields}")));
        assert_eq!(outcome(&plan, "default/m"), "503 bad_regex");
        assert!(has(&report, "error bad_regex spec.prefix"));
        if place != "prefix a true" {
            assert_eq!(path(find(&plan, "default/m")), place, "{fields}");
        }
    }
}

/// What cannot be read is met by every request, so that nothing falls through to a less specific Mapping.
#[test]
fn a_condition_that_cannot_be_read_keeps_its_mappings_place() {
    let table = [
        ("v3alpha1", "method: \"GET|((\"\nmethod_regex: true", "bad_regex spec.method"),
        ("v3alpha1", "method: GET\nmethod_regex: 5", "wrong_type spec.method_regex"),
        ("v3alpha1", "method: \"G ET\"", "unknown_value spec.method"),
        ("v3alpha1", "method: [GET]", "wrong_type spec.method"),
        ("v2", "host: \"api[.]test|((\"\nhost_regex: true", "bad_regex spec.host"),
        ("v2", "host: api.test\nhost_regex: 5", "wrong_type spec.host_regex"),
        ("v2", "host: [a]", "wrong_type spec.host"),
        ("v2", "host: \"*.test\"", "unknown_value spec.host"),
        ("v3alpha1", "hostname: [a]", "wrong_type spec.hostname"),
        ("v3alpha1", "hostname: {a: b}\nhost: c", "wrong_type spec.hostname"),
        ("v3alpha1", "headers: {\"x a\": b}", "unknown_value spec.headers"),
        ("v3alpha1", "regex_headers: {\"x a\": b}", "unknown_value spec.regex_headers"),
        ("v3alpha1", "headers: [a]", "wrong_type spec.headers"),
    ];
    for (version, fields, finding) in table {
        let any = if version == "v2" || fields.starts_with("hostname") { "" } else { "hostname: \"*\"\n" };
        let (plan, report) =
            usual(&document(version, "Mapping", "m", &format!("{any}prefix: /\nservice: svc\n{fields}")));
        assert!(outcome(&plan, "default/m").starts_with("503 "), "{fields}");
        assert!(has(&report, &format!("error {finding}")), "{fields}: {:?}", rows(&report));
        let mapping = find(&plan, "default/m");
        assert_eq!(plan.hosts[0].mappings, [0], "{fields}");
        match &mapping.host {
            HostMatch::Any | HostMatch::Unreadable(_) => {}
            other => panic!("{fields}: {other:?}"),
        }
        match &mapping.method {
            None => {}
            Some(TextMatch::Regex { regex, .. }) => assert!(regex.is_match("PUT"), "{fields}"),
            Some(other) => panic!("{fields}: {other:?}"),
        }
        let unreadable = |field: &FieldMatch| matches!(field.value, TextMatch::Unreadable);
        assert!(mapping.headers.iter().all(unreadable), "{fields}: {:?}", mapping.headers);
    }
    let (plan, _) = usual(&mapping("m", "prefix: /\nservice: svc\nregex_headers: {x: \"(\"}"));
    assert!(matches!(find(&plan, "default/m").headers[0].value, TextMatch::Present));
    for fields in ["prefix_regex: 5", "case_sensitive: no", "prefix_exact: 5"] {
        let (plan, _) = usual(&mapping("m", &format!("prefix: /a/.*\nservice: svc\n{fields}")));
        assert_eq!(outcome(&plan, "default/m"), "503 wrong_type");
        let place = if fields == "prefix_regex: 5" { "prefix /a/ true" } else { "prefix /a/.* " };
        assert!(path(find(&plan, "default/m")).starts_with(place), "{fields}");
    }
    let (_, report) =
        usual(&document("v3alpha1", "Mapping", "m", "hostname: a.*.com\nprefix: /\nservice: svc"));
    assert!(has(&report, "warning no_effect spec.hostname"));
}

/// A length or a coding from a resource would split responses: whatever the form, nothing of it is applied.
#[test]
fn headers_that_frame_or_name_the_host_are_refused() {
    let names = [
        "content-length",
        "Transfer-Encoding",
        "connection",
        "keep-alive",
        "Proxy-Connection",
        "te",
        "trailer",
        "upgrade",
        "host",
        ":authority",
        ":status",
    ];
    let fields =
        ["add_request_headers", "add_response_headers", "remove_request_headers", "remove_response_headers"];
    for (name, field) in names.iter().flat_map(|name| fields.map(|field| (name, field))) {
        let value = if field.starts_with("add") {
            format!("{{x: {{value: v}}, \"{name}\": {{value: \"3\", append: false}}}}")
        } else {
            format!("[x, \"{name}\"]")
        };
        let (plan, report) = usual(&mapping("m", &format!("prefix: /\nservice: svc\n{field}: {value}")));
        assert_eq!(outcome(&plan, "default/m"), "503 unknown_value", "{field} {name}");
        assert!(has(&report, &format!("error unknown_value spec.{field}")), "{field} {name}");
        let to_host_rewrite = report.findings[0].remedy.contains("host_rewrite");
        assert_eq!(to_host_rewrite, matches!(*name, "host" | ":authority"), "{name}");
        let defaults = format!("config: {{defaults: {{httpmapping: {{{field}: {value}}}}}}}");
        let module = document("v3alpha1", "Module", "ambassador", &defaults);
        let (plan, report) = usual(&(module + &mapping("m", "prefix: /\nservice: svc")));
        let row = format!("error unknown_value spec.config.defaults.httpmapping.{field}");
        assert!(has(&report, &row), "{row} {name}: {:?}", rows(&report));
        let edits = &find(&plan, "default/m").edits;
        let added = edits.add_request.iter().chain(&edits.add_response).map(|edit| &edit.name);
        let names: Vec<_> = added.chain(&edits.remove_request).chain(&edits.remove_response).collect();
        assert_eq!(names, ["x"], "{field} {name}");
    }
}

/// Whatever is known before a request comes is said before.
#[test]
fn rewrites_that_give_no_path() {
    let regex = |pattern: &str, substitution: &str| {
        format!("regex_rewrite: {{pattern: '{pattern}', substitution: '{substitution}'}}")
    };
    let error = "error unknown_value spec.regex_rewrite.substitution";
    let warning = "warning bad_rewrite spec.regex_rewrite.substitution";
    let table = [
        ("rewrite: /b-._~!$&'()*+,;=:@%20".to_owned(), ""),
        ("rewrite: \"/a b\"".to_owned(), "error unknown_value spec.rewrite"),
        ("rewrite: \"/a\\r\\nb\"".to_owned(), "error unknown_value spec.rewrite"),
        ("rewrite: \"/x?y=1\"".to_owned(), "error unknown_value spec.rewrite"),
        ("rewrite: \"/x#z\"".to_owned(), "error unknown_value spec.rewrite"),
        ("rewrite: \"/a<b\"".to_owned(), "error unknown_value spec.rewrite"),
        (regex("^/a/(.*)", "/b/\\1"), ""),
        (regex("^(/a)/", "\\1-b/"), ""),
        (regex("x", "y"), ""),
        (regex("^/a/(.*)", "http://evil/\\1"), error),
        (regex("/a/(.*)", "b/\\1"), error),
        (regex("^/z", "b"), error),
        (regex("/a/", "/b c"), error),
        (regex("/a/", "/b?c"), error),
        (regex("/(a)/", "/\\2"), error),
        (regex("/(a)/", "/\\1\\0"), ""),
        (regex("/(a)/", "/\\\\9"), ""),
        (regex("^/a(/.+)?", "\\1"), ""),
        (regex("^/a/(.*)", "\\1"), warning),
    ];
    for (fields, finding) in table {
        let (plan, report) = usual(&mapping("m", &format!("prefix: /a/\nservice: svc\n{fields}")));
        assert!(has(&report, finding), "{fields}: {:?}", rows(&report));
        assert_eq!(rows(&report).is_empty(), finding.is_empty(), "{fields}: {:?}", rows(&report));
        let expected = if finding.starts_with("error") { "503 unknown_value" } else { "svc:80" };
        assert_eq!(outcome(&plan, "default/m"), expected, "{fields}");
    }
    let (_, report) = usual(&mapping(
        "m",
        "prefix: /\nservice: x\nhost_redirect: true\nregex_redirect: {pattern: a, substitution: '\\1'}",
    ));
    assert!(has(&report, "error unknown_value spec.regex_redirect.substitution"));
}

#[test]
fn values_that_are_read_in_an_unlikely_way_are_named() {
    let (plan, report) = usual(&mapping("m", "prefix: /\nservice: svc\nheaders: {x: true}"));
    assert!(has(&report, "warning wrong_type spec.headers"));
    assert_eq!(outcome(&plan, "default/m"), "svc:80");
    let (plan, report) = usual(&mapping("m", "prefix: /\nservice: svc\nambassador_id: {a: b}"));
    assert!(has(&report, "error wrong_type spec.ambassador_id"));
    assert_eq!(outcome(&plan, "default/m"), "503 wrong_type");
    let context = document("v3alpha1", "TLSContext", "ctx", "ambassador_id: {a: b}");
    let (plan, _) = usual(&(context + &mapping("m", "prefix: /\nservice: svc\ntls: ctx")));
    assert_eq!(outcome(&plan, "default/m"), "503 wrong_type");
    let listener = document(
        "v3alpha1",
        "Listener",
        "l",
        "port: 1\nprotocol: HTTP\nsecurityModel: XFP\nambassador_id: [[a]]",
    );
    assert!(usual(&listener).0.listeners.is_empty());
}
