//! Bytes of a client on an HTTP/2 connection, through a running server to an HTTP/1.1 upstream.

use std::{io, sync::LazyLock};

use crate::rig::{Rig, SOON, stays};

static RIG: LazyLock<io::Result<Rig>> = LazyLock::new(Rig::start);
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
const EMPTY_SETTINGS: &[u8] = &[0, 0, 0, 4, 0, 0, 0, 0, 0];

/// The frames that a client sends after its preface and its first SETTINGS.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    assert!(RIG.is_ok(), "no server: {:?}", RIG.as_ref().err());
    let Ok(rig) = &*RIG else { return };
    rig.send(&[PREFACE, EMPTY_SETTINGS, bytes].concat(), SOON);
    for message in rig.seen() {
        let one = |name: &str| message.fields.iter().filter(|(known, _)| known == name).count() == 1;
        assert!(one("host") && one("x-forwarded-for") && one("x-request-id"), "{message:?}");
        assert!(
            stays(&message) && !message.fields.iter().any(|(name, _)| name == "http2-settings"),
            "{message:?}"
        );
    }
}
