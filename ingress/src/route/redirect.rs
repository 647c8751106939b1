//! Redirects: `Location` = scheme + host + path + query (emissary.md 3.5).

use std::sync::Arc;

use http::{HeaderValue, StatusCode, header};
use proxy::{
    Reason,
    message::{Answer, Head, PathEdit},
};

use crate::plan::{RedirectPath, RedirectPlan};

/// The answer of a Mapping that redirects.
pub(super) fn answer(plan: &RedirectPlan, prefix_len: usize, head: &Head<'_>, scheme: &str) -> Answer {
    let path = match &plan.path {
        RedirectPath::Keep => head.path.to_owned(),
        RedirectPath::Replace(path) => path.to_string(),
        RedirectPath::Prefix(with) => format!("{with}{}", head.path.get(prefix_len..).unwrap_or_default()),
        RedirectPath::Regex { pattern, substitution } => {
            let (pattern, substitution) = (Arc::clone(pattern), Arc::clone(substitution));
            let edit = PathEdit::Regex { pattern, substitution };
            edit.apply(head.path).unwrap_or_else(|| head.path.to_owned())
        }
    };
    let code = StatusCode::from_u16(plan.code).unwrap_or(StatusCode::MOVED_PERMANENTLY);
    to(code, scheme, &plan.host, &path, head.query)
}

/// The redirect of an insecure request. As in Envoy's `https_redirect` port 80, where written, is dropped; another one stays.
pub(super) fn to_https(head: &Head<'_>) -> Answer {
    let host = head.authority.strip_suffix(":80").unwrap_or(head.authority);
    to(StatusCode::MOVED_PERMANENTLY, "https", host, head.path, head.query)
}

/// A redirect to a place; the place's own query wins.
fn to(code: StatusCode, scheme: &str, host: &str, path: &str, query: Option<&str>) -> Answer {
    let query = query.filter(|_| !path.contains('?')).map_or(String::new(), |query| format!("?{query}"));
    let mut answer = Answer::new(code, Reason::REDIRECT);
    if let Ok(location) = HeaderValue::from_str(&format!("{scheme}://{host}{path}{query}")) {
        answer.headers.push((header::LOCATION, location));
    }
    answer
}
