//! Path normalisation, once: what is routed is what is forwarded (RFC 3986 6.2.2, as Envoy's `normalize_path`).

use std::borrow::Cow;

use http::StatusCode;

use super::Reject;
use crate::Reason;

/// The normal form of a path: dot segments resolved (also written `%2e`), unreserved characters decoded, what is no ASCII
/// escaped, backslashes turned, then slashes merged if asked. Other escapes keep their case. `*` (OPTIONS) stays.
///
/// Stricter than Envoy in three points, each of which some backend reads as a way out of its prefix: a malformed escape,
/// a dot segment behind an escaped slash (`..%2f`), and one with parameters (`..;x`).
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
    if reject_escaped_slashes && escaped_slash(&decoded).is_some() {
        return Err(bad("an escaped slash in the path"));
    }
    if decoded.split('/').any(hides_dots) {
        return Err(bad("a dot segment hidden by an escaped slash or a parameter"));
    }
    let resolved = resolve(&decoded);
    Ok(Cow::Owned(if merge_slashes { merged(&resolved) } else { resolved }))
}

/// The quick answer for most paths.
fn is_normal(path: &str, merge_slashes: bool) -> bool {
    let escaped = path.bytes().any(|b| matches!(b, b'%' | b'\\') || !b.is_ascii());
    !(escaped || path.contains("/.") || (merge_slashes && path.contains("//")))
}

/// Decodes unreserved characters, escapes what is no ASCII and turns backslashes. `None`: a malformed escape, or NUL.
fn decode(path: &str) -> Option<String> {
    let mut out = String::with_capacity(path.len());
    let mut rest = path;
    while let Some(at) = rest.find(|c: char| matches!(c, '%' | '\\') || !c.is_ascii()) {
        let (before, tail) = rest.split_at(at);
        out.push_str(before);
        if let Some(foreign) = tail.chars().next().filter(|c| !c.is_ascii()) {
            let (bytes, after) = tail.split_at(foreign.len_utf8());
            out.extend(bytes.bytes().map(|byte| format!("%{byte:02X}")));
            rest = after;
            continue;
        }
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
                out.push_str(digits);
            }
        }
        rest = tail.get(3..)?;
    }
    out.push_str(rest);
    Some(out)
}

/// Where the first escaped slash or backslash stands.
fn escaped_slash(text: &str) -> Option<usize> {
    let at = |escape: &[u8]| text.as_bytes().windows(3).position(|three| three.eq_ignore_ascii_case(escape));
    [at(b"%2f"), at(b"%5c")].into_iter().flatten().min()
}

fn starts_with_escape(text: &str, escape: &[u8]) -> bool {
    text.as_bytes().get(..escape.len()).is_some_and(|start| start.eq_ignore_ascii_case(escape))
}

/// Whether a backend that decodes slashes, or that drops `;` parameters, escaped or not, would find a dot segment in this segment.
fn hides_dots(segment: &str) -> bool {
    let is_dots = |piece: &str| {
        let dots = piece.trim_start_matches('.');
        let ends = dots.is_empty() || dots.starts_with(';') || starts_with_escape(dots, b"%3b");
        ends && matches!(piece.len() - dots.len(), 1 | 2)
    };
    if matches!(segment, "." | "..") {
        return false;
    }
    let mut rest = segment;
    while let Some(at) = escaped_slash(rest) {
        let (piece, tail) = rest.split_at(at);
        if is_dots(piece) {
            return true;
        }
        rest = tail.get(3..).unwrap_or_default();
    }
    is_dots(rest)
}

/// Resolves dot segments; what climbs above the root stays at the root (RFC 3986 5.2.4, as Envoy does).
fn resolve(path: &str) -> String {
    let mut kept: Vec<&str> = Vec::new();
    let mut segments = path.split('/').skip(1).peekable();
    while let Some(segment) = segments.next() {
        if !matches!(segment, "." | "..") {
            kept.push(segment);
            continue;
        }
        if segment == ".." {
            kept.pop();
        }
        if segments.peek().is_none() {
            kept.push("");
        }
    }
    let mut out = String::with_capacity(path.len());
    for segment in kept {
        out.push('/');
        out.push_str(segment);
    }
    out
}

/// One slash for each run of slashes; after the dot segments, as Envoy does.
fn merged(path: &str) -> String {
    let mut out = String::with_capacity(path.len());
    for c in path.chars() {
        if c != '/' || !out.ends_with('/') {
            out.push(c);
        }
    }
    out
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
            ("/a%2fb", "/a%2fb"),
            // Envoy's own table (test/common/http/path_utility_test.cc).
            ("/a/b/../../../../c", "/c"),
            ("/../a/b", "/a/b"),
            ("/..", "/"),
            ("/%c0%af", "/%c0%af"),
            ("/%5c%25", "/%5c%25"),
            ("/a/%2F%2f/c", "/a/%2F%2f/c"),
            ("/a//../b", "/a/b"),
            ("/a;x/b;y", "/a;x/b;y"),
            ("/a/...%3b/..a;x", "/a/...%3b/..a;x"),
            ("/a\\b", "/a/b"),
            ("/a/..\\c", "/c"),
            ("//a", "//a"),
            ("/.well-known", "/.well-known"),
            ("/a\u{e9}/../\u{2215}%2f", "/%E2%88%95%2f"),
            ("/a/...", "/a/..."),
            ("*", "*"),
        ];
        for (given, wanted) in table {
            assert_eq!(path(given, false, false).as_deref(), Ok(wanted), "{given}");
        }
        assert_eq!(path("//a///b/", true, false).as_deref(), Ok("/a/b/"));
        assert_eq!(path("/a//../b", true, false).as_deref(), Ok("/a/b"));
        assert_eq!(path("/a/..//b", true, false).as_deref(), Ok("/b"));
    }

    #[test]
    fn refused_paths() {
        let bad = [
            "",
            "a",
            "/%00",
            "/%",
            "/%2",
            "/%zz",
            "/a b",
            "/a#b",
            "/a\u{7f}",
            "/a/..%2fb",
            "/a/%2e%2E%5Cb",
            "/a/x%2f../b",
            "/a/..;/b",
            "/a/.;x=1",
            "/a/..%3bx/b",
            "/a/.%3B",
            "/a/x%2f..%3b/b",
            "/a/%2e.;x/b",
        ];
        for bad in bad {
            assert!(path(bad, false, false).is_err(), "{bad}");
        }
        assert!(path("/a%2fb", false, true).is_err());
        assert!(path("/a%5Cb", false, true).is_err());
    }

    proptest! {
        #[test]
        fn a_normal_form_is_its_own(given in "/([a-c./\\\\\u{e9}\u{2215}]|%2[ef]|%6[12]|%5c){0,24}", merge: bool) {
            if let Ok(once) = path(&given, merge, false) {
                let once = once.into_owned();
                prop_assert!(!once.split('/').any(|segment| segment == "." || segment == ".."), "{}", once);
                let twice = path(&once, merge, false);
                prop_assert_eq!(twice.as_deref(), Ok(once.as_str()));
            }
        }
    }
}
