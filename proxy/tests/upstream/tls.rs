//! Identity: what is presented, who is let in, and that a rotation loses nothing.

use std::{
    cell::{Cell, RefCell},
    collections::BTreeMap,
    net::SocketAddr,
    rc::Rc,
    sync::Arc,
    time::{Duration, SystemTime},
};

use arc_swap::ArcSwap;
use identity::{
    Bundle, ClientAuth, ClientProfile, ClientSpec, Credential, IdPattern, Material, PeerRule, Problem,
    ServerProfile, ServerSpec, Source, SourceRef, SpiffeId, Trust, TrustDomain, Verify, Versions, dev::Ca,
};
use proxy::{
    Error, Reason,
    observe::Counter,
    upstream::{Attempts, Cluster, EndpointOrigin, Protocol, Transport, UpstreamTls},
};
use rustls_pki_types::{PrivateKeyDer, PrivatePkcs8KeyDer};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpListener,
};
use tokio_rustls::TlsAcceptor;

use super::support::*;

const SERVER: &str = "spiffe://example.org/ns/shop/sa/orders";
const CLIENT: &str = "spiffe://example.org/ingress";
const BOTH: Versions = Versions { tls12: true, tls13: true };
const TLS12: Versions = Versions { tls12: true, tls13: false };

fn material(ca: &Ca, id: &str, ttl: Duration) -> Material {
    let minted = ca.mint(id, ttl).unwrap();
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(minted.key_der().to_vec()));
    let now = SystemTime::now();
    let credential = Credential::new("test", vec![minted.certificate.clone()], &key, now).unwrap();
    let (bundle, _) = Bundle::new("test", vec![ca.certificate().clone()], now).unwrap();
    let domain = TrustDomain::new("example.org").unwrap();
    Material {
        own: vec![Arc::new(credential)],
        trust: Some(Arc::new(Trust::Spiffe(BTreeMap::from([(domain, bundle)])))),
    }
}

fn source(name: &str, material: Material) -> Arc<Source> {
    let source = Source::new(SourceRef::new(name));
    source.publish(material);
    source
}

/// Our identity and the upstream's, from one authority.
fn both_sides() -> (Arc<Source>, Arc<Source>) {
    let ca = Ca::new("example.org").unwrap();
    (source("own", material(&ca, CLIENT, HOUR)), source("theirs", material(&ca, SERVER, HOUR)))
}

fn spiffe(trust: &Arc<Source>) -> Verify {
    Verify::Spiffe { trust: Arc::clone(trust), trust_domains: Vec::new() }
}

fn only(id: &str) -> PeerRule {
    PeerRule::Spiffe { ids: vec![IdPattern::Exact(SpiffeId::new(id).unwrap())], trust_domains: Vec::new() }
}

/// An upstream behind TLS that demands client certificates and notes whose.
struct Behind {
    addr: SocketAddr,
    /// Serial numbers of the client certificates, by connection.
    serials: Rc<RefCell<Vec<String>>>,
    closed: Rc<Cell<usize>>,
    /// Application bytes before anything was answered.
    heard: Rc<Cell<usize>>,
}

impl Behind {
    async fn start(identity: &Arc<Source>, trust: &Arc<Source>, alpn: &[&[u8]], versions: Versions) -> Self {
        let spec = ServerSpec {
            name: "upstream".into(),
            identity: Arc::clone(identity),
            hint: None,
            client_auth: ClientAuth::Required,
            verify: Some(spiffe(trust)),
            crl: None,
            alpn: alpn.iter().map(|name| name.to_vec()).collect(),
            versions,
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        };
        let profile = ServerProfile::new(spec, PeerRule::Anyone);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let this = Self {
            addr: listener.local_addr().unwrap(),
            serials: Rc::default(),
            closed: Rc::default(),
            heard: Rc::default(),
        };
        let (serials, closed, heard) =
            (Rc::clone(&this.serials), Rc::clone(&this.closed), Rc::clone(&this.heard));
        tokio::task::spawn_local(async move {
            while let Ok((stream, _)) = listener.accept().await {
                stream.set_nodelay(true).unwrap();
                let acceptor = TlsAcceptor::from(Arc::clone(&profile.current().unwrap().config));
                let (profile, serials) = (Arc::clone(&profile), Rc::clone(&serials));
                let (closed, heard) = (Rc::clone(&closed), Rc::clone(&heard));
                tokio::task::spawn_local(async move {
                    let Ok(stream) = acceptor.accept(stream).await else {
                        closed.set(closed.get() + 1);
                        return;
                    };
                    let peer = profile.peer(stream.get_ref().1.peer_certificates()).unwrap().unwrap();
                    serials.borrow_mut().push(peer.serial.clone());
                    if stream.get_ref().1.alpn_protocol() == Some(b"h2") {
                        serve_http2(stream).await;
                    } else {
                        serve_http1(stream, &heard).await;
                    }
                    closed.set(closed.get() + 1);
                });
            }
        });
        this
    }
}

