//! Requests that ask for another protocol: `Upgrade` (RFC 9110 7.8), `CONNECT` (9.3.6), and WebSocket over HTTP/2 (RFC 8441).
//! Which may go on, and what the upstream's answer has to say.
//!
//! What the client sends behind its request stays HTTP until the upstream has switched: hyper keeps those bytes, and gives
//! them out with the connection once the head of the answer is sent. An answer other than 101 is an ordinary one, and they
//! are the next request.

use aws_lc_rs::digest;
use base64::Engine as _;
use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, StatusCode, Version, header};
use hyper::{body::Incoming, ext::Protocol as Extended, upgrade::OnUpgrade};

use crate::{
    Reason,
    message::Answer,
    route::{Route, Upgrades},
    upstream::Protocol,
};

/// What a request asks for.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) enum Asked {
    /// An answer.
    #[default]
    Http,
    /// One of these protocols, as the client wrote them; at least one.
    Protocols(Vec<String>),
    /// A tunnel, whatever it carries.
    Connect,
}

impl Asked {
    /// Of a request whose hop-by-hop fields are still there. HTTP/1.0 has no upgrades (RFC 9110 7.8), and one that `Connection`
    /// does not name is not meant for us. `h2c` is never passed on: behind it nothing that we decide would be seen any longer;
    /// as any server may, we do not take the offer up.
    fn of(method: &Method, version: Version, headers: &HeaderMap) -> Self {
        if method == Method::CONNECT {
            return Self::Connect;
        }
        if version != Version::HTTP_11 || !names(headers, &header::CONNECTION, "upgrade") {
            return Self::Http;
        }
        let protocols = tokens(headers, &header::UPGRADE).filter(|token| !is_h2c(token));
        let protocols: Vec<_> = protocols.map(|token| String::from_utf8_lossy(token).into_owned()).collect();
        if protocols.is_empty() { Self::Http } else { Self::Protocols(protocols) }
    }

    /// As [`Self::of`], and the stream of HTTP/2 that is to be the tunnel. An extended CONNECT becomes what HTTP/1.1 says in
    /// its place (RFC 8441 5): a GET, which is how it is routed and forwarded.
    pub(super) fn take(request: &mut Request<Incoming>) -> (Self, Option<OnUpgrade>) {
        let stream = (request.version() == Version::HTTP_2 && request.method() == Method::CONNECT)
            .then(|| hyper::upgrade::on(&mut *request));
        let Some(protocol) = request.extensions_mut().remove::<Extended>() else {
            return (Self::of(request.method(), request.version(), request.headers()), stream);
        };
        *request.method_mut() = Method::GET;
        (Self::Protocols(vec![protocol.as_str().to_owned()]), stream)
    }

    /// What of it the route allows; `None`: the request stays with HTTP.
    pub(super) fn admit(self, route: &Route) -> Result<Option<To>, Answer> {
        let to = match self {
            Self::Http => return Ok(None),
            Self::Connect => route.upgrades.allow(CONNECT).then_some(To::Tunnel),
            Self::Protocols(asked) => allowed(&asked, &route.upgrades),
        };
        let to = to.ok_or_else(|| Answer::new(StatusCode::FORBIDDEN, Reason::UPGRADE_NOT_ALLOWED))?;
        if route.cluster.key.protocol == Protocol::Http2 {
            return Err(Answer::new(StatusCode::NOT_IMPLEMENTED, Reason::UPGRADE_UNSUPPORTED));
        }
        Ok(Some(to))
    }
}

/// The method among the names of protocols; it is none, and cannot be asked for as one.
const CONNECT: &str = "connect";

/// The protocols that are allowed, for the upstream to choose from.
fn allowed(asked: &[String], upgrades: &Upgrades) -> Option<To> {
    let may =
        |name: &&str| upgrades.allow(name) && !name.eq_ignore_ascii_case(CONNECT) && !is_h2c(name.as_bytes());
    let names: Vec<&str> = asked.iter().map(String::as_str).filter(may).collect();
    // Of names that are allowed, so that it is a value.
    (!names.is_empty()).then(|| HeaderValue::from_str(&names.join(", ")).ok().map(To::Protocol)).flatten()
}

/// What a request with these fields would be allowed to ask the upstream of a route for, or the answer that refuses it.
pub fn switches(
    method: &Method,
    version: Version,
    headers: &HeaderMap,
    route: &Route,
) -> Result<bool, Answer> {
    Ok(Asked::of(method, version, headers).admit(route)?.is_some())
}

/// What an upstream may switch to.
#[derive(Debug)]
pub(super) enum To {
    /// One of the protocols of this `upgrade` field.
    Protocol(HeaderValue),
    /// Bytes, after a success.
    Tunnel,
}

/// A switch that may be made: to what, and for whom.
#[derive(Debug)]
pub(super) struct Switch {
    pub(super) to: To,
    /// The client's stream, if it speaks HTTP/2.
    pub(super) stream: Option<OnUpgrade>,
    /// What we say as a client of WebSocket (RFC 6455 4.1) for one that does not, because HTTP/2 has no need of it.
    key: Option<String>,
}

impl Switch {
    pub(super) fn new(to: To, stream: Option<OnUpgrade>) -> Self {
        let websocket =
            matches!(&to, To::Protocol(name) if name.as_bytes().eq_ignore_ascii_case(b"websocket"));
        let key = (websocket && stream.is_some())
            .then(|| base64::engine::general_purpose::STANDARD.encode(fastrand::u128(..).to_be_bytes()));
        Self { to, stream, key }
    }

