//! SPIFFE IDs. The value types come from the `spiffe` crate; what a *peer* may present is held more strictly here.

pub use spiffe::{SpiffeId, TrustDomain};

/// Longest ID accepted, in bytes (SPIFFE-ID 2.3: MUST support 2048, SHOULD NOT generate longer).
const MAX_ID_BYTES: usize = 2048;
/// Longest trust domain name, in bytes (SPIFFE-ID 2.1).
const MAX_TRUST_DOMAIN_BYTES: usize = 255;

/// Which rule of SPIFFE-ID a text breaks.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, thiserror::Error)]
pub enum IdError {
    /// ID-1: the scheme is not `spiffe`, the trust domain is empty, or there is a query or fragment.
    #[error("is not spiffe://<trust domain>/<path>")]
    Form,
    /// ID-2: user information or a port.
    #[error("has a port or user information")]
    Authority,
    /// ID-3: the trust domain holds anything but `a-z 0-9 . - _`. Upper case belongs here: peers must not send it (ID-6).
    #[error("has a trust domain with other characters than a-z 0-9 . - _")]
    TrustDomain,
    /// ID-5: an empty or dot segment, a trailing slash, or other characters than `a-zA-Z0-9.-_`.
    #[error("has a path with an empty or dot segment, a trailing slash or a character that is not allowed")]
    Path,
    /// ID-7: too long.
    #[error("is longer than 2048 bytes, or its trust domain than 255")]
    TooLong,
    /// ID-8: a workload needs a path.
    #[error("has no path")]
    NoPath,
}

/// Reads the ID of a peer's leaf certificate: every rule held to the letter, upper case refused, a path required.
pub fn parse_peer_id(text: &str) -> Result<SpiffeId, IdError> {
    if text.len() > MAX_ID_BYTES {
        return Err(IdError::TooLong);
    }
    let rest = text.strip_prefix("spiffe://").ok_or(IdError::Form)?;
    if rest.contains(['?', '#']) {
        return Err(IdError::Form);
    }
    let (trust_domain, path) = rest.find('/').map_or((rest, ""), |at| rest.split_at(at));
    check_trust_domain(trust_domain)?;
    if path.is_empty() {
        return Err(IdError::NoPath);
    }
    check_path(path)?;
    SpiffeId::new(text).map_err(|_stricter_than_us| IdError::Form)
}

fn check_trust_domain(name: &str) -> Result<(), IdError> {
    if name.is_empty() {
        return Err(IdError::Form);
    }
    if name.contains(['@', ':', '[', ']']) {
        return Err(IdError::Authority);
    }
    if name.len() > MAX_TRUST_DOMAIN_BYTES {
        return Err(IdError::TooLong);
    }
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    if name.bytes().all(allowed) { Ok(()) } else { Err(IdError::TrustDomain) }
}

fn check_path(path: &str) -> Result<(), IdError> {
    let segments = path.split('/').skip(1);
    let allowed = |b: u8| matches!(b, b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'.' | b'-' | b'_');
    for segment in segments {
        if matches!(segment, "" | "." | "..") || !segment.bytes().all(allowed) {
            return Err(IdError::Path);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn id1_scheme_trust_domain_query_and_fragment() {
        for bad in
            ["https://td/x", "spiffe:///x", "spiffe://td/x?y", "spiffe://td/x#y", "", "td/x", "SPIFFE://td/x"]
        {
            assert_eq!(parse_peer_id(bad), Err(IdError::Form), "{bad}");
        }
    }

    #[test]
    fn id2_no_userinfo_and_no_port() {
        for bad in ["spiffe://u@td/x", "spiffe://td:8443/x", "spiffe://td:/x"] {
            assert_eq!(parse_peer_id(bad), Err(IdError::Authority), "{bad}");
        }
    }

    #[test]
    fn id3_characters_of_the_trust_domain() {
        for bad in ["spiffe://t%64/x", "spiffe://t d/x", "spiffe://tü/x", "spiffe://t!d/x"] {
            assert_eq!(parse_peer_id(bad), Err(IdError::TrustDomain), "{bad}");
        }
        assert_eq!(parse_peer_id("spiffe://[::1]/x"), Err(IdError::Authority));
        assert!(parse_peer_id("spiffe://10.0.0.1/x").is_ok());
    }

    #[test]
    fn id4_a_trailing_dot_makes_another_trust_domain() {
        let a = parse_peer_id("spiffe://example.org/x").expect("valid");
        let b = parse_peer_id("spiffe://example.org./x").expect("valid");
        assert_ne!(a.trust_domain_name(), b.trust_domain_name());
    }

    #[test]
    fn id5_segments_of_the_path() {
        for bad in ["/a//b", "/a/", "/.", "/a/../b", "/%41", "//", "/a b", "/a/ü"] {
            assert_eq!(parse_peer_id(&format!("spiffe://td{bad}")), Err(IdError::Path), "{bad}");
        }
        for good in ["/...", "/..a", "/A-b_c.d"] {
            assert!(parse_peer_id(&format!("spiffe://td{good}")).is_ok(), "{good}");
        }
    }

    #[test]
    fn id6_upper_case_is_refused_from_peers_and_paths_keep_their_case() {
        assert_eq!(parse_peer_id("spiffe://EXAMPLE.ORG/c"), Err(IdError::TrustDomain));
        assert_ne!(
            parse_peer_id("spiffe://td/C").expect("valid"),
            parse_peer_id("spiffe://td/c").expect("valid")
        );
    }

    #[test]
    fn id7_lengths() {
        let id = |len: usize| format!("spiffe://td/{}", "a".repeat(len - "spiffe://td/".len()));
        assert!(parse_peer_id(&id(2048)).is_ok());
        assert_eq!(parse_peer_id(&id(2049)), Err(IdError::TooLong));
        assert!(parse_peer_id(&format!("spiffe://{}/x", "a".repeat(255))).is_ok());
        assert_eq!(parse_peer_id(&format!("spiffe://{}/x", "a".repeat(256))), Err(IdError::TooLong));
    }

    #[test]
    fn id8_a_leaf_needs_a_path() {
        assert_eq!(parse_peer_id("spiffe://example.org"), Err(IdError::NoPath));
        assert!(TrustDomain::new("example.org").is_ok());
    }
}
