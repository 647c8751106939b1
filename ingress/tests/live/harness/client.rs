//! Clients: one request, or a connection that is kept for many, honouring `connection: close` and GOAWAY.

use std::{convert::Infallible, net::SocketAddr, sync::Arc};

use bytes::Bytes;
use http::{Request, Response};
use http_body_util::{BodyExt as _, Empty, Full, combinators::UnsyncBoxBody};
use hyper::{
    body::Incoming,
    client::conn::{http1, http2},
};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls::{
    ClientConfig, RootCertStore,
    pki_types::ServerName,
    sign::{CertifiedKey, SingleCertAndKey},
};
use tokio::net::TcpStream;
use tokio_rustls::{TlsConnector, client::TlsStream};
use tokio_util::either::Either;

use super::Authority;

pub(crate) type Body = UnsyncBoxBody<Bytes, Infallible>;

/// One GET on a connection of its own.
pub(crate) async fn get(addr: SocketAddr, host: &str, path: &str) -> (u16, String) {
    let mut client = Http1::new(addr);
    let request = Request::get(path).header("host", host).body(empty()).expect("request");
    client.ask(request).await.expect("an answer")
}

pub(crate) fn empty() -> Body {
    Empty::new().boxed_unsync()
}

/// A message of five bytes with its prefix.
pub(crate) const MESSAGE: &[u8] = b"\0\0\0\0\x05hello";

/// A gRPC call of a method.
pub(crate) fn call(method: &str) -> Request<Body> {
    Request::post(format!("http://shop.example/grpc/{method}"))
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .body(Full::new(Bytes::from_static(MESSAGE)).boxed_unsync())
        .expect("request")
}

/// Where clients connect to, and whether over TLS.
#[derive(Clone)]
pub(crate) struct Target {
    addr: SocketAddr,
    tls: Option<TlsConnector>,
    /// The server name that is sent.
    name: &'static str,
}

impl From<SocketAddr> for Target {
    fn from(addr: SocketAddr) -> Self {
        Self { addr, tls: None, name: "shop.example" }
    }
}

impl Target {
    /// TLS to `shop.example`, under an authority.
    pub(crate) fn tls(addr: SocketAddr, authority: &Authority, alpn: &[u8]) -> Self {
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("authority");
        let config = ClientConfig::builder().with_root_certificates(roots).with_no_client_auth();
        Self::with(addr, config, alpn)
    }

    /// As [`Target::tls`], with a certificate of the client's own, if it has one.
    pub(crate) fn presenting(
        addr: SocketAddr,
        authority: &Authority,
        alpn: &[u8],
        own: Option<&Arc<CertifiedKey>>,
    ) -> Self {
        let Some(own) = own else { return Self::tls(addr, authority, alpn) };
        let mut roots = RootCertStore::empty();
        roots.add(authority.der().clone()).expect("authority");
        let own = Arc::new(SingleCertAndKey::from(CertifiedKey::clone(own)));
        let config = ClientConfig::builder().with_root_certificates(roots).with_client_cert_resolver(own);
        Self::with(addr, config, alpn)
    }

    fn with(addr: SocketAddr, mut config: ClientConfig, alpn: &[u8]) -> Self {
        // Nothing: of bytes that no protocol is spoken of.
        config.alpn_protocols = if alpn.is_empty() { Vec::new() } else { vec![alpn.to_vec()] };
        Self { addr, tls: Some(TlsConnector::from(Arc::new(config))), name: "shop.example" }
    }

    /// With another server name.
    pub(crate) fn named(self, name: &'static str) -> Self {
        Self { name, ..self }
    }

    /// `None` where nobody accepts any longer: refused, or closed before the handshake, so that nothing was sent.
    pub(crate) async fn connect(&self) -> Option<MaybeTls> {
        let stream = TcpStream::connect(self.addr).await.ok()?;
        let _only_slower = stream.set_nodelay(true);
        match &self.tls {
            None => Some(Either::Left(stream)),
            Some(tls) => {
                let name = ServerName::try_from(self.name).expect("name");
                tls.connect(name, stream).await.ok().map(Either::Right)
            }
        }
    }
}

pub(crate) type MaybeTls = Either<TcpStream, TlsStream<TcpStream>>;

/// A client of HTTP/1.1 with one connection at a time.
pub(crate) struct Http1 {
    target: Target,
    sender: Option<http1::SendRequest<Body>>,
}

