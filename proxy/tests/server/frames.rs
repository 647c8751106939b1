//! HTTP/2 frame by frame, as no library would send them.

use std::time::Duration;

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::support::Rig;

pub(crate) const DATA: u8 = 0;
pub(crate) const HEADERS: u8 = 1;
pub(crate) const PRIORITY: u8 = 2;
pub(crate) const RST_STREAM: u8 = 3;
pub(crate) const SETTINGS: u8 = 4;
pub(crate) const PING: u8 = 6;
pub(crate) const GOAWAY: u8 = 7;
pub(crate) const WINDOW_UPDATE: u8 = 8;
pub(crate) const CONTINUATION: u8 = 9;
pub(crate) const END_STREAM: u8 = 1;
pub(crate) const END_HEADERS: u8 = 4;

pub(crate) fn frame(kind: u8, flags: u8, stream: u32, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap().to_be_bytes();
    [&length[1..], &[kind, flags], &stream.to_be_bytes(), payload].concat()
}

/// `GET path` of host `a`, in HPACK without Huffman.
pub(crate) fn block(path: &str) -> Vec<u8> {
    let length = u8::try_from(path.len()).unwrap();
    [b"\x82\x86\x41\x01a\x04".as_slice(), &[length], path.as_bytes()].concat()
}

/// A field in HPACK, literal, not indexed, without Huffman.
pub(crate) fn literal(name: &[u8], value: &[u8]) -> Vec<u8> {
    [&[0], &length(name.len())[..], name, &length(value.len()), value].concat()
}

/// An integer with a prefix of seven bits (RFC 7541 5.1).
fn length(mut of: usize) -> Vec<u8> {
    if of < 127 {
        return vec![u8::try_from(of).unwrap()];
    }
    let mut bytes = vec![127];
    of -= 127;
    while of >= 128 {
        bytes.push(u8::try_from(of % 128).unwrap() | 128);
        of /= 128;
    }
    bytes.push(u8::try_from(of).unwrap());
    bytes
}

pub(crate) fn request(stream: u32, path: &str) -> Vec<u8> {
    frame(HEADERS, END_STREAM | END_HEADERS, stream, &block(path))
}

pub(crate) fn cancel(stream: u32) -> Vec<u8> {
    frame(RST_STREAM, 0, stream, &8_u32.to_be_bytes())
}

/// GOAWAY with `ENHANCE_YOUR_CALM`, whatever was served.
pub(crate) fn calm() -> Vec<u8> {
    frame(GOAWAY, 0, 0, &[0x7f, 0xff, 0xff, 0xff, 0, 0, 0, 11])
}

/// Numbers of a client's streams.
pub(crate) fn streams() -> impl Iterator<Item = u32> {
    (0..).map(|index| index * 2 + 1)
}

/// A connection with its preface, and SETTINGS of the test's own.
pub(crate) async fn raw_h2_with(rig: &Rig, settings: &[u8]) -> TcpStream {
    let mut stream = rig.connect().await;
    stream.write_all(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n").await.unwrap();
    stream.write_all(&frame(SETTINGS, 0, 0, settings)).await.unwrap();
    stream
}

pub(crate) async fn raw_h2(rig: &Rig) -> TcpStream {
    raw_h2_with(rig, &[]).await
}

/// What the proxy had to say before it closed the connection.
pub(crate) async fn is_closed(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    let read = async { while stream.read_buf(&mut bytes).await.is_ok_and(|count| count > 0) {} };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("still open");
    bytes
}

/// A frame as it was read.
#[derive(Debug)]
pub(crate) struct Frame {
    pub(crate) kind: u8,
    pub(crate) stream: u32,
    pub(crate) payload: Vec<u8>,
}

/// The next frame; `None` when the connection has ended.
pub(crate) async fn next_frame(stream: &mut TcpStream) -> Option<Frame> {
    let read = async {
        let mut head = [0; 9];
        stream.read_exact(&mut head).await.ok()?;
        let length = u32::from_be_bytes([0, head[0], head[1], head[2]]);
        let number = u32::from_be_bytes([head[5] & 0x7f, head[6], head[7], head[8]]);
        let mut payload = vec![0; length as usize];
        stream.read_exact(&mut payload).await.ok()?;
        Some(Frame { kind: head[3], stream: number, payload })
    };
    tokio::time::timeout(Duration::from_secs(20), read).await.expect("nothing more comes")
}
