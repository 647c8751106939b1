//! Walks the frames of an HTTP/2 connection as their bytes pass: h2 tells neither that a header block has begun and does not
//! end, nor that it refused a stream. A few operations for each frame, none for the bytes of its payload.

/// Length of a frame's head (RFC 9113 4.1).
const HEAD: usize = 9;
/// What a client sends before its first frame (RFC 9113 3.4).
const PREFACE: usize = 24;
const HEADERS: u8 = 1;
const RST_STREAM: u8 = 3;
const GOAWAY: u8 = 7;
const CONTINUATION: u8 = 9;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;
const REFUSED_STREAM: u32 = 7;

/// A head of an answer that is no longer than this says its status alone: ours name a server and a date.
const STATUS_ALONE: usize = 5;
/// HPACK for a `:status` that stands in no table yet.
const NEW_STATUS: u8 = 0x48;

/// Bytes of a GOAWAY before what it says in words (RFC 9113 6.8), and the words that are looked at: enough to tell h2's
/// apart.
const BEFORE_WORDS: usize = 8;
const WORDS: usize = 12;

/// Where one direction stands.
#[derive(Debug, Default)]
struct Frames {
    /// Of the present frame's head, and the code of a reset, the first byte of a short head or the words of a GOAWAY.
    seen: [u8; HEAD + BEFORE_WORDS + WORDS],
    have: usize,
    /// What is left of the present payload.
    left: usize,
}

#[derive(Clone, Copy)]
struct Frame {
    kind: u8,
    flags: u8,
    length: usize,
    /// Of a reset.
    code: u32,
    /// Of the payload of a short head.
    first: u8,
    /// Of a GOAWAY.
    words: [u8; WORDS],
}

impl Frames {
    /// Calls `begun` for each frame whose head is complete.
    fn feed(&mut self, mut bytes: &[u8], mut begun: impl FnMut(Frame)) {
        while !bytes.is_empty() {
            let count = self.left.min(bytes.len());
            self.left -= count;
            bytes = bytes.get(count..).unwrap_or_default();
            while self.left == 0
                && let Some((byte, rest)) = bytes.split_first()
            {
                bytes = rest;
                if let Some(frame) = self.push(*byte) {
                    begun(frame);
                }
            }
        }
    }

    fn push(&mut self, byte: u8) -> Option<Frame> {
        if let Some(place) = self.seen.get_mut(self.have) {
            *place = byte;
        }
        self.have += 1;
        let [high, middle, low, kind, flags, _, _, _, _, a, b, c, d, _, _, _, _, words @ ..] = self.seen;
        let length = u32::from_be_bytes([0, high, middle, low]) as usize;
        let looked_at = match kind {
            RST_STREAM if length == 4 => 4,
            HEADERS if (1..=STATUS_ALONE).contains(&length) => 1,
            GOAWAY if length >= BEFORE_WORDS + WORDS => BEFORE_WORDS + WORDS,
            _ => 0,
        };
        if self.have < HEAD + looked_at {
            return None;
        }
        self.have = 0;
        self.left = length - looked_at;
        // What the next frame does not have must not be taken from this one.
        self.seen = [0; HEAD + BEFORE_WORDS + WORDS];
        Some(Frame { kind, flags, length, code: u32::from_be_bytes([a, b, c, d]), first: a, words })
    }

    fn is_between(&self) -> bool {
        self.have == 0 && self.left == 0
    }
}

/// What a client sends.
#[derive(Debug)]
pub struct Inbound {
    frames: Frames,
    /// The present frame, or the last one, belongs to a header block.
    heading: bool,
    /// Frames of the present header block are to come.
    more: bool,
}

impl Default for Inbound {
    fn default() -> Self {
        Self::new()
    }
}

impl Inbound {
    /// Before the preface.
    pub fn new() -> Self {
        Self { frames: Frames { left: PREFACE, ..Frames::default() }, heading: false, more: false }
    }

    /// Looks at bytes; says whether they end within a header block.
    pub fn feed(&mut self, bytes: &[u8]) -> bool {
        let (heading, more) = (&mut self.heading, &mut self.more);
        self.frames.feed(bytes, |frame| {
            *heading = matches!(frame.kind, HEADERS | CONTINUATION);
            if *heading {
                *more = frame.flags & END_HEADERS == 0;
            }
        });
        self.more || self.frames.have > 0 || (self.heading && !self.frames.is_between())
    }
}

