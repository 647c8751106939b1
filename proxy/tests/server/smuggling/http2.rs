//! Frames of HTTP/2 clients, on their way to upstreams of both protocols.

use tokio::io::AsyncWriteExt as _;

use super::{
    super::frames::{
        CONTINUATION, DATA, END_HEADERS, END_STREAM, GOAWAY, HEADERS, RST_STREAM, frame, literal, next_frame,
        raw_h2,
    },
    *,
};

/// What has to become of a request.
enum Want {
    /// An answer that is not 200, a reset, or the end of the connection; the upstream hears nothing of it.
    Refused,
    /// Its body is not what its head says: the upstream may have got a part, but never a whole request.
    Cut,
    /// Forwarded with this target, host and body.
    Same(&'static str, &'static str, &'static [u8]),
}
use Want::{Cut, Refused, Same};

/// Fields of a head, in order.
type Block<'a> = &'a [(&'a [u8], &'a [u8])];

const METHOD: (&[u8], &[u8]) = (b":method", b"POST");
const SCHEME: (&[u8], &[u8]) = (b":scheme", b"http");
const PATH: (&[u8], &[u8]) = (b":path", b"/");
const AUTHORITY: (&[u8], &[u8]) = (b":authority", b"a");

fn encoded(block: Block<'_>) -> Vec<u8> {
    block.iter().flat_map(|(name, value)| literal(name, value)).collect()
}

/// Whether the stream was answered with 200.
async fn answered(stream: &mut tokio::net::TcpStream) -> bool {
    while let Some(frame) = next_frame(stream).await {
        match (frame.kind, frame.stream) {
            (HEADERS, 1) => return frame.payload.first() == Some(&0x88),
            (RST_STREAM, 1) | (GOAWAY, _) => return false,
            _ => {}
        }
    }
    false
}

/// Sends a head, DATA unless it ends with the head, and trailers.
async fn holds(block: Block<'_>, data: &[&[u8]], trailers: Option<Block<'_>>, want: &Want) {
    for protocol in BOTH {
        let bench = Bench::start(protocol).await;
        let mut stream = raw_h2(&bench.rig).await;
        let ends = |last: bool| if last { END_STREAM } else { 0 };
        let flags = END_HEADERS | ends(data.is_empty() && trailers.is_none());
        let mut bytes = frame(HEADERS, flags, 1, &encoded(block));
        for (index, chunk) in data.iter().enumerate() {
            let last = index + 1 == data.len() && trailers.is_none();
            bytes.extend(frame(DATA, ends(last), 1, chunk));
        }
        if let Some(trailers) = trailers {
            bytes.extend(frame(HEADERS, END_HEADERS | END_STREAM, 1, &encoded(trailers)));
        }
        stream.write_all(&bytes).await.unwrap();
        let good = answered(&mut stream).await;
        let name = format!("{protocol:?} {:?}", String::from_utf8_lossy(&encoded(block)));
        let seen = bench.seen(&name);
        match want {
            Refused => {
                assert!(!good && seen.is_empty() && bench.record.is_empty(), "{name}: {good} {seen:?}");
            }
            Cut => assert!(!good && seen.is_empty(), "{name}: {good} {seen:?}"),
            Same(target, host, body) => {
                assert!(good, "{name}");
                let [seen] = &seen[..] else { panic!("{name}: {seen:?}") };
                assert_eq!((seen.target.as_str(), seen.host.as_str()), (*target, *host), "{name}");
                assert_eq!(&seen.body[..], *body, "{name}");
            }
        }
    }
}

/// A head of the usual pseudo fields and one more field.
async fn field(name: &[u8], value: &[u8], want: &Want) {
    holds(&[METHOD, SCHEME, PATH, AUTHORITY, (name, value)], &[b"0\r\n\r\n"], None, want).await;
}

#[tokio::test]
async fn fields_that_would_frame_or_split_a_request_of_http1_are_refused() {
    for (name, value) in [
        (&b"transfer-encoding"[..], &b"chunked"[..]),
        (b"transfer-encoding", b"identity"),
        (b"connection", b"close"),
        (b"connection", b"x-forwarded-for"),
        (b"keep-alive", b"1"),
        (b"proxy-connection", b"keep-alive"),
        (b"upgrade", b"h2c"),
        (b"te", b"gzip"),
        (b"te", b"trailers, chunked"),
        (b"x", b"1\r\ntransfer-encoding: chunked"),
        (b"x", b"1\ntransfer-encoding: chunked"),
        (b"x", b"1\rx: y"),
        (b"x", b"1\0"),
        (b"x\r\ny", b"1"),
        (b"x\n", b"1"),
        (b"x: y\r\ntransfer-encoding", b"chunked"),
        (b"x:", b"1"),
        (b"x y", b"1"),
        (b"x\t", b"1"),
        (b" x", b"1"),
        (b"", b"1"),
        (b"x\0", b"1"),
        (b"x\x7f", b"1"),
        (b"x\xff", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"X", b"1"),
        (b"host", b"b"),
        (b"expect", b"100-continue, x"),
        (b":path", b"/smuggled"),
        (b":status", b"200"),
        (b":x", b"1"),
        (b":", b"1"),
    ] {
        field(name, value, &Refused).await;
    }
}

#[tokio::test]
async fn lengths_that_are_not_the_bodys_are_no_requests() {
    for value in [&b"6"[..], b"4", b"0", b"50"] {
        field(b"content-length", value, &Cut).await;
    }
    for value in [&b"+5"[..], b"-5", b"0x5", b"5, 5", b"", b" 5x", b"99999999999999999999999999"] {
        field(b"content-length", value, &Refused).await;
    }
    let two = [METHOD, SCHEME, PATH, AUTHORITY, (b"content-length", b"5"), (b"content-length", b"6")];
    holds(&two, &[b"0\r\n\r\n"], None, &Refused).await;
    let none = [METHOD, SCHEME, PATH, AUTHORITY, (b"content-length", b"5")];
    holds(&none, &[], None, &Refused).await;
    for value in [&b"5"[..], b"005"] {
        field(b"content-length", value, &Same("/", "a", b"0\r\n\r\n")).await;
    }
}

#[tokio::test]
async fn pseudo_fields_have_one_reading() {
    let connect: (&[u8], &[u8]) = (b":method", b"CONNECT");
    let refused: [Block<'_>; 34] = [
        &[METHOD, SCHEME, PATH],
        &[METHOD, SCHEME, AUTHORITY],
        &[SCHEME, PATH, AUTHORITY],
        &[METHOD, PATH, AUTHORITY],
        &[METHOD, METHOD, SCHEME, PATH, AUTHORITY],
        &[METHOD, SCHEME, PATH, PATH, AUTHORITY],
        &[METHOD, SCHEME, PATH, AUTHORITY, AUTHORITY],
        &[METHOD, SCHEME, SCHEME, PATH, AUTHORITY],
        &[METHOD, SCHEME, PATH, (b"x", b"1"), AUTHORITY],
        &[(b"x", b"1"), METHOD, SCHEME, PATH, AUTHORITY],
        &[connect, AUTHORITY],
        &[connect, SCHEME, PATH, AUTHORITY],
        &[connect, (b":protocol", b"websocket"), SCHEME, PATH, AUTHORITY],
        &[(b":method", b"GET / HTTP/1.1\r\nhost: a\r\n\r\nGET"), SCHEME, PATH, AUTHORITY],
        &[(b":method", b"GET /x"), SCHEME, PATH, AUTHORITY],
        &[(b":method", b""), SCHEME, PATH, AUTHORITY],
        &[METHOD, (b":scheme", b"http://x/?"), PATH, AUTHORITY],
        &[METHOD, (b":scheme", b"ftp"), PATH, AUTHORITY],
        &[METHOD, (b":scheme", b""), PATH, AUTHORITY],
        &[METHOD, SCHEME, (b":path", b""), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"a"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"http://b/smuggled"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a HTTP/1.1\r\nx: y"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a b"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a\tb"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a\nb"), AUTHORITY],
        &[METHOD, SCHEME, (b":path", b"/a\0"), AUTHORITY],
        &[METHOD, SCHEME, PATH, (b":authority", b"u@a")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a/b")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a b")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a\r\nx: y")],
        &[METHOD, SCHEME, PATH, (b":authority", b"")],
        &[METHOD, SCHEME, PATH, (b":authority", b"a:99999")],
        &[METHOD, SCHEME, PATH, (b"host", b"a"), (b"host", b"b")],
    ];
    for block in refused {
        holds(block, &[], None, &Refused).await;
    }
    let fragment = [METHOD, SCHEME, (b":path" as &[u8], b"/a#b" as &[u8]), AUTHORITY];
    // The library drops it, before it is routed and before it is forwarded.
    holds(&fragment, &[], None, &Same("/a", "a", b"")).await;
    let by_host = [METHOD, SCHEME, PATH, (b"host" as &[u8], b"a" as &[u8])];
    holds(&by_host, &[], None, &Same("/", "a", b"")).await;
    let normal = [METHOD, SCHEME, (b":path" as &[u8], b"/x/../b?c" as &[u8]), AUTHORITY];
    holds(&normal, &[], None, &Same("/b?c", "a", b"")).await;
}

