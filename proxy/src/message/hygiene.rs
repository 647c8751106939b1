//! Header hygiene: hop-by-hop fields out, control and identity fields of clients out, in heads and in trailers.

use http::{HeaderMap, HeaderName, HeaderValue, header};

/// Fields that belong to one connection (RFC 9110 7.6.1), besides those that `Connection` names.
const HOP_BY_HOP: [HeaderName; 7] = [
    header::CONNECTION,
    HeaderName::from_static("keep-alive"),
    HeaderName::from_static("proxy-connection"),
    header::TE,
    header::TRANSFER_ENCODING,
    header::UPGRADE,
    HeaderName::from_static("http2-settings"),
];

/// Fields that `Connection` may not take away.
const END_TO_END: [HeaderName; 3] = [header::HOST, header::CONTENT_LENGTH, header::AUTHORIZATION];

/// Removes hop-by-hop fields, also those that `Connection` names; `te: trailers` stays for gRPC.
pub fn strip_hop_by_hop(headers: &mut HeaderMap) {
    let trailers = headers.get_all(header::TE).iter().any(|value| {
        value.as_bytes().split(|b| *b == b',').any(|item| item.trim_ascii().eq_ignore_ascii_case(b"trailers"))
    });
    if headers.contains_key(header::CONNECTION) {
        let named: Vec<HeaderName> = headers
            .get_all(header::CONNECTION)
            .iter()
            .flat_map(|value| value.as_bytes().split(|b| *b == b','))
            .filter_map(|name| HeaderName::from_bytes(name.trim_ascii()).ok())
            .collect();
        for name in named.iter().filter(|name| !END_TO_END.contains(name)) {
            headers.remove(name);
        }
    }
    for name in &HOP_BY_HOP {
        headers.remove(name);
    }
    if trailers {
        headers.insert(header::TE, HeaderValue::from_static("trailers"));
    }
}

/// Writes a length without leading zeros: there are parsers that read those as octal, or not at all.
pub fn normalise_length(headers: &mut HeaderMap) {
    let Some(length) = headers.get_mut(header::CONTENT_LENGTH) else { return };
    let digits = length.as_bytes();
    let zeros =
        digits.iter().take(digits.len().saturating_sub(1)).take_while(|digit| **digit == b'0').count();
    if zeros > 0
        && let Some(Ok(normal)) = digits.get(zeros..).map(HeaderValue::from_bytes)
    {
        *length = normal;
    }
}

/// Fields that say how a message is to be read, routed or authorised: never in trailers (RFC 9110 6.5.1), because what merges
/// trailers into the head would believe them.
const NOT_IN_TRAILERS: [HeaderName; 14] = [
    header::HOST,
    header::CONTENT_LENGTH,
    header::CONTENT_TYPE,
    header::CONTENT_ENCODING,
    header::CONTENT_RANGE,
    header::AUTHORIZATION,
    header::PROXY_AUTHORIZATION,
    header::COOKIE,
    header::SET_COOKIE,
    header::EXPECT,
    header::RANGE,
    header::TE,
    header::TRAILER,
    header::FORWARDED,
];

/// Leaves in a client's trailers what may stand there: no hop-by-hop field, no control or identity, and nothing that this
/// proxy or the framing says in the head.
pub fn strip_request_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    let ours =
        |name: &HeaderName| name.as_str().starts_with("x-forwarded-") || name.as_str() == "x-request-id";
    strip(trailers, |name| is_control(name.as_str()) || ours(name) || NOT_IN_TRAILERS.contains(name));
}

/// Leaves in an upstream's trailers what may stand there.
pub fn strip_response_trailers(trailers: &mut HeaderMap) {
    strip_hop_by_hop(trailers);
    strip(trailers, |name| NOT_IN_TRAILERS.contains(name));
}

/// Removes what a client must not decide: identities and controls of this proxy and of meshes, also spelled with
/// underscores.
pub fn strip_client_controls(headers: &mut HeaderMap) {
    strip(headers, |name| is_control(name.as_str()));
}

