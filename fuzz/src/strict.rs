//! The strictest reading of HTTP/1.1 messages: what it takes, every parser reads alike.

/// Which messages are read.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    Request,
    Response,
}

/// One message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Message {
    /// Method, target and version, or version, status and reason.
    pub(crate) start: Vec<String>,
    /// Names in lower case.
    pub(crate) fields: Vec<(String, Vec<u8>)>,
    pub(crate) body: Vec<u8>,
    /// Bytes of all of it.
    pub(crate) length: usize,
}

/// What bytes begin with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Read {
    Whole(Message),
    /// The rest is to come, or the body goes on to the end of the connection.
    Partial,
    /// There may be several readings.
    Wrong(&'static str),
}

/// A reading that ended early.
enum Stop {
    Partial,
    Wrong(&'static str),
}

/// Reads one message.
pub(crate) fn read(bytes: &[u8], side: Side) -> Read {
    match message(bytes, side) {
        Ok(message) => Read::Whole(message),
        Err(Stop::Partial) => Read::Partial,
        Err(Stop::Wrong(why)) => Read::Wrong(why),
    }
}

fn message(bytes: &[u8], side: Side) -> Result<Message, Stop> {
    let mut rest = bytes;
    let start = start(line(&mut rest)?, side)?;
    let fields = fields(&mut rest)?;
    let body = body(&mut rest, &start, &fields, side)?;
    Ok(Message { start, fields, body, length: bytes.len() - rest.len() })
}

/// A line that ends with CRLF and has no other control character.
fn line<'a>(rest: &mut &'a [u8]) -> Result<&'a [u8], Stop> {
    let end = rest.windows(2).position(|pair| pair == b"\r\n");
    let line = rest.get(..end.unwrap_or(rest.len())).unwrap_or_default();
    let cut = if end.is_none() { line.strip_suffix(b"\r").unwrap_or(line) } else { line };
    if cut.iter().any(|byte| (*byte < b' ' && *byte != b'\t') || *byte == 0x7f) {
        return Err(Stop::Wrong("a control character in a line"));
    }
    let end = end.ok_or(Stop::Partial)?;
    *rest = rest.get(end + 2..).unwrap_or_default();
    Ok(line)
}

fn start(line: &[u8], side: Side) -> Result<Vec<String>, Stop> {
    let text = std::str::from_utf8(line).map_err(|_bytes| Stop::Wrong("a start line that is not text"))?;
    let parts: Vec<String> = text.splitn(3, ' ').map(str::to_owned).collect();
    let good = match (side, parts.as_slice()) {
        (Side::Request, [method, target, version]) => {
            let shape = target.starts_with('/') || target == "*";
            let plain = !target.contains([' ', '#', '\t']);
            !method.is_empty() && method.bytes().all(is_token) && shape && plain && version == "HTTP/1.1"
        }
        (Side::Response, [version, status, _]) => {
            version == "HTTP/1.1" && status.len() == 3 && status.bytes().all(|byte| byte.is_ascii_digit())
        }
        _ => false,
    };
    if good { Ok(parts) } else { Err(Stop::Wrong("a malformed start line")) }
}

fn is_token(byte: u8) -> bool {
    byte.is_ascii_alphanumeric() || b"!#$%&'*+-.^_`|~".contains(&byte)
}

fn fields(rest: &mut &[u8]) -> Result<Vec<(String, Vec<u8>)>, Stop> {
    let mut fields = Vec::new();
    loop {
        let line = line(rest)?;
        if line.is_empty() {
            return Ok(fields);
        }
        let at = line.iter().position(|byte| *byte == b':').ok_or(Stop::Wrong("a field without a colon"))?;
        let (name, value) = line.split_at(at);
        if name.is_empty() || !name.iter().copied().all(is_token) {
            return Err(Stop::Wrong("a field name that is no token"));
        }
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        fields.push((name, value.get(1..).unwrap_or_default().trim_ascii().to_vec()));
    }
}

