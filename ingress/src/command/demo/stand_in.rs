//! The demo's app: requires a client certificate of its trust domain and reports who called it. It stands on the same
//! data plane as the ingress, so it is a full mTLS server of HTTP/1.1 and HTTP/2.

use std::{
    collections::BTreeSet,
    net::{Ipv4Addr, SocketAddr},
    sync::Arc,
};

use arc_swap::ArcSwap;
use bytes::Bytes;
use http::{HeaderName, HeaderValue, StatusCode};
use identity::{ClientAuth, PeerRule, ServerProfile, ServerSpec, Source, Verify, Versions};
use parking_lot::Mutex;
use proxy::{
    ConnMeta, Reason,
    limits::Limits,
    message::{Answer, Edits, Head},
    net::{Layer, ListenerSpec, Server, Settings},
    observe::{AccessLog, Observe},
    route::{
        Accept, Action, Decision, Dice, EditsIx, Hello, HttpPolicy, Route, RouteId, RouteIx, Router, Shadows,
    },
};

/// The app with its server.
pub(super) struct DemoApp {
    server: Arc<Server<App>>,
    app: Arc<App>,
    addr: SocketAddr,
}

/// What the app answers, and what it has seen.
struct App {
    profile: Arc<ServerProfile>,
    policy: HttpPolicy,
    edits: Edits,
    /// Serial numbers of client certificates, and the last caller.
    seen: Mutex<(BTreeSet<String>, String)>,
}

impl DemoApp {
    /// Listens on a free port of 127.0.0.1.
    pub(super) fn start(source: &Arc<Source>) -> anyhow::Result<Self> {
        let spec = ServerSpec {
            name: "demo/app".into(),
            identity: Arc::clone(source),
            hint: None,
            client_auth: ClientAuth::Required,
            verify: Some(Verify::Spiffe { trust: Arc::clone(source), trust_domains: Vec::new() }),
            crl: None,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            versions: Versions { tls12: false, tls13: true },
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        };
        let app = Arc::new(App {
            profile: ServerProfile::new(spec, PeerRule::OwnTrustDomain(Arc::clone(source))),
            policy: HttpPolicy::default(),
            edits: Edits::default(),
            seen: Mutex::default(),
        });
        let settings = Settings { workers: 1, limits: Limits::default(), allow_dev_identity: false };
        let server = Server::start(
            settings,
            Arc::new(ArcSwap::default()),
            Observe::new(AccessLog::Off),
            Arc::clone(&app),
        )?;
        let listener = ListenerSpec {
            name: "app".into(),
            bind: (Ipv4Addr::LOCALHOST, 0).into(),
            tls: true,
            proxy_protocol: false,
            layer: Layer::Http,
        };
        let mut addr = None;
        for opened in server.set_listeners(vec![listener]) {
            addr = Some(opened?.1);
        }
        let addr = addr.ok_or_else(|| anyhow::anyhow!("the app has no listener"))?;
        Ok(Self { server, app, addr })
    }

    pub(super) fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// How many different client certificates came.
    pub(super) fn certificates(&self) -> usize {
        self.app.seen.lock().0.len()
    }

    /// Who called last.
    pub(super) fn caller(&self) -> String {
        self.app.seen.lock().1.clone()
    }

    pub(super) async fn stop(&self) {
        self.server.drain().await;
    }
}

impl Router for App {
    fn accept(&self, _conn: &ConnMeta, hello: Option<&Hello<'_>>) -> Accept {
        match hello {
            Some(_) => Accept::Terminate(Arc::clone(&self.profile)),
            None => Accept::Refuse(Reason::HANDSHAKE_FAILED),
        }
    }

    fn connection(&self, _conn: &ConnMeta, _dice: Dice) -> Decision {
        decide(Action::Close(Reason::NO_ROUTE))
    }

    fn request(&self, head: &Head<'_>, _dice: Dice) -> Decision {
        let peer = head.conn.peer_id.as_ref();
        let caller =
            peer.and_then(|peer| peer.spiffe_id.as_ref()).map(ToString::to_string).unwrap_or_default();
        let serial = peer.map(|peer| peer.serial.clone()).unwrap_or_default();
        let body = format!("hello {caller}\nyour certificate is {serial}\nyou asked for {}\n", head.path);
        let mut seen = self.seen.lock();
        seen.0.insert(serial);
        seen.1.clone_from(&caller);
        let mut answer = Answer::new(StatusCode::OK, Reason::OK);
        if let Ok(caller) = HeaderValue::from_str(&caller) {
            answer.headers.push((HeaderName::from_static("x-demo-caller"), caller));
        }
        answer.body = Bytes::from(body);
        decide(Action::Respond(Box::new(answer)))
    }

    #[expect(clippy::unreachable, reason = "the app forwards nothing, so nobody holds an index of a route")]
    fn route(&self, _ix: RouteIx) -> &Route {
        unreachable!("the app forwards nothing")
    }

    fn edits(&self, _ix: EditsIx) -> &Edits {
        &self.edits
    }

    fn name(&self, _id: RouteId) -> &'static str {
        "demo/app"
    }

    fn http(&self, _conn: &ConnMeta) -> &HttpPolicy {
        &self.policy
    }
}

fn decide(action: Action) -> Decision {
    Decision { action, edits: EditsIx::default(), shadows: Shadows::new(), why: RouteId::None }
}
