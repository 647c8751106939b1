//! The PROXY protocol, versions 1 and 2 (haproxy's proxy-protocol.txt): two small parsers over bounded bytes.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Most bytes of a header that are looked at: version 2 with its extensions.
pub const MAX_BYTES: usize = 16 + 2048;
const V2_SIGNATURE: &[u8] = b"\r\n\r\n\0\r\nQUIT\n";
/// Longest header of version 1, its line end included.
const V1_MAX: usize = 107;

/// What the first bytes say.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Header {
    /// More bytes are needed.
    Incomplete,
    /// This is no PROXY protocol header.
    Absent,
    /// A header of this length; the client, if it names one (a health check of the balancer does not).
    Present {
        /// Its bytes, counted from the first one.
        length: usize,
        /// The client.
        source: Option<SocketAddr>,
    },
    /// It starts like a header and is none.
    Malformed,
}

/// Reads a header.
pub fn parse(bytes: &[u8]) -> Header {
    let starts_like = |signature: &[u8]| {
        let count = bytes.len().min(signature.len());
        bytes.get(..count) == signature.get(..count)
    };
    if starts_like(V2_SIGNATURE) {
        return if bytes.len() < 16 { Header::Incomplete } else { version2(bytes) };
    }
    if starts_like(b"PROXY ") {
        return version1(bytes);
    }
    Header::Absent
}

fn version1(bytes: &[u8]) -> Header {
    let window = bytes.get(..bytes.len().min(V1_MAX)).unwrap_or_default();
    let Some(end) = window.windows(2).position(|pair| pair == b"\r\n") else {
        return if bytes.len() < V1_MAX { Header::Incomplete } else { Header::Malformed };
    };
    // Not even where its words mean nothing: who ends lines in another way would go on elsewhere.
    let line = window.get(..end).filter(|line| !line.iter().any(u8::is_ascii_control));
    let line = line.and_then(|line| std::str::from_utf8(line).ok()).unwrap_or_default();
    let parts: Vec<&str> = line.split(' ').collect();
    let source = match *parts.as_slice() {
        ["PROXY", "UNKNOWN", ..] => None,
        ["PROXY", family, source, destination, source_port, destination_port] => {
            // The destination is not used; a header of which a part is wrong is not believed in any part.
            match (address(family, source, source_port), address(family, destination, destination_port)) {
                (Some(source), Some(_)) => Some(source),
                _ => return Header::Malformed,
            }
        }
        _ => return Header::Malformed,
    };
    Header::Present { length: end + 2, source }
}

/// An address and port of version 1, written in the one way that there is (2.1: no leading zeros, no sign).
fn address(family: &str, ip: &str, port: &str) -> Option<SocketAddr> {
    let ip = match family {
        "TCP4" => IpAddr::V4(ip.parse().ok()?),
        "TCP6" => IpAddr::V6(ip.parse().ok()?),
        _ => return None,
    };
    let plain = port.bytes().all(|b| b.is_ascii_digit()) && (port == "0" || !port.starts_with('0'));
    plain.then(|| port.parse().ok()).flatten().map(|port| SocketAddr::new(ip, port))
}