type ServerStream = tokio_rustls::server::TlsStream<tokio::net::TcpStream>;

async fn serve_http1(mut stream: ServerStream, heard: &Cell<usize>) {
    let mut bytes = Vec::new();
    while let Ok(read @ 1..) = stream.read_buf(&mut bytes).await {
        heard.set(heard.get() + read);
        if bytes.ends_with(b"\r\n\r\n") {
            bytes.clear();
            if stream.write_all(b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\nh1").await.is_err() {
                return;
            }
        }
    }
}

async fn serve_http2(stream: ServerStream) {
    let Ok(mut conn) = h2::server::handshake(stream).await else { return };
    while let Some(Ok((request, mut respond))) = conn.accept().await {
        assert_eq!(request.uri().scheme_str(), Some("https"));
        let mut body = respond.send_response(http::Response::new(()), false).unwrap();
        body.send_data(bytes::Bytes::from_static(b"h2"), true).unwrap();
    }
}

fn cluster(
    rig: &Rig,
    addr: SocketAddr,
    own: &Arc<Source>,
    (protocol, alpn): (Protocol, &[&[u8]]),
) -> Arc<Cluster> {
    let tls = tls_key(alpn);
    let spec = ClientSpec {
        identity: Some(Arc::clone(own)),
        hint: None,
        verify: spiffe(own),
        crl: None,
        alpn: tls.alpn.clone(),
        versions: BOTH,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    rig.clusters.get(&key(protocol, Some(tls)), &"mtls".into(), &EndpointOrigin::Static(vec![addr]), || {
        Transport::Tls(UpstreamTls {
            profile: ClientProfile::new(spec),
            sni: Some("orders.shop".try_into().unwrap()),
            rule: ArcSwap::from_pointee(only(SERVER)),
        })
    })
}

const H1: (Protocol, &[&[u8]]) = (Protocol::Auto, &[b"http/1.1"]);
const ANY: (Protocol, &[&[u8]]) = (Protocol::Auto, &[b"h2", b"http/1.1"]);
const H2: (Protocol, &[&[u8]]) = (Protocol::Http2, &[b"h2"]);
const HOUR: Duration = Duration::from_hours(1);

#[test]
fn alpn_chooses_and_both_identities_are_known() {
    local(async {
        let (own, theirs) = both_sides();
        for (offered, spoken, want) in
            [(ANY, &[&b"h2"[..]][..], "h2"), (ANY, &[b"http/1.1"], "h1"), (H2, &[b"h2"], "h2")]
        {
            let rig = Rig::new();
            let server = Behind::start(&theirs, &theirs, spoken, BOTH).await;
            let route = route(&cluster(&rig, server.addr, &own, offered));
            for _ in 0..3 {
                let (answer, attempts) = rig.ask(&route, get("/")).await;
                assert_eq!((answer.unwrap().text(), attempts.tls), (want, Some("TLSv1.3")));
                let peer = attempts.peer.unwrap();
                assert_eq!(peer.spiffe_id.as_ref().map(ToString::to_string).as_deref(), Some(SERVER));
                assert_eq!(attempts.local_id.map(|id| id.to_string()).as_deref(), Some(CLIENT));
            }
            assert_eq!(server.serials.borrow().len(), 1);
            assert_eq!(rig.total(Counter::UpstreamNotVerified), 0);
        }
    });
}

#[test]
fn a_burst_to_an_upstream_that_may_speak_http2_opens_one_connection() {
    local(async {
        let (own, theirs) = both_sides();
        let server = Behind::start(&theirs, &theirs, &[b"h2"], BOTH).await;
        let rig = Rig::new();
        let route = route(&cluster(&rig, server.addr, &own, ANY));
        let answers = futures_util::future::join_all((0..10).map(|_| rig.get(&route))).await;
        assert!(answers.iter().all(|answer| answer.text() == "h2"));
        assert_eq!(server.serials.borrow().len(), 1);
    });
}

#[test]
fn a_rotation_loses_no_request_and_retires_what_is_old() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        for (offered, spoken) in [(H1, &[&b"http/1.1"[..]][..]), (H2, &[b"h2"])] {
            let own = source("own", material(&ca, CLIENT, HOUR));
            let theirs = source("theirs", material(&ca, SERVER, HOUR));
            let server = Behind::start(&theirs, &theirs, spoken, BOTH).await;
            let rig = Rig::new();
            let cluster = cluster(&rig, server.addr, &own, offered);
            let route = route(&cluster);
            let load = async {
                for _ in 0..200 {
                    let (a, b) = tokio::join!(rig.ask(&route, get("/")), rig.ask(&route, get("/")));
                    assert_eq!(
                        (a.0.unwrap().status, b.0.unwrap().status, a.1.count, b.1.count),
                        (200, 200, 1, 1)
                    );
                }
            };
            let rotate = async {
                for turn in 0..5 {
                    until("some load", || rig.total(Counter::UpstreamReuses) >= 50 * (turn + 1)).await;
                    own.publish(material(&ca, CLIENT, HOUR));
                    rig.upstream.sweep(&[Arc::clone(&cluster)]);
                }
            };
            tokio::join!(load, rotate);
            own.publish(material(&ca, CLIENT, HOUR));
            let newest = own.state().material.as_ref().unwrap().own[0].serial.clone();
            rig.get(&route).await;
            assert_eq!(
                server.serials.borrow().last(),
                Some(&newest),
                "the next request presents the new certificate"
            );
            assert_eq!(rig.total(Counter::Retries), 0);
            rig.upstream.sweep(&[Arc::clone(&cluster)]);
            until("old ones are closed", || rig.open() == 1).await;
        }
    });
}

