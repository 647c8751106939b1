//! A real server on loopback with one worker, an upstream that reads as strictly as can be, and clients that send any bytes.

use std::{
    io::{self, Read as _, Write as _},
    net::{Ipv4Addr, Shutdown, SocketAddr, TcpStream},
    sync::{Arc, mpsc},
    time::Duration,
};

use arc_swap::ArcSwap;
use parking_lot::Mutex;
use proxy::{
    ConnMeta,
    limits::Limits,
    message::{Edits, Head},
    net::{Layer, ListenerSpec, Server, Settings},
    observe::{AccessLog, Observe},
    route::{
        Accept, Action, Decision, Dice, EditsIx, Hello, HttpPolicy, Route, RouteId, RouteIx, Router, Shadows,
        Upgrades,
    },
    upstream::{
        AddressPolicy, Clusters, EndpointOrigin, Protocol, RetryPolicy, ServiceRef, Tag, Transport,
        TransportKey,
    },
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};

use crate::strict::{self, Message, Read, Side};

/// A client that is answered nothing for so long ends its side: perhaps nobody owes it anything.
pub(crate) const SOON: Duration = Duration::from_millis(40);
/// How long a client waits for a server that owes it something, and every deadline of the server: a busy machine is no finding.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
/// Asked by a well-behaved client after each run.
const PROBE: &str = "/probe";

/// What the upstream has seen since it was looked at.
#[derive(Default)]
struct Seen {
    messages: Vec<Message>,
    wrong: Option<String>,
}

/// Whether a message asks for no other protocol than the one that is allowed, and in no other way.
pub(crate) fn stays(message: &Message) -> bool {
    let all = |name: &str| -> Vec<&[u8]> {
        message.fields.iter().filter(|(known, _)| known == name).map(|(_, value)| value.as_slice()).collect()
    };
    match (all("connection").as_slice(), all("upgrade").as_slice()) {
        ([], []) => true,
        ([connection], [upgrade]) => {
            connection.eq_ignore_ascii_case(b"upgrade") && upgrade.eq_ignore_ascii_case(b"websocket")
        }
        _ => false,
    }
}

/// What the upstream says to everything but the probe.
#[derive(Clone)]
pub(crate) struct Script {
    pub(crate) bytes: Vec<u8>,
    /// The connection ends after it.
    pub(crate) close: bool,
}

#[derive(Default)]
struct Upstream {
    seen: Mutex<Seen>,
    script: Mutex<Option<Script>>,
}

/// The server with its upstream.
pub(crate) struct Rig {
    addr: SocketAddr,
    upstream: Arc<Upstream>,
}

struct Table {
    route: Route,
    edits: Edits,
    policy: HttpPolicy,
}

impl Router for Table {
    fn accept(&self, _: &ConnMeta, _: Option<&Hello<'_>>) -> Accept {
        Accept::Plain
    }

    fn connection(&self, _: &ConnMeta, _: Dice) -> Decision {
        decision()
    }

    fn request(&self, _: &Head<'_>, _: Dice) -> Decision {
        decision()
    }

    fn route(&self, _: RouteIx) -> &Route {
        &self.route
    }

    fn edits(&self, _: EditsIx) -> &Edits {
        &self.edits
    }

    fn name(&self, _: RouteId) -> &'static str {
        "fuzz/all"
    }

    fn http(&self, _: &ConnMeta) -> &HttpPolicy {
        &self.policy
    }
}

fn decision() -> Decision {
    let action = Action::Forward(RouteIx(0));
    Decision { action, edits: EditsIx(0), shadows: Shadows::default(), why: RouteId::Rule(0) }
}

