//! The dev authority as its clients see it: ours, the `spiffe` crate's, and raw calls.

use std::{
    fs,
    os::unix::fs::{MetadataExt as _, PermissionsExt as _},
    path::Path,
    time::{Duration, SystemTime},
};

use hyper_util::rt::{TokioExecutor, TokioIo};
use identity::{
    SourceStatus, Trust,
    dev::{Ca, DevAuthority, Entries, Entry},
    source::{WorkloadApi, fetch},
};
use proto::workload::{
    JwtBundlesRequest, JwtsvidRequest, ValidateJwtsvidRequest, X509BundlesRequest, X509svidRequest,
    spiffe_workload_api_client::SpiffeWorkloadApiClient,
};
use tempfile::TempDir;
use tokio::net::UnixStream;
use tonic::{
    Code, Request,
    transport::{Channel, Endpoint},
};
use x509_parser::prelude::{FromDer as _, GeneralName, X509Certificate};

use crate::material::{Running, authorities, code, ids, pem, serial, until};

const A: &str = "spiffe://td/a";
const B: &str = "spiffe://td/b";

fn entries(ttl: &str) -> Entries {
    Entries::simple("td", &[A, B], ttl)
}

/// A folder that does not exist yet, in one that is removed at the end.
fn state() -> (TempDir, std::path::PathBuf) {
    let outer = tempfile::tempdir().expect("folder");
    let folder = outer.path().join("state");
    (outer, folder)
}

fn uri(authority: &DevAuthority, id: &str) -> String {
    let sockets = authority.sockets();
    let (_, path) = sockets.iter().find(|(of, _)| of == id).expect("an entry");
    format!("unix://{}", path.display())
}

fn follow(authority: &DevAuthority, id: &str) -> Running {
    Running::start(&uri(authority, id), WorkloadApi::DENIED_GRACE)
}

async fn client(socket: &Path) -> SpiffeWorkloadApiClient<Channel> {
    let channel = Endpoint::try_from(format!("unix:{}", socket.display())).expect("uri");
    SpiffeWorkloadApiClient::new(channel.connect().await.expect("connect"))
}

fn with_header<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.metadata_mut().insert("workload.spiffe.io", "true".parse().expect("value"));
    request
}

#[tokio::test]
async fn our_client_gets_the_svid_of_the_sockets_entry() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    for id in [A, B] {
        let client = follow(&authority, id);
        let state = until(&client.source, "delivered", |state| state.revision == 1).await;
        assert_eq!((ids(&state), authorities(&state, "td")), (vec![id.to_owned()], Some(1)));
        let credential = &state.material.as_ref().expect("material").own[0];
        assert!(credential.dev, "the mark of dev certificates");
        assert_eq!(credential.chain.len(), 1, "the root is not sent");
    }
}

#[tokio::test]
async fn the_spiffe_crates_source_follows_rotations() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("2s"), &folder, false).expect("start");
    let build = spiffe::X509Source::builder().endpoint(uri(&authority, A)).build();
    let source =
        tokio::time::timeout(Duration::from_secs(10), build).await.expect("in time").expect("source");
    assert_eq!(source.svid().expect("svid").spiffe_id().to_string(), A);
    assert!(source.bundle_set().expect("bundles").iter().count() == 1);
    let mut updates = source.updated();
    let changed = tokio::time::timeout(Duration::from_secs(10), updates.changed()).await;
    assert!(changed.expect("in time").is_ok());
    source.shutdown().await;
}

#[tokio::test]
async fn svids_are_renewed_at_half_of_their_lifetime() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("2s"), &folder, false).expect("start");
    let client = follow(&authority, A);
    let first = until(&client.source, "delivered", |state| state.revision == 1).await;
    let second = until(&client.source, "renewed", |state| state.revision == 2).await;
    assert_ne!(serial(&first), serial(&second));
    let ends = first.material.as_ref().expect("material").own[0].not_after;
    assert!(SystemTime::now() < ends, "renewed before the old one ends");
}

