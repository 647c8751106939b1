//! Mappings as people write them, and a plain scan over them that decides: other code than the table's, written from emissary.md
//! 3.1-3.3. The fuzz target `route` uses it, too.

use std::{cmp::Reverse, collections::BTreeMap, ops::Range};

/// A Mapping as written.
#[derive(Clone, Debug)]
pub(crate) struct Written {
    pub(crate) precedence: i64,
    pub(crate) path: (&'static str, Kind),
    pub(crate) hostname: &'static str,
    pub(crate) method: Option<&'static str>,
    /// Each name once.
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) query: Option<(&'static str, &'static str)>,
    pub(crate) weight: Option<i64>,
}

#[derive(Clone, Copy, Debug, PartialEq)]
pub(crate) enum Kind {
    Prefix,
    Exact,
    NoCase,
    /// `[ab]*` after its text.
    Pattern,
}

/// Texts differ where kinds differ: one text with two kinds is a conflict, and another test's business.
pub(crate) const PATHS: [(&str, Kind); 10] = [
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
pub(crate) const HOSTNAMES: [&str; 7] =
    ["*", "a.example.com", "b.example.com", "*.example.com", "a.*", "*.com", "~[ab][.]example[.]com"];
pub(crate) const METHODS: [&str; 3] = ["GET", "POST", "PUT"];
/// Conditions on header fields.
pub(crate) const HEADERS: [(&str, &str); 5] =
    [("x-a", "1"), ("x-a", "2"), ("x-a", "3"), ("x-bc", "1"), ("x-d", "1")];
/// Conditions on query parameters.
pub(crate) const QUERIES: [(&str, &str); 3] = [("q", "1"), ("q", "2"), ("r", "")];
pub(crate) const WEIGHTS: [i64; 6] = [0, 10, 30, 50, 70, 100];

/// A request.
#[derive(Clone, Debug)]
pub(crate) struct Request {
    pub(crate) method: &'static str,
    pub(crate) authority: &'static str,
    pub(crate) path: String,
    pub(crate) query: Option<&'static str>,
    pub(crate) headers: Vec<(&'static str, &'static str)>,
    pub(crate) dice: u8,
}

pub(crate) const AUTHORITIES: [&str; 5] = ["a.example.com", "b.example.com", "a.net", "c.com", "d.org"];
/// What requests ask for.
pub(crate) const ASKED: [&str; 4] = ["q=1", "q=2", "r=&q=2&q=1", "r=1"];
/// Fields that requests have.
pub(crate) const SENT: [&[(&str, &str)]; 5] = [
    &[],
    &[("x-a", "1")],
    &[("x-a", "2"), ("x-bc", "1")],
    &[("x-bc", "1"), ("x-d", "1"), ("x-e", "1")],
    &[("x-a", "1"), ("x-a", "3")],
];

impl Written {
    /// The fields of its `spec`, in flow style.
    pub(crate) fn spec(&self) -> String {
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
        spec.join(", ")
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
                let sent = request.query.unwrap_or_default().split('&');
                let mut values =
                    sent.filter_map(|pair| pair.split_once('=')).filter(|(sent, _)| *sent == name);
                values.next().is_some_and(|(_, first)| first == value)
            })
    }
}

/// Mappings in the order in which they are asked, each with its place in the list and the faces of the dice at which it is taken.
pub(crate) struct Scan<'a>(Vec<(usize, &'a Written, Range<i64>)>);

impl<'a> Scan<'a> {
    pub(crate) fn new(written: &'a [Written]) -> Self {
        let mut groups: BTreeMap<String, Vec<(usize, &Written)>> = BTreeMap::new();
        for (place, one) in written.iter().enumerate() {
            groups.entry(one.group()).or_default().push((place, one));
        }
        let mut all: Vec<_> = groups.into_values().flat_map(|members| shares(&members)).collect();
        all.sort_by_key(|(place, one, _)| (one.rank(), *place));
        Self(all)
    }

    /// The place of the Mapping that takes a request.
    pub(crate) fn decide(&self, request: &Request) -> Option<usize> {
        let dice = i64::from(request.dice);
        let mut all = self.0.iter();
        all.find(|(_, one, faces)| one.meets(request) && faces.contains(&dice)).map(|(place, ..)| *place)
    }
}

/// The faces of each member of a group: weighted ones first come, first served, then the others share what is left.
fn shares<'a>(members: &[(usize, &'a Written)]) -> Vec<(usize, &'a Written, Range<i64>)> {
    if let [(place, only)] = members {
        return vec![(*place, *only, 0..100)];
    }
    let mut left = 100;
    let mut sizes: BTreeMap<usize, i64> = BTreeMap::new();
    for (place, one) in members {
        if let Some(weight) = one.weight {
            sizes.insert(*place, weight.min(left));
            left -= weight.min(left);
        }
    }
    let open: Vec<_> = members.iter().filter(|(_, one)| one.weight.is_none()).collect();
    let even = left / i64::try_from(open.len().max(1)).unwrap_or(1);
    for (nth, (place, _)) in open.iter().enumerate() {
        let size = if nth + 1 == open.len() { left } else { even };
        sizes.insert(*place, size);
        left -= size;
    }
    let mut start = 0;
    let face = |(place, one): &(usize, &'a Written)| {
        let size = sizes.get(place).copied().unwrap_or_default();
        start += size;
        (*place, *one, start - size..start)
    };
    members.iter().map(face).collect()
}
