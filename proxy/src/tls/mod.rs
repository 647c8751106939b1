//! Step 3, handshake: one server profile by SNI, loaded once; the client's identity before the first application byte.

mod hello;

use std::{
    io,
    rc::Rc,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
};

use identity::{PeerId, ServerProfile, verify};
use tokio::{
    io::AsyncWriteExt as _,
    net::TcpStream,
    time::{Instant, timeout},
};
use tokio_rustls::{StartHandshake, server::TlsStream};

use self::hello::{Heard, Unusable};
use crate::{
    ConnMeta, Reason, TlsMeta,
    conn::Alpn,
    http,
    net::{Abort, Layer, Prefixed, Worker},
    observe::Counter,
    registry::{Entry, Guard},
    route::{Accept, Hello, Router},
    serve::refused,
    tcp,
    upstream::version,
};

type Io = Prefixed<TcpStream>;

/// One of the handshakes that may be under way; given back however it ends, also by a panic.
struct Permit<'a>(&'a AtomicUsize);

impl<'a> Permit<'a> {
    fn take(under_way: &'a AtomicUsize, most: usize) -> Option<Self> {
        let permit = Self(under_way);
        (under_way.fetch_add(1, Relaxed) < most).then_some(permit)
    }
}

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        self.0.fetch_sub(1, Relaxed);
    }
}

/// Terminates TLS (or passes it through) and serves what is inside.
pub(crate) async fn serve<R: Router>(
    worker: Rc<Worker<R>>,
    stream: Io,
    mut meta: ConnMeta,
    entry: Entry,
    layer: Layer,
) {
    let shared = &worker.shared;
    let began = Instant::now();
    let Some(permit) = Permit::take(&shared.handshakes, shared.limits.max_handshakes) else {
        worker.observe.count(Counter::MaxHandshakes);
        return refused(&worker, &meta, layer, (Reason::TOO_MANY_HANDSHAKES, began));
    };
    let done = timeout(shared.limits.handshake_timeout, handshake(&worker, stream, &mut meta)).await;
    drop(permit);
    let (stream, generation, tcp) = match done {
        Ok(Ok(Shaken::Terminated { stream, generation, tcp })) => (stream, generation, tcp),
        Ok(Ok(Shaken::Passes(stream))) => {
            return tcp::serve(worker, stream, Arc::new(meta), entry).await;
        }
        Ok(Err(failed)) => {
            worker.observe.count(Counter::HandshakeFailed);
            let (listener, peer, sni) = (&meta.listener, meta.client(), meta.sni.as_deref());
            tracing::warn!(%listener, %peer, sni, reason = failed.reason.code(), "TLS handshake: {}", failed.message);
            return refused(&worker, &meta, layer, (failed.reason, began));
        }
        Err(_late) => {
            worker.observe.count(Counter::HandshakeTimeout);
            return refused(&worker, &meta, layer, (Reason::HANDSHAKE_TIMEOUT, began));
        }
    };
    worker.observe.count(Counter::Handshakes);
    let meta = Arc::new(meta);
    entry.learn(|facts| {
        facts.meta = Some(Arc::clone(&meta));
        facts.peer.clone_from(&meta.peer_id);
        facts.guard = meta.tls.as_ref().map(|tls| Guard::Server(Arc::clone(&tls.profile)));
    });
    if let Err(reason) = still_holds(&worker, &meta, generation) {
        worker.observe.count(Counter::HandshakeFailed);
        let (listener, peer) = (&meta.listener, meta.client());
        tracing::warn!(%listener, %peer, reason = reason.code(), "trust was removed during the handshake");
        return refused(&worker, &meta, layer, (reason, began));
    }
    match layer {
        Layer::Http if !tcp => http::serve(worker, stream, meta, entry).await,
        _ => tcp::serve(worker, stream, meta, entry).await,
    }
}

/// What became of a `ClientHello`.
enum Shaken {
    /// A session.
    Terminated {
        stream: Box<TlsStream<Io>>,
        /// Of its profile.
        generation: u64,
        /// What is inside is relayed as bytes.
        tcp: bool,
    },
    /// Somebody else terminates it: every byte is still there.
    Passes(Io),
}

impl<S: Abort> Abort for TlsStream<S> {
    fn abort(&self) {
        self.get_ref().0.abort();
    }
}

/// A sweep that ran between the verification and the registration did not see this connection: ask once more. Material is
/// compared by its generation; a rule that was edited, and a profile that the published table has no longer, have none.
fn still_holds<R: Router>(worker: &Worker<R>, meta: &ConnMeta, generation: u64) -> Result<(), Reason> {
    let Some(tls) = &meta.tls else { return Ok(()) };
    let hello = Hello { sni: meta.sni.as_deref(), alpn: &[] };
    let profile = match worker.shared.table.load().accept(meta, Some(&hello)) {
        Accept::Terminate(profile) | Accept::TerminateTcp(profile) => profile,
        Accept::Passthrough | Accept::Plain | Accept::Refuse(_) => Arc::clone(&tls.profile),
    };
    let same = Arc::ptr_eq(&profile, &tls.profile)
        && profile.current().is_ok_and(|current| current.generation == generation);
    let guard = Guard::Server(profile);
    let peer = meta.peer_id.as_deref();
    if same { guard.admits(peer) } else { guard.recheck(peer) }
}

