//! Fields about the client and the request that this proxy sets: forwarded fields, request id, trace id.

use std::net::{IpAddr, SocketAddr};

use http::{HeaderMap, HeaderName, HeaderValue, header};

use crate::{ConnMeta, message::Scheme, route::HttpPolicy};

const FORWARDED_FOR: HeaderName = HeaderName::from_static("x-forwarded-for");
const FORWARDED_PROTO: HeaderName = HeaderName::from_static("x-forwarded-proto");
const FORWARDED_HOST: HeaderName = HeaderName::from_static("x-forwarded-host");
const REQUEST_ID: HeaderName = HeaderName::from_static("x-request-id");
const EXTERNAL_ADDRESS: HeaderName = HeaderName::from_static("x-envoy-external-address");

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

/// The client as trusted proxies in front name it: the entry of `x-forwarded-for` that the outermost of them has added,
/// or the connection's client where there is no such entry or it is no address (Envoy: `use_remote_address` with
/// `xff_num_trusted_hops`). `x-forwarded-for` names no port: it is 0, as in Envoy.
pub fn client(headers: &HeaderMap, conn: &ConnMeta, policy: &HttpPolicy) -> SocketAddr {
    let named = policy.trusted_hops.checked_sub(1).and_then(|skipped| {
        let lines = headers.get_all(FORWARDED_FOR).iter().rev();
        let mut entries = lines.flat_map(|line| line.as_bytes().rsplit(|b| *b == b','));
        let entry = entries.nth(usize::try_from(skipped).ok()?)?;
        std::str::from_utf8(entry.trim_ascii()).ok()?.parse::<IpAddr>().ok()
    });
    named.map_or_else(|| conn.client(), |ip| SocketAddr::new(ip.to_canonical(), 0))
}

/// One `cookie` field for the crumbs of an HTTP/2 request (RFC 9113 8.2.3): a server of HTTP/1.1 reads the first field alone.
pub fn join_cookies(headers: &mut HeaderMap) {
    let crumbs: Vec<_> = headers.get_all(header::COOKIE).iter().collect();
    if crumbs.len() < 2 {
        return;
    }
    let sensitive = crumbs.iter().any(|crumb| crumb.is_sensitive());
    let bytes: Vec<_> = crumbs.iter().map(|crumb| crumb.as_bytes()).collect();
    // Of valid values a valid one.
    if let Ok(mut cookie) = HeaderValue::from_bytes(&bytes.join(&b"; "[..])) {
        cookie.set_sensitive(sensitive);
        headers.insert(header::COOKIE, cookie);
    }
}

/// Who sent a request: the peer that is named in `x-forwarded-for` from now on, and the client behind trusted proxies.
#[derive(Clone, Copy, Debug)]
pub struct Sender {
    /// The connection's client.
    pub peer: IpAddr,
    /// The same, or whom trusted proxies name.
    pub client: IpAddr,
}

/// Sets the forwarded fields from the connection; what the client said about itself stays only behind trusted hops.
pub fn set_forwarded(
    headers: &mut HeaderMap,
    sender: Sender,
    scheme: Scheme,
    authority: &str,
    policy: &HttpPolicy,
) {
    let address = sender.peer.to_canonical().to_string();
    let before = joined(headers, &FORWARDED_FOR);
    // A request is internal when nobody in front of us has forwarded it and its client has a private address.
    if before.is_some() || !is_internal(sender.client) {
        insert(headers, EXTERNAL_ADDRESS, &sender.client.to_canonical().to_string());
    }
    let chain = match before {
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

/// Envoy's private addresses: RFC 1918, RFC 4193 (`fd00::/8`) and loopback.
fn is_internal(ip: IpAddr) -> bool {
    match ip.to_canonical() {
        IpAddr::V4(ip) => ip.is_private() || ip.is_loopback(),
        IpAddr::V6(ip) => ip.is_loopback() || ip.octets().first() == Some(&0xfd),
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
    use crate::message::hygiene::tests::headers;

    #[test]
    fn forwarded_fields_say_what_the_connection_says() {
        let mut map = headers(&[
            ("x-forwarded-for", "6.6.6.6"),
            ("x-forwarded-proto", "https"),
            ("x-forwarded-host", "evil"),
        ]);
        set_forwarded(&mut map, sender("::ffff:1.2.3.4"), Scheme::Http, "a.example", &HttpPolicy::default());
        assert_eq!(map["x-forwarded-for"], "6.6.6.6, 1.2.3.4");
        assert_eq!(map["x-forwarded-proto"], "http");
        assert_eq!(map["x-forwarded-host"], "a.example");
        assert_eq!(map["x-envoy-external-address"], "1.2.3.4");
    }

    fn sender(ip: &str) -> Sender {
        let ip = ip.parse().expect("ip");
        Sender { peer: ip, client: ip }
    }

    #[test]
    fn a_request_from_inside_has_no_external_address_unless_somebody_forwarded_it() {
        for (ip, before, external) in [
            ("10.1.2.3", None, None),
            ("::ffff:127.0.0.1", None, None),
            ("fd00::1", None, None),
            ("fc00::1", None, Some("fc00::1")),
            ("172.32.0.1", None, Some("172.32.0.1")),
            ("10.1.2.3", Some("9.9.9.9"), Some("10.1.2.3")),
        ] {
            let mut map = HeaderMap::new();
            if let Some(before) = before {
                map.insert("x-forwarded-for", HeaderValue::from_static(before));
            }
            set_forwarded(&mut map, sender(ip), Scheme::Http, "a", &HttpPolicy::default());
            let set = map.get("x-envoy-external-address").map(|value| value.to_str().expect("text"));
            assert_eq!(set, external, "{ip}");
        }
    }

    #[test]
    fn trusted_hops_are_counted_from_the_right() {
        let addr = |text: &str| text.parse().expect("addr");
        let conn = ConnMeta::new("http".into(), 80, addr("127.0.0.1:5"), addr("127.0.0.1:80"));
        let of = |hops, lines: &[&str]| {
            let lines: Vec<_> = lines.iter().map(|line| ("x-forwarded-for", *line)).collect();
            let policy = HttpPolicy { trusted_hops: hops, ..HttpPolicy::default() };
            client(&headers(&lines), &conn, &policy).to_string()
        };
        let whole = ["6.6.6.6, 1.1.1.1", "2.2.2.2,::ffff:3.3.3.3"];
        for (hops, wanted) in
            [(0, "127.0.0.1:5"), (1, "3.3.3.3:0"), (2, "2.2.2.2:0"), (3, "1.1.1.1:0"), (4, "6.6.6.6:0")]
        {
            assert_eq!(of(hops, &whole), wanted, "{hops}");
        }
        assert_eq!(of(5, &whole), "127.0.0.1:5", "fewer entries than trusted proxies");
        assert_eq!(of(1, &[]), "127.0.0.1:5");
        assert_eq!(of(1, &["1.1.1.1, nonsense"]), "127.0.0.1:5");
        assert_eq!(of(1, &["2001:db8::1"]), "[2001:db8::1]:0");
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