#[tokio::test]
async fn a_new_ca_is_pushed_signs_and_the_old_ones_trust_can_be_withdrawn() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let client = follow(&authority, A);
    until(&client.source, "delivered", |state| authorities(state, "td") == Some(1)).await;
    let both = Entries { ca: 2, trusted_cas: vec![1, 2], ..entries("1h") };
    authority.update(both, false).expect("update");
    let state = until(&client.source, "two", |state| authorities(state, "td") == Some(2)).await;
    let issuer = |der: &[u8]| X509Certificate::from_der(der).expect("der").1.issuer().to_string();
    let subject = |der: &[u8]| X509Certificate::from_der(der).expect("der").1.subject().to_string();
    let material = state.material.as_ref().expect("material");
    let Some(Trust::Spiffe(bundles)) = material.trust.as_deref() else { panic!("no trust") };
    let cas = &bundles.values().next().expect("bundle").authorities;
    assert_eq!(issuer(&material.own[0].chain[0]), subject(&cas[1]), "signed by the second");
    assert_ne!(subject(&cas[0]), subject(&cas[1]), "verifiers find authorities by name");
    authority.update(Entries { ca: 2, trusted_cas: vec![2], ..entries("1h") }, false).expect("update");
    until(&client.source, "one", |state| authorities(state, "td") == Some(1)).await;
}

#[tokio::test]
async fn a_deleted_entry_is_denied_and_one_that_comes_back_is_served() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let (gone, stays) = (follow(&authority, A), follow(&authority, B));
    let socket = uri(&authority, A).parse().expect("uri");
    for client in [&gone, &stays] {
        until(&client.source, "delivered", |state| state.status == SourceStatus::Ready).await;
    }
    authority.update(Entries::simple("td", &[B], "1h"), false).expect("update");
    let state = until(&gone.source, "withdrawn", |state| state.status == SourceStatus::Withdrawn).await;
    assert_eq!(code(&state), "svid_denied");
    let error = fetch(&socket, Duration::from_secs(5)).await.expect_err("denied");
    assert!(error.to_string().contains("no identity issued"), "{error}");
    assert_eq!(stays.source.state().status, SourceStatus::Ready);
    authority.update(entries("1h"), false).expect("update");
    until(&gone.source, "back", |state| state.status == SourceStatus::Ready).await;
}

#[tokio::test]
async fn stopping_ends_streams_with_unavailable_and_removes_the_sockets() {
    let (_outer, folder) = state();
    let authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let mut client = client(&folder.join("a.sock")).await;
    let mut stream = client.fetch_x509svid(with_header(X509svidRequest {})).await.expect("call").into_inner();
    assert!(stream.message().await.expect("message").is_some());
    // Somebody else's by now: not ours to remove.
    fs::remove_file(folder.join("b.sock")).expect("remove");
    fs::write(folder.join("b.sock"), "mine").expect("write");
    let (status, ()) = tokio::join!(stream.message(), authority.stop());
    assert_eq!(status.map(drop).expect_err("ended").code(), Code::Unavailable);
    assert!(!folder.join("a.sock").exists());
    assert_eq!(fs::read_to_string(folder.join("b.sock")).expect("kept"), "mine");
}

#[tokio::test]
async fn w2_a_call_without_exactly_one_header_is_an_invalid_argument() {
    let (_outer, folder) = state();
    let _authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let mut client = client(&folder.join("a.sock")).await;
    let mut refused = async |values: &[&'static str]| {
        let mut request = Request::new(X509svidRequest {});
        for value in values {
            request.metadata_mut().append("workload.spiffe.io", value.parse().expect("value"));
        }
        client.fetch_x509svid(request).await.expect_err("refused").code()
    };
    for values in [&[][..], &["false"], &["True"], &["true", "true"]] {
        assert_eq!(refused(values).await, Code::InvalidArgument, "{values:?}");
    }
}

#[tokio::test]
async fn w8_methods_that_are_not_served_are_unimplemented() {
    let (_outer, folder) = state();
    let _authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let stream = UnixStream::connect(folder.join("a.sock")).await.expect("connect");
    let handshake = hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream));
    let (mut send, connection) = handshake.await.expect("http/2");
    let driver = tokio::spawn(connection);
    let request = http::Request::post("http://localhost/SpiffeWorkloadAPI/FetchWITSVID")
        .header("content-type", "application/grpc")
        .header("workload.spiffe.io", "true")
        .body(tonic::body::Body::empty())
        .expect("request");
    let response = send.send_request(request).await.expect("response");
    assert_eq!(response.headers()["grpc-status"], "12");
    driver.abort();
}

