//! An upstream that writes down every byte, and reads it as RFC 9112 says and no parser could read in another way.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

/// A request as the upstream has read it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Seen {
    pub(crate) method: String,
    pub(crate) target: String,
    pub(crate) host: String,
    pub(crate) body: Vec<u8>,
    pub(crate) fields: Vec<(String, String)>,
}

/// What can be read of bytes: whole requests, and whether something is left that is none.
#[derive(Debug, Default)]
pub(crate) struct Reading {
    pub(crate) whole: Vec<Seen>,
    pub(crate) truncated: bool,
}

/// Reads all bytes of a connection. An error names what has two readings.
pub(crate) fn read(mut bytes: &[u8]) -> Result<Reading, String> {
    let mut reading = Reading::default();
    while !bytes.is_empty() {
        let Some((seen, rest)) = request(bytes)? else {
            reading.truncated = true;
            break;
        };
        reading.whole.push(seen);
        bytes = rest;
    }
    Ok(reading)
}

/// What was read, and what follows; `None`: it has not ended.
type Part<'a, T> = Option<(T, &'a [u8])>;

fn line(bytes: &[u8]) -> Result<Part<'_, &[u8]>, String> {
    let Some(end) = bytes.iter().position(|b| *b == b'\n') else { return Ok(None) };
    let line = bytes[..end].strip_suffix(b"\r").ok_or("a bare LF")?;
    if line.iter().any(|b| (*b < b' ' && *b != b'\t') || *b == 0x7f) {
        return Err(format!("a control character in {:?}", String::from_utf8_lossy(line)));
    }
    Ok(Some((line, &bytes[end + 1..])))
}

fn is_token(text: &str) -> bool {
    let special = |b: u8| b"!#$%&'*+-.^_`|~".contains(&b);
    !text.is_empty() && text.bytes().all(|b| b.is_ascii_alphanumeric() || special(b))
}

/// Fields up to the empty line.
fn fields(mut bytes: &[u8]) -> Result<Part<'_, Vec<(String, String)>>, String> {
    let mut fields = Vec::new();
    while let Some((text, rest)) = line(bytes)? {
        bytes = rest;
        if text.is_empty() {
            return Ok(Some((fields, bytes)));
        }
        let text = String::from_utf8_lossy(text).into_owned();
        let (name, value) = text.split_once(':').ok_or_else(|| format!("no colon in {text:?}"))?;
        if !is_token(name) {
            return Err(format!("the name of {text:?}"));
        }
        fields.push((name.to_ascii_lowercase(), value.trim_matches([' ', '\t']).to_owned()));
    }
    Ok(None)
}

fn request(bytes: &[u8]) -> Result<Part<'_, Seen>, String> {
    let Some((start, rest)) = line(bytes)? else { return Ok(None) };
    let start = std::str::from_utf8(start).map_err(|error| format!("the request line: {error}"))?;
    let parts: Vec<&str> = start.split(' ').collect();
    let &[method, target, "HTTP/1.1"] = &parts[..] else { return Err(format!("the request line {start:?}")) };
    let visible = target.bytes().all(|b| b.is_ascii_graphic()) && !target.contains(['#', '\\']);
    if !is_token(method) || !visible || !(target.starts_with('/') || target == "*") {
        return Err(format!("the request line {start:?}"));
    }
    let Some((fields, rest)) = fields(rest)? else { return Ok(None) };
    let all = |wanted: &str| -> Vec<&str> {
        let dashed = |name: &str| name.replace('_', "-");
        fields.iter().filter(|(name, _)| dashed(name) == wanted).map(|(_, value)| value.as_str()).collect()
    };
    let hosts = all("host");
    let &[host] = &hosts[..] else { return Err(format!("the hosts {hosts:?}")) };
    for gone in ["connection", "keep-alive", "proxy-connection", "upgrade", "http2-settings", "expect"] {
        if !all(gone).is_empty() {
            return Err(format!("the field {gone}"));
        }
    }
    let body = match (&all("content-length")[..], &all("transfer-encoding")[..]) {
        ([], []) => Some((Vec::new(), rest)),
        ([length], []) => sized(length, rest)?,
        ([], ["chunked"]) => chunked(rest)?,
        framing => return Err(format!("the framing {framing:?}")),
    };
    let Some((body, rest)) = body else { return Ok(None) };
    let (method, target, host) = (method.to_owned(), target.to_owned(), host.to_owned());
    Ok(Some((Seen { method, target, host, body, fields }, rest)))
}

fn sized<'a>(length: &str, rest: &'a [u8]) -> Result<Part<'a, Vec<u8>>, String> {
    let count: usize = length.parse().map_err(|error| format!("the length {length:?}: {error}"))?;
    if count.to_string() != length {
        return Err(format!("the length {length:?}"));
    }
    Ok(rest.split_at_checked(count).map(|(body, rest)| (body.to_vec(), rest)))
}

