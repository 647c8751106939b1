//! What a Mapping changes (emissary.md 2.3): path and header fields.

use std::sync::Arc;

use http::{HeaderName, HeaderValue};
use proxy::message::{Edits, HeaderEdit, PathEdit};
use regex_automata::meta::Regex;
use resource::Node;

use super::mapping::substitution;
use crate::{kind::Reader, plan::PathMatch, report::Severity};

/// Fields that frame a message, belong to one connection, or name the host. The proxy alone writes them: one from a resource
/// would let the next hop read a message in another way than it was meant.
const RESERVED: [&str; 9] = [
    "connection",
    "content-length",
    "host",
    "keep-alive",
    "proxy-connection",
    "te",
    "trailer",
    "transfer-encoding",
    "upgrade",
];

/// Header fields that every Mapping removes and adds unless it says otherwise (Module `defaults.httpmapping`).
#[derive(Clone, Debug, Default)]
pub(crate) struct HeaderDefaults {
    remove_request: Vec<HeaderName>,
    add_request: Vec<HeaderEdit>,
    remove_response: Vec<HeaderName>,
    add_response: Vec<HeaderEdit>,
}

impl HeaderDefaults {
    pub(super) fn read(spec: &mut Reader<'_>) -> Self {
        Self {
            remove_request: removed(spec, "remove_request_headers").unwrap_or_default(),
            add_request: added(spec, "add_request_headers").unwrap_or_default(),
            remove_response: removed(spec, "remove_response_headers").unwrap_or_default(),
            add_response: added(spec, "add_response_headers").unwrap_or_default(),
        }
    }
}

/// Path and header edits. `prefix_len`: the length of a prefix that `rewrite` swaps; otherwise it replaces the whole path.
pub(super) fn edits(
    spec: &mut Reader<'_>,
    prefix_len: Option<usize>,
    path: &PathMatch,
    defaults: &HeaderDefaults,
) -> Edits {
    Edits {
        path: path_edit(spec, prefix_len, path),
        authority: None,
        remove_request: removed(spec, "remove_request_headers")
            .unwrap_or_else(|| defaults.remove_request.clone()),
        add_request: added(spec, "add_request_headers").unwrap_or_else(|| defaults.add_request.clone()),
        remove_response: removed(spec, "remove_response_headers")
            .unwrap_or_else(|| defaults.remove_response.clone()),
        add_response: added(spec, "add_response_headers").unwrap_or_else(|| defaults.add_response.clone()),
    }
}

fn path_edit(spec: &mut Reader<'_>, prefix_len: Option<usize>, path: &PathMatch) -> PathEdit {
    let by_regex = spec.child("regex_rewrite").and_then(|mut child| {
        let pair = substitution(&mut child);
        if let Some((pattern, substitution)) = &pair {
            leads_to_paths(&mut child, pattern, substitution, path);
        }
        spec.merge(child);
        pair
    });
    // `rewrite: ""` and `rewrite: null` mean "leave it"; absent means "/".
    let rewrite = match spec.raw("rewrite") {
        None => Some("/"),
        Some(_) => spec.text("rewrite").filter(|text| !text.is_empty()),
    };
    if let Some((pattern, substitution)) = by_regex {
        if rewrite.is_some() && spec.raw("rewrite").is_some() {
            let message = "has no effect beside `regex_rewrite`".to_owned();
            spec.find("rewrite", (Severity::Notice, "no_effect"), message, "remove it");
        }
        return PathEdit::Regex { pattern, substitution };
    }
    if let Some(text) = rewrite.filter(|text| !text.starts_with('/')) {
        let message = format!("`{text}` does not start with a slash");
        spec.broken("rewrite", "unknown_value", message, "write a path, or \"\" for no rewrite");
    } else if let Some(wrong) = rewrite.and_then(stranger) {
        let message = format!("has {wrong:?}, which cannot stand in a path");
        spec.broken(
            "rewrite",
            "unknown_value",
            message,
            "percent-encode it; the client's query is kept by itself",
        );
    }
    let same = |text: &str| match path {
        PathMatch::Prefix { text: own, case_sensitive } | PathMatch::Exact { text: own, case_sensitive } => {
            *case_sensitive && **own == *text
        }
        PathMatch::Regex(_) => false,
    };
    match (rewrite, prefix_len) {
        (None, _) => PathEdit::Keep,
        (Some(text), _) if same(text) => PathEdit::Keep,
        (Some(text), Some(len)) => PathEdit::Prefix { len, with: text.into() },
        (Some(text), None) => PathEdit::Replace(text.into()),
    }
}