#[tokio::test]
async fn selectors_compare_with_the_callers_credentials() {
    let (_outer, folder) = state();
    let me = fs::metadata("/proc/self").expect("proc");
    let entry = |id: &str, socket: &str, selectors: Vec<String>| Entry {
        spiffe_id: id.to_owned(),
        socket: socket.to_owned(),
        ttl: "1h".to_owned(),
        hint: id.rsplit('/').next().expect("segment").to_owned(),
        selectors,
    };
    let (uid, gid) = (format!("unix:uid:{}", me.uid()), format!("unix:gid:{}", me.gid()));
    let other = format!("unix:uid:{}", me.uid() + 1);
    let all = vec![
        entry("spiffe://td/mine", "one.sock", vec![uid.clone(), gid.clone()]),
        entry("spiffe://td/other", "one.sock", vec![other.clone(), gid]),
        entry("spiffe://td/any", "one.sock", vec![]),
        entry("spiffe://td/theirs", "two.sock", vec![other]),
    ];
    let authority =
        DevAuthority::start(Entries { entries: all, ..entries("1h") }, &folder, false).expect("start");
    let client = follow(&authority, "spiffe://td/mine");
    let state = until(&client.source, "delivered", |state| state.revision == 1).await;
    assert_eq!(ids(&state), ["spiffe://td/mine", "spiffe://td/any"], "in the order of the file");
    assert_eq!(state.material.as_ref().expect("material").own[1].hint.as_deref(), Some("any"));
    let denied =
        fetch(&uri(&authority, "spiffe://td/theirs").parse().expect("uri"), Duration::from_secs(5)).await;
    assert!(denied.expect_err("denied").to_string().contains("no identity issued"));
}

#[tokio::test]
async fn bundles_come_without_an_own_svid_and_with_the_federated_ones() {
    let (outer, folder) = state();
    let other = Ca::new("other.org").expect("ca");
    let file = outer.path().join("other.pem");
    fs::write(&file, pem("CERTIFICATE", other.certificate())).expect("write");
    let federated = [("other.org".to_owned(), file.clone())].into();
    let authority =
        DevAuthority::start(Entries { federated, ..entries("1h") }, &folder, false).expect("start");
    let mut raw = client(&folder.join("a.sock")).await;
    let call = raw.fetch_x509_bundles(with_header(X509BundlesRequest {})).await.expect("call");
    let bundles = call.into_inner().message().await.expect("message").expect("one").bundles;
    assert_eq!(bundles["spiffe://other.org"], other.certificate().as_ref());
    assert!(!bundles["spiffe://td"].is_empty());
    let ours = follow(&authority, A);
    let state = until(&ours.source, "delivered", |state| state.revision == 1).await;
    assert_eq!(authorities(&state, "other.org"), Some(1));
    // A CA is added to the foreign file.
    let with =
        |file: &Path| Entries { federated: [("other.org".to_owned(), file.into())].into(), ..entries("1h") };
    assert!(!authority.update_if_changed(with(&file), false).expect("nothing new"));
    let next = Ca::new("other.org").expect("ca");
    let both = [&other, &next].map(|ca| pem("CERTIFICATE", ca.certificate())).concat();
    fs::write(&file, both).expect("write");
    assert!(authority.update_if_changed(with(&file), false).expect("a new bundle"));
    until(&ours.source, "grown", |state| authorities(state, "other.org") == Some(2)).await;
    assert_eq!(authority.bundle_files(), [file.as_path()]);
    // A file that cannot be read changes nothing.
    fs::remove_file(&file).expect("remove");
    authority.update_if_changed(with(&file), false).expect_err("missing");
    assert_eq!(authorities(&ours.source.state(), "other.org"), Some(2));
    // Federation ends.
    authority.update(entries("1h"), false).expect("update");
    until(&ours.source, "unloaded", |state| authorities(state, "other.org").is_none()).await;
}

