//! Bytes of an upstream, through a running server: the client has one reading of its answer, and the next client gets its own.

use std::{io, sync::LazyLock};

use crate::{
    rig::{PATIENCE, Rig, SOON, Script},
    strict::{self, Read, Side},
};

static RIG: LazyLock<io::Result<Rig>> = LazyLock::new(Rig::start);
const ASKED: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

const UPGRADE: &[u8] = b"GET / HTTP/1.1\r\nhost: a\r\nconnection: upgrade\r\nupgrade: websocket\r\n\
    sec-websocket-version: 13\r\nsec-websocket-key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n";

/// What the upstream answers. A `k` in front keeps its connection open, a `c` ends it; `u` keeps it, and the client asks for an
/// upgrade.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Some((mark, bytes)) = bytes.split_first() else { return };
    assert!(RIG.is_ok(), "no server: {:?}", RIG.as_ref().err());
    let Ok(rig) = &*RIG else { return };
    let close = !matches!(mark, b'k' | b'u');
    rig.script(Script { bytes: bytes.to_vec(), close });
    let (asked, patience) =
        (if *mark == b'u' { UPGRADE } else { ASKED }, if close { PATIENCE } else { SOON });
    let answered = rig.send(asked, patience);
    rig.seen();
    let mut rest = answered.as_slice();
    let mut last = String::new();
    while !rest.is_empty() {
        match strict::read(rest, Side::Response) {
            Read::Whole(message) => {
                assert!(last.is_empty() || last.starts_with('1'), "several answers: {answered:?}");
                last = message.start.get(1).cloned().unwrap_or_default();
                rest = rest.get(message.length..).unwrap_or_default();
                if last == "101" {
                    // From here on the bytes are the protocol's.
                    assert!(*mark == b'u', "a switch that nobody asked for: {answered:?}");
                    return;
                }
            }
            // Cut off: the client knows.
            Read::Partial => return,
            Read::Wrong(why) => {
                assert!(
                    why.is_empty(),
                    "the client has read {why}: {:?}",
                    String::from_utf8_lossy(&answered)
                );
            }
        }
    }
    // Where a head may have come, and what follows breaks before it is passed on, the client is cut off, too.
    let headless =
        !bytes.windows(2).any(|pair| pair == b"\n\n") && !bytes.windows(3).any(|three| three == b"\n\r\n");
    assert!(!(close && headless && last.is_empty()), "no answer at all");
}
