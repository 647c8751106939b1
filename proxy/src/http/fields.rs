//! Header hygiene: hop-by-hop fields out, control and identity fields of clients out, forwarded fields set.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{message::Scheme, route::HttpPolicy};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");

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

/// Removes what a client must not decide: identities and controls of this proxy and of meshes, also spelled with
/// underscores. For heads and for trailers.
pub fn strip_client_controls(headers: &mut HeaderMap) {
    let forged: Vec<HeaderName> = headers.keys().filter(|name| is_control(name.as_str())).cloned().collect();
    for name in &forged {
        headers.remove(name);
    }
}

fn is_control(name: &str) -> bool {
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

/// The scheme that the client used: the connection's, or what a trusted proxy in front says.
pub fn scheme(headers: &HeaderMap, tls: bool, policy: &HttpPolicy) -> Scheme {
    let said = headers.get(FORWARDED_PROTO).filter(|_| policy.trust_forwarded_proto);
    match said.map(HeaderValue::as_bytes) {
        Some(b"https") => Scheme::Https,
        Some(b"http") => Scheme::Http,
        _ if tls => Scheme::Https,
        _ => Scheme::Http,
    }
}

/// Sets the forwarded fields from the connection; what the client said about itself stays only behind trusted hops.
pub fn set_forwarded(
    headers: &mut HeaderMap,
    client: IpAddr,
    scheme: Scheme,
    authority: &str,
    policy: &HttpPolicy,
) {
    let address = client.to_canonical().to_string();
    let chain = match joined(headers, &FORWARDED_FOR) {
        Some(before) => format!("{before}, {address}"),
        None => address,
    };
    insert(headers, FORWARDED_FOR, &chain);
    let believed = policy.trust_forwarded_proto && headers.contains_key(&FORWARDED_PROTO);
    if !believed {
        headers.insert(FORWARDED_PROTO, HeaderValue::from_static(scheme.as_str()));
    }
    if policy.trusted_hops == 0 || !headers.contains_key(&FORWARDED_HOST) {
        insert(headers, FORWARDED_HOST, authority);
    }
}

fn joined(headers: &HeaderMap, name: &HeaderName) -> Option<String> {
    let values: Vec<&str> = headers.get_all(name).iter().filter_map(|value| value.to_str().ok()).collect();
    (!values.is_empty()).then(|| values.join(", "))
}

fn insert(headers: &mut HeaderMap, name: HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

/// The request's id: the client's where it is preserved, otherwise a fresh UUID (version 4).
pub fn request_id(headers: &mut HeaderMap, preserve: bool) -> String {
    if preserve && let Some(Ok(kept)) = headers.get(&REQUEST_ID).map(HeaderValue::to_str) {
        return kept.to_owned();
    }
    let bits = (fastrand::u128(..) & !(0xf << 76) & !(0x3 << 62)) | (0x4 << 76) | (0x2 << 62);
    let hex = format!("{bits:032x}");
    let part = |range: std::ops::Range<usize>| hex.get(range).unwrap_or_default();
    let id = format!("{}-{}-{}-{}-{}", part(0..8), part(8..12), part(12..16), part(16..20), part(20..32));
    insert(headers, REQUEST_ID, &id);
    id
}

/// The trace id of `traceparent` (W3C Trace Context), or nothing.
pub fn trace_id(headers: &HeaderMap) -> &str {
    let parent = headers.get("traceparent").and_then(|value| value.to_str().ok()).unwrap_or_default();
    parent.split('-').nth(1).filter(|id| id.len() == 32).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&str, &str)]) -> HeaderMap {
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
            ("x-forwarded-for", "1.1.1.1"),
            ("x-mine", "1"),
        ]);
        strip_client_controls(&mut map);
        assert_eq!(map.len(), 2);
    }

    #[test]
    fn forwarded_fields_say_what_the_connection_says() {
        let mut map = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ]);
        set_forwarded(
            &mut map,
            "::ffff:1.2.3.4".parse().expect("ip"),
            Scheme::Http,
            "a.example",
            &HttpPolicy::default(),
        );
        assert_eq!(map["x-forwarded-for"], "6.6.6.6, 1.2.3.4");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "a.example");
    }

    #[test]
    fn request_ids_are_uuids() {
        let mut map = headers(&[("x-request-id", "mine")]);
        assert_eq!(request_id(&mut map, true), "mine");
        let id = request_id(&mut map, false);
        assert_eq!((id.len(), id.as_bytes()[14]), (36, b'4'));
        assert!(b"89ab".contains(&id.as_bytes()[19]));
        assert_eq!(map["x-request-id"], id.as_str());
    }
}