#[tokio::test]
async fn jwt_svids_are_issued_validated_and_their_keys_published() {
    let (_outer, folder) = state();
    let _authority = DevAuthority::start(entries("1h"), &folder, false).expect("start");
    let mut client = client(&folder.join("a.sock")).await;
    let ask = |audience: &[&str], id: &str| {
        let audience = audience.iter().map(|name| (*name).to_owned()).collect();
        with_header(JwtsvidRequest { audience, spiffe_id: id.to_owned() })
    };
    assert_eq!(
        client.fetch_jwtsvid(ask(&[], "")).await.map(drop).expect_err("J-10").code(),
        Code::InvalidArgument
    );
    let denied = client.fetch_jwtsvid(ask(&["x"], B)).await.map(drop).expect_err("not ours");
    assert_eq!(denied.code(), Code::PermissionDenied);
    let svids = client.fetch_jwtsvid(ask(&["x", "y"], A)).await.expect("token").into_inner().svids;
    assert_eq!((svids.len(), svids[0].spiffe_id.as_str()), (1, A));
    let validate = |audience: &str, svid: &str| {
        with_header(ValidateJwtsvidRequest { audience: audience.to_owned(), svid: svid.to_owned() })
    };
    let valid = client.validate_jwtsvid(validate("y", &svids[0].svid)).await.expect("valid").into_inner();
    assert_eq!(valid.spiffe_id, A);
    assert!(
        ["sub", "aud", "exp"].iter().all(|claim| valid
            .claims
            .as_ref()
            .expect("claims")
            .fields
            .contains_key(*claim))
    );
    for (audience, token) in [("z", svids[0].svid.as_str()), ("y", "a.b.c"), ("y", ""), ("", &svids[0].svid)]
    {
        let refused = client.validate_jwtsvid(validate(audience, token)).await.expect_err("refused");
        assert_eq!(refused.code(), Code::InvalidArgument, "{audience} {token}");
    }
    let call = client.fetch_jwt_bundles(with_header(JwtBundlesRequest {})).await.expect("call");
    let bundles = call.into_inner().message().await.expect("message").expect("one").bundles;
    let set: serde_json::Value = serde_json::from_slice(&bundles["spiffe://td"]).expect("json");
    assert_eq!(set["keys"][0]["use"], "jwt-svid");
    assert!(set["keys"][0]["kid"].is_string());
}

#[tokio::test]
async fn kept_cas_survive_a_restart_and_others_do_not() {
    let (_outer, folder) = state();
    let bundle = async |persist: bool| {
        let authority = DevAuthority::start(entries("1h"), &folder, persist).expect("start");
        let endpoint = uri(&authority, A).parse().expect("uri");
        let (material, _) = fetch(&endpoint, Duration::from_secs(5)).await.expect("svid");
        authority.stop().await;
        let Some(Trust::Spiffe(bundles)) = material.trust.as_deref() else { panic!("no trust") };
        bundles.values().next().expect("bundle").authorities[0].to_vec()
    };
    let in_memory = bundle(false).await;
    let kept = bundle(true).await;
    assert_ne!(in_memory, kept);
    assert_eq!(bundle(true).await, kept);
    let mode = |path: &Path| fs::metadata(path).expect("there").permissions().mode() & 0o777;
    assert_eq!((mode(&folder), mode(&folder.join("ca-1.pem"))), (0o700, 0o600));
}

#[tokio::test]
async fn a_folder_for_everybody_is_refused() {
    let (_outer, folder) = state();
    fs::create_dir(&folder).expect("folder");
    fs::set_permissions(&folder, fs::Permissions::from_mode(0o755)).expect("mode");
    let error = DevAuthority::start(entries("1h"), &folder, false).expect_err("refused").to_string();
    assert!(error.contains("chmod 700"), "{error}");
}

#[tokio::test]
async fn only_a_dead_socket_is_replaced() {
    let (_outer, folder) = state();
    let running = DevAuthority::start(entries("1h"), &folder, true).expect("start");
    // A second one in the same folder.
    let error = DevAuthority::start(entries("1h"), &folder, true).expect_err("in use").to_string();
    assert!(error.contains("a.sock"), "{error}");
    assert!(fetch(&uri(&running, A).parse().expect("uri"), Duration::from_secs(5)).await.is_ok());
    running.stop().await;
    drop(std::os::unix::net::UnixListener::bind(folder.join("a.sock")).expect("bind"));
    let again = DevAuthority::start(entries("1h"), &folder, true).expect("a dead socket");
    again.stop().await;
    // A file that is no socket: here the CA's key.
    let mut wrong = entries("1h");
    wrong.entries[0].socket = "ca-1.pem".to_owned();
    let error = DevAuthority::start(wrong, &folder, true).expect_err("not a socket").to_string();
    assert!(error.contains("not a socket"), "{error}");
    assert!(fs::read_to_string(folder.join("ca-1.pem")).expect("kept").contains("PRIVATE KEY"));
}

