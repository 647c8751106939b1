//! What a client says about itself and its way to us, and what we say instead.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use http::HeaderMap;
use proxy::{
    ConnMeta,
    http::fields::{Sender, client, join_cookies, request_id, scheme, set_forwarded, trace_id},
    message::Scheme,
    route::HttpPolicy,
};

use crate::fields;

const PEER: IpAddr = IpAddr::V4(Ipv4Addr::new(192, 0, 2, 7));

/// The first byte says how many proxies are trusted, the rest are fields.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Some((hops, bytes)) = bytes.split_first() else { return };
    let given = fields::read(bytes);
    let local = SocketAddr::from((Ipv4Addr::LOCALHOST, 80));
    let conn = ConnMeta::new("http".into(), 80, SocketAddr::new(PEER, 4), local);
    for trusted_hops in [0, u32::from(hops % 8)] {
        let policy =
            HttpPolicy { trusted_hops, trust_forwarded_proto: trusted_hops > 0, ..HttpPolicy::default() };
        let client = client(&given, &conn, &policy);
        let claimed = || {
            let lines = fields::values(&given, "x-forwarded-for");
            lines.iter().any(|line| named(line, client.ip()))
        };
        assert!(client == conn.client() || (trusted_hops > 0 && claimed()), "{client} is nobody's");
        let scheme = scheme(&given, false, &policy);
        assert!(trusted_hops > 0 || scheme == Scheme::Http);
        let mut set = given.clone();
        set_forwarded(&mut set, Sender { peer: PEER, client: client.ip() }, scheme, "a.example", &policy);
        ours(&set, trusted_hops > 0);
    }
    ids(given);
}

/// Whether an entry of `x-forwarded-for` names this address.
fn named(line: &[u8], ip: IpAddr) -> bool {
    let entries = line.split(|byte| *byte == b',').map(<[u8]>::trim_ascii);
    let addresses = entries.filter_map(|entry| std::str::from_utf8(entry).ok()?.parse::<IpAddr>().ok());
    addresses.into_iter().any(|address| address.to_canonical() == ip)
}

fn ours(set: &HeaderMap, trusted: bool) {
    let chain = fields::values(set, "x-forwarded-for");
    assert!(matches!(chain.as_slice(), [one] if one.ends_with(b"192.0.2.7")), "{chain:?}");
    let (protos, hosts) = (fields::values(set, "x-forwarded-proto"), fields::values(set, "x-forwarded-host"));
    assert!(trusted || protos == [b"http"], "{protos:?}");
    assert!(trusted || hosts == [b"a.example"], "{hosts:?}");
    assert!(!protos.is_empty() && !hosts.is_empty());
}

fn ids(mut given: HeaderMap) {
    let trace = trace_id(&given);
    assert!(trace.is_empty() || trace.len() == 32);
    let kept = request_id(&mut given.clone(), true);
    let said = given.get("x-request-id").and_then(|id| id.to_str().ok());
    assert!(said.map_or(kept.len() == 36, |said| said == kept));
    assert_eq!(request_id(&mut given, false).len(), 36);
    assert_eq!(fields::values(&given, "x-request-id").len(), 1, "one id");
    let crumbs = fields::values(&given, "cookie").concat();
    join_cookies(&mut given);
    let joined = fields::values(&given, "cookie");
    assert!(joined.len() < 2 && joined.concat().len() >= crumbs.len());
}