fn body(
    rest: &mut &[u8],
    start: &[String],
    fields: &[(String, Vec<u8>)],
    side: Side,
) -> Result<Vec<u8>, Stop> {
    let all = |name: &str| {
        fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    };
    let (lengths, codings): (Vec<&[u8]>, Vec<&[u8]>) = (all("content-length"), all("transfer-encoding"));
    let status = start.get(1).filter(|_| side == Side::Response).map_or("", String::as_str);
    let none = status.starts_with('1') || matches!(status, "204" | "304");
    match (lengths.as_slice(), codings.as_slice()) {
        ([], []) if none || side == Side::Request => Ok(Vec::new()),
        ([], []) => Err(Stop::Partial),
        ([length], []) if none && status == "304" => decimal(length).map(|_| Vec::new()),
        ([length], []) if !none => {
            let (body, after) = rest.split_at_checked(decimal(length)?).ok_or(Stop::Partial)?;
            *rest = after;
            Ok(body.to_vec())
        }
        ([], [b"chunked"]) if !none => chunked(rest),
        _ => Err(Stop::Wrong("framing with two readings")),
    }
}

fn decimal(text: &[u8]) -> Result<usize, Stop> {
    let plain = !text.is_empty()
        && text.iter().all(u8::is_ascii_digit)
        && (text.len() == 1 || !text.starts_with(b"0"));
    let number = std::str::from_utf8(text).ok().filter(|_| plain).and_then(|text| text.parse().ok());
    number.ok_or(Stop::Wrong("a length that is no plain number"))
}

fn chunked(rest: &mut &[u8]) -> Result<Vec<u8>, Stop> {
    let mut body = Vec::new();
    loop {
        let size = line(rest)?;
        let hex = (1..=15).contains(&size.len()) && size.iter().all(u8::is_ascii_hexdigit);
        let size = std::str::from_utf8(size).ok().filter(|_| hex);
        let size = size.and_then(|size| usize::from_str_radix(size, 16).ok());
        let size = size.ok_or(Stop::Wrong("a chunk size that is no plain number"))?;
        if size == 0 {
            fields(rest)?;
            return Ok(body);
        }
        let (data, after) = rest.split_at_checked(size).ok_or(Stop::Partial)?;
        let (end, after) = after.split_first_chunk::<2>().ok_or(Stop::Partial)?;
        if end != b"\r\n" {
            return Err(Stop::Wrong("a chunk that does not end where it says"));
        }
        body.extend(data);
        *rest = after;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_reading_or_none() {
        let whole = |text: &str, side| match read(text.as_bytes(), side) {
            Read::Whole(message) => (message.length, String::from_utf8_lossy(&message.body).into_owned()),
            other => panic!("{text:?}: {other:?}"),
        };
        let get = "GET /a HTTP/1.1\r\nHost: a\r\n\r\n";
        assert_eq!(whole(&format!("{get}GET"), Side::Request), (get.len(), String::new()));
        let post = "POST / HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n2\r\nab\r\n0\r\nx: y\r\n\r\n";
        assert_eq!(whole(post, Side::Request), (post.len(), "ab".into()));
        let answer = "HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nab";
        assert_eq!(whole(answer, Side::Response), (answer.len(), "ab".into()));
        for bad in [
            "GET /a HTTP/1.1\nHost: a\r\n\r\n",
            "GET  /a HTTP/1.1\r\n\r\n",
            "GET /a HTTP/1.0\r\n\r\n",
            "GET /a HTTP/1.1\r\nHost : a\r\n\r\n",
            "GET /a HTTP/1.1\r\na: b\r\n c\r\n\r\n",
            "GET /a HTTP/1.1\r\ncontent-length: 01\r\n\r\na",
            "GET /a HTTP/1.1\r\ncontent-length: 1\r\ncontent-length: 1\r\n\r\na",
            "GET /a HTTP/1.1\r\ncontent-length: 1\r\ntransfer-encoding: chunked\r\n\r\na",
            "GET /a HTTP/1.1\r\ntransfer-encoding: gzip\r\n\r\na",
            "GET /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1;x\r\na\r\n0\r\n\r\n",
            "GET /a HTTP/1.1\r\ntransfer-encoding: chunked\r\n\r\n1\r\nab\r\n0\r\n\r\n",
        ] {
            assert!(matches!(read(bad.as_bytes(), Side::Request), Read::Wrong(_)), "{bad:?}");
        }
        assert_eq!(read(b"GET / HTTP/1.1\r\n", Side::Request), Read::Partial);
    }
}
