//! The host of a request, from its target and its Host field.

use http::{HeaderMap, HeaderValue, Uri, Version, header, uri::Authority};
use proxy::http::{authority, target as check_target};

/// The first line is the target, each further one a Host field.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let mut lines = bytes.split(|byte| *byte == b'\n');
    let Ok(uri) = Uri::try_from(lines.next().unwrap_or_default()) else { return };
    let mut fields = HeaderMap::new();
    for host in lines.filter_map(|line| HeaderValue::from_bytes(line).ok()) {
        fields.append(header::HOST, host);
    }
    for version in [Version::HTTP_10, Version::HTTP_11, Version::HTTP_2] {
        if check_target(&uri).is_ok()
            && let Ok(chosen) = authority(version, &uri, &fields)
        {
            one(version, &uri, &fields, &chosen);
        }
    }
}

fn one(version: Version, uri: &Uri, fields: &HeaderMap, chosen: &str) {
    let hosts: Vec<_> = fields.get_all(header::HOST).iter().collect();
    assert!(hosts.len() < 2, "several Host fields");
    let said = hosts.first().and_then(|host| host.to_str().ok());
    let asked = uri.authority().map(Authority::as_str);
    assert_eq!(Some(chosen), asked.or(said).map(str::to_ascii_lowercase).as_deref());
    if let (Version::HTTP_2, Some(asked), Some(said)) = (version, asked, said) {
        assert!(asked.eq_ignore_ascii_case(said));
    }
    let odd = |byte: u8| byte <= b' ' || byte >= 0x7f || b"@/\\?#,;\"'<>".contains(&byte);
    assert!(!chosen.bytes().any(odd), "{chosen}");
    // Every other parser finds the same host and port.
    let theirs = chosen.parse::<Authority>().ok();
    assert!(theirs.is_some(), "{chosen} is no authority");
    let Some(theirs) = theirs else { return };
    let rest = chosen.strip_prefix(theirs.host()).unwrap_or("nothing");
    match theirs.port_u16() {
        Some(port) => assert_eq!(rest.strip_prefix(':').and_then(|port| port.parse().ok()), Some(port)),
        None => assert_eq!(rest, ""),
    }
    // And it is taken as it stands when it comes again.
    let mut again = HeaderMap::new();
    if let Ok(host) = HeaderValue::from_str(chosen) {
        again.insert(header::HOST, host);
    }
    let root = Uri::from_static("/");
    assert_eq!(authority(version, &root, &again).as_deref(), Ok(chosen));
}
