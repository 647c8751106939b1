//! The admin and health listeners: plain HTTP/1.1 on the control thread.

use std::{convert::Infallible, net::SocketAddr, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body_util::Full;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::net::{TcpListener, TcpStream};

use reading::Reading;
use reserve::Reserve;

mod reading;
mod reserve;

/// What the program shows. Called on the control thread; must not block.
pub trait AdminSource: Send + Sync + 'static {
    /// Ready to take traffic.
    fn ready(&self) -> Result<(), String>;
    /// Alive: nothing is stuck that only a restart would free.
    fn live(&self) -> Result<(), String>;
    /// `/config`: listeners, hosts, routes, clusters, endpoints, identities, problems; never a secret.
    fn config(&self) -> serde_json::Value;
    /// `/explain?method=&url=`: the decision for a request, or what is wrong with the question.
    fn explain(&self, method: &str, url: &str) -> Result<serde_json::Value, String>;
    /// `/metrics` in the Prometheus text format.
    fn metrics(&self) -> String;
    /// `POST /drain`: drain the data plane as at the end of the process, but stay up: health, metrics and configuration are
    /// still shown. Asking again changes nothing.
    fn drain(&self);
    /// `POST /shutdown`: drain and exit.
    fn shutdown(&self);
    /// A connection was closed unheard, because there are too many.
    fn refused(&self);
}

/// What a listener of this module serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything for loopback peers, health and metrics for others.
    Admin,
    /// Health and metrics only.
    Health,
}

/// A client that says nothing is let go after this, and one that does not read its answer.
pub const DEADLINE: Duration = Duration::from_secs(10);
/// Most connections at a time.
const MAX_CONNECTIONS: usize = 256;

/// Binds, and gives the bound address with the future that serves until it is dropped. `deadline`: [`DEADLINE`], but for
/// tests.
pub async fn serve(
    addr: SocketAddr,
    surface: Surface,
    deadline: Duration,
    source: Arc<dyn AdminSource>,
) -> std::io::Result<(SocketAddr, impl Future<Output = ()>)> {
    let listener = TcpListener::bind(addr).await?;
    let bound = listener.local_addr()?;
    Ok((bound, accept(listener, surface, deadline, source)))
}

async fn accept(listener: TcpListener, surface: Surface, deadline: Duration, source: Arc<dyn AdminSource>) {
    let mut connections = tokio::task::JoinSet::new();
    let mut reserve = Reserve::new();
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_ended) = connections.join_next() => {
                reserve.fill();
                continue;
            }
        };
        match accepted {
            Ok((stream, peer)) if connections.len() < MAX_CONNECTIONS => {
                let full = surface == Surface::Admin && peer.ip().to_canonical().is_loopback();
                connections.spawn(connection(stream, full, deadline, Arc::clone(&source)));
            }
            Ok(_too_many) => source.refused(),
            Err(error) => {
                tracing::warn!(%error, "admin: accept failed");
                if !reserve.give_up() {
                    tokio::time::sleep(Duration::from_millis(100)).await;
                    reserve.fill();
                }
            }
        }
    }
}

async fn connection(stream: TcpStream, full: bool, deadline: Duration, source: Arc<dyn AdminSource>) {
    let service = service_fn(|request: Request<Incoming>| {
        let response = answer(request.method(), request.uri(), request.headers(), full, &*source);
        async move { Ok::<_, Infallible>(response) }
    });
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(deadline);
    let served = builder.serve_connection(TokioIo::new(Reading::new(stream, deadline)), service).await;
    if let Err(error) = served {
        tracing::debug!(%error, "admin connection ended");
    }
}

type Answer = Response<Full<Bytes>>;