#[test]
fn certificates_have_the_form_that_every_client_accepts() {
    let ca = Ca::new("td").expect("ca");
    let minted = ca.mint(A, Duration::from_mins(1)).expect("svid");
    let (_, leaf) = X509Certificate::from_der(&minted.certificate).expect("der");
    let (_, root) = X509Certificate::from_der(ca.certificate()).expect("der");
    let uris = |cert: &X509Certificate<'_>| {
        let names = cert.subject_alternative_name().expect("san").expect("san").value.general_names.clone();
        names
            .iter()
            .map(|name| if let GeneralName::URI(uri) = name { (*uri).to_owned() } else { panic!("{name}") })
            .collect::<Vec<_>>()
    };
    assert_eq!((uris(&leaf), uris(&root)), (vec![A.to_owned()], vec!["spiffe://td".to_owned()]));
    let constraints = leaf.basic_constraints().expect("form").expect("present");
    assert!(!constraints.value.ca);
    let usage = leaf.key_usage().expect("form").expect("present");
    assert!(usage.critical && usage.value.digital_signature() && !usage.value.key_cert_sign());
    let purposes = leaf.extended_key_usage().expect("form").expect("present").value;
    assert!(purposes.server_auth && purposes.client_auth);
    let usage = root.key_usage().expect("form").expect("present");
    assert!(root.is_ca() && usage.critical && usage.value.key_cert_sign() && usage.value.crl_sign());
    let oids = |cert: &X509Certificate<'_>| {
        cert.extensions().iter().map(|e| e.oid.to_id_string()).collect::<Vec<_>>()
    };
    // Subject and authority key identifiers.
    assert!(oids(&leaf).contains(&"2.5.29.14".to_owned()) && oids(&leaf).contains(&"2.5.29.35".to_owned()));
    assert!(oids(&root).contains(&"2.5.29.14".to_owned()));
    assert!(root.subject().to_string().contains("serialNumber"), "{}", root.subject());
    let now =
        SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("clock").as_secs().cast_signed();
    assert!((now - 20..=now - 9).contains(&leaf.validity().not_before.timestamp()));
    let again = ca.mint(A, Duration::from_mins(1)).expect("svid");
    assert_ne!(again.key_der(), minted.key_der(), "a fresh key each time");
}

#[test]
fn entries_that_cannot_be_meant_are_named() {
    let wrong = |change: fn(&mut Entries)| {
        let mut entries = entries("1h");
        change(&mut entries);
        entries.check().expect_err("wrong")
    };
    assert!(wrong(|e| e.trust_domain = "TD".to_owned()).contains("trust_domain `TD`"));
    assert!(wrong(|e| e.trust_domain = "spiffe://td".to_owned()).contains("the name alone"));
    assert!(wrong(|e| e.federated = [("td".to_owned(), "x".into())].into()).contains("our own"));
    assert!(wrong(|e| e.federated = [("O.org".to_owned(), "x".into())].into()).contains("federated `O.org`"));
    assert!(
        wrong(|e| e.entries[0].spiffe_id = "spiffe://other/a".to_owned()).contains("not in trust domain td")
    );
    assert!(wrong(|e| e.entries[0].spiffe_id = "spiffe://td".to_owned()).contains("no path"));
    for socket in ["", "../x.sock", "/tmp/x.sock", ".hidden"] {
        let mut entries = entries("1h");
        entries.entries[0].socket = socket.to_owned();
        assert!(entries.check().expect_err("wrong").contains("plain file name"), "{socket}");
    }
    for ttl in ["", "60", "0s", "500ms", "1d", "-1s", "99999999999999999999s"] {
        let mut entries = entries("1h");
        entries.entries[0].ttl = ttl.to_owned();
        assert!(entries.check().expect_err("wrong").contains("ttl"), "{ttl}");
    }
    assert!(wrong(|e| e.entries[0].selectors = vec!["unix:name:bob".to_owned()]).contains("unix:uid:N"));
    let unknown =
        serde_json::from_str::<Entries>(r#"{"trust_domain":"td","entires":[]}"#).expect_err("unknown field");
    assert!(unknown.to_string().contains("entires"));
    let given = r#"{"trust_domain":"td","ca":2,"trusted_cas":[1,2],"entries":[{"spiffe_id":"spiffe://td/a","socket":"a.sock"}]}"#;
    let read: Entries = serde_json::from_str(given).expect("valid");
    read.check().expect("valid");
    assert_eq!((read.trusted(), read.entries[0].lifetime()), (vec![1, 2], Some(Duration::from_hours(1))));
}
