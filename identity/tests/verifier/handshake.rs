//! Real handshakes over loopback: the failure is readable on our side, nothing resumes, and a rotation loses nothing.

use std::{sync::Arc, time::Duration};

use identity::{
    ClientProfile, Material, ServerProfile, Source, SourceRef, Trust, VerifyFailure as F, verify::failure_of,
};
use rustls::HandshakeKind;
use rustls_pki_types::{CertificateDer, ServerName};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{TlsAcceptor, TlsConnector};

use crate::mint::{Authority, ID, by_spiffe, client, server, source, spiffe, trust};

const DEADLINE: Duration = Duration::from_secs(20);

/// What a side saw: the peer's leaf and the kind of handshake, or the failure of its own verifier.
type Side = Result<(CertificateDer<'static>, HandshakeKind), Option<F>>;

async fn shake(client: &ClientProfile, server: &ServerProfile) -> (Side, Side) {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("bind");
    let address = listener.local_addr().expect("address");
    let (theirs, ours) = (server.current().expect("server"), client.current().expect("client"));
    let accept = async {
        let (socket, _) = listener.accept().await.expect("accept");
        let stream = TlsAcceptor::from(Arc::clone(&theirs.config))
            .accept(socket)
            .await
            .map_err(|error| failure_of(&error))?;
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

fn leaf(chain: Option<&[CertificateDer<'_>]>) -> CertificateDer<'static> {
    chain.and_then(|chain| chain.first()).expect("a certificate").clone().into_owned()
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
    assert_eq!(id(client.peer(&[server_leaf]).expect("known")).as_deref(), Some(ID));
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
        assert_eq!(connected.expect("no handshake fails").0, presented(&theirs));
        assert_eq!(accepted.expect("no handshake fails").0, presented(&ours));
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
