//! The upstream of long streams: it says what it has sent, heard and lost.

use std::{
    convert::Infallible,
    net::SocketAddr,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering::Relaxed},
    },
    time::Duration,
};

use bytes::Bytes;
use futures_util::{SinkExt as _, StreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, Empty, Full, StreamBody, combinators::UnsyncBoxBody};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::rt::{TokioExecutor, TokioIo};
use parking_lot::Mutex;
use tokio::{io::AsyncWriteExt as _, net::TcpListener};
use tokio_tungstenite::{
    WebSocketStream,
    tungstenite::{Message, handshake::derive_accept_key, protocol::Role},
};

use super::super::harness::{Authority, Pair, upstream::mutual};

/// A piece of a large body.
pub(super) const PIECE: usize = 64 * 1024;
/// A large body.
pub(super) const LARGE: usize = 100 * 1024 * 1024;

/// What it has seen.
#[derive(Default)]
pub(super) struct Seen {
    pub(super) connections: AtomicU64,
    /// Bytes that were asked of it for answers.
    pub(super) sent: AtomicU64,
    /// Calls whose client gave them up before their end.
    pub(super) given_up: AtomicU64,
    /// `grpc-timeout` of calls.
    pub(super) deadlines: Mutex<Vec<String>>,
}

/// An upstream behind mTLS; ends when dropped.
pub(super) struct App {
    pub(super) addr: SocketAddr,
    pub(super) seen: Arc<Seen>,
    accepting: tokio::task::JoinHandle<()>,
}

impl Drop for App {
    fn drop(&mut self) {
        self.accepting.abort();
    }
}

impl App {
    pub(super) async fn start(own: &Pair, clients: &Authority) -> Self {
        let tls = mutual(own, clients);
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
        let addr = listener.local_addr().expect("address");
        let seen = Arc::new(Seen::default());
        let told = Arc::clone(&seen);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let (tls, seen) = (tls.clone(), Arc::clone(&told));
                tokio::spawn(async move {
                    let Ok(stream) = tls.accept(stream).await else { return };
                    seen.connections.fetch_add(1, Relaxed);
                    let service = service_fn(move |request| {
                        let seen = Arc::clone(&seen);
                        async move { Ok::<_, Infallible>(answer(request, seen).await) }
                    });
                    let auto = hyper_util::server::conn::auto::Builder::new(TokioExecutor::new());
                    // Clients come and go.
                    let _ended = auto.serve_connection_with_upgrades(TokioIo::new(stream), service).await;
                });
            }
        });
        Self { addr, seen, accepting }
    }
}

type Out = UnsyncBoxBody<Bytes, hyper::Error>;

fn full(bytes: impl Into<Bytes>) -> Out {
    Full::new(bytes.into()).map_err(|never| match never {}).boxed_unsync()
}

fn frames(frames: impl futures_util::Stream<Item = Frame<Bytes>> + Send + 'static) -> Out {
    StreamBody::new(frames.map(Ok)).boxed_unsync()
}

async fn answer(request: Request<Incoming>, seen: Arc<Seen>) -> Response<Out> {
    let path = request.uri().path().to_owned();
    match path.as_str() {
        "/chat" | "/flood" => websocket(request, seen),
        "/down" => {
            let piece = Bytes::from(vec![b'x'; PIECE]);
            let pieces = stream::iter(0..LARGE / PIECE).map(move |_| {
                seen.sent.fetch_add(PIECE as u64, Relaxed);
                Frame::data(piece.clone())
            });
            Response::new(frames(pieces))
        }
        "/up" => {
            let mut body = request.into_body();
            let mut count = 0;
            while let Some(Ok(frame)) = body.frame().await {
                count += frame.data_ref().map_or(0, Bytes::len);
            }
            Response::new(full(count.to_string()))
        }
        "/events" => events(3600, Duration::from_millis(1)),
        "/silence" => events(1, Duration::from_hours(1)),
        _ => super::grpc::serve(request, &path, seen).await,
    }
}

/// Events at a pace, and then nothing for as long.
fn events(count: usize, pace: Duration) -> Response<Out> {
    let events = stream::iter(0..=count).then(move |number| async move {
        if number > 0 {
            tokio::time::sleep(pace).await;
        }
        Frame::data(Bytes::from(format!("id: {number}\ndata: tick\n\n")))
    });
    let mut response = Response::new(frames(events));
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    response
}

/// Echoes messages, or sends them without end.
fn websocket(mut request: Request<Incoming>, seen: Arc<Seen>) -> Response<Out> {
    let Some(key) = request.headers().get(header::SEC_WEBSOCKET_KEY).cloned() else {
        let mut response = Response::new(full("no WebSocket"));
        *response.status_mut() = StatusCode::BAD_REQUEST;
        return response;
    };
    let floods = request.uri().path() == "/flood";
    let upgraded = hyper::upgrade::on(&mut request);
    tokio::spawn(async move {
        let io = TokioIo::new(upgraded.await.expect("upgraded"));
        let mut socket = WebSocketStream::from_raw_socket(io, Role::Server, None).await;
        let piece = Bytes::from(vec![b'x'; PIECE]);
        let mut message = floods.then(|| Message::Binary(piece));
        while let Some(message) = &mut message {
            if socket.send(message.clone()).await.is_err() {
                return;
            }
            seen.sent.fetch_add(PIECE as u64, Relaxed);
        }
        while let Some(Ok(message)) = socket.next().await {
            // The library answers a close by itself when it reads on.
            if !message.is_close() && socket.send(message).await.is_err() {
                return;
            }
        }
        // Without the end of TLS it would look cut.
        let _gone = socket.get_mut().shutdown().await;
    });
    let mut response = Response::new(Empty::new().map_err(|never| match never {}).boxed_unsync());
    *response.status_mut() = StatusCode::SWITCHING_PROTOCOLS;
    let fields: &mut HeaderMap = response.headers_mut();
    fields.insert(header::CONNECTION, HeaderValue::from_static("upgrade"));
    fields.insert(header::UPGRADE, HeaderValue::from_static("websocket"));
    let accept = derive_accept_key(key.as_bytes());
    fields.insert(header::SEC_WEBSOCKET_ACCEPT, HeaderValue::from_str(&accept).expect("base64"));
    response
}
