//! Profiles by SNI, client certificates, passthrough, trust that is taken away.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{
    Bundle, ClientAuth, ClientProfile, ClientSpec, Credential, Material, PeerRule, ServerProfile, ServerSpec,
    Source, SourceRef, Trust, TrustDomain, Verify, Versions,
    dev::{Ca, Minted},
};
use proxy::{
    Reason,
    limits::Limits,
    net::{Layer, ListenerSpec},
    observe::Counter,
    revoke::Swept,
    route::Accept,
    upstream::Protocol,
};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
    time::Instant,
};
use tokio_rustls::{TlsConnector, client::TlsStream, rustls};

use super::support::*;

pub(super) const TTL: Duration = Duration::from_hours(1);

fn credential(minted: &Minted) -> Credential {
    let key = rustls::pki_types::PrivateKeyDer::try_from(minted.key_der().to_vec()).unwrap();
    Credential::new("test", vec![minted.certificate.clone()], &key, SystemTime::now()).unwrap()
}

pub(super) fn bundles(cas: &[&Ca]) -> Material {
    let authorities = cas.iter().map(|ca| ca.certificate().clone()).collect();
    let (bundle, _) = Bundle::new("test", authorities, SystemTime::now()).unwrap();
    let domain = TrustDomain::try_from("example.org").unwrap();
    Material { own: Vec::new(), trust: Some(Arc::new(Trust::Spiffe([(domain, bundle)].into()))) }
}

/// A listener's identity with a trust source of its own.
pub(super) struct Guarded {
    pub(super) ca: Ca,
    pub(super) trust: Arc<Source>,
    pub(super) profile: Arc<ServerProfile>,
}

impl Guarded {
    pub(super) fn new(id: &str, client_auth: ClientAuth, rule: PeerRule) -> Self {
        let ca = Ca::new("example.org").unwrap();
        let identity = Source::new(SourceRef::new("test:identity"));
        let own = Arc::new(credential(&ca.mint(id, TTL).unwrap()));
        identity.publish(Material { own: vec![own], trust: None });
        let trust = Source::new(SourceRef::new("test:trust"));
        trust.publish(bundles(&[&ca]));
        let verify = Verify::Spiffe { trust: Arc::clone(&trust), trust_domains: Vec::new() };
        let spec = ServerSpec {
            name: "test/host".into(),
            identity,
            hint: None,
            client_auth,
            verify: (client_auth != ClientAuth::Off).then_some(verify),
            crl: None,
            alpn: vec![b"h2".to_vec(), b"http/1.1".to_vec()],
            versions: Versions { tls12: true, tls13: true },
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        };
        Self { ca, trust, profile: ServerProfile::new(spec, rule) }
    }

    pub(super) fn table(&self, upstream: std::net::SocketAddr) -> Table {
        let mut table = Table::new(upstream);
        let profile = Arc::clone(&self.profile);
        table.accept = Box::new(move |_, hello| match hello {
            Some(_) => Accept::Terminate(Arc::clone(&profile)),
            None => Accept::Refuse(Reason::INSECURE_REJECTED),
        });
        table
    }

    pub(super) fn start(&self, upstream: std::net::SocketAddr) -> Rig {
        Rig::with(self.table(upstream), Limits::default(), https())
    }
}

pub(super) fn https() -> ListenerSpec {
    ListenerSpec { tls: true, ..http() }
}

