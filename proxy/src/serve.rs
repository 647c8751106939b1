//! One downstream connection: preface, handshake, then HTTP or bytes.

use std::{io, net::SocketAddr, rc::Rc, sync::Arc, time::Duration};

use tokio::{
    net::TcpStream,
    time::{Instant, timeout},
};

use crate::{
    ConnMeta, Reason,
    conn::Alpn,
    http,
    net::{
        Layer, ListenerSpec, Prefixed, Worker,
        proxy_protocol::{Header, MAX_BYTES, parse},
    },
    observe::{Counter, Refused},
    registry::{Facts, Received, Role},
    route::{Accept, Router},
    tcp, tls,
};

/// First bytes of HTTP/2 with prior knowledge (RFC 9113 3.4).
const H2_PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// First byte of a TLS record that holds a handshake.
const TLS_HANDSHAKE: u8 = 0x16;

/// Serves a connection to its end. Never fails: what went wrong is counted, logged and said to the client as far as its
/// protocol allows.
pub(crate) async fn connection<R: Router>(
    worker: Rc<Worker<R>>,
    stream: TcpStream,
    peer: SocketAddr,
    spec: Arc<ListenerSpec>,
) {
    worker.observe.count(Counter::DownstreamConnections);
    let entry = worker.shared.registry.register(Facts::new(Role::Downstream, Arc::clone(&spec.name)));
    let local = stream.local_addr().unwrap_or(spec.bind);
    let mut meta = ConnMeta::new(Arc::clone(&spec.name), spec.bind.port(), peer, local);
    let mut stream = Prefixed::new(bytes::Bytes::new(), stream);
    let deadline = worker.shared.limits.handshake_timeout;
    let began = Instant::now();
    let first = timeout(deadline, preface(&worker, &mut stream, &mut meta, &spec)).await;
    let tls = match first {
        Ok(Ok(tls)) => tls,
        Ok(Err(reason)) => {
            tracing::debug!(listener = %spec.name, %peer, reason = reason.code(), "connection closed");
            return refused(&worker, &meta, spec.layer, (reason, began));
        }
        // Where no header has to come, a client may wait for its server to speak first, or rest before its first request.
        Err(_late) if !spec.tls && !spec.proxy_protocol && stream.prefix().is_empty() => false,
        Err(_late) => {
            worker.observe.count(Counter::HandshakeTimeout);
            return refused(&worker, &meta, spec.layer, (Reason::HANDSHAKE_TIMEOUT, began));
        }
    };
    if tls {
        tls::serve(worker, stream, meta, entry, spec.layer).await;
    } else {
        match worker.view().accept(&meta, None) {
            Accept::Plain => plain(worker, stream, meta, entry, spec.layer).await,
            Accept::Passthrough => tcp::serve(worker, stream, Arc::new(meta), entry).await,
            Accept::Refuse(reason) => refused(&worker, &meta, spec.layer, (reason, began)),
            Accept::Terminate(_) | Accept::TerminateTcp(_) => {}
        }
    }
}

/// A connection of a listener for TCP that came to nothing has its line, too: there are no requests that would have one.
pub(crate) fn refused<R>(
    worker: &Worker<R>,
    meta: &ConnMeta,
    layer: Layer,
    (reason, began): (Reason, Instant),
) {
    if layer == Layer::Tcp {
        let after = began.elapsed();
        worker.observe.refused(meta, Refused { protocol: "TCP", status: 0, reason, after });
    }
}

