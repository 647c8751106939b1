//! Bytes of HTTP/1.1 clients.

use tokio::io::AsyncWriteExt as _;

use super::*;

/// What has to become of a request.
enum Want {
    /// 4xx and the end of the connection; the upstream hears nothing of it.
    Refused,
    /// Its body cannot be read: 400 and the end. The upstream may have got a part, but never a whole request.
    Cut,
    /// Forwarded with this target, host and body; the connection goes on.
    Same(&'static str, &'static str, &'static [u8]),
}
use Want::{Cut, Refused, Same};

const SMUGGLED: &str = "GET /smuggled HTTP/1.1\r\nhost: a\r\n\r\n";
const LAST: &str = "GET /last HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n";

fn get(fields: &str) -> String {
    format!("GET / HTTP/1.1\r\nhost: a\r\n{fields}\r\n")
}

/// A request with both readings in its body: a chunked one that ends at once, or bytes by length.
fn post(fields: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\n{fields}\r\n0\r\n\r\n{SMUGGLED}")
}

fn chunks(body: &str) -> String {
    format!("POST / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n{body}")
}

/// Codings that are refused.
const CODINGS: &[&str] = &[
    "content-length: 6\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ncontent-length: 6\r\n",
    "Content-Length: 6\r\nTRANSFER-ENCODING: chunked\r\n",
    "content-length: 0\r\ntransfer-encoding: chunked\r\n",
    "content-length: \r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: xchunked\r\n",
    "transfer-encoding: chunkedx\r\n",
    "transfer-encoding: chunked, identity\r\n",
    "transfer-encoding: identity, chunked\r\n",
    "transfer-encoding: identity\r\n",
    "transfer-encoding: chunked, chunked\r\n",
    "transfer-encoding: gzip, chunked\r\n",
    "transfer-encoding: chunked,\r\n",
    "transfer-encoding: ,chunked\r\n",
    "transfer-encoding: chunked; q=1\r\n",
    "transfer-encoding: \"chunked\"\r\n",
    "transfer-encoding: 'chunked'\r\n",
    "transfer-encoding: chun ked\r\n",
    "transfer-encoding:\r\n",
    "transfer-encoding: \r\ncontent-length: 4\r\n",
    "transfer-encoding: chunked\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\r\ntransfer-encoding: identity\r\n",
    "transfer-encoding: identity\r\ntransfer-encoding: chunked\r\n",
    "transfer-encoding:\x0bchunked\r\n",
    "transfer-encoding: \x0cchunked\r\n",
    "transfer-encoding: chunked\x0b\r\n",
    "transfer-encoding: chunked\0\r\n",
    "transfer-encoding: \u{a0}chunked\r\n",
    "transfer-encoding : chunked\r\n",
    "transfer-encoding\t: chunked\r\n",
    " transfer-encoding: chunked\r\n",
    "x: 1\r\n transfer-encoding: chunked\r\n",
    "transfer-encoding:\r\n chunked\r\n",
    "transfer-encoding: chunked\r\n\tx\r\n",
    "x: 1\rtransfer-encoding: chunked\r\n",
    "x: 1\r\rtransfer-encoding: chunked\r\n",
    "transfer-encoding: chunked\rx\r\n",
    "transfer\0-encoding: chunked\r\n",
    "transfer-encoding\0: chunked\r\n",
];

/// Lengths that are refused.
const LENGTHS: &[&str] = &[
    "content-length: 0\r\ncontent-length: 50\r\n",
    "content-length: 4, 4\r\n",
    "content-length: 4,\r\n",
    "content-length: 0, 50\r\n",
    "content-length: +5\r\n",
    "content-length: -5\r\n",
    "content-length: 0x5\r\n",
    "content-length: 5x\r\n",
    "content-length: 5 5\r\n",
    "content-length: 5.0\r\n",
    "content-length: 1e1\r\n",
    "content-length: 1_0\r\n",
    "content-length: \"5\"\r\n",
    "content-length:\r\n",
    "content-length: 99999999999999999999999999\r\n",
    "content-length: 18446744073709551616\r\n",
    "content-length: 18446744073709551615\r\n",
    "content-length\0: 5\r\n",
    "content-length : 5\r\n",
    "content-length: 5\x0b\r\n",
    "content-length: \u{ff15}\r\n",
];

fn framing() -> Vec<(String, Want)> {
    CODINGS.iter().chain(LENGTHS).map(|fields| (post(fields), Refused)).collect()
}

fn heads() -> Vec<(String, Want)> {
    let mut cases: Vec<(String, Want)> = [
        ": 1\r\n",
        "no colon\r\n",
        "x y: 1\r\n",
        "x\u{7f}: 1\r\n",
        "x(: 1\r\n",
        "x: 1\0\r\n",
        "x: a\x08b\r\n",
        "x: 1\r\n 2\r\n",
        "host: b\r\n",
        "Host: a\r\n",
        "host : b\r\n",
        "expect: 100-continue, x\r\n",
        "expect: y 100-continue\r\n",
        "expect: 100-continue\r\nexpect: 100-continue\r\n",
        "expect: \r\n",
    ]
    .into_iter()
    .map(|fields| (get(fields), Refused))
    .collect();
    let lines = [
        "GET /\r\n",
        "GET / HTTP/0.9\r\nhost: a\r\n\r\n",
        "GET / HTTP/2.0\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.2\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1 \r\nhost: a\r\n\r\n",
        "GET  / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /  HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET\t/ HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET /\tHTTP/1.1\r\nhost: a\r\n\r\n",
        " GET / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GE\0T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "G(T / HTTP/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\r\nhost: a\r\n\r\n",
        "GET / http/1.1\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\n host: a\r\n\r\n",
        "GET / HTTP/1.1\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "POST / HTTP/1.0\r\nhost: a\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n",
        "CONNECT a:80 HTTP/1.1\r\nhost: a:80\r\n\r\n",
        "CONNECT / HTTP/1.1\r\nhost: a\r\ncontent-length: 2\r\n\r\nab",
    ];
    cases.extend(lines.map(|bytes| (bytes.to_owned(), Refused)));
    cases
}

fn bodies() -> Vec<(String, Want)> {
    let broken = [
        "5;x=\ny\r\nhello\r\n0\r\n\r\n",
        "5;x=\ry\r\nhello\r\n0\r\n\r\n",
        "5;\n0\r\n\r\nhello\r\n0\r\n\r\n",
        "5\nhello\r\n0\r\n\r\n",
        "5\rhello\r\n0\r\n\r\n",
        "5\r\nhello\n0\r\n\r\n",
        "5\r\nhelloX\r\n0\r\n\r\n",
        "5\r\nhello0\r\n\r\n",
        "\r\n5\r\nhello\r\n0\r\n\r\n",
        "+5\r\nhello\r\n0\r\n\r\n",
        "-5\r\nhello\r\n0\r\n\r\n",
        "0x5\r\nhello\r\n0\r\n\r\n",
        " 5\r\nhello\r\n0\r\n\r\n",
        "5x\r\nhello\r\n0\r\n\r\n",
        "5 5\r\nhello\r\n0\r\n\r\n",
        ";x\r\nhello\r\n0\r\n\r\n",
        "\"5\"\r\nhello\r\n0\r\n\r\n",
        "10000000000000005\r\nhello\r\n0\r\n\r\n",
        "ffffffffffffffffff\r\nhello\r\n0\r\n\r\n",
        "5\0\r\nhello\r\n0\r\n\r\n",
        "5\r\nhello\r\n0\r\nhost : a\r\n\r\n",
        "5\r\nhello\r\n0\r\n: a\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: 1\r\n 2\r\n\r\n",
        "5\r\nhello\r\n0\r\nx: 1\0\r\n\r\n",
    ];
    let mut cases: Vec<_> =
        broken.into_iter().map(|body| (chunks(&format!("{body}{SMUGGLED}")), Cut)).collect();
    let oversized = format!("5;{}\r\nhello\r\n0\r\n\r\n", "x".repeat(1 << 20));
    cases.push((chunks(&oversized), Cut));
    let many = format!("{}0\r\n\r\n", "1;xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx\r\na\r\n".repeat(4096));
    cases.push((chunks(&many), Cut));
    let trailers = format!("5\r\nhello\r\n0\r\n{}\r\n", "x: 1\r\n".repeat(20_000));
    cases.push((chunks(&trailers), Cut));
    let large = format!("5\r\nhello\r\n0\r\nx: {}\r\n\r\n", "1".repeat(1 << 20));
    cases.push((chunks(&large), Cut));
    cases
}

fn honest() -> Vec<(String, Want)> {
    let same = |bytes: String, body| (bytes, Same("/", "a", body));
    vec![
        same(get(""), b""),
        same(post("transfer-encoding: chunked\r\n").replace(SMUGGLED, ""), b""),
        same(post("transfer-encoding: \tChunked \r\n").replace(SMUGGLED, ""), b""),
        same(post("TRANSFER-ENCODING: CHUNKED\r\n").replace(SMUGGLED, ""), b""),
        same(chunks("5;name=value\r\nhello\r\n0\r\n\r\n"), b"hello"),
        same(chunks("00000005\r\nhello\r\n000\r\n\r\n"), b"hello"),
        same(chunks("a\r\n0123456789\r\nA\r\nabcdefghij\r\n0\r\n\r\n"), b"0123456789abcdefghij"),
        same(
            chunks("5\r\nhello\r\n0\r\nhost: forged\r\ncontent-length: 9\r\nx_forwarded_for: forged\r\n\r\n"),
            b"hello",
        ),
        same("POST / HTTP/1.1\r\nhost: a\r\ncontent-length:  5\r\n\r\nhello".to_owned(), b"hello"),
        same("POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 005\r\n\r\nhello".to_owned(), b"hello"),
        same("GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\n\r\nhello".to_owned(), b"hello"),
        // Equal lengths may be one (RFC 9112 6.3).
        same(
            "POST / HTTP/1.1\r\nhost: a\r\ncontent-length: 5\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            b"hello",
        ),
        same(
            "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
                .to_owned(),
            b"hello",
        ),
        same(
            format!("DELETE / HTTP/1.1\r\nhost: a\r\ncontent-length: {}\r\n\r\n{SMUGGLED}", SMUGGLED.len()),
            SMUGGLED.as_bytes(),
        ),
        same(get("content_length: 50\r\ntransfer_encoding: chunked\r\nContent-Length: 0\r\n"), b""),
        same(
            get("connection: x-forwarded-for, x-forwarded-proto, x-request-id, host, content-length\r\n"),
            b"",
        ),
        same(get("connection: te, x\r\nte: gzip\r\nx: 1\r\nkeep-alive: 5\r\nproxy-connection: y\r\n"), b""),
        same(
            get(
                "connection: upgrade, http2-settings\r\nupgrade: h2c\r\nhttp2-settings: AAMAAABkAAQAAP__\r\n",
            ),
            b"",
        ),
        same(get("connection: ,,;,\u{e9}\r\n"), b""),
        same(
            get(
                "x-forwarded-client-cert: forged\r\nX-Forwarded-Client-Cert: forged\r\nx_forwarded_client_cert: forged\r\nX-FORWARDED_client-cert: forged\r\n",
            ),
            b"",
        ),
        same(
            get(
                "x_forwarded_for: forged\r\nx-forwarded-proto: forged\r\nx-forwarded-host: forged\r\nx_forwarded-host: forged\r\nx-envoy-peer-metadata: forged\r\n",
            ),
            b"",
        ),
        same(
            "POST / HTTP/1.1\r\nhost: a\r\nexpect: 100-continue\r\ncontent-length: 5\r\n\r\nhello".to_owned(),
            b"hello",
        ),
        same("\r\n\r\nGET / HTTP/1.1\r\nhost: a\r\n\r\n".to_owned(), b""),
    ]
}

/// Where on its connection a request stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Place {
    First,
    /// In the same bytes as another one before it.
    Pipelined,
    /// After another one was answered.
    Kept,
}

async fn run(bench: &Bench, place: Place, bytes: &str) -> String {
    const FIRST: &str = "GET /first HTTP/1.1\r\nhost: a\r\n\r\n";
    let mut stream = bench.rig.connect().await;
    let mut sent = String::new();
    if place == Place::Kept {
        stream.write_all(FIRST.as_bytes()).await.unwrap();
        read_until(&mut stream, "\r\n\r\n").await;
    } else if place == Place::Pipelined {
        sent.push_str(FIRST);
    }
    sent.push_str(bytes);
    sent.push_str(LAST);
    // What is refused may be closed before all of it is written.
    let (mut reading, mut writing) = stream.split();
    let mut answers = Vec::new();
    let both = async {
        tokio::join!(
            async { drop(writing.write_all(sent.as_bytes()).await) },
            tokio::io::AsyncReadExt::read_to_end(&mut reading, &mut answers)
        )
    };
    let ended = tokio::time::timeout(std::time::Duration::from_secs(20), both).await;
    let answers = String::from_utf8_lossy(&answers).into_owned();
    assert!(ended.is_ok(), "{place:?} {bytes:?}: the connection stays open: {answers}");
    answers
}

async fn holds(protocol: Protocol, place: Place, bytes: &str, want: &Want) {
    let bench = Bench::start(protocol).await;
    let answers = run(&bench, place, bytes).await;
    let short: String = bytes.chars().take(200).collect();
    let name = format!("{protocol:?} {place:?} {short:?}, answered with {answers:?}");
    let before = usize::from(place != Place::First);
    let piped = usize::from(place == Place::Pipelined);
    let seen = bench.seen(&name);
    let statuses: Vec<&str> = answers.split("HTTP/1.").skip(1).filter_map(|part| part.get(2..5)).collect();
    let statuses: Vec<_> = statuses.into_iter().filter(|status| *status != "100").skip(piped).collect();
    match want {
        // Of pipelined bytes the parser alone tells; then one framing goes on, and nothing behind it.
        Refused if piped == 1 && seen.len() == 2 => {
            assert!(statuses.len() <= 1, "{name}");
        }
        // Both may be lost: a reset overtakes an answer that was not read yet.
        Refused | Cut => {
            assert!(statuses.len() <= 1 && statuses.iter().all(|status| status.starts_with('4')), "{name}");
            assert!(place == Place::Pipelined || short.len() == 200 || statuses.len() == 1, "{name}");
            assert!(
                seen.len() <= before && seen.iter().all(|seen| seen.target == "/first"),
                "{name}: {seen:?}"
            );
            if matches!(want, Refused) && before == 0 {
                assert!(bench.record.is_empty(), "{name}");
            }
        }
        Same(target, host, body) => {
            // Whether a chunked request has a length, too, is not known of pipelined bytes: it is the last one.
            let ends = piped == 1 && bytes.to_lowercase().contains("\r\ntransfer-encoding");
            assert_eq!(statuses, if ends { vec!["200"] } else { vec!["200", "200"] }, "{name}");
            let (this, last) = (&seen[before], &seen[before + 1..]);
            assert_eq!((this.target.as_str(), this.host.as_str()), (*target, *host), "{name}");
            assert_eq!(&this.body[..], *body, "{name}");
            let last: Vec<_> = last.iter().map(|seen| seen.target.as_str()).collect();
            assert_eq!(last, if ends { vec![] } else { vec!["/last"] }, "{name}");
        }
    }
}

async fn table(cases: Vec<(String, Want)>) {
    for (bytes, want) in cases {
        for protocol in BOTH {
            for place in [Place::First, Place::Pipelined, Place::Kept] {
                holds(protocol, place, &bytes, &want).await;
            }
        }
    }
}

#[tokio::test]
async fn lengths_and_codings_have_one_reading() {
    table(framing()).await;
}

#[tokio::test]
async fn heads_have_one_reading() {
    table(heads()).await;
}

#[tokio::test]
async fn bodies_that_cannot_be_read_are_never_whole() {
    table(bodies()).await;
}

#[tokio::test]
async fn what_is_honest_or_can_be_cleaned_goes_on() {
    table(honest()).await;
}
