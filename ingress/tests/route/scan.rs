//! The table against a plain scan: other code, written from emissary.md 3.1-3.3 over what people write.

use std::{cmp::Reverse, collections::BTreeMap};

use proptest::{prelude::*, sample::select};

use ingress::report::Severity;

use crate::harness::{Ask, ask, compiled, mapping};

/// A Mapping as written.
#[derive(Clone, Debug)]
struct Written {
    precedence: i64,
    path: (&'static str, Kind),
    hostname: &'static str,
    method: Option<&'static str>,
    headers: Vec<(&'static str, &'static str)>,
    query: Option<(&'static str, &'static str)>,
    weight: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
enum Kind {
    Prefix,
    Exact,
    NoCase,
    /// `[ab]*` after its text.
    Pattern,
}

/// Texts differ where kinds differ: one text with two kinds is a conflict, and another test's business.
const PATHS: [(&str, Kind); 10] = [
    ("/", Kind::Prefix),
    ("/a", Kind::Prefix),
    ("/a/", Kind::Prefix),
    ("/a/b", Kind::Prefix),
    ("/ab/", Kind::Prefix),
    ("/b/a/b/", Kind::Prefix),
    ("/a/b/", Kind::Exact),
    ("/B/", Kind::NoCase),
    ("/a/[ab]*", Kind::Pattern),
    ("/b/[ab]*", Kind::Pattern),
];
/// After `~` a pattern.
const HOSTNAMES: [&str; 7] =
    ["*", "a.example.com", "b.example.com", "*.example.com", "a.*", "*.com", "~[ab][.]example[.]com"];

fn written() -> impl Strategy<Value = Written> {
    let header = select(vec![("x-a", "1"), ("x-a", "2"), ("x-a", "3"), ("x-bc", "1"), ("x-d", "1")]);
    let headers = prop::collection::btree_map(header.clone().prop_map(|(name, _)| name), header, 0..3)
        .prop_map(|headers| headers.into_iter().map(|(name, (_, value))| (name, value)).collect());
    (
        prop_oneof![4 => Just(0), 1 => -1..2_i64],
        select(&PATHS[..]),
        select(&HOSTNAMES[..]),
        prop::option::weighted(0.3, select(vec!["POST", "PUT"])),
        headers,
        prop::option::weighted(0.2, select(vec![("q", "1"), ("q", "2"), ("r", "")])),
        prop::option::weighted(0.4, select(vec![0, 10, 30, 50, 70, 100])),
    )
        .prop_map(|(precedence, path, hostname, method, headers, query, weight)| Written {
            precedence,
            path,
            hostname,
            method,
            headers,
            query,
            weight,
        })
}

impl Written {
    fn yaml(&self, name: &str) -> String {
        let (prefix, kind) = self.path;
        let mut spec = vec![format!("prefix: \"{prefix}\""), format!("precedence: {}", self.precedence)];
        spec.push(match self.hostname.strip_prefix('~') {
            Some(pattern) => format!("host: \"{pattern}\", host_regex: true"),
            None => format!("hostname: \"{}\"", self.hostname),
        });
        match kind {
            Kind::Prefix => {}
            Kind::Exact => spec.push("prefix_exact: true".to_owned()),
            Kind::NoCase => spec.push("case_sensitive: false".to_owned()),
            Kind::Pattern => spec.push("prefix_regex: true".to_owned()),
        }
        spec.extend(self.method.map(|method| format!("method: {method}")));
        let headers: Vec<_> =
            self.headers.iter().map(|(name, value)| format!("{name}: \"{value}\"")).collect();
        spec.push(format!("headers: {{{}}}", headers.join(", ")));
        spec.extend(self.query.map(|(name, value)| format!("query_parameters: {{{name}: \"{value}\"}}")));
        spec.extend(self.weight.map(|weight| format!("weight: {weight}")));
        mapping(name, &spec.join(", "))
    }

    /// 3.2, as far as these Mappings can differ; descending.
    fn rank(&self) -> impl Ord + use<> {
        let hostname = if self.hostname == "*" { 0 } else { ":authority".len() + self.hostname.len() }; // `~` counts as a pattern does.
        let method = self.method.map_or(0, |method| ":method".len() + method.len());
        let headers: usize = self.headers.iter().map(|(name, value)| name.len() + value.len()).sum();
        let query = self.query.map_or(0, |(name, value)| name.len() + value.len());
        Reverse((
            self.precedence,
            self.path.0.len(),
            hostname + method + headers,
            query,
            self.path.0,
            self.method.unwrap_or("GET"),
        ))
    }

    /// 3.3: what makes two Mappings canaries of each other.
    fn group(&self) -> String {
        let method = self.method.unwrap_or("GET");
        format!(
            "{method} {} {:?} {:?} {} {}",
            self.path.0, self.headers, self.query, self.hostname, self.precedence
        )
    }

    fn meets(&self, request: &Request) -> bool {
        let path = request.path.as_str();
        let by_path = match self.path {
            (text, Kind::Prefix) => path.starts_with(text),
            (text, Kind::Exact) => path == text,
            (text, Kind::NoCase) => path.to_ascii_lowercase().starts_with(&text.to_ascii_lowercase()),
            (text, Kind::Pattern) => path
                .strip_prefix(text.trim_end_matches("[ab]*"))
                .is_some_and(|rest| rest.bytes().all(|byte| matches!(byte, b'a' | b'b'))),
        };
        let name = request.authority;
        let by_name = if self.hostname.starts_with('~') {
            matches!(name, "a.example.com" | "b.example.com")
        } else {
            match (self.hostname.strip_prefix('*'), self.hostname.strip_suffix('*')) {
                (Some(suffix), _) => name.ends_with(suffix),
                (_, Some(prefix)) => name.starts_with(prefix),
                _ => name == self.hostname,
            }
        };
        by_path
            && by_name
            && self.method.is_none_or(|method| method == request.method)
            && self.headers.iter().all(|(name, wanted)| {
                // Several fields of one name are one value.
                let sent: Vec<_> = request
                    .headers
                    .iter()
                    .filter(|(sent, _)| sent == name)
                    .map(|(_, value)| *value)
                    .collect();
                !sent.is_empty() && sent.join(",") == **wanted
            })
            && self.query.is_none_or(|(name, value)| {
                let sent = request.query.as_deref().unwrap_or_default().split('&');
                let mut values =
                    sent.filter_map(|pair| pair.split_once('=')).filter(|(sent, _)| *sent == name);
                values.next().is_some_and(|(_, first)| first == value)
            })
    }
}

#[derive(Clone, Debug)]
struct Request {
    method: &'static str,
    authority: &'static str,
    path: String,
    query: Option<String>,
    headers: Vec<(&'static str, &'static str)>,
    dice: u8,
}

fn request() -> impl Strategy<Value = Request> {
    (
        select(vec!["GET", "POST", "PUT"]),
        select(vec!["a.example.com", "b.example.com", "a.net", "c.com", "d.org"]),
        "/[abAB/]{0,6}",
        prop::option::of(select(vec![
            "q=1".to_owned(),
            "q=2".to_owned(),
            "r=&q=2&q=1".to_owned(),
            "r=1".to_owned(),
        ])),
        select(vec![
            vec![],
            vec![("x-a", "1")],
            vec![("x-a", "2"), ("x-bc", "1")],
            vec![("x-bc", "1"), ("x-d", "1"), ("x-e", "1")],
            vec![("x-a", "1"), ("x-a", "3")],
        ]),
        0..100_u8,
    )
        .prop_map(|(method, authority, path, query, headers, dice)| Request {
            method,
            authority,
            path,
            query,
            headers,
            dice,
        })
}

/// Faces of the dice below which each Mapping is taken: weighted ones first, then the others share what is left.
fn shares(written: &[Written]) -> Vec<std::ops::Range<i64>> {
    let mut groups: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (index, one) in written.iter().enumerate() {
        groups.entry(one.group()).or_default().push(index);
    }
    let mut sizes = vec![0; written.len()];
    for members in groups.values() {
        if let [only] = members[..] {
            sizes[only] = 100;
            continue;
        }
        let mut left = 100;
        for member in members {
            if let Some(weight) = written[*member].weight {
                sizes[*member] = weight.min(left);
                left -= sizes[*member];
            }
        }
        let open: Vec<_> = members.iter().filter(|member| written[**member].weight.is_none()).collect();
        let mut rest = left;
        for (place, member) in open.iter().enumerate() {
            sizes[**member] =
                if place + 1 == open.len() { rest } else { left / i64::try_from(open.len()).unwrap() };
            rest -= sizes[**member];
        }
    }
    let mut ranges = vec![0..0; written.len()];
    for members in groups.values() {
        let mut start = 0;
        for member in members {
            ranges[*member] = start..start + sizes[*member];
            start += sizes[*member];
        }
    }
    ranges
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, ..ProptestConfig::default() })]

    #[test]
    fn the_table_decides_as_a_scan_does(
        written in prop::collection::vec(written(), 1..80),
        requests in prop::collection::vec(request(), 40),
        crowded: bool,
    ) {
        let mut written = written;
        if crowded {
            for one in &mut written {
                (one.path, one.hostname) = (PATHS[0], HOSTNAMES[0]);
            }
        }
        let names: Vec<_> = (0..written.len()).map(|index| format!("m{index:03}")).collect();
        let manifests: String = written.iter().zip(&names).map(|(one, name)| one.yaml(name)).collect();
        let (table, report) = compiled(&manifests);
        let unexpected: Vec<_> = report
            .findings
            .iter()
            .filter(|finding| finding.severity == Severity::Error && finding.code != "weights_exceed_100")
            .collect();
        prop_assert!(unexpected.is_empty(), "{:#?}", unexpected);
        let shares = shares(&written);
        let mut order: Vec<_> = (0..written.len()).collect();
        order.sort_by_key(|index| written[*index].rank());
        for request in &requests {
            let target = match &request.query {
                Some(query) => format!("{}?{query}", request.path),
                None => request.path.clone(),
            };
            let asked = Ask {
                method: request.method,
                authority: request.authority,
                target: &target,
                headers: &request.headers,
                dice: request.dice,
                ..Ask::default()
            };
            let found = ask(&table, &asked);
            let expected = order.iter().copied().find(|index| {
                written[*index].meets(request) && shares[*index].contains(&i64::from(request.dice))
            });
            prop_assert_eq!(&found.route, expected.map_or("", |index| &names[index]), "{:?}", request);
        }
    }
}
