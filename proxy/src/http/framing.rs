//! Framing: what two parsers could read differently is refused (RFC 9112 6.1, 6.3).

use std::net::Ipv6Addr;

use http::{HeaderMap, StatusCode, Uri, Version, header};

use crate::Reason;

/// Why a message is refused, before anything of it was forwarded.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reject {
    /// Status for the client.
    pub status: StatusCode,
    /// The code.
    pub reason: Reason,
    /// What exactly, for the log.
    pub message: &'static str,
}

impl Reject {
    pub(super) fn framing(message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: Reason::BAD_FRAMING, message }
    }

    fn target(message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: Reason::BAD_REQUEST, message }
    }

    /// Only the bytes of the head tell it: the parser drops it.
    pub(super) fn fragment() -> Self {
        let status = StatusCode::BAD_REQUEST;
        Self { status, reason: Reason::BAD_PATH, message: "a fragment in the target" }
    }

    fn host(message: &'static str) -> Self {
        Self { status: StatusCode::BAD_REQUEST, reason: Reason::BAD_HOST, message }
    }
}

/// Whether the framing of a message has one reading.
pub fn message(version: Version, headers: &HeaderMap) -> Result<(), Reject> {
    let mut lengths = headers.get_all(header::CONTENT_LENGTH).iter();
    let length = lengths.next();
    if lengths.next().is_some() {
        return Err(Reject::framing("several Content-Length fields"));
    }
    if length.is_some_and(|length| length.is_empty() || !length.as_bytes().iter().all(u8::is_ascii_digit)) {
        return Err(Reject::framing("Content-Length is not a number"));
    }
    let mut codings = headers.get_all(header::TRANSFER_ENCODING).iter();
    let Some(coding) = codings.next() else { return Ok(()) };
    if version != Version::HTTP_11 {
        return Err(Reject::framing("Transfer-Encoding outside HTTP/1.1"));
    }
    if length.is_some() {
        return Err(Reject::framing("both Content-Length and Transfer-Encoding"));
    }
    if codings.next().is_some() || !coding.as_bytes().eq_ignore_ascii_case(b"chunked") {
        return Err(Reject::framing("a Transfer-Encoding other than chunked"));
    }
    Ok(())
}

/// Whether a request may go on: its framing, and `Expect` by exact value.
pub fn request(version: Version, headers: &HeaderMap) -> Result<(), Reject> {
    message(version, headers)?;
    let mut expects = headers.get_all(header::EXPECT).iter();
    match (expects.next(), expects.next()) {
        (None, _) => Ok(()),
        (Some(expect), None) if expect.as_bytes().eq_ignore_ascii_case(b"100-continue") => Ok(()),
        _ => Err(Reject {
            status: StatusCode::EXPECTATION_FAILED,
            reason: Reason::BAD_REQUEST,
            message: "an Expect other than 100-continue",
        }),
    }
}

/// Size of a head as HTTP/2 counts it (RFC 9113 6.5.2), its target taken for all pseudo fields.
pub(super) fn bytes(target: &str, fields: &HeaderMap) -> usize {
    let size = |name: &str, value: usize| name.len() + value + 32;
    let fields = fields.iter().map(|(name, value)| size(name.as_str(), value.len()));
    size(":path", target.len()) + fields.sum::<usize>()
}

/// The protocol's name in the access log.
pub(super) fn protocol(version: Version) -> &'static str {
    match version {
        Version::HTTP_2 => "HTTP/2",
        Version::HTTP_10 => "HTTP/1.0",
        _ => "HTTP/1.1",
    }
}

/// Whether a target has a form that may be asked for: an authority alone is for CONNECT (RFC 9112 3.2.3), and its host would
/// win over the Host field that a proxy in front has looked at; other schemes are not served.
pub fn target(uri: &Uri) -> Result<(), Reject> {
    match uri.scheme_str() {
        None if uri.authority().is_some() => Err(Reject::target("a target that is an authority alone")),
        None | Some("http" | "https") => Ok(()),
        Some(_) => Err(Reject::target("a target of another scheme than http or https")),
    }
}

