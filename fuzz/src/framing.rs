//! Which fields of framing may stand together.

use http::Version;
use proxy::http::{message, request};

use crate::fields;

/// The first byte is the version, the rest are fields.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Some((version, bytes)) = bytes.split_first() else { return };
    let version = match version {
        b'0' => Version::HTTP_10,
        b'2' => Version::HTTP_2,
        _ => Version::HTTP_11,
    };
    let fields = fields::read(bytes);
    let accepted = message(version, &fields).is_ok();
    let lengths = fields::values(&fields, "content-length");
    let codings = fields::values(&fields, "transfer-encoding");
    if accepted {
        let digits = |length: &&[u8]| !length.is_empty() && length.iter().all(u8::is_ascii_digit);
        assert!(lengths.len() + codings.len() <= 1, "{fields:?}");
        assert!(lengths.iter().all(digits), "{fields:?}");
        assert!(codings.iter().all(|coding| coding.eq_ignore_ascii_case(b"chunked")), "{fields:?}");
        assert!(codings.is_empty() || version == Version::HTTP_11, "{fields:?}");
    } else {
        assert!(!lengths.is_empty() || !codings.is_empty(), "nothing speaks of framing: {fields:?}");
    }
    let expects = fields::values(&fields, "expect");
    let plain = match expects.as_slice() {
        [] => true,
        [one] => one.eq_ignore_ascii_case(b"100-continue"),
        _ => false,
    };
    assert_eq!(request(version, &fields).is_ok(), accepted && plain, "{fields:?}");
}
