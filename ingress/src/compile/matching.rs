//! The matching side of a Mapping (emissary.md 2.1): path, host, method, header and query conditions.
//!
//! A condition on the host, the method or a field that cannot be read is met by every request: whatever the Mapping may have
//! been meant for gets its 503, and nothing of it falls through to a less specific Mapping. It keeps its text, and so its rank
//! and its group. A path that cannot be read keeps its literal start: beyond that it would take whole Hosts from its
//! neighbours.

use std::sync::Arc;

use http::HeaderName;
use regex_automata::meta::Regex;

use crate::{
    kind::Reader,
    plan::{FieldMatch, HostGlob, HostMatch, PathMatch, TextMatch},
    report::Severity,
};

/// Largest compiled form of one pattern, in bytes.
const MAX_REGEX_BYTES: usize = 1 << 20;

/// Compiles a pattern that has to match the whole text.
fn regex(spec: &mut Reader<'_>, field: &'static str, text: &str) -> Option<Arc<Regex>> {
    build(spec, field, text, &format!("^(?:{text})$"))
}

/// A pattern that may match anywhere.
pub(super) fn search_regex(spec: &mut Reader<'_>, field: &'static str, text: &str) -> Option<Arc<Regex>> {
    build(spec, field, text, text)
}

fn build(spec: &mut Reader<'_>, field: &'static str, text: &str, pattern: &str) -> Option<Arc<Regex>> {
    let config =
        Regex::config().nfa_size_limit(Some(MAX_REGEX_BYTES)).onepass_size_limit(Some(MAX_REGEX_BYTES));
    // The text alone is parsed first: `a)(b` is no pattern, although it would close and open the group around it.
    let alone = regex_automata::util::syntax::parse(text).map_err(|error| error.to_string());
    let whole = alone.and_then(|_| {
        Regex::builder().configure(config).build(pattern).map_err(|error| {
            std::error::Error::source(&error).map_or_else(|| error.to_string(), ToString::to_string)
        })
    });
    whole
        .map(Arc::new)
        .map_err(|why| {
            let why = why.lines().last().unwrap_or_default().trim_start_matches("error: ");
            let message = format!("`{text}` is not a pattern that can be used: {why}");
            spec.broken(field, "bad_regex", message, "RE2 syntax; no look-around, no back-references");
        })
        .ok()
}

/// The pattern that stands for one that cannot be used.
fn anything() -> Option<Arc<Regex>> {
    Regex::new("").ok().map(Arc::new)
}

/// A switch between text and pattern; `None`: it is neither true nor false, so nobody knows which is meant.
fn switch(spec: &mut Reader<'_>, field: &'static str) -> Option<bool> {
    let written = spec.node(field).is_some();
    spec.bool(field).or((!written).then_some(false))
}

/// The path condition, and the length of a prefix that `rewrite` swaps.
pub(super) fn path(spec: &mut Reader<'_>, prefix: &str) -> (PathMatch, Option<usize>) {
    let case_sensitive = spec.bool("case_sensitive").unwrap_or(spec.node("case_sensitive").is_none());
    let exact = spec.bool("prefix_exact").unwrap_or(false);
    match switch(spec, "prefix_regex") {
        Some(false) => {}
        Some(true) => {
            let matched = regex(spec, "prefix", prefix).map_or_else(|| place(prefix), PathMatch::Regex);
            return (matched, None);
        }
        None => return (place(prefix), None),
    }
    if !prefix.starts_with('/') && !prefix.is_empty() {
        let message = format!("`{prefix}` does not start with a slash, so no path matches");
        spec.find("prefix", (Severity::Warning, "no_effect"), message, "write /path/, or set prefix_regex");
    }
    let text: Arc<str> = if case_sensitive { prefix.into() } else { prefix.to_ascii_lowercase().into() };
    if exact {
        (PathMatch::Exact { text, case_sensitive }, None)
    } else {
        (PathMatch::Prefix { text, case_sensitive }, Some(prefix.len()))
    }
}

/// The place of a path pattern that cannot be compiled: its literal start. Without one it has no place, and as a whole
/// path its text matches nothing that others serve.
fn place(pattern: &str) -> PathMatch {
    let special = ['.', '*', '+', '?', '(', ')', '[', ']', '{', '}', '\\', '|', '^', '$'];
    let end = pattern.find(special).unwrap_or(pattern.len());
    let (start, rest) = pattern.split_at(end);
    // What a repetition follows is not literal.
    let literal = match (rest.chars().next(), start.char_indices().next_back()) {
        (Some('*' | '?' | '{'), Some((last, _))) => start.get(..last).unwrap_or_default(),
        _ => start,
    };
    if literal.len() > 1 {
        PathMatch::Prefix { text: literal.into(), case_sensitive: true }
    } else {
        PathMatch::Exact { text: pattern.into(), case_sensitive: true }
    }
}

