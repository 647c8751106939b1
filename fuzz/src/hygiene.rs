//! Which fields of a client or an upstream go on.

use http::{HeaderMap, HeaderName};
use proxy::message::hygiene::{
    normalise_length, strip_client_controls, strip_hop_by_hop, strip_request_trailers,
    strip_response_trailers,
};

use crate::fields;

const HOP_BY_HOP: [&str; 6] =
    ["connection", "keep-alive", "proxy-connection", "transfer-encoding", "upgrade", "http2-settings"];

/// Fields of a head, or of trailers.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let given = fields::read(bytes);
    let stripped = |strip: fn(&mut HeaderMap)| {
        let mut once = given.clone();
        strip(&mut once);
        let mut twice = once.clone();
        strip(&mut twice);
        assert_eq!(once, twice, "what was stripped is clean");
        assert!(once.iter().all(|(name, value)| {
            // `te: trailers` is all that is ever written anew.
            given.get_all(name).iter().any(|known| known == value) || name.as_str() == "te"
        }));
        once
    };
    let head = stripped(strip_hop_by_hop);
    no_hop_by_hop(&head);
    for kept in ["host", "content-length", "authorization"] {
        assert_eq!(
            fields::values(&head, kept),
            fields::values(&given, kept),
            "`connection` took {kept} away"
        );
    }
    no_controls(&stripped(strip_client_controls));
    let trailers = stripped(strip_request_trailers);
    no_hop_by_hop(&trailers);
    no_controls(&trailers);
    for name in trailers.keys().map(HeaderName::as_str) {
        assert!(!name.replace('_', "-").starts_with("x-forwarded-"), "{name}");
        assert!(!["host", "content-length", "authorization", "x-request-id", "te"].contains(&name), "{name}");
    }
    no_hop_by_hop(&stripped(strip_response_trailers));
    length(given);
}

fn no_hop_by_hop(fields: &HeaderMap) {
    assert!(HOP_BY_HOP.iter().all(|name| !fields.contains_key(*name)), "{fields:?}");
    assert!(fields::values(fields, "te").iter().all(|te| *te == b"trailers"), "{fields:?}");
}

fn no_controls(fields: &HeaderMap) {
    for name in fields.keys().map(HeaderName::as_str) {
        let dashed = name.replace('_', "-");
        let forged = dashed == "x-forwarded-client-cert"
            || dashed.starts_with("x-envoy-")
            || dashed.starts_with("l5d-")
            || (dashed != name && (dashed.starts_with("x-forwarded-") || dashed == "x-request-id"))
            || (dashed != name && (dashed == "content-length" || dashed == "transfer-encoding"));
        assert!(!forged, "{name}");
    }
}

/// A length keeps its value, and loses its zeros.
fn length(mut fields: HeaderMap) {
    let digits = |fields: &HeaderMap| {
        let length = fields.get("content-length").and_then(|length| length.to_str().ok());
        length.filter(|length| length.bytes().all(|byte| byte.is_ascii_digit())).map(str::to_owned)
    };
    let Some(before) = digits(&fields) else { return };
    normalise_length(&mut fields);
    let after = digits(&fields).unwrap_or_default();
    assert_eq!(after.parse::<u128>().ok(), before.parse::<u128>().ok());
    assert!(after.len() < 2 || !after.starts_with('0'), "{after}");
}