impl Http1 {
    pub(crate) fn new(target: impl Into<Target>) -> Self {
        Self { target: target.into(), sender: None }
    }

    /// A connection, whether kept or fresh; `None` once nobody accepts any longer.
    async fn connection(&mut self) -> Result<Option<http1::SendRequest<Body>>, String> {
        if let Some(mut kept) = self.sender.take() {
            // The peer may only close after it has said so.
            kept.ready().await.map_err(|error| format!("closed without `connection: close`: {error}"))?;
            return Ok(Some(kept));
        }
        let Some(stream) = self.target.connect().await else { return Ok(None) };
        let (sender, running) =
            http1::handshake(TokioIo::new(stream)).await.map_err(|error| error.to_string())?;
        tokio::spawn(running);
        Ok(Some(sender))
    }

    /// Whether there is a connection no longer.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(http1::SendRequest::is_closed)
    }

    /// Status and body; an error unless the answer came whole.
    pub(crate) async fn ask(&mut self, request: Request<Body>) -> Result<(u16, String), String> {
        self.try_ask(request).await?.ok_or_else(|| "refused".to_owned())
    }

    /// The head of the answer, on a connection that is not used again.
    pub(crate) async fn send(&mut self, request: Request<Body>) -> Result<Response<Incoming>, String> {
        let mut sender = self.connection().await?.ok_or_else(|| "refused".to_owned())?;
        sender.send_request(request).await.map_err(|error| format!("{error:?}"))
    }

    /// As [`Http1::ask`]; `None` where the connection was refused.
    pub(crate) async fn try_ask(&mut self, request: Request<Body>) -> Result<Option<(u16, String)>, String> {
        let Some(mut sender) = self.connection().await? else { return Ok(None) };
        let response = sender.send_request(request).await.map_err(|error| format!("{error:?}"))?;
        let closes = response.headers().get("connection").is_some_and(|value| value == "close");
        let answer = whole(response).await?;
        self.sender = (!closes).then_some(sender);
        Ok(Some(answer))
    }
}

/// A client of HTTP/2, by prior knowledge or by ALPN.
pub(crate) struct Http2 {
    target: Target,
    sender: Option<http2::SendRequest<Body>>,
}

impl Http2 {
    pub(crate) fn new(target: impl Into<Target>) -> Self {
        Self { target: target.into(), sender: None }
    }

    async fn connection(&mut self) -> Option<http2::SendRequest<Body>> {
        loop {
            if let Some(mut kept) = self.sender.clone() {
                if kept.ready().await.is_ok() {
                    return Some(kept);
                }
                self.sender = None;
            }
            let stream = self.target.connect().await?;
            let (sender, running) =
                http2::handshake(TokioExecutor::new(), TokioIo::new(stream)).await.ok()?;
            tokio::spawn(running);
            self.sender = Some(sender);
        }
    }

    /// Whether there is a connection no longer.
    pub(crate) fn is_closed(&self) -> bool {
        self.sender.as_ref().is_none_or(http2::SendRequest::is_closed)
    }

    /// The head of the answer. A request that was not processed because of a GOAWAY is sent again; `None` once nobody
    /// accepts any longer.
    pub(crate) async fn send(
        &mut self,
        request: impl Fn() -> Request<Body>,
    ) -> Result<Option<Response<Incoming>>, String> {
        loop {
            let Some(mut sender) = self.connection().await else { return Ok(None) };
            match sender.try_send_request(request()).await {
                Ok(response) => return Ok(Some(response)),
                Err(mut error) => match error.take_message() {
                    Some(_unsent) => self.sender = None,
                    None => return Err(format!("{:?}", error.into_error())),
                },
            }
        }
    }

    /// As [`Http2::send`], with the whole body.
    pub(crate) async fn try_ask(
        &mut self,
        request: impl Fn() -> Request<Body>,
    ) -> Result<Option<(u16, String)>, String> {
        match self.send(request).await? {
            Some(response) => whole(response).await.map(Some),
            None => Ok(None),
        }
    }
}

pub(crate) async fn whole(response: Response<Incoming>) -> Result<(u16, String), String> {
    let status = response.status().as_u16();
    let body = response.into_body().collect().await.map_err(|error| format!("body: {error:?}"))?;
    Ok((status, String::from_utf8_lossy(&body.to_bytes()).into_owned()))
}