#[test]
fn a_connection_retires_before_its_certificate_ends() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, Duration::from_secs(2)));
        let theirs = source("theirs", material(&ca, SERVER, HOUR));
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        let rig = Rig::new();
        let cluster = cluster(&rig, server.addr, &own, H1);
        rig.get(&route(&cluster)).await;
        let end = own.state().material.as_ref().unwrap().own[0].not_after;
        let sweeping = || {
            rig.upstream.sweep(&[Arc::clone(&cluster)]);
            rig.open() == 0
        };
        until("it is closed", sweeping).await;
        assert!(SystemTime::now() < end, "before the certificate ends");
    });
}

/// The upstream's identity, ours, and the version of TLS, as the access log has them.
fn known(attempts: &Attempts) -> [String; 3] {
    let id = |id: Option<&SpiffeId>| id.map(ToString::to_string).unwrap_or_default();
    let peer = attempts.peer.as_ref().and_then(|peer| peer.spiffe_id.as_ref());
    [id(peer), id(attempts.local_id.as_ref()), attempts.tls.unwrap_or_default().to_owned()]
}

#[test]
fn an_upstream_whose_chain_is_not_good_has_no_identity_to_show() {
    local(async {
        let own = source("own", material(&Ca::new("example.org").unwrap(), CLIENT, HOUR));
        let theirs = source("theirs", material(&Ca::new("example.org").unwrap(), SERVER, HOUR));
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        let rig = Rig::new();
        let (answer, attempts) = rig.ask(&route(&cluster(&rig, server.addr, &own, H1)), get("/")).await;
        assert!(answer.unwrap_err().reason().code().starts_with("peer_"));
        assert_eq!(known(&attempts), ["", CLIENT, ""]);
    });
}

#[test]
fn the_wrong_identity_hears_no_application_byte() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, HOUR));
        let theirs = source("theirs", material(&ca, "spiffe://example.org/ns/shop/sa/evil", HOUR));
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        let rig = Rig::new();
        let cluster = cluster(&rig, server.addr, &own, H1);
        let (answer, attempts) = rig.ask(&route(&cluster), get("/")).await;
        let error = answer.unwrap_err();
        assert_eq!((error.reason().code(), error.status().as_u16()), ("peer_id_mismatch", 503), "{error}");
        assert_eq!(known(&attempts), ["spiffe://example.org/ns/shop/sa/evil", CLIENT, "TLSv1.3"]);
        let tunnel = rig.upstream.connect(&cluster, &mut Attempts::default()).await;
        assert_eq!(tunnel.err().map(|error| error.reason()), Some(Reason::new("peer_id_mismatch")));
        until("the server saw the connections close", || server.closed.get() == 2).await;
        assert_eq!(server.heard.get(), 0);
        assert_eq!(rig.open(), 0);
    });
}