fn answer(
    method: &Method,
    uri: &http::Uri,
    headers: &HeaderMap,
    full: bool,
    source: &dyn AdminSource,
) -> Answer {
    if !is_direct(headers) {
        return text(
            StatusCode::FORBIDDEN,
            "the Host must be an address or localhost, and no web page may ask\n",
        );
    }
    let get = matches!(*method, Method::GET | Method::HEAD);
    match (uri.path(), get) {
        ("/ready", true) => ready(source, "ready\n"),
        ("/ambassador/v0/check_ready", true) => ready(source, "Ambassador is ready and waiting\n"),
        ("/live", true) => live(source, "live\n"),
        ("/ambassador/v0/check_alive", true) => live(source, "Ambassador is alive and well\n"),
        ("/metrics", true) => {
            let mut response = text(StatusCode::OK, source.metrics());
            let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
            response.headers_mut().insert(header::CONTENT_TYPE, kind);
            response
        }
        ("/config" | "/explain" | "/drain" | "/shutdown", _) if !full => {
            text(StatusCode::FORBIDDEN, "only for loopback peers of the admin address\n")
        }
        ("/config", true) => json(&source.config()),
        ("/explain", true) => {
            let query = |name| parameter(uri.query().unwrap_or_default(), name);
            match source.explain(
                &query("method").unwrap_or_else(|| "GET".to_owned()),
                &query("url").unwrap_or_default(),
            ) {
                Ok(explanation) => json(&explanation),
                Err(wrong) => text(StatusCode::BAD_REQUEST, format!("{wrong}\n")),
            }
        }
        ("/drain", false) if method == Method::POST => {
            source.drain();
            text(StatusCode::OK, "draining\n")
        }
        ("/shutdown", false) if method == Method::POST => {
            source.shutdown();
            text(StatusCode::OK, "shutting down\n")
        }
        (
            "/ready"
            | "/live"
            | "/metrics"
            | "/config"
            | "/explain"
            | "/drain"
            | "/shutdown"
            | "/ambassador/v0/check_ready"
            | "/ambassador/v0/check_alive",
            _,
        ) => text(StatusCode::METHOD_NOT_ALLOWED, "GET, or POST for /drain and /shutdown\n"),
        _ => text(
            StatusCode::NOT_FOUND,
            "GET /ready /live /metrics /config /explain?method=&url= ; POST /drain /shutdown\n",
        ),
    }
}

/// A browser that was led here by another page, or by a name that was rebound to us, must get nothing.
fn is_direct(headers: &HeaderMap) -> bool {
    let value = |name: header::HeaderName| headers.get(name).and_then(|value| value.to_str().ok());
    let host = value(header::HOST).unwrap_or_default();
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or_default(),
        None => host.rsplit_once(':').map_or(host, |(name, _)| name),
    };
    let address = name == "localhost" || name.parse::<std::net::IpAddr>().is_ok();
    let own = |origin: &str| origin.strip_prefix("http://") == Some(host);
    let same = value(header::ORIGIN).is_none_or(own);
    let site = headers.get("sec-fetch-site").is_none_or(|site| site == "none" || site == "same-origin");
    address && same && site
}

/// A query parameter with percent escapes undone.
fn parameter(query: &str, name: &str) -> Option<String> {
    let pair = query.split('&').filter_map(|pair| pair.split_once('=')).find(|(key, _)| *key == name)?;
    let mut bytes = Vec::new();
    let mut rest = pair.1.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let digits = [rest.next()?, rest.next()?];
                bytes.push(u8::from_str_radix(std::str::from_utf8(&digits).ok()?, 16).ok()?);
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8(bytes).ok()
}

fn ready(source: &dyn AdminSource, yes: &'static str) -> Answer {
    state(source.ready().map_err(|why| format!("not ready: {why}\n")), yes)
}

fn live(source: &dyn AdminSource, yes: &'static str) -> Answer {
    state(source.live().map_err(|why| format!("not live: {why}\n")), yes)
}

fn state(holds: Result<(), String>, yes: &'static str) -> Answer {
    match holds {
        Ok(()) => text(StatusCode::OK, yes),
        Err(why) => text(StatusCode::SERVICE_UNAVAILABLE, why),
    }
}

fn json(value: &serde_json::Value) -> Answer {
    let mut response = text(StatusCode::OK, format!("{value:#}\n"));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/json"));
    response
}

fn text(status: StatusCode, body: impl Into<Bytes>) -> Answer {
    let mut response = Response::new(Full::new(body.into()));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(fields: &[(&'static str, &'static str)]) -> HeaderMap {
        fields.iter().map(|(n, v)| (http::HeaderName::from_static(n), HeaderValue::from_static(v))).collect()
    }

    #[test]
    fn web_pages_and_rebound_names_get_nothing() {
        assert!(is_direct(&headers(&[("host", "127.0.0.1:8877")])));
        assert!(is_direct(&headers(&[("host", "[::1]:8877")])));
        assert!(is_direct(&headers(&[("host", "localhost:8877"), ("origin", "http://localhost:8877")])));
        for bad in [
            vec![("host", "evil.example:8877")],
            vec![],
            vec![("host", "127.0.0.1:8877"), ("origin", "http://evil.example")],
            vec![("host", "127.0.0.1:8877"), ("origin", "null")],
            vec![("host", "127.0.0.1:8877"), ("sec-fetch-site", "cross-site")],
            vec![("host", "127.0.0.1:8877"), ("sec-fetch-site", "same-site")],
        ] {
            assert!(!is_direct(&headers(&bad)), "{bad:?}");
        }
    }

    #[test]
    fn parameters_are_decoded() {
        assert_eq!(
            parameter("method=GET&url=http%3A%2F%2Fa%2Fb%3Fc", "url").as_deref(),
            Some("http://a/b?c")
        );
        assert_eq!(parameter("url=%zz", "url"), None);
        assert_eq!(parameter("a=b", "url"), None);
    }
}
