//! The `ClientHello`: read without an answer, so that somebody else can still give it.

use std::io;

use bytes::{Buf as _, Bytes, BytesMut};
use tokio::{io::AsyncReadExt as _, net::TcpStream};
use tokio_rustls::rustls::server::{Accepted, AcceptedAlert, Acceptor};

use crate::net::Prefixed;

/// Read at once; no more than the acceptor takes at once.
const CHUNK: usize = 4096;
/// Most bytes that a hello may take with the headers of its records, which may be as small as a byte.
const MAX_BYTES: usize = 128 * 1024;

/// The alert for bytes that cannot be read (RFC 8446, 6.2).
const DECODE_ERROR: u8 = 50;

/// What a client has said first.
pub(super) struct Heard {
    /// A handshake that we could go on with; or why we could not, while the server that it is meant for may think otherwise.
    pub(super) accepted: Result<Box<Accepted>, Box<Unusable>>,
    /// `None` when it is no `ClientHello` at all.
    pub(super) offer: Option<Offer>,
    /// All that was read.
    pub(super) seen: Bytes,
    /// So much of it `accepted` has.
    pub(super) fed: usize,
}

/// A hello that we cannot answer with a handshake.
pub(super) struct Unusable {
    pub(super) error: rustls::Error,
    alert: AcceptedAlert,
}

impl Unusable {
    /// The bytes that say why to the client.
    pub(super) fn alert(&mut self) -> Vec<u8> {
        let mut bytes = Vec::new();
        // A vector takes all of it.
        let _never = self.alert.write_all(&mut bytes);
        // What is no handshake at all has none.
        if bytes.is_empty() { super::alert(DECODE_ERROR).to_vec() } else { bytes }
    }
}

/// Reads to the end of the `ClientHello`.
pub(super) async fn read(stream: &mut Prefixed<TcpStream>) -> io::Result<Heard> {
    let mut acceptor = Acceptor::default();
    let mut seen = BytesMut::new();
    loop {
        let taken = seen.len();
        if stream.take(CHUNK as u64).read_buf(&mut seen).await? == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        if seen.len() > MAX_BYTES {
            let message = format!("the ClientHello is longer than {MAX_BYTES} bytes");
            return Err(io::Error::new(io::ErrorKind::InvalidData, message));
        }
        let mut fresh = seen.get(taken..).unwrap_or_default();
        while !fresh.is_empty() {
            acceptor.read_tls(&mut fresh)?;
            let (accepted, offer) = match acceptor.accept() {
                Ok(None) => continue,
                Ok(Some(accepted)) => {
                    let said = accepted.client_hello();
                    let sni = said.server_name().map(str::to_ascii_lowercase);
                    let alpn = said.alpn().into_iter().flatten().map(<[u8]>::to_vec).collect();
                    (Ok(Box::new(accepted)), Some((sni, alpn)))
                }
                Err((error, alert)) => (Err(Box::new(Unusable { error, alert })), offer(&seen)),
            };
            let fed = seen.len() - fresh.len();
            return Ok(Heard { accepted, offer, seen: seen.freeze(), fed });
        }
    }
}

/// What a `ClientHello` asks for.
pub(super) type Offer = (Option<String>, Vec<Vec<u8>>);

