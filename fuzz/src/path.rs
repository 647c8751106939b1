//! Normalisation of paths: what is routed is what is forwarded, and no backend finds another path in it.

use http::uri::PathAndQuery;
use proxy::{http::normalize_path, message::PathEdit};

/// A path and query as a request has them.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    for (merge, reject) in [(false, false), (true, false), (false, true), (true, true)] {
        if let Ok(path) = normalize_path(&text, merge, reject) {
            normal(&path, merge, reject);
        }
    }
    let Ok(asked) = PathAndQuery::try_from(bytes) else { return };
    let Ok(path) = normalize_path(asked.path(), false, false) else { return };
    let (forwarded, changed) = PathEdit::Keep
        .target(&path, asked.query())
        .unwrap_or_else(|_| (PathAndQuery::from_static("/lost"), true));
    assert!(!changed);
    assert_eq!((forwarded.path(), forwarded.query()), (&*path, asked.query()), "routed and forwarded differ");
}

fn normal(path: &str, merge: bool, reject: bool) {
    if path == "*" {
        return;
    }
    assert!(path.starts_with('/'), "{path}");
    assert_eq!(normalize_path(path, merge, reject).as_deref(), Ok(path), "a normal form is its own");
    let lower = path.to_ascii_lowercase();
    assert!(!(reject && (lower.contains("%2f") || lower.contains("%5c"))), "{path}");
    assert!(!(merge && path.contains("//")), "{path}");
    // As a backend would read it that decodes once more, takes backslashes for slashes and drops parameters.
    let decoded = decoded(path);
    let climbs = decoded.split(|byte| matches!(byte, b'/' | b'\\')).any(|segment| {
        let name = segment.split(|byte| *byte == b';').next().unwrap_or_default();
        matches!(name, b"." | b"..")
    });
    assert!(!climbs, "{path} has a dot segment");
    assert!(!decoded.contains(&0), "{path} has a NUL");
}

fn decoded(path: &str) -> Vec<u8> {
    let (mut out, mut rest) = (Vec::with_capacity(path.len()), path.as_bytes());
    while let Some((byte, tail)) = rest.split_first() {
        let digits = tail.first_chunk::<2>().filter(|_| *byte == b'%');
        let digits = digits.and_then(|digits| std::str::from_utf8(digits).ok());
        let escaped = digits.and_then(|digits| u8::from_str_radix(digits, 16).ok());
        out.push(escaped.unwrap_or(*byte));
        rest = if escaped.is_some() { tail.get(2..).unwrap_or_default() } else { tail };
    }
    out
}
