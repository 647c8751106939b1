//! A request on its way: the forms that HTTP/1.1 and HTTP/2 want it in, and what is kept to send it again.

use http::{HeaderMap, HeaderValue, Method, Request, StatusCode, Uri, Version, header, uri::PathAndQuery};

use crate::{
    Error, Reason,
    message::{Replay, ReqBody},
};

/// A request that may be sent several times, but whose body never runs twice by accident.
pub(super) struct Outgoing {
    /// Whole and not sent: at first, and when it came back unsent.
    whole: Option<Request<ReqBody>>,
    /// What another sending is made of. `None`: it cannot be sent again.
    spare: Option<Spare>,
    idempotent: bool,
    asks: Asks,
}

/// What a request may be answered with besides an answer.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Asks {
    /// Nothing.
    Http,
    /// Another protocol: 101.
    Upgrade,
    /// A tunnel: any success.
    Connect,
}

impl Asks {
    /// Of a client's own fields none is left that says so.
    fn of(request: &Request<ReqBody>) -> Self {
        if request.method() == Method::CONNECT {
            Self::Connect
        } else if request.headers().contains_key(header::UPGRADE) {
            Self::Upgrade
        } else {
            Self::Http
        }
    }

    /// Whether this is what was asked for; `None`: an ordinary answer.
    pub(super) fn is_met(self, status: StatusCode) -> Option<bool> {
        match self {
            _ if status == StatusCode::SWITCHING_PROTOCOLS => Some(self == Self::Upgrade),
            Self::Connect if status.is_success() => Some(true),
            _ => None,
        }
    }
}

struct Spare {
    method: Method,
    uri: Uri,
    headers: HeaderMap,
    /// `None`: there is no body.
    body: Option<Replay<Box<ReqBody>>>,
}

impl Outgoing {
    pub(super) fn new(request: Request<ReqBody>) -> Self {
        let idempotent = matches!(
            *request.method(),
            Method::GET | Method::HEAD | Method::OPTIONS | Method::PUT | Method::DELETE | Method::TRACE
        );
        let asks = Asks::of(&request);
        Self { whole: Some(request), spare: None, idempotent, asks }
    }

    /// RFC 9110, 9.2.2.
    pub(super) fn is_idempotent(&self) -> bool {
        self.idempotent
    }

    /// What it asks for. Only HTTP/1.1 can ask for more than an answer.
    pub(super) fn asks(&self) -> Asks {
        self.asks
    }

    /// The request to send now. With `keep` another sending is prepared for, as far as the body allows it.
    pub(super) fn take(&mut self, keep: bool) -> Option<Request<ReqBody>> {
        let Some(request) = self.whole.take() else { return self.repeat() };
        if !keep || self.spare.is_some() {
            return Some(request);
        }
        let (parts, body) = request.into_parts();
        let empty = matches!(body, ReqBody::Empty);
        let (body, replay) = body.kept();
        if empty || replay.is_some() {
            self.spare = Some(Spare {
                method: parts.method.clone(),
                uri: parts.uri.clone(),
                headers: parts.headers.clone(),
                body: replay,
            });
        }
        Some(Request::from_parts(parts, body))
    }

    fn repeat(&self) -> Option<Request<ReqBody>> {
        let spare = self.spare.as_ref()?;
        let body = match &spare.body {
            None => ReqBody::Empty,
            Some(replay) => ReqBody::Replay(replay.again()?),
        };
        let mut request = Request::new(body);
        request.method_mut().clone_from(&spare.method);
        request.uri_mut().clone_from(&spare.uri);
        request.headers_mut().clone_from(&spare.headers);
        Some(request)
    }

    /// It came back, and nothing of it was sent.
    pub(super) fn give_back(&mut self, request: Request<ReqBody>) {
        self.whole = Some(origin_form(request));
    }

    /// Whether there is something to send.
    pub(super) fn can_repeat(&self) -> bool {
        let spare = self.spare.as_ref();
        self.whole.is_some() || spare.is_some_and(|spare| spare.body.as_ref().is_none_or(Replay::can_repeat))
    }

    /// An answer is there and will be passed on: what was kept is let go.
    pub(super) fn seal(&self) {
        if let Some(Spare { body: Some(replay), .. }) = &self.spare {
            replay.seal();
        }
    }
}

/// HTTP/2 wants scheme and authority in the target instead of a Host field.
pub(super) fn absolute_form(mut request: Request<ReqBody>, secure: bool) -> Result<Request<ReqBody>, Error> {
    let bad = |message: String| Error::Downstream { reason: Reason::BAD_HOST, message };
    let host = request.headers_mut().remove(header::HOST);
    let host = host.as_ref().and_then(|host| host.to_str().ok());
    let authority = host.ok_or_else(|| bad("the request has no usable host".to_owned()))?;
    let target = request.uri().path_and_query().map_or("/", PathAndQuery::as_str);
    *request.uri_mut() = Uri::builder()
        .scheme(if secure { "https" } else { "http" })
        .authority(authority)
        .path_and_query(target)
        .build()
        .map_err(|error| bad(error.to_string()))?;
    *request.version_mut() = Version::HTTP_2;
    Ok(request)
}

/// HTTP/1.1 wants path and query as the target, and a Host field. Undoes [`absolute_form`].
fn origin_form(mut request: Request<ReqBody>) -> Request<ReqBody> {
    // The next connection frames it in its own way.
    request.headers_mut().remove(header::TRANSFER_ENCODING);
    if request.method() != Method::CONNECT
        && let Some(authority) = request.uri().authority()
        && let Ok(host) = HeaderValue::from_str(authority.as_str())
    {
        request.headers_mut().insert(header::HOST, host);
        let target =
            request.uri().path_and_query().cloned().unwrap_or_else(|| PathAndQuery::from_static("/"));
        *request.uri_mut() = Uri::from(target);
        *request.version_mut() = Version::HTTP_11;
    }
    request
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(uri: &'static str) -> Request<ReqBody> {
        Request::get(uri)
            .header("host", "orders.shop:81")
            .header("x-a", "1")
            .body(ReqBody::Empty)
            .expect("valid")
    }

    #[test]
    fn the_absolute_form_and_back() {
        let absolute = absolute_form(request("/a/b?c=d"), true).expect("valid");
        assert_eq!(absolute.uri(), "https://orders.shop:81/a/b?c=d");
        assert!(absolute.headers().get("host").is_none());
        assert_eq!(absolute.version(), Version::HTTP_2);
        let origin = origin_form(absolute);
        assert_eq!(origin.uri(), "/a/b?c=d");
        assert_eq!(origin.headers().get("host").map(HeaderValue::as_bytes), Some(&b"orders.shop:81"[..]));
        assert_eq!(origin.version(), Version::HTTP_11);
        let mut nameless = request("/");
        nameless.headers_mut().remove("host");
        assert!(absolute_form(nameless, false).is_err());
    }

    #[test]
    fn only_what_was_kept_can_be_repeated() {
        let mut outgoing = Outgoing::new(request("/"));
        assert!(outgoing.can_repeat());
        assert!(outgoing.take(false).is_some());
        assert!(!outgoing.can_repeat() && outgoing.take(true).is_none());
        let mut outgoing = Outgoing::new(request("/x"));
        let first = outgoing.take(true).expect("whole");
        assert!(outgoing.can_repeat());
        let second = outgoing.take(true).expect("spare");
        assert_eq!(first.headers(), second.headers());
        assert_eq!(first.uri(), second.uri());
    }
}