fn strip(headers: &mut HeaderMap, unwanted: impl Fn(&HeaderName) -> bool) {
    let unwanted: Vec<HeaderName> = headers.keys().filter(|name| unwanted(name)).cloned().collect();
    for name in &unwanted {
        headers.remove(name);
    }
}

fn is_control(name: &str) -> bool {
    // Never honest either: what reads underscores as dashes would take the length from them.
    if matches!(name, "content_length" | "transfer_encoding") {
        return true;
    }
    if !name.starts_with(['x', 'l']) {
        return false;
    }
    // A gateway of the CGI family reads `x_forwarded_for` as `x-forwarded-for`: such a spelling is never honest.
    let dashed = name.contains('_').then(|| name.replace('_', "-"));
    if dashed.as_deref().is_some_and(|dashed| dashed.starts_with("x-forwarded-") || dashed == "x-request-id")
    {
        return true;
    }
    let name = dashed.as_deref().unwrap_or(name);
    name == "x-forwarded-client-cert" || name.starts_with("x-envoy-") || name.starts_with("l5d-")
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    pub(crate) fn headers(fields: &[(&str, &str)]) -> HeaderMap {
        let mut map = HeaderMap::new();
        for (name, value) in fields {
            map.append(
                HeaderName::from_bytes(name.as_bytes()).expect("name"),
                HeaderValue::from_str(value).expect("value"),
            );
        }
        map
    }

    #[test]
    fn hop_by_hop_fields_go_and_named_ones_too() {
        let mut map = headers(&[
            ("connection", "close, X-Secret, Host"),
            ("x-secret", "1"),
            ("host", "a"),
            ("upgrade", "h2c"),
            ("http2-settings", "x"),
            ("keep-alive", "1"),
            ("te", "gzip, trailers"),
            ("accept", "*/*"),
        ]);
        strip_hop_by_hop(&mut map);
        let mut names: Vec<_> = map.keys().map(HeaderName::as_str).collect();
        names.sort_unstable();
        assert_eq!(names, ["accept", "host", "te"]);
        assert_eq!(map["te"], "trailers");
    }

    #[test]
    fn forged_identity_and_control_fields_go_in_every_spelling() {
        let mut map = headers(&[
            ("X-Forwarded-Client-Cert", "By=x"),
            ("x_forwarded_client_cert", "By=x"),
            ("x-forwarded_client-cert", "y"),
            ("x_forwarded-for", "6.6.6.6"),
            ("x-forwarded_host", "evil"),
            ("x_request_id", "y"),
            ("l5d-dst-override", "x"),
            ("L5D_client_id", "x"),
            ("x-envoy-upstream-rq-timeout-ms", "1"),
            ("x_envoy_retry_on", "5xx"),
            ("content_length", "1"),
            ("Transfer_Encoding", "chunked"),
            ("x-forwarded-for", "1.1.1.1"),
            ("x-mine", "1"),
        ]);
        strip_client_controls(&mut map);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn a_length_has_one_spelling() {
        for (given, wanted) in [("003", "3"), ("0", "0"), ("000", "0"), ("10", "10"), ("", "")] {
            let mut map = headers(&[("content-length", given)]);
            normalise_length(&mut map);
            assert_eq!(map["content-length"], wanted);
        }
    }

    #[test]
    fn trailers_carry_neither_controls_nor_what_belongs_into_a_head() {
        let mut map = headers(&[
            ("te", "trailers"),
            ("connection", "x-named"),
            ("x-named", "1"),
            ("transfer-encoding", "chunked"),
            ("content-length", "1"),
            ("host", "b"),
            ("authorization", "x"),
            ("x-forwarded-for", "6.6.6.6"),
            ("X_Forwarded_Proto", "https"),
            ("x-request-id", "1"),
            ("x-forwarded-client-cert", "By=x"),
            ("l5d_client_id", "x"),
            ("x-envoy-max-retries", "9"),
            ("grpc-status", "0"),
        ]);
        strip_request_trailers(&mut map);
        assert_eq!(map.keys().map(HeaderName::as_str).collect::<Vec<_>>(), ["grpc-status"]);
    }
}