/// The settings of a client that believes everybody.
pub(super) fn believing(alpn: &str, cert: Option<&Minted>) -> Arc<rustls::ClientConfig> {
    let identity = cert.map(|minted| {
        let source = Source::new(SourceRef::new("test:client"));
        source.publish(Material { own: vec![Arc::new(credential(minted))], trust: None });
        source
    });
    let spec = ClientSpec {
        identity,
        hint: None,
        verify: Verify::Nothing,
        crl: None,
        alpn: vec![alpn.as_bytes().to_vec()],
        versions: Versions { tls12: true, tls13: true },
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    Arc::clone(&ClientProfile::new(spec).current().unwrap().config)
}

/// A client that believes everybody.
pub(super) async fn dial(
    rig: &Rig,
    sni: &str,
    alpn: &str,
    cert: Option<&Minted>,
) -> std::io::Result<TlsStream<TcpStream>> {
    let name = rustls::pki_types::ServerName::try_from(sni.to_owned()).unwrap();
    TlsConnector::from(believing(alpn, cert)).connect(name, rig.connect().await).await
}

/// The answer to a request over TLS; `None`: the proxy ended the connection without one.
pub(super) async fn ask(rig: &Rig, sni: &str, cert: Option<&Minted>) -> Option<String> {
    let mut stream = dial(rig, sni, "http/1.1", cert).await.ok()?;
    stream.write_all(b"GET / HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").await.ok()?;
    let mut bytes = Vec::new();
    let _cut = stream.read_to_end(&mut bytes).await;
    let text = String::from_utf8(bytes).unwrap();
    (!text.is_empty()).then_some(text)
}

#[tokio::test]
async fn alpn_chooses_the_protocol_and_the_scheme_is_https() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let rig = guarded.start(upstream().await);
    let stream = dial(&rig, "a.example", "h2", None).await.unwrap();
    assert_eq!(stream.get_ref().1.alpn_protocol(), Some(b"h2".as_slice()));
    let seen = text(h2(stream).await.send_request(get2("/")).await.unwrap()).await;
    assert!(seen.contains("\nx-forwarded-proto: https\n"), "{seen}");
    assert!(ask(&rig, "a.example", None).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(rig.total(Counter::Handshakes), 2);
    assert_eq!(rig.raw(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await, "", "cleartext is the router's decision");
}

#[tokio::test]
async fn the_server_name_chooses_the_profile() {
    let a = Guarded::new("spiffe://example.org/a", ClientAuth::Off, PeerRule::Anyone);
    let b = Guarded::new("spiffe://example.org/b", ClientAuth::Required, PeerRule::Anyone);
    let mut table = Table::new(upstream().await);
    let (pa, pb) = (Arc::clone(&a.profile), Arc::clone(&b.profile));
    table.accept = Box::new(move |_, hello| match hello.and_then(|hello| hello.sni) {
        Some("a.example") => Accept::Terminate(Arc::clone(&pa)),
        Some("b.example") => Accept::Terminate(Arc::clone(&pb)),
        _ => Accept::Refuse(Reason::NO_SNI_PROFILE),
    });
    // What ingress' router does: the Host has to belong to the profile of the connection.
    let pb = Arc::clone(&b.profile);
    table.decide = Box::new(move |head| {
        let own = head.conn.tls.as_ref().is_some_and(|tls| Arc::ptr_eq(&tls.profile, &pb));
        (head.authority == "b.example" && !own).then(|| answer(421, Reason::MISDIRECTED))
    });
    let rig = Rig::with(table, Limits::default(), https());
    let shown = |stream: &TlsStream<TcpStream>| stream.get_ref().1.peer_certificates().unwrap()[0].clone();
    let of_a = shown(&dial(&rig, "A.example", "h2", None).await.unwrap());
    let client = b.ca.mint("spiffe://example.org/client", TTL).unwrap();
    let of_b = shown(&dial(&rig, "b.example", "h2", Some(&client)).await.unwrap());
    assert_ne!(of_a, of_b);
    let unknown = dial(&rig, "c.example", "h2", None).await.map(drop).unwrap_err().to_string();
    assert!(unknown.contains("UnrecognisedName"), "{unknown}");
    let mut stolen = h1(dial(&rig, "a.example", "http/1.1", None).await.unwrap()).await;
    let mut request = get("/");
    request.headers_mut().insert("host", "b.example".parse().unwrap());
    assert_eq!(stolen.send_request(request).await.unwrap().status(), 421);
}

#[tokio::test]
async fn a_required_certificate_is_required_verified_and_held_to_the_rule() {
    let domain = TrustDomain::try_from("example.org").unwrap();
    let rule = PeerRule::Spiffe { ids: Vec::new(), trust_domains: vec![domain] };
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Required, rule);
    let rig = guarded.start(upstream().await);
    let good = guarded.ca.mint("spiffe://example.org/client", TTL).unwrap();
    assert!(ask(&rig, "a", Some(&good)).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!(ask(&rig, "a", None).await, None);
    let impostor = Ca::new("example.org").unwrap().mint("spiffe://example.org/client", TTL).unwrap();
    assert_eq!(ask(&rig, "a", Some(&impostor)).await, None);
    let nobody = PeerRule::Spiffe { ids: Vec::new(), trust_domains: Vec::new() };
    guarded.profile.set_rule(nobody);
    assert_eq!(ask(&rig, "a", Some(&good)).await, None, "the rule is hot");
    until("each is counted", || rig.total(Counter::HandshakeFailed) == 3).await;
    assert_eq!(rig.total(Counter::Handshakes), 1);
}

#[tokio::test]
async fn an_optional_certificate_may_be_missing_but_not_wrong() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Optional, PeerRule::Anyone);
    let rig = guarded.start(upstream().await);
    assert!(ask(&rig, "a", None).await.unwrap().starts_with("HTTP/1.1 200"));
    let impostor = Ca::new("example.org").unwrap().mint("spiffe://example.org/client", TTL).unwrap();
    assert_eq!(ask(&rig, "a", Some(&impostor)).await, None);
}