/// Why a handshake did not lead to a connection: for our log.
struct Failed {
    reason: Reason,
    message: String,
}

impl Failed {
    fn new(reason: impl Into<Reason>, message: impl std::fmt::Display) -> Self {
        Self { reason: reason.into(), message: format!("{message}") }
    }
}

async fn handshake<R: Router>(
    worker: &Worker<R>,
    mut stream: Io,
    meta: &mut ConnMeta,
) -> Result<Shaken, Failed> {
    let broken = |error: io::Error| Failed::new(Reason::HANDSHAKE_FAILED, error);
    let Heard { accepted, offer, seen, fed } = hello::read(&mut stream).await.map_err(broken)?;
    let Some(offer) = offer else { return Err(unusable(&mut stream, accepted.err()).await) };
    let accept = ask(worker, meta, offer);
    let (profile, tcp) = match accept {
        Accept::Terminate(profile) => (profile, false),
        Accept::TerminateTcp(profile) => (profile, true),
        Accept::Refuse(reason) => {
            // A client that has gone needs no alert.
            let _gone = stream.write_all(&refusal(&reason, meta.sni.is_some())).await;
            return Err(Failed::new(reason, "refused by the server name"));
        }
        Accept::Passthrough => {
            stream.put_back(seen);
            return Ok(Shaken::Passes(stream));
        }
        Accept::Plain => {
            return Err(Failed::new(Reason::INTERNAL, "a TLS connection that nobody terminates"));
        }
    };
    let accepted = match accepted {
        Ok(accepted) => accepted,
        Err(why) => return Err(unusable(&mut stream, Some(why)).await),
    };
    let current = profile.current().map_err(|problem| Failed::new(problem.code, &problem.message))?;
    if current.credential.dev
        && !worker.shared.allow_dev_identity
        && !meta.local.ip().to_canonical().is_loopback()
    {
        let message = "a certificate of the dev authority is not presented beyond loopback without --allow-dev-identity";
        return Err(Failed::new(Reason::SERVER_IDENTITY_UNAVAILABLE, message));
    }
    stream.put_back(seen.slice(fed.min(seen.len())..));
    let start = StartHandshake::from_parts(*accepted, stream);
    let stream = start.into_stream(Arc::clone(&current.config)).await;
    let stream = stream.map_err(|error| match verify::failure_of(&error) {
        Some(failure) => Failed::new(failure.code(), &error),
        None => Failed::new(Reason::HANDSHAKE_FAILED, &error),
    })?;
    let session = stream.get_ref().1;
    meta.peer_id = authorise(&profile, session.peer_certificates())?;
    meta.alpn = session.alpn_protocol().map(|alpn| match alpn {
        b"h2" => Alpn::H2,
        b"http/1.1" => Alpn::Http1,
        _ => Alpn::Other,
    });
    meta.tls = Some(TlsMeta {
        version: session.protocol_version().map_or("TLS", version),
        cipher: session
            .negotiated_cipher_suite()
            .and_then(|suite| suite.suite().as_str())
            .unwrap_or_default(),
        profile,
    });
    Ok(Shaken::Terminated { stream: Box::new(stream), generation: current.generation, tcp })
}

/// Asks the router who answers a hello.
fn ask<R: Router>(worker: &Worker<R>, meta: &mut ConnMeta, (sni, alpn): hello::Offer) -> Accept {
    meta.sni = sni.map(Into::into);
    let offered: Vec<&[u8]> = alpn.iter().map(Vec::as_slice).collect();
    let seen = Hello { sni: meta.sni.as_deref(), alpn: &offered };
    worker.view().accept(meta, Some(&seen))
}

/// Says to a client why its hello leads to nothing.
async fn unusable(stream: &mut Io, why: Option<Box<Unusable>>) -> Failed {
    let Some(mut why) = why else { return Failed::new(Reason::HANDSHAKE_FAILED, "no ClientHello") };
    // A client that has gone needs no alert.
    let _gone = stream.write_all(&why.alert()).await;
    Failed::new(Reason::HANDSHAKE_FAILED, &why.error)
}

/// The alert that refuses a `ClientHello` (RFC 6066 3, RFC 8446 6): without one the client only sees a closed connection.
fn refusal(reason: &Reason, named: bool) -> [u8; 7] {
    const UNRECOGNIZED_NAME: u8 = 112;
    const HANDSHAKE_FAILURE: u8 = 40;
    let unknown = named && *reason == Reason::NO_SNI_PROFILE;
    alert(if unknown { UNRECOGNIZED_NAME } else { HANDSHAKE_FAILURE })
}

/// A record with an alert: TLS 1.2 as in every record, two bytes: fatal, and what.
fn alert(description: u8) -> [u8; 7] {
    [21, 3, 3, 0, 2, 2, description]
}

fn authorise(
    profile: &ServerProfile,
    chain: Option<&[rustls_pki_types::CertificateDer<'_>]>,
) -> Result<Option<Arc<PeerId>>, Failed> {
    let peer = profile.peer(chain).map_err(|failure| Failed::new(failure.code(), failure))?;
    profile.rule().check(peer.as_deref()).map_err(|denied| Failed::new(denied.code, &denied.message))?;
    Ok(peer)
}