/// A cleartext connection after its preface.
async fn plain<R: Router>(
    worker: Rc<Worker<R>>,
    mut stream: Prefixed<TcpStream>,
    mut meta: ConnMeta,
    entry: crate::registry::Entry,
    layer: Layer,
) {
    if layer == Layer::Tcp {
        return tcp::serve(worker, stream, Arc::new(meta), entry).await;
    }
    let limits = &worker.shared.limits;
    tokio::select! {
        first = timeout(limits.idle_timeout, stream.peek(1, |seen| !seen.is_empty())) => match first {
            Ok(Ok(seen)) if !seen.is_empty() => {}
            Ok(_gone) => return,
            Err(_late) => return worker.observe.count(Counter::IdleTimeout),
        },
        () = last_chance(&entry, limits.last_request_within) => return,
    }
    // The rest of the preface is a part of the first head.
    let differs = |seen: &[u8]| !H2_PREFACE.starts_with(seen);
    match timeout(limits.header_timeout, stream.peek(H2_PREFACE.len(), differs)).await {
        // What was read together with a PROXY protocol header is more than was asked for.
        Ok(Ok(seen)) if seen.starts_with(H2_PREFACE) => meta.alpn = Some(Alpn::H2),
        Ok(Ok(_)) => {}
        Ok(Err(_reset)) => return,
        Err(_late) => {
            worker.observe.count(Counter::HeaderTimeout);
            let (reason, after) = (Reason::HEADER_TIMEOUT, limits.header_timeout);
            return worker.observe.refused(&meta, Refused { protocol: "HTTP/1.1", status: 0, reason, after });
        }
    }
    http::serve(worker, stream, Arc::new(meta), entry).await;
}

/// Ends when a connection that has said nothing yet has to go: a while after a drain was ordered.
async fn last_chance(entry: &crate::registry::Entry, within: Duration) {
    while !matches!(entry.ordered().await, Received::Drain(_)) {}
    tokio::time::sleep(within).await;
}

/// A PROXY protocol header that is missing, wrong, or of a peer that nobody named.
fn distrusted<R: Router>(
    worker: &Worker<R>,
    meta: &ConnMeta,
    layer: Layer,
    (found, trusted): (&Header, bool),
) -> Reason {
    let reason = Reason::BAD_PROXY_PROTOCOL;
    worker.observe.count(Counter::BadProxyProtocol);
    let why = match found {
        _ if !trusted => "the peer is in no network of --proxy-protocol-from: name the balancer's there",
        Header::Malformed => "the header is malformed, or longer than any may be",
        Header::Incomplete => "the connection ended inside of the header",
        Header::Absent | Header::Present { .. } => "the header is missing: let the balancer send it",
    };
    tracing::warn!(listener = %meta.listener, peer = %meta.peer, reason = reason.code(), "PROXY protocol: {why}");
    if layer == Layer::Http {
        let refused =
            Refused { protocol: "HTTP/1.1", status: 0, reason: reason.clone(), after: Duration::ZERO };
        worker.observe.refused(meta, refused);
    }
    reason
}

/// Step 2: the PROXY protocol header, if one may or must come; then whether TLS follows.
async fn preface<R: Router>(
    worker: &Worker<R>,
    stream: &mut Prefixed<TcpStream>,
    meta: &mut ConnMeta,
    spec: &ListenerSpec,
) -> Result<bool, Reason> {
    let gone = |_error: io::Error| Reason::DOWNSTREAM_RESET;
    let peer = meta.peer.ip();
    let from = &worker.shared.limits.proxy_protocol_from;
    // Where nobody was named, nobody is believed: anybody can write such a header.
    let trusted = from.iter().any(|net| net.contains(&peer));
    if spec.proxy_protocol || trusted {
        let complete = |seen: &[u8]| !matches!(parse(seen), Header::Incomplete);
        let seen = stream.peek(MAX_BYTES, complete).await.map_err(gone)?;
        match parse(&seen) {
            // From peers that are not trusted a header says nothing, and nothing else may come on such a listener.
            Header::Present { length, source } if trusted => {
                stream.consume(length);
                meta.proxy_protocol_source =
                    source.map(|addr| SocketAddr::new(addr.ip().to_canonical(), addr.port()));
            }
            Header::Absent | Header::Incomplete if !spec.proxy_protocol => {}
            found => return Err(distrusted(worker, meta, spec.layer, (&found, trusted))),
        }
    }
    if !spec.tls {
        return Ok(false);
    }
    let seen = stream.peek(1, |seen| !seen.is_empty()).await.map_err(gone)?;
    match seen.first() {
        Some(&TLS_HANDSHAKE) => Ok(true),
        Some(_) => Ok(false),
        None => Err(Reason::DOWNSTREAM_RESET),
    }
}
