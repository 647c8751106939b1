//! Path normalisation, once: what is routed is what is forwarded (RFC 3986 6.2.2, as Envoy's `normalize_path`).

use std::borrow::Cow;

use http::StatusCode;

use super::Reject;
use crate::Reason;

/// The normal form of a path: dot segments resolved (also written `%2e`), unreserved characters decoded, backslashes
/// turned, hexadecimal in upper case. `*` (OPTIONS) stays.
pub fn path(path: &str, merge_slashes: bool, reject_escaped_slashes: bool) -> Result<Cow<'_, str>, Reject> {
    let bad = |message| Reject { status: StatusCode::BAD_REQUEST, reason: Reason::BAD_PATH, message };
    if path == "*" {
        return Ok(Cow::Borrowed(path));
    }
    if !path.starts_with('/') {
        return Err(bad("a path that does not start with a slash"));
    }
    if path.bytes().any(|b| b <= b' ' || b == 0x7f || b == b'#') {
        return Err(bad("a control character, blank or fragment in the path"));
    }
    if is_normal(path, merge_slashes) {
        return Ok(Cow::Borrowed(path));
    }
    let decoded = decode(path).ok_or_else(|| bad("a malformed or forbidden escape in the path"))?;
    if reject_escaped_slashes && (decoded.contains("%2F") || decoded.contains("%5C")) {
        return Err(bad("an escaped slash in the path"));
    }
    resolve(&decoded, merge_slashes).map(Cow::Owned).ok_or_else(|| bad("a path that climbs above its root"))
}

/// The quick answer for most paths.
fn is_normal(path: &str, merge_slashes: bool) -> bool {
    let escaped = path.bytes().any(|b| b == b'%' || b == b'\\');
    !(escaped || path.contains("/.") || (merge_slashes && path.contains("//")))
}

/// Decodes unreserved characters, writes other escapes in upper case and turns backslashes. `None`: malformed, or NUL.
fn decode(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(['%', '\\']) {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        if let Some(tail) = tail.strip_prefix('\\') {
            out.push('/');
            rest = tail;
            continue;
        }
        let digits = tail.get(1..3).filter(|digits| digits.bytes().all(|b| b.is_ascii_hexdigit()))?;
        let byte = u8::from_str_radix(digits, 16).ok()?;
        match byte {
            0 => return None,
            b if b.is_ascii_alphanumeric() || matches!(b, b'-' | b'.' | b'_' | b'~') => {
                out.push(char::from(b));
            }
            _ => {
                out.push('%');
                out.push_str(&digits.to_ascii_uppercase());
            }
        }
        rest = tail.get(3..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// Resolves dot segments. `None` when the path climbs above its root, which Envoy refuses, too.
fn resolve(path: &str, merge_slashes: bool) -> Option<String> {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        let last = segments.peek().is_none();
        match segment {
            "." | ".." => {
                if segment == ".." {
                    kept.pop()?;
                }
                if last {
                    kept.push("");
                }
            }
            "" if merge_slashes && !last => {}
            _ => kept.push(segment),
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    if out.is_empty() { Some("/".to_owned()) } else { Some(out) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn normal_forms() {
        let table = [
            ("/", "/"),
            ("/a/b", "/a/b"),
            ("/a/./b", "/a/b"),
            ("/a/../b", "/b"),
            ("/a/%2e%2E/b", "/b"),
            ("/a/b/..", "/a/"),
            ("/a/b/.", "/a/b/"),
            ("/%61%7E", "/a~"),
            ("/a%2fb", "/a%2Fb"),
            ("/a\\b", "/a/b"),
            ("/a/..\\c", "/c"),
            ("//a", "//a"),
            ("/.well-known", "/.well-known"),
            ("/a/...", "/a/..."),
            ("*", "*"),
        ];
        for (given, wanted) in table {
            assert_eq!(path(given, false, false).as_deref(), Ok(wanted), "{given}");
        }
        assert_eq!(path("//a///b/", true, false).as_deref(), Ok("/a/b/"));
    }

    #[test]
    fn refused_paths() {
        for bad in
            ["", "a", "/..", "/a/../..", "/%2e%2e/x", "/%00", "/%", "/%2", "/%zz", "/a b", "/a#b", "/a\u{7f}"]
        {
            assert!(path(bad, false, false).is_err(), "{bad}");
        }
        assert!(path("/a%2fb", false, true).is_err());
        assert!(path("/a%5Cb", false, true).is_err());
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(given in "/([a-c./\\\\]|%2[ef]|%6[12]|%5c){0,24}", merge: bool) {
            if let Ok(once) = path(&given, merge, false) {
                let once = once.into_owned();
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{}", once);
                let twice = path(&once, merge, false);
                prop_assert_eq!(twice.as_deref(), Ok(once.as_str()));
            }
        }
    }
}