/// Host and port that a CONNECT names, lower case: the target, and in HTTP/1.1 the Host field as well (RFC 9112 3.2.3).
pub fn connect(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<String, Reject> {
    if headers.contains_key(header::TRANSFER_ENCODING)
        || headers.get(header::CONTENT_LENGTH).is_some_and(|length| length.as_bytes() != b"0")
    {
        return Err(Reject::framing("a CONNECT with a body"));
    }
    let (None, Some(target), None) = (uri.scheme(), uri.authority(), uri.path_and_query()) else {
        return Err(Reject::target("the target of a CONNECT is a host and a port"));
    };
    if version != Version::HTTP_2 {
        let host = headers.get(header::HOST).map(http::HeaderValue::as_bytes);
        if version != Version::HTTP_11
            || !host.is_some_and(|host| host.eq_ignore_ascii_case(target.as_str().as_bytes()))
        {
            return Err(Reject::host("the target and the Host of a CONNECT differ"));
        }
    }
    if target.port().is_none() {
        return Err(Reject::target("the target of a CONNECT is a host and a port"));
    }
    authority(version, uri, headers)
}

/// Host and port of a request, lower case: the target's if it is absolute, otherwise the one Host field.
pub fn authority(version: Version, uri: &Uri, headers: &HeaderMap) -> Result<String, Reject> {
    let mut hosts = headers.get_all(header::HOST).iter();
    let host = hosts.next();
    if hosts.next().is_some() {
        return Err(Reject::host("several Host fields"));
    }
    let text = match host.map(http::HeaderValue::to_str) {
        Some(Ok(text)) => Some(text),
        Some(Err(_not_text)) => return Err(Reject::host("Host is not text")),
        None => None,
    };
    let target = uri.authority().map(http::uri::Authority::as_str);
    if let (Version::HTTP_2, Some(target), Some(host)) = (version, target, text)
        && !target.eq_ignore_ascii_case(host)
    {
        return Err(Reject::host("Host and :authority differ"));
    }
    let chosen = target.or(text).ok_or_else(|| Reject::host("no Host"))?;
    if chosen.len() > 255 + 6 || !is_host_and_port(chosen) {
        return Err(Reject::host("a Host that no name or address can be"));
    }
    Ok(chosen.to_ascii_lowercase())
}

/// An IPv6 address, with a zone if there is one (RFC 6874).
fn is_literal(text: &str) -> bool {
    let (address, zone) = text.split_once("%25").unwrap_or((text, "0"));
    address.parse::<Ipv6Addr>().is_ok() && !zone.is_empty() && zone.bytes().all(|b| b.is_ascii_alphanumeric())
}

/// A name or address, with a port that there can be if there is one.
fn is_host_and_port(text: &str) -> bool {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'-' | b'_' | b'~');
    let (bare, rest) = match text.strip_prefix('[') {
        None => text.split_at(text.find(':').unwrap_or(text.len())),
        Some(text) => match text.split_once(']') {
            Some(split) => split,
            None => return false,
        },
    };
    let named =
        if text.starts_with('[') { is_literal(bare) } else { !bare.is_empty() && bare.bytes().all(allowed) };
    let port = |port: &str| port.bytes().all(|b| b.is_ascii_digit()) && port.parse::<u16>().is_ok();
    named && (rest.is_empty() || rest.strip_prefix(':').is_some_and(port))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields
            .iter()
            .map(|(name, value)| (http::HeaderName::from_static(name), http::HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn framing_with_two_readings_is_refused() {
        let bad: [&[(&str, &str)]; 7] = [
            &[("content-length", "1"), ("content-length", "1")],
            &[("content-length", "1"), ("transfer-encoding", "chunked")],
            &[("content-length", "+1")],
            &[("content-length", "1, 1")],
            &[("transfer-encoding", "gzip, chunked")],
            &[("transfer-encoding", "chunked"), ("transfer-encoding", "chunked")],
            &[("transfer-encoding", "xchunked")],
        ];
        for fields in bad {
            assert!(message(Version::HTTP_11, &headers(fields)).is_err(), "{fields:?}");
        }
        assert!(message(Version::HTTP_10, &headers(&[("transfer-encoding", "chunked")])).is_err());
        assert!(message(Version::HTTP_11, &headers(&[("transfer-encoding", "Chunked")])).is_ok());
        assert!(message(Version::HTTP_11, &headers(&[("content-length", "10")])).is_ok());
    }

    #[test]
    fn one_host_decides() {
        let of = |uri: &'static str, fields: &[(&'static str, &'static str)]| {
            authority(Version::HTTP_11, &Uri::from_static(uri), &headers(fields))
        };
        assert_eq!(of("/", &[("host", "A.example:80")]), Ok("a.example:80".to_owned()));
        assert_eq!(of("http://b.example/", &[("host", "a.example")]), Ok("b.example".to_owned()));
        assert!(of("/", &[]).is_err());
        assert!(of("/", &[("host", "a"), ("host", "a")]).is_err());
        assert!(of("/", &[("host", "u@a")]).is_err());
        assert!(of("/", &[("host", "a/b")]).is_err());
        for bad in [
            "",
            "a:",
            "a:99999",
            "a:b",
            "a:+1",
            ":80",
            "a:1:2",
            "[::1",
            "[::1]80",
            "[::1]:",
            "[]",
            "a]",
            "a[b]",
            "a%2eb",
            "[g]",
            "[1.2.3.4]",
            "[::1:]",
            "[::1%eth0]",
            "[::1%25]",
        ] {
            assert!(of("/", &[("host", bad)]).is_err(), "{bad}");
        }
        for good in ["a", "a:0443", "[::1]", "[::1]:65535", "[fe80::1%25eth0]", "10.0.0.1:80", "a_b.example"]
        {
            assert_eq!(of("/", &[("host", good)]), Ok(good.to_owned()));
        }
        let h2 = authority(Version::HTTP_2, &Uri::from_static("http://a/"), &headers(&[("host", "b")]));
        assert!(h2.is_err());
    }

    #[test]
    fn targets_that_no_origin_server_is_asked_for_are_refused() {
        for bad in ["internal.test", "h:80", "ftp://h/x"] {
            assert!(target(&Uri::from_static(bad)).is_err(), "{bad}");
        }
        for good in ["/", "*", "/a:b", "http://h", "HTTPS://h/x"] {
            assert!(target(&Uri::from_static(good)).is_ok(), "{good}");
        }
    }

    #[test]
    fn expect_counts_by_its_exact_value() {
        assert!(request(Version::HTTP_11, &headers(&[("expect", "100-Continue")])).is_ok());
        let refused =
            request(Version::HTTP_11, &headers(&[("expect", "100-continue, x")])).expect_err("refused");
        assert_eq!(refused.status, StatusCode::EXPECTATION_FAILED);
    }
}
