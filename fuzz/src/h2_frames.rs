//! The walker over HTTP/2 frames, against one that looks at everything anew after each piece.

use proxy::parsers::{Inbound, Outbound};

/// What a client sends before its first frame.
const PREFACE: usize = 24;

/// The first byte says how the rest is cut; the rest is what a client sends, and what we send.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Some((cut, bytes)) = bytes.split_first() else { return };
    let (mut inbound, mut outbound, mut refused) = (Inbound::new(), Outbound::default(), 0);
    let mut fed = 0;
    for piece in bytes.chunks(usize::from(*cut % 31) + 1) {
        fed += piece.len();
        let seen = bytes.get(..fed).unwrap_or_default();
        let open = inbound.feed(piece);
        refused += outbound.feed(piece).refused;
        assert_eq!(open, is_heading(seen.get(PREFACE..).unwrap_or_default()), "after {fed} bytes");
    }
    assert_eq!(refused, refusals(bytes));
}

/// Head, payload and what follows of the first frame; the payload may be cut off.
fn frame(bytes: &[u8]) -> Option<(&[u8; 9], &[u8], &[u8])> {
    let (head, rest) = bytes.split_first_chunk::<9>()?;
    let [high, middle, low, ..] = head;
    let length = u32::from_be_bytes([0, *high, *middle, *low]) as usize;
    let (payload, rest) = rest.split_at(length.min(rest.len()));
    Some((head, payload, rest))
}

/// How much of a frame's payload is looked at as if it were a part of its head.
fn looked_at(kind: u8, length: usize) -> usize {
    match kind {
        // The code of a reset.
        3 if length == 4 => 4,
        // An answer of one field, at most as long as a status can be.
        1 if (1..=5).contains(&length) => 1,
        // Last stream, code, and the first words of a goodbye.
        7 if length >= 8 + 12 => 8 + 12,
        _ => 0,
    }
}

/// Whether the bytes end within a frame's head, or within a header block.
fn is_heading(mut bytes: &[u8]) -> bool {
    let mut more = false;
    loop {
        let Some((head, payload, rest)) = frame(bytes) else { return !bytes.is_empty() || more };
        let [high, middle, low, kind, flags, ..] = *head;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        if payload.len() < looked_at(kind, length) {
            return true;
        }
        let heading = matches!(kind, 1 | 9);
        if heading {
            more = flags & 4 == 0;
        }
        if payload.len() < length {
            return heading || more;
        }
        bytes = rest;
    }
}

fn refusals(mut bytes: &[u8]) -> usize {
    let mut count = 0;
    while let Some((head, payload, rest)) = frame(bytes) {
        count += usize::from(head.starts_with(&[0, 0, 4, 3]) && payload == [0, 0, 0, 7]);
        bytes = rest;
    }
    count
}