#[test]
fn an_upstream_of_another_authority_is_refused_under_its_own_reason() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let other = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, HOUR));
        let theirs = source("theirs", material(&other, SERVER, HOUR));
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        let rig = Rig::new();
        let error = rig.ask(&route(&cluster(&rig, server.addr, &own, H1)), get("/")).await.0.unwrap_err();
        assert_eq!(error.reason().code(), "peer_unknown_issuer", "{error}");
        assert_eq!(server.heard.get(), 0);
    });
}

#[test]
fn an_upstream_that_refuses_our_certificate_is_named_as_such() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let other = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, HOUR));
        let theirs = source("theirs", material(&ca, SERVER, HOUR));
        // It trusts another authority than ours.
        let strict = source("strict", material(&other, SERVER, HOUR));
        for (offered, spoken, versions) in
            [(H1, &[&b"http/1.1"[..]][..], BOTH), (H1, &[b"http/1.1"], TLS12), (H2, &[b"h2"], BOTH)]
        {
            let rig = Rig::new();
            let server = Behind::start(&theirs, &strict, spoken, versions).await;
            let route = route(&cluster(&rig, server.addr, &own, offered));
            let error = rig.ask(&route, get("/")).await.0.unwrap_err();
            assert_eq!(
                error.reason(),
                Reason::UPSTREAM_REFUSED_CERTIFICATE,
                "{versions:?} {spoken:?}: {error}"
            );
            assert_eq!(error.status(), 503);
            assert!(server.serials.borrow().is_empty());
            until("nothing is left open", || rig.open() == 0).await;
        }
    });
}

#[test]
fn without_usable_material_nothing_is_sent_and_nothing_that_runs_is_reused() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, HOUR));
        let theirs = source("theirs", material(&ca, SERVER, HOUR));
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        let rig = Rig::new();
        let route = route(&cluster(&rig, server.addr, &own, H1));
        rig.get(&route).await;
        own.withdraw(Problem::new("secret_deleted", "Secret default/own was deleted"));
        let error = rig.ask(&route, get("/")).await.0.unwrap_err();
        assert!(matches!(error, Error::Identity { .. }), "{error}");
        assert_eq!((error.reason().code(), error.status().as_u16()), ("secret_deleted", 503));
        assert_eq!(server.serials.borrow().len(), 1);
        own.publish(material(&ca, CLIENT, HOUR));
        assert_eq!(rig.get(&route).await.text(), "h1");
    });
}

#[test]
fn an_edited_rule_is_held_on_pooled_connections_too() {
    local(async {
        let (own, theirs) = both_sides();
        for (offered, spoken) in [(H1, &[&b"http/1.1"[..]][..]), (H2, &[b"h2"])] {
            let server = Behind::start(&theirs, &theirs, spoken, BOTH).await;
            let rig = Rig::new();
            let cluster = cluster(&rig, server.addr, &own, offered);
            let route = route(&cluster);
            rig.get(&route).await;
            let domain = TrustDomain::new("example.org").unwrap();
            cluster.set_rule(PeerRule::Spiffe { ids: Vec::new(), trust_domains: vec![domain] });
            rig.get(&route).await;
            assert_eq!(server.serials.borrow().len(), 1, "a rule that the peer satisfies changes nothing");
            cluster.set_rule(only("spiffe://example.org/ns/shop/sa/billing"));
            let error = rig.ask(&route, get("/")).await.0.unwrap_err();
            assert_eq!(error.reason().code(), "peer_id_mismatch");
        }
    });
}