fn chunked(mut rest: &[u8]) -> Result<Part<'_, Vec<u8>>, String> {
    let mut body = Vec::new();
    while let Some((size, after)) = line(rest)? {
        let text = String::from_utf8_lossy(size).into_owned();
        if text.is_empty() || !text.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(format!("the chunk size {text:?}"));
        }
        let count = usize::from_str_radix(&text, 16).map_err(|error| error.to_string())?;
        if count == 0 {
            let Some((trailers, rest)) = fields(after)? else { return Ok(None) };
            let forbidden = |name: &str| name.starts_with("x-forwarded") || FORBIDDEN.contains(&name);
            if let Some((name, _)) = trailers.iter().find(|(name, _)| forbidden(&name.replace('_', "-"))) {
                return Err(format!("the trailer {name}"));
            }
            return Ok(Some((body, rest)));
        }
        let Some((chunk, after)) = after.split_at_checked(count) else { return Ok(None) };
        body.extend_from_slice(chunk);
        match after {
            [b'\r', b'\n', after @ ..] => rest = after,
            [] | [b'\r'] => return Ok(None),
            _ => return Err("a chunk longer than its size".to_owned()),
        }
    }
    Ok(None)
}

/// What must not stand in trailers.
const FORBIDDEN: [&str; 6] =
    ["host", "content-length", "transfer-encoding", "authorization", "cookie", "connection"];

/// What the upstream got.
#[derive(Clone, Default)]
pub(crate) struct Record {
    /// Bytes of each connection (HTTP/1.1).
    bytes: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Requests (HTTP/2): that library is strict.
    requests: Arc<Mutex<Vec<Seen>>>,
}

impl Record {
    /// Every whole request, in order of connections; fails where something has two readings.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        let mut all = self.requests.lock().clone();
        for bytes in self.bytes.lock().iter() {
            match read(bytes) {
                Ok(reading) => all.extend(reading.whole),
                Err(why) => panic!("the upstream saw {why}: {:?}", String::from_utf8_lossy(bytes)),
            }
        }
        all
    }

    /// Whether the upstream got anything at all.
    pub(crate) fn is_empty(&self) -> bool {
        self.bytes.lock().iter().all(Vec::is_empty) && self.requests.lock().is_empty()
    }
}

/// Starts an upstream of one protocol.
pub(crate) async fn recorder(http2: bool) -> (SocketAddr, Record) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (addr, record) = (listener.local_addr().unwrap(), Record::default());
    let kept = record.clone();
    tokio::spawn(async move {
        loop {
            let (stream, _) = listener.accept().await.unwrap();
            if http2 {
                tokio::spawn(serve_h2(stream, kept.clone()));
            } else {
                tokio::spawn(serve_h1(stream, kept.clone()));
            }
        }
    });
    (addr, record)
}

/// Answers each request once it is whole.
async fn serve_h1(mut stream: TcpStream, record: Record) {
    let index = {
        let mut all = record.bytes.lock();
        all.push(Vec::new());
        all.len() - 1
    };
    let (mut buffer, mut answered) = (vec![0; 65536], 0);
    while let Ok(count @ 1..) = stream.read(&mut buffer).await {
        let whole = {
            let mut all = record.bytes.lock();
            all[index].extend_from_slice(&buffer[..count]);
            read(&all[index]).map_or(answered, |reading| reading.whole.len())
        };
        for _ in answered..whole {
            drop(stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n").await);
        }
        answered = whole;
    }
}

async fn serve_h2(stream: TcpStream, record: Record) {
    let service = hyper::service::service_fn(move |request: Request<Incoming>| {
        let record = record.clone();
        async move {
            let (parts, body) = request.into_parts();
            let Ok(body) = body.collect().await else { std::future::pending().await };
            let field = |(name, value): (&http::HeaderName, &http::HeaderValue)| {
                (name.to_string(), String::from_utf8_lossy(value.as_bytes()).into_owned())
            };
            record.requests.lock().push(Seen {
                method: parts.method.to_string(),
                target: parts.uri.path_and_query().map(ToString::to_string).unwrap_or_default(),
                host: parts.uri.authority().map(ToString::to_string).unwrap_or_default(),
                fields: parts.headers.iter().map(field).collect(),
                body: body.to_bytes().to_vec(),
            });
            Ok::<_, Infallible>(Response::new(Full::<Bytes>::default()))
        }
    });
    let builder = hyper::server::conn::http2::Builder::new(TokioExecutor::new());
    drop(builder.serve_connection(TokioIo::new(stream), service).await);
}

#[test]
fn what_has_two_readings_is_told() {
    let good = "GET /a HTTP/1.1\r\nhost: a\r\n\r\nPOST / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\n\r\nx";
    assert_eq!(read(good.as_bytes()).unwrap().whole.len(), 2);
    for bad in [
        "GET / HTTP/1.1\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nhost: a\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ncontent_length: 1\r\ncontent-length: 1\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        "GET / HTTP/1.1\r\nhost: a\r\nx : 1\r\n\r\n",
        "GET /a b HTTP/1.1\r\nhost: a\r\n\r\n",
    ] {
        assert!(read(bad.as_bytes()).is_err(), "{bad:?}");
    }
}
