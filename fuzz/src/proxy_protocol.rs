//! PROXY protocol headers, against the `ppp` crate.

use std::net::SocketAddr;

use ppp::{HeaderResult, v1, v2};
use proxy::parsers::{Header, MAX_BYTES, proxy_header};

/// What we read is what the other parser reads; what is not whole yet becomes whole by more bytes alone.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let read = proxy_header(bytes);
    for end in 0..bytes.len().min(MAX_BYTES) {
        let part = proxy_header(bytes.get(..end).unwrap_or_default());
        let settled = part == Header::Incomplete || part == read;
        assert!(settled, "{part:?} after {end} bytes, {read:?} after all");
    }
    let Header::Present { length, source } = read else { return };
    assert!(length <= bytes.len() && length <= MAX_BYTES);
    let header = bytes.get(..length).unwrap_or_default();
    assert_eq!(proxy_header(header), read, "what follows a header decides nothing");
    match HeaderResult::parse(header) {
        HeaderResult::V1(Ok(theirs)) => {
            assert_eq!((theirs.header.len(), first(&theirs.addresses)), (length, source));
        }
        HeaderResult::V2(Ok(theirs)) => {
            let named = if theirs.command == v2::Command::Proxy { second(&theirs.addresses) } else { None };
            assert_eq!((theirs.len(), named), (length, source));
        }
        // Whom nobody names may be written in any way (proxy-protocol.txt 2.1 UNKNOWN, 2.2 LOCAL).
        refused => assert!(source.is_none(), "{source:?} where the other says {refused:?}"),
    }
}

fn first(addresses: &v1::Addresses) -> Option<SocketAddr> {
    match addresses {
        v1::Addresses::Unknown => None,
        v1::Addresses::Tcp4(ip) => Some((ip.source_address, ip.source_port).into()),
        v1::Addresses::Tcp6(ip) => Some((ip.source_address, ip.source_port).into()),
    }
}

fn second(addresses: &v2::Addresses) -> Option<SocketAddr> {
    match addresses {
        v2::Addresses::Unspecified | v2::Addresses::Unix(_) => None,
        v2::Addresses::IPv4(ip) => Some((ip.source_address, ip.source_port).into()),
        v2::Addresses::IPv6(ip) => Some((ip.source_address, ip.source_port).into()),
    }
}
