//! What is read from the bytes of an HTTP/1.1 head beside hyper, against the parser that hyper uses.

use proxy::parsers::{names_fragment, names_length};

/// A field or a fragment that the parser sees is never missed: hyper drops both without a word.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let (length, fragment) = (names_length(bytes), names_fragment(bytes));
    let mut fields = [httparse::EMPTY_HEADER; 100];
    let mut request = httparse::Request::new(&mut fields);
    if !matches!(request.parse(bytes), Ok(httparse::Status::Complete(_))) {
        return;
    }
    let named = request.headers.iter().any(|field| field.name.eq_ignore_ascii_case("content-length"));
    assert!(length || !named, "a Content-Length was missed");
    let target = request.path.unwrap_or_default();
    assert_eq!(fragment, target.contains('#'), "{target}");
}