/// The sweep that follows an edit sees connections that are there: one that is being made is asked about once more.
#[test]
fn a_rule_edited_while_a_connection_is_made_holds_for_it() {
    local(async {
        let (own, theirs) = both_sides();
        let spec = ServerSpec {
            name: "upstream".into(),
            identity: Arc::clone(&theirs),
            hint: None,
            client_auth: ClientAuth::Required,
            verify: Some(spiffe(&theirs)),
            crl: None,
            alpn: vec![b"h2".to_vec()],
            versions: BOTH,
            cipher_suites: Vec::new(),
            groups: Vec::new(),
        };
        let profile = ServerProfile::new(spec, PeerRule::Anyone);
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let rig = Rig::new();
        let cluster = cluster(&rig, listener.local_addr().unwrap(), &own, H2);
        let edited = Arc::clone(&cluster);
        tokio::task::spawn_local(async move {
            let (stream, _) = listener.accept().await.unwrap();
            let acceptor = TlsAcceptor::from(Arc::clone(&profile.current().unwrap().config));
            let mut stream = acceptor.accept(stream).await.unwrap();
            // The identity was compared when the preface is sent; the connection is made when SETTINGS are there.
            let mut preface = [0; 24];
            stream.read_exact(&mut preface).await.unwrap();
            edited.set_rule(only("spiffe://example.org/ns/shop/sa/billing"));
            stream.write_all(&[0, 0, 0, 4, 0, 0, 0, 0, 0]).await.unwrap();
            let mut rest = Vec::new();
            let _closed = stream.read_to_end(&mut rest).await;
        });
        let error = rig.ask(&route(&cluster), get("/")).await.0.unwrap_err();
        assert_eq!(error.reason().code(), "peer_id_mismatch", "{error}");
        until("nothing is left of it", || rig.open() == 0).await;
    });
}

#[test]
fn an_upstream_that_must_speak_http2_and_does_not_is_named() {
    local(async {
        let (own, theirs) = both_sides();
        // It knows no ALPN at all.
        let server = Behind::start(&theirs, &theirs, &[], BOTH).await;
        let rig = Rig::new();
        let error = rig.ask(&route(&cluster(&rig, server.addr, &own, H2)), get("/")).await.0.unwrap_err();
        assert_eq!(error.reason(), Reason::UPSTREAM_PROTOCOL, "{error}");
        assert_eq!(server.heard.get(), 0);
    });
}

#[test]
fn an_upstream_that_does_not_finish_the_handshake_is_a_connect_timeout() {
    local(async {
        let ca = Ca::new("example.org").unwrap();
        let own = source("own", material(&ca, CLIENT, HOUR));
        let deaf = Scripted::bind().await;
        let rig = Rig::new();
        let cluster = cluster(&rig, deaf.addr(), &own, H1);
        let mut policy = (**cluster.policy.load()).clone();
        policy.connect_timeout = Some(Duration::from_millis(100));
        cluster.policy.store(Arc::new(policy));
        let begin = tokio::time::Instant::now();
        let error = rig.ask(&route(&cluster), get("/")).await.0.unwrap_err();
        assert_eq!((error.reason(), error.status().as_u16()), (Reason::CONNECT_TIMEOUT, 503));
        assert!((100..1000).contains(&begin.elapsed().as_millis()));
        assert_eq!(rig.total(Counter::ConnectTimeout), 1);
    });
}

#[test]
fn a_drain_by_the_registry_retires_and_then_cuts() {
    local(async {
        use proxy::registry::Order;
        let (own, theirs) = both_sides();
        for (offered, spoken) in [(H1, &[&b"http/1.1"[..]][..]), (H2, &[b"h2"])] {
            let server = Behind::start(&theirs, &theirs, spoken, BOTH).await;
            let rig = Rig::new();
            let route = route(&cluster(&rig, server.addr, &own, offered));
            rig.get(&route).await;
            let order = Order::Drain { reason: Reason::TRUST_REMOVED, deadline: Duration::from_millis(20) };
            assert_eq!(rig.registry.order(&order, |facts| facts.peer.is_some() && facts.guard.is_some()), 1);
            until("it is cut", || rig.open() == 0).await;
            until("the server sees it", || server.closed.get() == 1).await;
            assert_eq!(rig.get(&route).await.status, 200);
        }
    });
}

#[test]
fn the_other_address_family_is_tried_beside_one_that_keeps_us_waiting() {
    local(async {
        let Ok(deaf) = TcpListener::bind("[::1]:0").await else {
            eprintln!("no IPv6 loopback here");
            return;
        };
        let (own, theirs) = both_sides();
        let server = Behind::start(&theirs, &theirs, &[b"http/1.1"], BOTH).await;
        for _ in 0..4 {
            let rig = Rig::new();
            let cluster = cluster(&rig, server.addr, &own, H1);
            cluster.set_addresses(&[deaf.local_addr().unwrap(), server.addr]);
            let begin = tokio::time::Instant::now();
            let (answer, attempts) = rig.ask(&route(&cluster), get("/")).await;
            assert_eq!((answer.unwrap().text(), attempts.upstream), ("h1", Some(server.addr)));
            assert!(begin.elapsed() < Duration::from_millis(900), "{:?}", begin.elapsed());
        }
    });
}
