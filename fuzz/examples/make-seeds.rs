//! Writes the seeds of `fuzz/corpus/` that are no text: frames, messages of the Workload API, bytes that choose. The others were
//! written by hand.

use std::{fs, path::Path};

use anyhow::Result;
use fuzz::fixtures::{CRL, DIRECT, DIRECT_KEY, ROOT, STRANGE_ROOT};
use prost::Message as _;
use proto::workload::{X509svid, X509svidResponse};

const HEADERS: u8 = 1;
const END_STREAM: u8 = 1;
const END_HEADERS: u8 = 4;

fn main() -> Result<()> {
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("corpus");
    let seeds = [proxy_protocol(), h2_frames(), http2_request(), workload_api(), choices()].concat();
    for (target, name, bytes) in seeds {
        let folder = corpus.join(target);
        fs::create_dir_all(&folder)?;
        fs::write(folder.join(name), bytes)?;
    }
    Ok(())
}

type Seed = (&'static str, &'static str, Vec<u8>);

fn proxy_protocol() -> Vec<Seed> {
    let header = |command: u8, family: u8, addresses: &[u8]| {
        let length = u16::try_from(addresses.len()).unwrap_or_default().to_be_bytes();
        [b"\r\n\r\n\0\r\nQUIT\n".as_slice(), &[command, family], &length, addresses, b"GET /"].concat()
    };
    let ports = [3, 232, 0, 80];
    let four = [&[192, 0, 2, 1, 198, 51, 100, 2], ports.as_slice()].concat();
    let six = [&[0x20; 32], ports.as_slice()].concat();
    let with_extension = [four.as_slice(), &[4, 0, 1, 0]].concat();
    vec![
        ("proxy_protocol", "v2-tcp4", header(0x21, 0x11, &four)),
        ("proxy_protocol", "v2-tcp6", header(0x21, 0x21, &six)),
        ("proxy_protocol", "v2-udp4", header(0x21, 0x12, &four)),
        ("proxy_protocol", "v2-local", header(0x20, 0, &[])),
        ("proxy_protocol", "v2-local-with-addresses", header(0x20, 0x11, &four)),
        ("proxy_protocol", "v2-unspecified", header(0x21, 0, &[])),
        ("proxy_protocol", "v2-unix", header(0x21, 0x31, &[0; 216])),
        ("proxy_protocol", "v2-unix-too-short", header(0x21, 0x31, &[0; 10])),
        ("proxy_protocol", "v2-extension", header(0x21, 0x11, &with_extension)),
        ("proxy_protocol", "v2-unknown-family", header(0x21, 0x41, &four)),
        ("proxy_protocol", "v2-unknown-transport", header(0x21, 0x1f, &four)),
    ]
}

fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
    let length = u32::try_from(payload.len()).unwrap_or_default().to_be_bytes();
    let [_, high, middle, low] = length;
    [&[high, middle, low, kind, flags, 0, 0, 0, stream], payload].concat()
}

fn h2_frames() -> Vec<Seed> {
    let preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n".as_slice();
    let with = |cut: u8, frames: &[Vec<u8>]| [&[cut], preface, &frames.concat()].concat();
    let block = [
        frame(4, 0, 0, &[0; 6]),
        frame(HEADERS, 0, 1, b"abc"),
        frame(9, 0, 1, b"de"),
        frame(9, END_HEADERS, 1, b""),
        frame(0, END_STREAM, 1, b"body"),
    ];
    let resets = [7, 8, 7].map(|code: u32| frame(3, 0, 1, &code.to_be_bytes()));
    // What we send has no preface; both directions are walked over the same bytes.
    let ours = [&[2], frame(3, 0, 1, &7_u32.to_be_bytes()).as_slice()].concat();
    vec![
        ("h2_frames", "block-by-byte", with(0, &block)),
        ("h2_frames", "block-at-once", with(30, &block)),
        ("h2_frames", "resets", with(6, &resets)),
        ("h2_frames", "refused", ours),
        ("h2_frames", "long-reset", with(3, &[frame(3, 0, 1, &[0; 5])])),
    ]
}

/// A literal field without indexing, name and value as they are.
fn literal(name: &str, value: &str) -> Vec<u8> {
    let length = |text: &str| u8::try_from(text.len()).unwrap_or_default();
    [&[0, length(name)], name.as_bytes(), &[length(value)], value.as_bytes()].concat()
}