/// The Mapping's own host condition, and the glob that ties it to Hosts. `old`: v1 or v2, where no host means any.
pub(super) fn host(spec: &mut Reader<'_>, old: bool) -> (HostMatch, Option<HostGlob>) {
    let by_regex = switch(spec, "host_regex");
    let (written, host) = (spec.node("host").is_some(), spec.text("host"));
    let any = |text: &str| (HostMatch::Unreadable(text.into()), Some(HostGlob::Any));
    if spec.node("hostname").is_some() {
        if written {
            let message = "has no effect beside `hostname`".to_owned();
            spec.find("host", (Severity::Notice, "no_effect"), message, "remove it");
        }
        return spec.text("hostname").map_or_else(|| any(""), |hostname| glob(spec, hostname));
    }
    let exactly = |text: &str| HostGlob::Exact(text.to_ascii_lowercase().into());
    match host {
        None if written => any(""),
        Some(text) if by_regex.is_none() => any(text),
        Some(text) if by_regex == Some(true) => match regex(spec, "host", text) {
            Some(regex) => (HostMatch::Regex { regex, text: text.into() }, Some(HostGlob::Any)),
            None => any(text),
        },
        None | Some("*") if old => (HostMatch::Any, Some(HostGlob::Any)),
        Some(text) if text.contains('*') => {
            let message = format!("`{text}` contains *, which cannot match anything");
            spec.broken("host", "unknown_value", message, "use `hostname` of v3alpha1 for globs");
            any(text)
        }
        Some(text) => (HostMatch::Glob(exactly(text)), Some(exactly(text))),
        None => (HostMatch::Any, None),
    }
}

fn glob(spec: &mut Reader<'_>, hostname: &str) -> (HostMatch, Option<HostGlob>) {
    let glob = HostGlob::parse(hostname);
    if glob.text().trim_matches('*').contains('*') {
        let message = format!("`{hostname}` has a * that is neither first nor last, and so means itself");
        let remedy = "write *.example.com, example.* or *; for other patterns host with host_regex";
        spec.find("hostname", (Severity::Warning, "no_effect"), message, remedy);
    }
    (if glob == HostGlob::Any { HostMatch::Any } else { HostMatch::Glob(glob.clone()) }, Some(glob))
}

/// A header condition on `:authority` acts like `host`.
pub(super) fn authority_match(field: FieldMatch, otherwise: HostMatch) -> HostMatch {
    match field.value {
        TextMatch::Exact(text) => HostMatch::Glob(HostGlob::Exact(text.to_ascii_lowercase().into())),
        TextMatch::Regex { regex, text } => HostMatch::Regex { regex, text },
        TextMatch::Present | TextMatch::Unreadable => otherwise,
    }
}

pub(super) fn method(spec: &mut Reader<'_>) -> Option<TextMatch> {
    let by_regex = switch(spec, "method_regex");
    let text = spec.text("method")?;
    let pattern = |regex| TextMatch::Regex { regex, text: text.into() };
    match by_regex {
        Some(true) => regex(spec, "method", text).or_else(anything).map(pattern),
        Some(false) if http::Method::from_bytes(text.as_bytes()).is_ok() => {
            Some(TextMatch::Exact(text.to_ascii_uppercase().into()))
        }
        Some(false) => {
            let message = format!("`{text}` is not a method");
            spec.broken("method", "unknown_value", message, "write one method, or set method_regex");
            anything().map(pattern)
        }
        None => anything().map(pattern),
    }
}

/// Conditions on headers or query parameters, in order of their names.
pub(super) fn fields(
    spec: &mut Reader<'_>,
    (exact, by_regex): (&'static str, &'static str),
    headers: bool,
) -> Vec<FieldMatch> {
    let mut found = Vec::new();
    for (name, node) in spec.map(exact) {
        let Some(name) = field_name(spec, exact, name, headers) else {
            found.push(FieldMatch { name: (&**name).into(), value: TextMatch::Unreadable });
            continue;
        };
        let value = match (node.as_bool(), node.as_text()) {
            (Some(true), _) => {
                if spec.version() == "v3alpha1" {
                    let message = format!("{name}: true is read as \"present with any value\", as in v2");
                    let remedy = "write \"true\" in quotes for the text, or a pattern .* for any value";
                    spec.find(exact, (Severity::Warning, "wrong_type"), message, remedy);
                }
                TextMatch::Present
            }
            (Some(false), _) => continue,
            (None, Some(text)) => TextMatch::Exact(text.into()),
            (None, None) => {
                let message = format!("{name}: is {}, not text", node.kind());
                spec.broken(exact, "wrong_type", message, "write text");
                TextMatch::Present
            }
        };
        found.push(FieldMatch { name, value });
    }
    for (name, node) in spec.map(by_regex) {
        let Some(name) = field_name(spec, by_regex, name, headers) else {
            found.push(FieldMatch { name: (&**name).into(), value: TextMatch::Unreadable });
            continue;
        };
        let value = match node.as_text() {
            None => {
                let message = format!("{name}: is {}, not text", node.kind());
                spec.broken(by_regex, "wrong_type", message, "write a pattern");
                TextMatch::Present
            }
            Some(".*") => TextMatch::Present,
            Some(text) => regex(spec, by_regex, text)
                .map_or(TextMatch::Present, |regex| TextMatch::Regex { regex, text: text.into() }),
        };
        found.push(FieldMatch { name, value });
    }
    found.sort_by(|a, b| a.name.cmp(&b.name));
    found
}

/// A name as it is compared: lower case for headers; `None`: it cannot be a header.
fn field_name(spec: &mut Reader<'_>, field: &'static str, name: &str, header: bool) -> Option<Arc<str>> {
    if !header {
        return Some(name.into());
    }
    let lower = name.to_ascii_lowercase();
    if lower != ":authority" && HeaderName::from_bytes(lower.as_bytes()).is_err() {
        let message = format!("`{name}` is not a header name");
        spec.broken(field, "unknown_value", message, "letters, digits and dashes");
        return None;
    }
    Some(lower.into())
}