#[tokio::test]
async fn connections_whose_trust_is_taken_away_are_drained_then_cut() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Required, PeerRule::Anyone);
    let mut table = guarded.table(upstream().await);
    table.routes[0].timeout = Some(Duration::ZERO);
    let rig = Rig::with(table, Limits::default(), https());
    let client = guarded.ca.mint("spiffe://example.org/client", TTL).unwrap();
    let mut busy = h2(dial(&rig, "a", "h2", Some(&client)).await.unwrap()).await;
    let stalled = busy.send_request(get2("/stall")).await.unwrap();
    assert_eq!(rig.server.recheck(Instant::now()), Swept { verified: 1, drained: 0 });
    assert_eq!(rig.server.recheck(Instant::now()), Swept::default(), "nothing has changed");
    guarded.trust.publish(bundles(&[&Ca::new("example.org").unwrap()]));
    let removed = std::time::Instant::now();
    assert_eq!(rig.server.recheck(Instant::now()), Swept { verified: 1, drained: 1 });
    let cut = http_body_util::BodyExt::collect(stalled.into_body()).await;
    assert!(cut.is_err());
    let after = removed.elapsed();
    assert!(Duration::from_secs(4) < after && after < Duration::from_secs(7), "{after:?}");
    assert_eq!(ask(&rig, "a", Some(&client)).await, None);
    until("it is gone", || rig.failures("trust_removed") == 1).await;
}

#[tokio::test]
async fn passthrough_relays_the_client_hello_and_every_byte() {
    let inner = Guarded::new("spiffe://example.org/inner", ClientAuth::Off, PeerRule::Anyone);
    let behind = inner.start(upstream().await);
    let mut table = Table::new(behind.addr);
    table.routes[0] = route(behind.addr, Protocol::Tcp);
    table.accept = Box::new(|_, hello| match hello.and_then(|hello| hello.sni) {
        Some("inner.example") => Accept::Passthrough,
        _ => Accept::Refuse(Reason::NO_SNI_PROFILE),
    });
    let rig = Rig::with(table, Limits::default(), https());
    assert!(ask(&rig, "inner.example", None).await.unwrap().starts_with("HTTP/1.1 200"));
    assert_eq!((rig.total(Counter::Handshakes), behind.total(Counter::Handshakes)), (0, 1));
    assert_eq!(ask(&rig, "other.example", None).await, None);
}

#[tokio::test]
async fn bytes_inside_tls_are_relayed() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let mut table = guarded.table(listener.local_addr().unwrap());
    table.routes[0] = route(listener.local_addr().unwrap(), Protocol::Tcp);
    let rig = Rig::with(table, Limits::default(), ListenerSpec { layer: Layer::Tcp, ..https() });
    let mut client = dial(&rig, "a", "x", None).await.or(dial(&rig, "a", "h2", None).await).unwrap();
    client.write_all(b"ping").await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    let mut four = [0; 4];
    upstream.read_exact(&mut four).await.unwrap();
    upstream.write_all(&four).await.unwrap();
    client.read_exact(&mut four).await.unwrap();
    assert_eq!(&four, b"ping");
}

#[tokio::test]
async fn a_handshake_that_does_not_end_is_cut() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let limits = Limits { handshake_timeout: Duration::from_millis(300), ..Limits::default() };
    let rig = Rig::with(guarded.table(upstream().await), limits, https());
    // Before the first byte, and inside of the hello.
    for (cut, begun) in (1..).zip([b"".as_slice(), b"\x16\x03\x01"]) {
        let mut slow = rig.connect().await;
        slow.write_all(begun).await.unwrap();
        assert_eq!(to_end(&mut slow).await, "");
        until("it is counted", || rig.total(Counter::HandshakeTimeout) == cut).await;
    }
}

#[tokio::test]
async fn no_more_handshakes_at_once_than_allowed_and_a_place_is_given_back() {
    let guarded = Guarded::new("spiffe://example.org/edge", ClientAuth::Off, PeerRule::Anyone);
    let address = upstream().await;
    let allowing = |max_handshakes| {
        let limits = Limits { max_handshakes, ..Limits::default() };
        Rig::with(guarded.table(address), limits, https())
    };
    let rig = allowing(0);
    assert!(dial(&rig, "a", "h2", None).await.is_err());
    assert_eq!((rig.total(Counter::MaxHandshakes), rig.total(Counter::Handshakes)), (1, 0));
    let rig = allowing(1);
    for done in 1..=5 {
        // An answer means that the handshake is over and its place is free.
        assert!(ask(&rig, "a", None).await.is_some());
        assert_eq!(rig.total(Counter::Handshakes), done);
    }
    assert_eq!(rig.total(Counter::MaxHandshakes), 0);
}
