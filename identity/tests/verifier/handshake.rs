//! Real handshakes over loopback: the failure is readable on our side, nothing resumes, and a rotation loses nothing.

use std::{sync::Arc, time::Duration};

use identity::{
    ClientAuth, ClientProfile, Material, ServerProfile, Source, SourceRef, Trust, Verify, VerifyFailure as F,
    Versions, verify::failure_of,
};
use rustls::{
    HandshakeKind,
    crypto::aws_lc_rs::default_provider,
    sign::{CertifiedKey, SingleCertAndKey},
};
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::mint::{
    Authority, ID, Leaf, by_spiffe, client, client_of, server, server_with, source, spiffe, trust,
};

const TLS12: Versions = Versions { tls12: true, tls13: false };

const DEADLINE: Duration = Duration::from_secs(20);

/// What a side saw: the peer's leaf and the kind of handshake, or the failure of its own verifier.
type Side = Result<(Option<CertificateDer<'static>>, HandshakeKind), Option<F>>;

async fn shake(client: &ClientProfile, server: &ServerProfile) -> (Side, Side) {
    shake_with(client, Arc::clone(&server.current().expect("server").config)).await
}

async fn shake_with(client: &ClientProfile, theirs: Arc<rustls::ServerConfig>) -> (Side, Side) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let ours = client.current().expect("client");
    let accept = async {
        let (socket, _) = listener.accept().await.expect("accept");
        let stream = TlsAcceptor::from(theirs).accept(socket).await.map_err(|error| failure_of(&error))?;
        let (_, connection) = stream.get_ref();
        Ok((leaf(connection.peer_certificates()), connection.handshake_kind().expect("done")))
    };
    let connect = async {
        let socket = TcpStream::connect(address).await.expect("connect");
        let name = ServerName::try_from("any.example").expect("name");
        let connector = TlsConnector::from(Arc::clone(&ours.config));
        let stream = connector.connect(name, socket).await.map_err(|error| failure_of(&error))?;
        let (_, connection) = stream.get_ref();
        Ok((leaf(connection.peer_certificates()), connection.handshake_kind().expect("done")))
    };
    let both = async { tokio::join!(connect, accept) };
    tokio::time::timeout(DEADLINE, both).await.expect("both sides end")
}

fn leaf(chain: Option<&[CertificateDer<'_>]>) -> Option<CertificateDer<'static>> {
    Some(chain?.first()?.clone().into_owned())
}

fn own(authority: &Authority, id: &str) -> Material {
    Material { own: vec![Arc::new(authority.svid(id).credential())], trust: None }
}

fn anchored(authority: &Authority) -> Arc<Source> {
    trust(spiffe(&[("td", &[&authority.cert])]))
}

#[tokio::test]
async fn both_sides_prove_each_other() {
    let root = Authority::root("root");
    let client = client(by_spiffe(anchored(&root)), Some(source(own(&root, "spiffe://td/client"))), None);
    let server = server(by_spiffe(anchored(&root)), source(own(&root, ID)));
    let (connected, accepted) = shake(&client, &server).await;
    let (server_leaf, _) = connected.expect("the server is proved");
    let (client_leaf, _) = accepted.expect("the client is proved");
    let id = |peer: Arc<identity::PeerId>| peer.spiffe_id.as_ref().map(ToString::to_string);
    let server_leaf = server_leaf.expect("presented");
    assert_eq!(id(client.peer(&[server_leaf]).expect("known")).as_deref(), Some(ID));
    assert!(client.current().expect("client").verified);
    let client_leaf = client_leaf.expect("presented");
    let peer = server.peer(Some(&[client_leaf])).expect("known").expect("presented");
    assert_eq!(id(peer).as_deref(), Some("spiffe://td/client"));
}

#[tokio::test]
async fn the_failure_of_a_handshake_is_told_to_us() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let trusting = client(by_spiffe(anchored(&root)), Some(source(own(&root, "spiffe://td/client"))), None);
    let server_of = |material| server(by_spiffe(anchored(&root)), source(material));
    let (connected, _) = shake(&trusting, &server_of(own(&other, ID))).await;
    assert_eq!(connected.expect_err("refused"), Some(F::UnknownIssuer));
    let (connected, _) = shake(&trusting, &server_of(own(&root, "spiffe://elsewhere/web"))).await;
    assert_eq!(connected.expect_err("refused"), Some(F::NoBundle));
    let may_sign = root.leaf(|params| params.key_usages.push(rcgen::KeyUsagePurpose::CrlSign));
    let (connected, _) =
        shake(&trusting, &server_of(Material { own: vec![Arc::new(may_sign.credential())], trust: None }))
            .await;
    assert_eq!(connected.expect_err("refused"), Some(F::LeafMaySign));

    let stranger = client(by_spiffe(anchored(&root)), Some(source(own(&other, "spiffe://td/client"))), None);
    let (_, accepted) = shake(&stranger, &server_of(own(&root, ID))).await;
    assert_eq!(accepted.expect_err("refused"), Some(F::UnknownIssuer));
    let nobody = client(by_spiffe(anchored(&root)), None, None);
    let (_, accepted) = shake(&nobody, &server_of(own(&root, ID))).await;
    assert_eq!(accepted.expect_err("refused"), Some(F::NoCertificate));
}

#[tokio::test]
async fn both_sides_prove_each_other_in_tls_1_2() {
    let root = Authority::root("root");
    let ours = Some(source(own(&root, "spiffe://td/client")));
    let client = client_of(by_spiffe(anchored(&root)), ours, None, TLS12);
    let (connected, accepted) =
        shake(&client, &server(by_spiffe(anchored(&root)), source(own(&root, ID)))).await;
    assert!(connected.expect("proved").0.is_some() && accepted.expect("proved").0.is_some());
}

#[tokio::test]
async fn an_optional_client_certificate_may_be_absent_but_not_bad() {
    let (root, other) = (Authority::root("root"), Authority::root("other"));
    let server = server_with(by_spiffe(anchored(&root)), source(own(&root, ID)), ClientAuth::Optional);
    let with = |identity| client(by_spiffe(anchored(&root)), identity, None);
    let (_, accepted) = shake(&with(None), &server).await;
    assert_eq!(accepted.expect("nobody is somebody, too").0, None);
    assert!(server.peer(None).expect("not required").is_none());
    let (_, accepted) = shake(&with(Some(source(own(&root, "spiffe://td/client")))), &server).await;
    assert!(accepted.expect("proved").0.is_some());
    let (_, accepted) = shake(&with(Some(source(own(&other, "spiffe://td/client")))), &server).await;
    assert_eq!(accepted.expect_err("refused"), Some(F::UnknownIssuer));
}

/// A server that presents a certificate with whatever key.
fn presenting(cert: CertificateDer<'static>, key_of: &Leaf) -> Arc<rustls::ServerConfig> {
    let certified = CertifiedKey::new(vec![cert], key_of.key());
    let config = rustls::ServerConfig::builder_with_provider(Arc::new(default_provider()))
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(SingleCertAndKey::from(certified)));
    Arc::new(config)
}