/// The first character that cannot stand in a path.
fn stranger(text: &str) -> Option<char> {
    text.chars().find(|c| {
        let one = |c: &char| format!("/{c}").parse::<http::uri::PathAndQuery>().is_ok();
        matches!(c, '?' | '#') || c.is_ascii_control() || !one(c)
    })
}

/// Reports a substitution whose results are no paths. What depends on the request is left to the request, which is answered
/// `bad_rewrite`.
fn leads_to_paths(child: &mut Reader<'_>, pattern: &Arc<Regex>, substitution: &Arc<str>, path: &PathMatch) {
    if let Some(wrong) = stranger(substitution) {
        let message = format!("has {wrong:?}, which cannot stand in a path");
        child.broken(
            "substitution",
            "unknown_value",
            message,
            "percent-encode it; the client's query is kept by itself",
        );
        return;
    }
    let edit = PathEdit::Regex { pattern: Arc::clone(pattern), substitution: Arc::clone(substitution) };
    let own = match path {
        PathMatch::Prefix { text, .. } | PathMatch::Exact { text, .. } => Some(&**text),
        PathMatch::Regex(_) => None,
    };
    let result = own.filter(|own| own.starts_with('/')).and_then(|own| edit.apply(own));
    let anchored = child.text("pattern").is_some_and(|text| text.starts_with('^'));
    if !anchored && result.as_ref().is_none_or(|result| result.starts_with('/')) {
        return;
    }
    let remedy = "let it start with a slash";
    if !substitution.starts_with(['/', '\\']) {
        let message = format!("`{substitution}` makes a path that does not start with a slash");
        child.broken("substitution", "unknown_value", message, remedy);
    } else if let Some(result) = result.filter(|result| !result.starts_with('/')) {
        let message = format!(
            "makes `{result}` of the prefix itself, which is no path: such a request is answered 500"
        );
        child.find("substitution", (Severity::Warning, "bad_rewrite"), message, remedy);
    }
}

/// Names of a list, or of one text; `None` where nothing is written.
fn removed(spec: &mut Reader<'_>, field: &'static str) -> Option<Vec<HeaderName>> {
    let mut read = Vec::new();
    for name in spec.texts(field)? {
        read.extend(header_name(spec, field, name));
    }
    Some(read)
}

/// A name that a resource may remove or add.
fn header_name(spec: &mut Reader<'_>, field: &'static str, text: &str) -> Option<HeaderName> {
    let lower = text.to_ascii_lowercase();
    if lower.starts_with(':') || RESERVED.contains(&&*lower) {
        let message = format!("`{text}` is written by the proxy alone and cannot be added or removed");
        let remedy = match &*lower {
            "host" | ":authority" => "remove it; use `host_rewrite` to change the host sent upstream",
            ":path" => "remove it; use `rewrite` to change the path sent upstream",
            _ => "remove it",
        };
        spec.broken(field, "unknown_value", message, remedy);
        return None;
    }
    let name = HeaderName::from_bytes(lower.as_bytes()).ok();
    if name.is_none() {
        let message = format!("`{text}` is not a header name");
        spec.broken(field, "unknown_value", message, "letters, digits and dashes");
    }
    name
}

/// Fields with their values; `None` where nothing is written. Values are secrets: they never stand in a finding.
fn added(spec: &mut Reader<'_>, field: &'static str) -> Option<Vec<HeaderEdit>> {
    spec.node(field)?;
    let mut read = Vec::new();
    for (name, node) in spec.map(field) {
        let value = node.as_text().or_else(|| node.get("value").and_then(Node::as_text));
        let append = node.get("append").map_or(Some(true), Node::as_bool);
        let (Some(value), Some(append)) = (value, append) else {
            let message =
                format!("{name}: has no text `value`, or an `append` that is neither true nor false");
            spec.broken(field, "wrong_type", message, "write {value: text, append: true}");
            continue;
        };
        if value.replace("%%", "").contains('%') {
            let message = format!("{name}: Envoy's %...% variables are not supported yet");
            spec.broken(field, "unsupported_field", message, "write %% for a percent sign");
            continue;
        }
        let plain = value.replace("%%", "%");
        let Some(name) = header_name(spec, field, name) else { continue };
        match HeaderValue::from_str(&plain) {
            Ok(value) => read.push(HeaderEdit { name, value, append }),
            Err(_secret) => {
                let message = format!("{name}: the value is not a valid header value");
                spec.broken(field, "unknown_value", message, "no control characters");
            }
        }
    }
    Some(read)
}