fn version2(bytes: &[u8]) -> Header {
    let Some(&[version_command, family, high, low]) = bytes.get(12..16) else { return Header::Incomplete };
    let length = usize::from(u16::from_be_bytes([high, low]));
    if version_command >> 4 != 2 || version_command & 0xf > 1 || 16 + length > MAX_BYTES {
        return Header::Malformed;
    }
    let Some(addresses) = bytes.get(16..16 + length) else { return Header::Incomplete };
    let port = |at: usize| {
        addresses.get(at..).and_then(|port| port.first_chunk::<2>()).map(|port| u16::from_be_bytes(*port))
    };
    // 2.2: what is not assigned must not be believed; of LOCAL the family says nothing.
    if version_command & 0xf == 1 && (family >> 4 > 3 || family & 0xf > 2) {
        return Header::Malformed;
    }
    let source = match (version_command & 0xf, family >> 4) {
        (1, 1) => {
            let ip = addresses.first_chunk::<4>().map(|ip| IpAddr::V4(Ipv4Addr::from(*ip)));
            let (Some(ip), Some(port), 12..) = (ip, port(8), length) else { return Header::Malformed };
            Some(SocketAddr::new(ip, port))
        }
        (1, 2) => {
            let ip = addresses.first_chunk::<16>().map(|ip| IpAddr::V6(Ipv6Addr::from(*ip)));
            let (Some(ip), Some(port), 36..) = (ip, port(32), length) else { return Header::Malformed };
            Some(SocketAddr::new(ip, port))
        }
        // Two names of 108 bytes, which say nothing about a client's address.
        (1, 3) if length < 216 => return Header::Malformed,
        _ => None,
    };
    Header::Present { length: 16 + length, source }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn v2(family: u8, payload: &[u8]) -> Vec<u8> {
        let mut bytes = V2_SIGNATURE.to_vec();
        bytes.extend([0x21, family]);
        bytes.extend(u16::try_from(payload.len()).expect("short").to_be_bytes());
        bytes.extend(payload);
        bytes
    }

    #[test]
    fn both_versions() {
        let source = |text: &str| Some(text.parse().expect("addr"));
        let v1 = b"PROXY TCP4 1.2.3.4 5.6.7.8 1000 80\r\nGET /";
        assert_eq!(parse(v1), Header::Present { length: 36, source: source("1.2.3.4:1000") });
        assert_eq!(parse(b"PROXY UNKNOWN\r\n"), Header::Present { length: 15, source: None });
        let v4 = v2(0x11, &[1, 2, 3, 4, 5, 6, 7, 8, 3, 232, 0, 80]);
        assert_eq!(parse(&v4), Header::Present { length: 28, source: source("1.2.3.4:1000") });
        assert_eq!(parse(&v4[..20]), Header::Incomplete);
        assert_eq!(parse(&v2(0x11, &[1, 2])), Header::Malformed);
        for bad in [
            "TCP4 x 5.6.7.8 1 2",
            "TCP4 1.2.3.4 x 1 2",
            "TCP4 1.2.3.4 5.6.7.8 1 x",
            "TCP4 1.2.3.4 5.6.7.8 01 2",
            "TCP4 1.2.3.4 5.6.7.8 +1 2",
            "TCP4  1.2.3.4 5.6.7.8 1 2",
            "TCP4 ::1 ::1 1 2",
            "TCP5 1.2.3.4 5.6.7.8 1 2",
            "UNKNOWN \n",
            "UNKNOWN \rGET /",
        ] {
            assert_eq!(parse(format!("PROXY {bad}\r\n").as_bytes()), Header::Malformed, "{bad}");
        }
        for family in [0x41, 0x13, 0x31] {
            assert_eq!(parse(&v2(family, &[0; 12])), Header::Malformed, "{family:x}");
        }
        assert_eq!(parse(&v2(0x31, &[0; 216])), Header::Present { length: 232, source: None });
        assert_eq!(parse(&v2(0x11, &[0; 10])), Header::Malformed, "no destination port");
        assert_eq!(parse(b"GET / HTTP/1.1"), Header::Absent);
        assert_eq!(parse(b"PRO"), Header::Incomplete);
        assert_eq!(parse(&[b"PROXY ".as_slice(), &[b'a'; 200]].concat()), Header::Malformed);
    }

    proptest! {
        #[test]
        fn no_bytes_panic_and_no_length_is_beyond_them(bytes in prop::collection::vec(any::<u8>(), 0..80), signed: bool) {
            let bytes = if signed { [V2_SIGNATURE, &bytes].concat() } else { bytes };
            if let Header::Present { length, .. } = parse(&bytes) {
                prop_assert!(length <= bytes.len());
            }
        }
    }
}