/// What we send.
#[derive(Debug, Default)]
pub struct Outbound(Frames);

/// Streams that h2 has ended by itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Ended {
    /// Beyond the limit of streams.
    pub refused: usize,
    /// Answered with 431: a head that was too large to be given to anybody. Once for a connection.
    pub too_large: usize,
    /// The connection, for a flood.
    pub flood: Option<Flood>,
}

/// A flood that h2 has noticed by itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Flood {
    /// Of bytes or CONTINUATION frames of a header block.
    Headers,
    /// Of DATA frames that carry nothing.
    EmptyFrames,
    /// Of resets, the client's or those that it provokes.
    Resets,
}

impl Flood {
    /// By h2's words.
    fn named(words: [u8; WORDS]) -> Option<Self> {
        match &words {
            b"too_many_con" | b"header_list_" => Some(Self::Headers),
            b"too_many_dat" => Some(Self::EmptyFrames),
            b"too_many_res" | b"too_many_int" => Some(Self::Resets),
            _ => None,
        }
    }
}

impl Outbound {
    /// Looks at bytes; says what h2 has ended with them.
    pub fn feed(&mut self, bytes: &[u8]) -> Ended {
        let mut ended = Ended::default();
        self.0.feed(bytes, |frame| {
            ended.refused += usize::from(frame.kind == RST_STREAM && frame.code == REFUSED_STREAM);
            ended.too_large += usize::from(frame.is_status_alone());
            if frame.kind == GOAWAY {
                ended.flood = ended.flood.or(Flood::named(frame.words));
            }
        });
        ended
    }
}

impl Frame {
    /// An answer of h2 itself: it has no field, and the only one that h2 gives is 431. Told of the first one of a
    /// connection: the next ones are a reference of one byte, as trailers can be.
    fn is_status_alone(&self) -> bool {
        let alone = self.length <= STATUS_ALONE && self.first == NEW_STATUS;
        self.kind == HEADERS && self.flags & END_STREAM != 0 && alone
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn frame(kind: u8, flags: u8, payload: &[u8]) -> Vec<u8> {
        let length = u8::try_from(payload.len()).expect("short");
        [&[0, 0, length, kind, flags, 0, 0, 0, 1], payload].concat()
    }

    #[test]
    fn a_header_block_is_open_until_its_last_byte() {
        let mut inbound = Inbound::new();
        assert!(!inbound.feed(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"));
        assert!(!inbound.feed(&frame(4, 0, &[0; 6])), "SETTINGS");
        let (headers, last) = (frame(HEADERS, 0, b"abc"), frame(CONTINUATION, END_HEADERS, b"de"));
        assert!(inbound.feed(&headers));
        assert!(inbound.feed(&last[..10]));
        assert!(!inbound.feed(&last[10..]));
        let data = frame(0, 0, b"body");
        assert!(inbound.feed(&data[..3]), "what kind of frame begins is not known yet");
        assert!(!inbound.feed(&data[3..11]), "the rest of a body may take its time");
        assert!(!inbound.feed(&data[11..]));
    }

    #[test]
    fn a_frame_without_a_code_has_not_the_one_before() {
        let refused = frame(RST_STREAM, 0, &REFUSED_STREAM.to_be_bytes());
        let malformed = frame(RST_STREAM, 0, &[0, 0]);
        assert_eq!(Outbound::default().feed(&[refused, malformed].concat()).refused, 1);
    }

    proptest! {
        #[test]
        fn refusals_are_counted_however_the_bytes_are_cut(cuts in prop::collection::vec(1..7_usize, 0..60)) {
            let refused = frame(RST_STREAM, 0, &7_u32.to_be_bytes());
            let cancelled = frame(RST_STREAM, 0, &8_u32.to_be_bytes());
            let all = [frame(0, 0, &refused), refused.clone(), cancelled, frame(4, 1, &[]), refused].concat();
            let (mut outbound, mut rest, mut count) = (Outbound::default(), &all[..], 0);
            for cut in cuts {
                let (now, later) = rest.split_at(cut.min(rest.len()));
                count += outbound.feed(now).refused;
                rest = later;
            }
            prop_assert_eq!(count + outbound.feed(rest).refused, 2);
        }
    }
}
