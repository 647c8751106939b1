//! Edits: what a decision changes in a request and in its response, as data that each engine applies in its own form.

use std::sync::Arc;

use http::{HeaderName, HeaderValue, uri::PathAndQuery};

/// Changes to a message, computed at compile time and shared by all requests of a route.
#[derive(Clone, Debug, Default)]
pub struct Edits {
    /// The path sent upstream.
    pub path: PathEdit,
    /// The Host or `:authority` sent upstream; `None`: the client's.
    pub authority: Option<HeaderValue>,
    /// Request fields removed first, then added.
    pub remove_request: Vec<HeaderName>,
    /// Request fields set or appended.
    pub add_request: Vec<HeaderEdit>,
    /// Response fields removed first, then added.
    pub remove_response: Vec<HeaderName>,
    /// Response fields set or appended.
    pub add_response: Vec<HeaderEdit>,
}

/// One field to set or to append.
#[derive(Clone, Debug)]
pub struct HeaderEdit {
    /// The field's name.
    pub name: HeaderName,
    /// The value.
    pub value: HeaderValue,
    /// Append a further value instead of replacing.
    pub append: bool,
}

/// How the path is rewritten. The query is kept.
#[derive(Clone, Debug, Default)]
pub enum PathEdit {
    /// Left as it is.
    #[default]
    Keep,
    /// The first `len` bytes are swapped for `with` (a literal text swap, as Emissary does it).
    Prefix {
        /// Length of the matched prefix in bytes.
        len: usize,
        /// What stands there instead.
        with: Arc<str>,
    },
    /// The whole path is replaced.
    Replace(Arc<str>),
    /// Every match is replaced by the substitution, whose `\1` name groups.
    Regex {
        /// The compiled pattern.
        pattern: Arc<regex_automata::meta::Regex>,
        /// The substitution.
        substitution: Arc<str>,
    },
}

impl PathEdit {
    /// What is asked of the upstream, and whether the edit changed the path. The error says why the result is no path.
    pub fn target(&self, path: &str, query: Option<&str>) -> Result<(PathAndQuery, bool), String> {
        let rewritten = self.apply(path);
        let changed = rewritten.is_some();
        let whole = rewritten.unwrap_or_else(|| path.to_owned());
        if changed && !whole.starts_with('/') {
            return Err("the rewritten path does not start with a slash".to_owned());
        }
        let whole = match query {
            Some(query) => format!("{whole}?{query}"),
            None => whole,
        };
        let target = whole.try_into().map_err(|error| format!("the rewritten path is no path: {error}"))?;
        Ok((target, changed))
    }

    /// The path after the edit; `None` when it stays as it is.
    pub fn apply(&self, path: &str) -> Option<String> {
        match self {
            Self::Keep => None,
            Self::Prefix { len, with } => {
                let rest = path.get(*len..).unwrap_or_default();
                Some(format!("{with}{rest}"))
            }
            Self::Replace(whole) => Some(whole.to_string()),
            Self::Regex { pattern, substitution } => substitute(pattern, substitution, path),
        }
    }
}

/// Replaces every match; `None` when nothing matches.
fn substitute(pattern: &regex_automata::meta::Regex, substitution: &str, path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut end = 0;
    for caps in pattern.captures_iter(path) {
        let Some(whole) = caps.get_match() else { continue };
        out.push_str(path.get(end..whole.start()).unwrap_or_default());
        expand(&caps, substitution, path, &mut out);
        end = whole.end();
    }
    if end == 0 && out.is_empty() {
        return None;
    }
    out.push_str(path.get(end..).unwrap_or_default());
    Some(out)
}

/// Appends the substitution with `\0` to `\9` replaced by their groups and `\\` by a backslash, as RE2 does.
fn expand(caps: &regex_automata::util::captures::Captures, substitution: &str, path: &str, out: &mut String) {
    let mut chars = substitution.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            out.push(c);
            continue;
        }
        match chars.next() {
            Some(d) if d.is_ascii_digit() => {
                let group = d.to_digit(10).and_then(|d| caps.get_group(d as usize));
                out.push_str(group.and_then(|span| path.get(span.start..span.end)).unwrap_or_default());
            }
            Some(other) => out.push(other),
            None => out.push('\\'),
        }
    }
}