    /// The fields that ask for it.
    pub(super) fn ask(&self, headers: &mut HeaderMap) {
        if let To::Protocol(field) = &self.to {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, field.clone());
        }
        if let Some(Ok(key)) = self.key.as_deref().map(HeaderValue::from_str) {
            headers.insert(header::SEC_WEBSOCKET_KEY, key);
        }
    }

    /// Makes the fields of an answer those of the client's, if it is the one that was asked for.
    pub(super) fn answered(
        &self,
        headers: &mut HeaderMap,
        chosen: Option<HeaderValue>,
    ) -> Result<(), &'static str> {
        headers.remove(header::CONTENT_LENGTH);
        let To::Protocol(_) = &self.to else { return Ok(()) };
        let chosen = chosen.ok_or("it switched to a protocol that nobody had asked for")?;
        if let Some(key) = &self.key {
            let accepted = headers.remove(header::SEC_WEBSOCKET_ACCEPT);
            if accepted.is_none_or(|accepted| accepted.as_bytes() != accept(key).as_bytes()) {
                return Err("its Sec-WebSocket-Accept does not belong to the key it was sent");
            }
        }
        if self.stream.is_none() {
            headers.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
            headers.insert(header::UPGRADE, chosen);
        }
        Ok(())
    }

    /// The one protocol of an answer that was among those offered.
    pub(super) fn chosen(&self, answer: &HeaderMap) -> Option<HeaderValue> {
        let To::Protocol(field) = &self.to else { return None };
        let mut chosen = tokens(answer, &header::UPGRADE);
        let (protocol, None) = (chosen.next()?, chosen.next()) else { return None };
        let mut offered = field.as_bytes().split(|b| *b == b',').map(<[u8]>::trim_ascii);
        let offered = offered.any(|offered| offered.eq_ignore_ascii_case(protocol));
        offered.then(|| HeaderValue::from_bytes(protocol).ok()).flatten()
    }
}

/// RFC 6455 4.2.2.
fn accept(key: &str) -> String {
    let text = format!("{key}258EAFA5-E914-47DA-95CA-C5AB0DC85B11");
    let hash = digest::digest(&digest::SHA1_FOR_LEGACY_USE_ONLY, text.as_bytes());
    base64::engine::general_purpose::STANDARD.encode(hash)
}

fn is_h2c(protocol: &[u8]) -> bool {
    protocol.eq_ignore_ascii_case(b"h2c")
}

/// The members of a field's lists.
fn tokens<'a>(headers: &'a HeaderMap, name: &HeaderName) -> impl Iterator<Item = &'a [u8]> {
    let lists = headers.get_all(name).iter().flat_map(|list| list.as_bytes().split(|b| *b == b','));
    lists.map(<[u8]>::trim_ascii).filter(|token| !token.is_empty())
}

fn names(headers: &HeaderMap, field: &HeaderName, wanted: &str) -> bool {
    tokens(headers, field).any(|token| token.eq_ignore_ascii_case(wanted.as_bytes()))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::hygiene::tests::headers;

    #[test]
    fn an_answer_chooses_one_of_the_protocols_offered() {
        for (offered, answered, chosen) in [
            ("websocket", &["WebSocket"][..], Some("WebSocket")),
            ("spdy/3.1, websocket", &["websocket"], Some("websocket")),
            ("spdy/3.1", &["spdy/3"], None),
            ("websocket", &["h2c"], None),
            ("websocket", &["websocket, h2c"], None),
            ("websocket", &["websocket", "websocket"], None),
            ("websocket", &[""], None),
            ("websocket", &[], None),
        ] {
            let fields: Vec<_> = answered.iter().map(|value| ("upgrade", *value)).collect();
            let found = Switch::new(To::Protocol(HeaderValue::from_static(offered)), None);
            let found = found.chosen(&headers(&fields));
            assert_eq!(found.as_ref().map(HeaderValue::as_bytes), chosen.map(str::as_bytes), "{answered:?}");
        }
    }

    #[test]
    fn lists_are_read_over_all_fields_of_a_name() {
        let asked = |fields: &[(&str, &str)]| Asked::of(&Method::GET, Version::HTTP_11, &headers(fields));
        let many = [
            ("connection", "keep-alive,  Upgrade"),
            ("connection", ""),
            ("upgrade", "a,,h2C, b"),
            ("upgrade", "c"),
        ];
        assert_eq!(asked(&many), Asked::Protocols(["a", "b", "c"].map(str::to_owned).to_vec()));
        assert_eq!(asked(&[("connection", "up"), ("upgrade", "a")]), Asked::Http);
        assert_eq!(asked(&[("connection", "upgrade"), ("upgrade", "h2c")]), Asked::Http);
        assert_eq!(Asked::of(&Method::CONNECT, Version::HTTP_11, &HeaderMap::new()), Asked::Connect);
    }

    #[test]
    fn connect_and_h2c_are_no_protocols_that_can_be_allowed() {
        let upgrades = Upgrades::new(["CONNECT", "h2c", "tcp"]);
        for (asked, offered) in [("connect", None), ("H2C", None), ("TCP", Some("TCP"))] {
            let found = allowed(&[asked.to_owned()], &upgrades);
            let Some(To::Protocol(field)) = found else {
                assert_eq!(offered, None, "{asked}");
                continue;
            };
            assert_eq!(Some(field.as_bytes()), offered.map(str::as_bytes));
        }
    }

    #[test]
    fn the_accept_of_the_rfc() {
        assert_eq!(accept("dGhlIHNhbXBsZSBub25jZQ=="), "s3pPLMBiTxaQ9kYGzzhZRbK+xOo=");
    }
}