/// Where nobody is verified an old certificate is let through, if the peer has its key; where somebody is, never.
#[tokio::test]
async fn x509_v1_is_let_through_only_where_nobody_is_verified_and_only_with_its_key() {
    let root = Authority::root("root");
    let (leaf, stranger) = (root.svid(ID), root.svid(ID));
    let v1 = leaf.v1();
    for versions in [TLS12, Versions::ALL] {
        let unverified = client_of(Verify::Nothing, None, None, versions);
        assert!(!unverified.current().expect("client").verified);
        let judged = async |client: &ClientProfile, cert: CertificateDer<'static>, key: &Leaf| {
            shake_with(client, presenting(cert, key)).await.0.map(|(leaf, _)| leaf.expect("presented"))
        };
        assert_eq!(judged(&unverified, v1.clone(), &leaf).await, Ok(v1.clone()));
        assert_eq!(judged(&unverified, leaf.cert.clone(), &leaf).await, Ok(leaf.cert.clone()));
        assert!(judged(&unverified, v1.clone(), &stranger).await.is_err());
        assert_eq!(judged(&unverified, leaf.cert.clone(), &stranger).await, Err(Some(F::BadSignature)));
        let verified = client_of(by_spiffe(anchored(&root)), None, None, versions);
        assert!(judged(&verified, v1.clone(), &leaf).await.is_err());
        assert_eq!(judged(&verified, leaf.cert.clone(), &stranger).await, Err(Some(F::BadSignature)));
    }
}

#[tokio::test]
async fn nothing_resumes_where_identity_matters() {
    let root = Authority::root("root");
    let client = client(by_spiffe(anchored(&root)), Some(source(own(&root, "spiffe://td/client"))), None);
    let server = server(by_spiffe(anchored(&root)), source(own(&root, ID)));
    assert_eq!(server.current().expect("server").config.send_tls13_tickets, 0);
    for _ in 0..3 {
        let (connected, accepted) = shake(&client, &server).await;
        assert_ne!(connected.expect("proved").1, HandshakeKind::Resumed);
        assert_ne!(accepted.expect("proved").1, HandshakeKind::Resumed);
    }
}

#[tokio::test]
async fn a_rotation_between_200_handshakes_loses_none_and_the_next_one_presents_the_new_certificate() {
    let (before, after) = (Authority::root("before"), Authority::root("after"));
    let both = || trust(spiffe(&[("td", &[&before.cert, &after.cert])]));
    let (ours, theirs) = (source(own(&before, "spiffe://td/client")), source(own(&before, ID)));
    let client = client(by_spiffe(both()), Some(Arc::clone(&ours)), None);
    let server = server(by_spiffe(both()), Arc::clone(&theirs));
    for round in 0..200 {
        let authority = if round % 20 < 10 { &before } else { &after };
        if round % 10 == 0 {
            ours.publish(own(authority, "spiffe://td/client"));
            theirs.publish(own(authority, ID));
        }
        let presented =
            |source: &Source| source.state().material.as_ref().expect("material").own[0].chain[0].clone();
        let (connected, accepted) = shake(&client, &server).await;
        assert_eq!(connected.expect("no handshake fails").0, Some(presented(&theirs)));
        assert_eq!(accepted.expect("no handshake fails").0, Some(presented(&ours)));
    }
    assert!(client.current().expect("client").generation > 20, "each rotation made a new configuration");
}

#[test]
fn a_profile_without_material_says_why() {
    let root = Authority::root("root");
    let pending = Source::new(SourceRef::new("file:/etc/tls/tls.crt"));
    let profile = client(by_spiffe(anchored(&root)), Some(Arc::clone(&pending)), None);
    assert_eq!(profile.current().expect_err("pending").code, "identity_pending");
    pending.publish(own(&root, ID));
    assert!(profile.current().is_ok());
    pending.publish(Material { own: Vec::new(), trust: Some(Arc::new(Trust::Crls(Vec::new()))) });
    assert_eq!(profile.current().expect_err("none").code, "identity_unavailable");
}
