//! Bytes of a client on an HTTP/1.1 connection, through a running server: the upstream has one reading of all that it gets, and a
//! client beside it gets its own answers.

use std::{io, sync::LazyLock};

use crate::{
    rig::{Rig, SOON, stays},
    strict::{self, Message, Read, Side},
};

static RIG: LazyLock<io::Result<Rig>> = LazyLock::new(Rig::start);

/// What a client sends, then ends its side.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    // HTTP/2 has a target of its own.
    if bytes.starts_with(b"PRI ") {
        return;
    }
    assert!(RIG.is_ok(), "no server: {:?}", RIG.as_ref().err());
    let Ok(rig) = &*RIG else { return };
    rig.send(bytes, SOON);
    let seen = rig.seen();
    let (sent, rest) = messages(bytes);
    for message in &seen {
        let one = |name: &str| message.fields.iter().filter(|(known, _)| known == name).count() == 1;
        assert!(one("host") && one("x-forwarded-for") && one("x-request-id"), "{message:?}");
        assert!(stays(message), "{message:?}");
    }
    // Where the client's own bytes have one reading, ours is the same.
    if rest.is_empty() {
        let mut sent = sent.iter();
        for message in &seen {
            let same =
                sent.any(|sent| sent.body == message.body && sent.start.first() == message.start.first());
            assert!(same, "the client has not sent {message:?}");
        }
    }
}

/// The messages that bytes begin with, and what follows them.
fn messages(mut bytes: &[u8]) -> (Vec<Message>, &[u8]) {
    let mut messages = Vec::new();
    while let Read::Whole(message) = strict::read(bytes, Side::Request) {
        bytes = bytes.get(message.length..).unwrap_or_default();
        messages.push(message);
    }
    (messages, bytes)
}
