//! Conditions of one Mapping on one request.

use std::borrow::Cow;

use proxy::message::{Fields, Head};

use crate::plan::{FieldMatch, HostMatch, MappingPlan, PathMatch, TextMatch};

/// Which condition a request misses first; `None`: it meets all of them.
pub(super) fn missed(mapping: &MappingPlan, head: &Head<'_>, authority: &str) -> Option<&'static str> {
    if !path(&mapping.path, head.path) {
        return Some("its path does not match");
    }
    let host = match &mapping.host {
        HostMatch::Any | HostMatch::Unreadable(_) => true,
        HostMatch::Glob(glob) => glob.matches(authority),
        HostMatch::Regex { regex, .. } => regex.is_match(authority),
    };
    if !host {
        return Some("its hostname does not match");
    }
    if !mapping.method.as_ref().is_none_or(|method| text(method, head.method)) {
        return Some("its method does not match");
    }
    if !mapping.headers.iter().all(|field| header(field, head.fields)) {
        return Some("a header does not match");
    }
    if !mapping.query.iter().all(|field| query(field, head.query.unwrap_or_default())) {
        return Some("a query parameter does not match");
    }
    None
}

pub(super) fn path(condition: &PathMatch, path: &str) -> bool {
    match condition {
        PathMatch::Prefix { text, case_sensitive: true } => path.starts_with(&**text),
        PathMatch::Prefix { text, case_sensitive: false } => {
            path.get(..text.len()).is_some_and(|start| start.eq_ignore_ascii_case(text))
        }
        PathMatch::Exact { text, case_sensitive: true } => *path == **text,
        PathMatch::Exact { text, case_sensitive: false } => path.eq_ignore_ascii_case(text),
        PathMatch::Regex(regex) => regex.is_match(path),
    }
}

fn text(condition: &TextMatch, value: &str) -> bool {
    match condition {
        TextMatch::Exact(exact) => *value == **exact,
        TextMatch::Regex { regex, .. } => regex.is_match(value),
        TextMatch::Present | TextMatch::Unreadable => true,
    }
}

fn header(condition: &FieldMatch, fields: Fields<'_>) -> bool {
    if matches!(condition.value, TextMatch::Unreadable) {
        return true;
    }
    let Some(value) = joined(fields, &condition.name) else { return false };
    match &condition.value {
        TextMatch::Present => true,
        other => std::str::from_utf8(&value).is_ok_and(|value| text(other, value)),
    }
}

/// The value of a field. Several fields of one name are one value joined by commas, as in Envoy (RFC 9110 5.3).
pub(super) fn joined<'a>(fields: Fields<'a>, name: &str) -> Option<Cow<'a, [u8]>> {
    let mut joined: Option<Cow<'a, [u8]>> = None;
    fields.all(name, |value| {
        match &mut joined {
            None => joined = Some(Cow::Borrowed(value)),
            Some(before) => {
                let before = before.to_mut();
                before.push(b',');
                before.extend_from_slice(value);
            }
        }
        true
    });
    joined
}

/// The first value of a parameter counts.
fn query(condition: &FieldMatch, query: &str) -> bool {
    let first = parameters(query).find(|(name, _)| *name == &*condition.name);
    first.is_some_and(|(_, value)| text(&condition.value, value))
}

/// Names and values of a query string.
pub(super) fn parameters(query: &str) -> impl Iterator<Item = (&str, &str)> {
    let pairs = query.split('&').map(|pair| pair.split_once('=').unwrap_or((pair, "")));
    pairs.filter(|(name, _)| !name.is_empty())
}