impl Rig {
    /// Starts everything, on threads of its own that live as long as the process.
    pub(crate) fn start() -> io::Result<Self> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let (started, waiting) = mpsc::channel();
        std::thread::Builder::new().name("control".to_owned()).spawn(move || {
            runtime.block_on(async {
                // Whoever waits for it is told by the end of the channel, too.
                let (rig, _server) = match serve().await {
                    Ok(both) => both,
                    Err(error) => return drop(started.send(Err(error))),
                };
                drop(started.send(Ok(rig)));
                std::future::pending::<()>().await;
            });
        })?;
        waiting.recv().map_err(io::Error::other)?
    }

    /// Sends bytes as a client that ends its side when nothing comes for so long; gives what was answered.
    pub(crate) fn send(&self, bytes: &[u8], patience: Duration) -> Vec<u8> {
        let answered = self.exchange(bytes, patience);
        self.probe();
        answered
    }

    /// Sets what the upstream says from now on.
    pub(crate) fn script(&self, script: Script) {
        *self.upstream.script.lock() = Some(script);
    }

    /// What the upstream has read since the last time. Anything that could be read in two ways fails here.
    pub(crate) fn seen(&self) -> Vec<Message> {
        let seen = std::mem::take(&mut *self.upstream.seen.lock());
        assert!(seen.wrong.is_none(), "the upstream has read {}", seen.wrong.unwrap_or_default());
        seen.messages
            .into_iter()
            .filter(|message| message.start.get(1).is_none_or(|path| path != PROBE))
            .collect()
    }

    /// Another client is answered what it asked for, over the connections that the upstream has by now.
    fn probe(&self) {
        let asked = format!("GET {PROBE} HTTP/1.1\r\nhost: probe\r\nconnection: close\r\n\r\n");
        let answer = self.exchange(asked.as_bytes(), PATIENCE);
        let text = String::from_utf8_lossy(&answer);
        assert!(
            text.starts_with("HTTP/1.1 200 ") && text.ends_with(PROBE),
            "a well-behaved client got {text:?}"
        );
    }

    fn exchange(&self, bytes: &[u8], patience: Duration) -> Vec<u8> {
        let mut answered = Vec::new();
        // A client that is cut off has been answered what it has been answered.
        let _cut_off = self.dialogue(bytes, patience, &mut answered);
        answered
    }

    fn dialogue(&self, bytes: &[u8], patience: Duration, answered: &mut Vec<u8>) -> io::Result<()> {
        let mut stream = TcpStream::connect(self.addr)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(PATIENCE))?;
        stream.set_read_timeout(Some(patience))?;
        let _refused_in_the_middle = stream.write_all(bytes);
        let mut piece = [0; 16 * 1024];
        let mut asks = true;
        loop {
            match stream.read(&mut piece) {
                Ok(0) => return Ok(()),
                Ok(count) => answered.extend(piece.iter().take(count)),
                // libFuzzer's clock.
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error)
                    if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut)
                        && asks =>
                {
                    asks = false;
                    stream.shutdown(Shutdown::Write)?;
                    stream.set_read_timeout(Some(PATIENCE))?;
                }
                Err(error) => return Err(error),
            }
        }
    }
}

async fn serve() -> io::Result<(Rig, Arc<Server<Table>>)> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let upstream_addr = listener.local_addr()?;
    let upstream = Arc::new(Upstream::default());
    tokio::spawn(accept(listener, Arc::clone(&upstream)));
    let key = TransportKey {
        service: ServiceRef { host: upstream_addr.ip().to_string().into(), port: upstream_addr.port() },
        protocol: Protocol::Http1,
        tls: None,
        tag: Tag::default(),
    };
    let origin = EndpointOrigin::Static(vec![upstream_addr]);
    let cluster = Clusters::new(None).get(&key, &"upstream".into(), &origin, || Transport::Plain);
    let upgrades = Upgrades::new(["websocket"]);
    let route = Route { cluster, timeout: None, idle_timeout: None, retry: RetryPolicy::default(), upgrades };
    let table = Table { route, edits: Edits::default(), policy: HttpPolicy::default() };
    let addresses = AddressPolicy { allow_loopback: true, ..AddressPolicy::default() };
    let settings = Settings { workers: 1, limits: limits(), allow_dev_identity: false };
    let addresses = Arc::new(ArcSwap::from_pointee(addresses));
    let server = Server::start(settings, addresses, Observe::new(AccessLog::Off), Arc::new(table))
        .map_err(io::Error::other)?;
    let spec = ListenerSpec {
        name: "http".into(),
        bind: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        tls: false,
        proxy_protocol: false,
        layer: Layer::Http,
    };
    let opened = server.set_listeners(vec![spec]).into_iter().next();
    let (_, addr) = opened.ok_or_else(|| io::Error::other("no listener"))?.map_err(io::Error::other)?;
    Ok((Rig { addr, upstream }, server))
}

fn limits() -> Limits {
    Limits {
        header_timeout: PATIENCE,
        idle_timeout: PATIENCE,
        upstream_timeout: PATIENCE,
        stream_idle_timeout: PATIENCE,
        ..Limits::default()
    }
}

async fn accept(listener: TcpListener, upstream: Arc<Upstream>) {
    while let Ok((stream, _)) = listener.accept().await {
        let upstream = Arc::clone(&upstream);
        tokio::spawn(async move { drop(answer(stream, &upstream).await) });
    }
}

/// Answers the requests of a connection until it ends, or until one has no single reading.
async fn answer(mut stream: tokio::net::TcpStream, upstream: &Upstream) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut held = Vec::new();
    loop {
        match strict::read(&held, Side::Request) {
            Read::Partial => {
                if stream.read_buf(&mut held).await? == 0 {
                    return Ok(());
                }
            }
            Read::Wrong(why) => {
                let text = String::from_utf8_lossy(&held);
                upstream.seen.lock().wrong = Some(format!("{why}: {text:?}"));
                return Ok(());
            }
            Read::Whole(message) => {
                held.drain(..message.length);
                let path = message.start.get(1).cloned().unwrap_or_default();
                let bodiless = message.start.first().is_some_and(|method| method == "HEAD");
                upstream.seen.lock().messages.push(message);
                let script = upstream.script.lock().clone().filter(|_| path != PROBE);
                let close = script.as_ref().is_some_and(|script| script.close);
                let body = if bodiless { "" } else { &path };
                let echo = || {
                    format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{body}", path.len()).into_bytes()
                };
                stream.write_all(&script.map_or_else(echo, |script| script.bytes)).await?;
                if close {
                    return Ok(());
                }
            }
        }
    }
}