#[tokio::test]
async fn what_is_honest_goes_on_and_what_is_forged_does_not() {
    let same = Same("/", "a", b"0\r\n\r\n");
    for (name, value) in [
        (&b"te"[..], &b"trailers"[..]),
        (b"x-forwarded-client-cert", b"forged"),
        (b"x_forwarded_client_cert", b"forged"),
        (b"x_forwarded_for", b"forged"),
        (b"x-forwarded-proto", b"forged"),
        (b"x-forwarded-host", b"forged"),
        (b"content_length", b"forged"),
        (b"transfer_encoding", b"forged"),
        (b"x-envoy-retry-on", b"forged"),
        (b"http2-settings", b"forged"),
        (b"expect", b"100-continue"),
        (b"host", b"a"),
        (b"x", b"\xff\xfe"),
    ] {
        field(name, value, &same).await;
    }
    let head = [METHOD, SCHEME, PATH, AUTHORITY];
    let forged: Block<'_> =
        &[(b"x-forwarded-for", b"forged"), (b"host", b"forged"), (b"content-length", b"9"), (b"x", b"1")];
    holds(&head, &[b"he", b"", b"llo"], Some(forged), &Same("/", "a", b"hello")).await;
    let pseudo: Block<'_> = &[(b":path", b"/smuggled")];
    // The library leaves pseudo fields out of trailers: they reach nobody.
    holds(&head, &[b"hello"], Some(pseudo), &Same("/", "a", b"hello")).await;
    let split: Block<'_> = &[(b"x", b"1\r\n\r\nGET /smuggled HTTP/1.1")];
    holds(&head, &[b"hello"], Some(split), &Cut).await;
}

#[tokio::test]
async fn a_head_in_pieces_is_the_same_head() {
    let bench = Bench::start(Protocol::Http1).await;
    let mut stream = raw_h2(&bench.rig).await;
    let block = encoded(&[METHOD, SCHEME, PATH, AUTHORITY, (b"x", b"1")]);
    let mut bytes = frame(HEADERS, END_STREAM, 1, &block[..3]);
    for (index, piece) in block[3..].chunks(5).enumerate() {
        let last = 3 + (index + 1) * 5 >= block.len();
        bytes.extend(frame(CONTINUATION, if last { END_HEADERS } else { 0 }, 1, piece));
    }
    stream.write_all(&bytes).await.unwrap();
    assert!(answered(&mut stream).await);
    assert_eq!(bench.seen("pieces").len(), 1);
}