fn http2_request() -> Vec<Seed> {
    let head = |fields: &[(&str, &str)]| {
        let pseudo = [(":method", "POST"), (":scheme", "http"), (":authority", "a"), (":path", "/a?b=c")];
        pseudo.iter().chain(fields).flat_map(|(name, value)| literal(name, value)).collect::<Vec<_>>()
    };
    let get = head(&[]);
    let alone = |fields: &[(&str, &str)]| frame(HEADERS, END_HEADERS | END_STREAM, 1, &head(fields));
    let body = |fields: &[(&str, &str)], body: &[u8]| {
        [frame(HEADERS, END_HEADERS, 1, &head(fields)), frame(0, END_STREAM, 1, body)].concat()
    };
    let trailers = frame(HEADERS, END_HEADERS | END_STREAM, 1, &literal("x-checksum", "1"));
    let reset = frame(3, 0, 1, &8_u32.to_be_bytes());
    vec![
        ("http2_request", "alone", alone(&[])),
        ("http2_request", "body", body(&[("content-length", "4")], b"body")),
        ("http2_request", "length-lies", body(&[("content-length", "40")], b"body")),
        (
            "http2_request",
            "transfer-encoding",
            body(&[("transfer-encoding", "chunked")], b"0\r\n\r\nGET /x HTTP/1.1\r\n\r\n"),
        ),
        ("http2_request", "connection-fields", alone(&[("connection", "x-a"), ("x-a", "1")])),
        ("http2_request", "two-hosts", alone(&[("host", "b")])),
        ("http2_request", "line-end-in-value", alone(&[("x-a", "b\r\nx-c: d")])),
        ("http2_request", "line-end-in-name", alone(&[("x-a\r\nx-b", "c")])),
        ("http2_request", "upper-case-name", alone(&[("X-A", "b")])),
        (
            "http2_request",
            "trailers",
            [frame(HEADERS, END_HEADERS, 1, &get), frame(0, 0, 1, b"ab"), trailers].concat(),
        ),
        ("http2_request", "cookies", alone(&[("cookie", "a=1"), ("cookie", "b=2")])),
        (
            "http2_request",
            "continuation",
            [frame(HEADERS, END_STREAM, 1, &get), frame(9, END_HEADERS, 1, &literal("x-a", "b"))].concat(),
        ),
        ("http2_request", "reset", [alone(&[]), reset].concat()),
        (
            "http2_request",
            "two-streams",
            [alone(&[]), frame(HEADERS, END_HEADERS | END_STREAM, 3, &get)].concat(),
        ),
        (
            "http2_request",
            "settings-and-ping",
            [frame(4, 0, 0, &[0, 4, 0, 0, 0, 0]), frame(6, 0, 0, &[0; 8]), alone(&[])].concat(),
        ),
    ]
}

fn workload_api() -> Vec<Seed> {
    let svid = X509svid {
        spiffe_id: "spiffe://td/direct".to_owned(),
        x509_svid: DIRECT.to_vec().into(),
        x509_svid_key: DIRECT_KEY.to_vec().into(),
        bundle: ROOT.to_vec().into(),
        hint: "internal".to_owned(),
    };
    let whole = X509svidResponse {
        svids: vec![svid.clone()],
        crl: vec![CRL.to_vec().into()],
        federated_bundles: [("spiffe://other".to_owned(), STRANGE_ROOT.to_vec().into())].into(),
    };
    let with = |change: fn(&mut X509svidResponse)| {
        let mut message = whole.clone();
        change(&mut message);
        message.encode_to_vec()
    };
    vec![
        ("workload_api", "whole", whole.encode_to_vec()),
        ("workload_api", "nothing", X509svidResponse::default().encode_to_vec()),
        ("workload_api", "two", with(|message| message.svids.extend(message.svids.clone()))),
        (
            "workload_api",
            "bad-foreign-bundle",
            with(|message| {
                message.federated_bundles.insert("spiffe://bad".to_owned(), b"none".as_slice().into());
            }),
        ),
        (
            "workload_api",
            "foreign-own",
            with(|message| {
                message.federated_bundles.insert("spiffe://td".to_owned(), STRANGE_ROOT.to_vec().into());
            }),
        ),
        (
            "workload_api",
            "other-id",
            with(|message| {
                message.svids.iter_mut().for_each(|svid| "spiffe://td/other".clone_into(&mut svid.spiffe_id));
            }),
        ),
        ("workload_api", "bad-list", with(|message| message.crl.push(b"none".as_slice().into()))),
    ]
}

/// Bytes that choose: no more can be said of them than that they differ.
fn choices() -> Vec<Seed> {
    let bytes = |seed: u64, count: usize| {
        let mut state = seed;
        let mut next = || {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            state.to_be_bytes()[0]
        };
        (0..count).map(|_| next()).collect::<Vec<_>>()
    };
    vec![
        ("route", "few", bytes(1, 100)),
        ("route", "some", bytes(2, 200)),
        ("route", "many", bytes(3, 600)),
        ("route", "more", bytes(4, 1000)),
        ("compile_documents", "few", bytes(5, 60)),
        ("compile_documents", "some", bytes(6, 200)),
        ("compile_documents", "many", bytes(7, 500)),
        ("compile_documents", "more", bytes(8, 500)),
    ]
}