/// Server name and protocols of a whole `ClientHello`, whatever else it offers.
fn offer(records: &[u8]) -> Option<Offer> {
    /// Of a record, and of a message.
    const HANDSHAKE: u8 = 22;
    const CLIENT_HELLO: u8 = 1;
    let mut records = Parts(records);
    let mut message = Vec::new();
    // The message may be spread over records; what follows it may be anything, and a part of it.
    while records.0.first() == Some(&HANDSHAKE) {
        let Some(fragment) = records.skip(3).and_then(|()| records.prefixed::<2>()) else { break };
        message.extend_from_slice(fragment);
    }
    let mut message = Parts(&message);
    if message.bytes(1)? != [CLIENT_HELLO] {
        return None;
    }
    let mut hello = Parts(message.prefixed::<3>()?);
    // Version and random; session, suites, compression.
    hello.skip(2 + 32)?;
    hello.prefixed::<1>()?;
    hello.prefixed::<2>()?;
    hello.prefixed::<1>()?;
    let mut offer = Offer::default();
    let mut extensions = Parts(hello.prefixed::<2>().unwrap_or_default());
    while !extensions.0.is_empty() {
        let kind = extensions.bytes(2)?;
        let mut body = Parts(extensions.prefixed::<2>()?);
        match kind {
            [0, 0] => offer.0 = server_name(body.prefixed::<2>()?),
            [0, 16] => {
                let mut names = Parts(body.prefixed::<2>()?);
                while !names.0.is_empty() {
                    offer.1.push(names.prefixed::<1>()?.to_vec());
                }
            }
            _ => {}
        }
    }
    Some(offer)
}

/// The name of a `server_name` extension (RFC 6066, 3); an address is none.
fn server_name(list: &[u8]) -> Option<String> {
    let mut list = Parts(list);
    let kind = list.bytes(1)?;
    let name = std::str::from_utf8(list.prefixed::<2>()?).ok()?;
    let name = rustls_pki_types::DnsName::try_from(name).ok()?;
    (kind == [0]).then(|| name.as_ref().to_ascii_lowercase())
}

/// Bytes that are read from the front.
struct Parts<'a>(&'a [u8]);

impl<'a> Parts<'a> {
    fn bytes(&mut self, count: usize) -> Option<&'a [u8]> {
        let (bytes, rest) = self.0.split_at_checked(count)?;
        self.0 = rest;
        Some(bytes)
    }

    fn skip(&mut self, count: usize) -> Option<()> {
        self.bytes(count).map(drop)
    }

    /// Bytes behind their length, which takes `N` bytes.
    fn prefixed<const N: usize>(&mut self) -> Option<&'a [u8]> {
        let mut length = self.bytes(N)?;
        let length = length.get_uint(N);
        self.bytes(usize::try_from(length).ok()?)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn message(extensions: &[u8]) -> Vec<u8> {
        let mut body = [vec![3, 1], vec![7; 32], vec![0, 0, 2, 0, 47, 1, 0]].concat();
        body.extend(u16::try_from(extensions.len()).unwrap().to_be_bytes());
        body.extend(extensions);
        let length = u32::try_from(body.len()).unwrap().to_be_bytes();
        [vec![1], length[1..].to_vec(), body].concat()
    }

    fn records(message: &[u8], size: usize) -> Vec<u8> {
        let record = |fragment: &[u8]| {
            [&[22, 3, 1][..], &u16::try_from(fragment.len()).unwrap().to_be_bytes(), fragment].concat()
        };
        message.chunks(size).flat_map(record).collect()
    }

    const NAME: &[u8] = b"\0\0\0\x0e\0\x0c\0\0\x09Old.Local";
    const PROTOCOLS: &[u8] = b"\0\x10\0\x07\0\x05\x04mqtt";

    #[test]
    fn an_old_hello_is_read_whatever_its_records() {
        let message = message(&[NAME, PROTOCOLS].concat());
        for size in [1, 7, 100, 1000] {
            let (sni, alpn) = offer(&records(&message, size)).unwrap();
            assert_eq!((sni.as_deref(), alpn), (Some("old.local"), vec![b"mqtt".to_vec()]), "{size}");
        }
        assert_eq!(offer(&records(&message, 50)[..60]), None);
        assert_eq!(offer(b""), None);
    }

    proptest! {
        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..300), size in 1_usize..80) {
            let _junk = offer(&bytes);
            let _inside = offer(&records(&bytes, size));
            let _extensions = offer(&records(&message(&bytes), size));
        }
    }
}
