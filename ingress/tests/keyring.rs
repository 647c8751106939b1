//! The keyring over Secrets and files: what is bad at first, what is bad later, what goes and what comes back.
#![allow(
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::panic,
    reason = "a test may stop where it fails"
)]

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{Source, SourceRef, SourceStatus, source::files::Files};
use ingress::{
    compile::{CompileSettings, Input, compile, wants},
    keyring::{DELETION_GRACE, KeyRef, Keyring, Keys as _, Usage},
    publish::Publisher,
};
use proxy::upstream::{Cluster, Clusters, Transport};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use resource::Document;

const CA: IsCa = IsCa::Ca(BasicConstraints::Unconstrained);

/// PEM of a certificate and its key.
struct Pair {
    cert: String,
    key: String,
}

fn pair(change: impl FnOnce(&mut CertificateParams)) -> Pair {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(vec!["test.example".to_owned()]).expect("params");
    change(&mut params);
    let cert = params.self_signed(&key).expect("certificate");
    Pair { cert: cert.pem(), key: key.serialize_pem() }
}

fn ca() -> String {
    let key = KeyPair::generate().expect("key");
    let mut params = CertificateParams::new(Vec::<String>::new()).expect("params");
    params.is_ca = CA;
    CertifiedIssuer::self_signed(params, key).expect("CA").pem()
}

fn secret(fields: &[(&str, &str)]) -> Vec<Arc<Document>> {
    let data: serde_json::Map<_, _> =
        fields.iter().map(|(name, text)| ((*name).to_owned(), (*text).into())).collect();
    let text = serde_json::json!({"apiVersion": "v1", "kind": "Secret", "metadata": {"name": "s"}, "stringData": data});
    let (documents, errors) =
        resource::parse(&Arc::new(PathBuf::from("s.json")), &text.to_string(), "default").expect("JSON");
    assert_eq!(errors, []);
    documents.into_iter().map(Arc::new).collect()
}

fn tls(pair: &Pair) -> Vec<Arc<Document>> {
    secret(&[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
}

fn wanted(usage: Usage) -> KeyRef {
    KeyRef::Secret { namespace: "default".into(), name: "s".into(), usage }
}

/// A keyring with one wanted reference and a clock of its own.
struct Ring {
    keyring: Keyring,
    key: KeyRef,
    now: SystemTime,
}

impl Ring {
    fn new(key: KeyRef) -> Self {
        Self::of(key, Keyring::default())
    }

    fn of(key: KeyRef, keyring: Keyring) -> Self {
        Self { keyring, key, now: SystemTime::now() }
    }

    fn update(&mut self, documents: &[Arc<Document>]) {
        self.keyring.update(&BTreeSet::from([self.key.clone()]), documents, self.now);
    }

    fn later(&mut self, documents: &[Arc<Document>], after: Duration) {
        self.now += after;
        self.update(documents);
    }

    fn find(&self) -> Result<SourceRef, &'static str> {
        self.keyring.find(&self.key).map_err(|problem| problem.code)
    }

    fn source(&self) -> Arc<Source> {
        let sources = self.keyring.sources();
        assert_eq!(sources.len(), 1);
        sources.into_iter().next().expect("one source")
    }

    fn problem(&self) -> Option<&'static str> {
        self.source().state().problem.as_ref().map(|problem| problem.code)
    }
}

#[test]
fn material_that_is_bad_at_first_is_refused_by_its_code() {
    let (good, other) = (pair(|_| {}), pair(|_| {}));
    let past = pair(|params| {
        params.not_before = rcgen::date_time_ymd(2020, 1, 1);
        params.not_after = rcgen::date_time_ymd(2021, 1, 1);
    });
    let cases = [
        (Vec::new(), "secret_missing"),
        (secret(&[("tls.crt", &good.cert)]), "secret_no_key"),
        (secret(&[("tls.key", &good.key)]), "secret_no_certificate"),
        (secret(&[("tls.crt", &good.cert), ("tls.key", &other.key)]), "key_mismatch"),
        (tls(&past), "certificate_expired"),
    ];
    for (documents, code) in cases {
        let mut ring = Ring::new(wanted(Usage::Identity));
        ring.update(&documents);
        assert_eq!(ring.find(), Err(code));
        ring.update(&tls(&good));
        assert_eq!(
            ring.find().map(|name| name.to_string()),
            Ok("secret:default/s#identity".to_owned()),
            "{code}"
        );
        assert_eq!(ring.problem(), None, "{code}");
    }
}

/// `openssl req -x509` makes every certificate a CA, and Emissary takes them.
#[test]
fn a_certificate_that_is_a_ca_is_refused_only_where_secrets_are_validated_in_full() {
    let (good, authority) = (pair(|_| {}), pair(|params| params.is_ca = CA));
    let found = |force| {
        let mut ring = Ring::of(wanted(Usage::Identity), Keyring::new(None, force));
        ring.update(&tls(&authority));
        let found = ring.find().map(drop);
        ring.update(&tls(&good));
        assert_eq!((ring.find().is_ok(), ring.problem()), (true, None));
        ring.update(&tls(&authority));
        (found, ring.problem())
    };
    assert_eq!(found(false), (Ok(()), None));
    assert_eq!(found(true), (Err("certificate_is_ca"), Some("certificate_is_ca")));
}

#[test]
fn full_validation_takes_a_ca_where_a_ca_is_meant() {
    let mut ring = Ring::of(wanted(Usage::Trust), Keyring::new(None, true));
    ring.update(&secret(&[("ca.crt", &ca())]));
    assert!(ring.find().is_ok());
}

#[test]
fn a_bad_update_keeps_the_last_good_material_and_heals_without_a_rotation() {
    let (good, other) = (pair(|_| {}), pair(|_| {}));
    let mut ring = Ring::new(wanted(Usage::Identity));
    ring.update(&tls(&good));
    let first = ring.source().state();
    let bad = [
        (secret(&[("tls.crt", &other.cert), ("tls.key", &good.key)]), "key_mismatch"),
        (secret(&[("tls.crt", &good.cert)]), "secret_no_key"),
        (malformed(), "secret_malformed"),
    ];
    for (documents, code) in bad {
        for time in ["first", "second"] {
            ring.update(&documents);
            assert_eq!(ring.problem(), Some(code), "seen for the {time} time");
        }
        assert!(ring.find().is_ok(), "{code}");
        ring.update(&tls(&good));
        assert_eq!(ring.problem(), None, "{code}");
        assert_eq!(ring.source().state().revision, first.revision, "{code}: the same material again");
    }
    ring.update(&tls(&other));
    assert_eq!(ring.source().state().revision, first.revision + 1);
}

fn malformed() -> Vec<Arc<Document>> {
    let text = "apiVersion: v1\nkind: Secret\nmetadata: {name: s}\ndata: {tls.crt: '***'}\n";
    let (documents, _) = resource::parse(&Arc::new(PathBuf::from("s.yaml")), text, "default").expect("YAML");
    documents.into_iter().map(Arc::new).collect()
}

#[test]
fn an_unchanged_secret_publishes_nothing() {
    let good = pair(|_| {});
    let mut ring = Ring::new(wanted(Usage::Identity));
    ring.update(&tls(&good));
    let mut changes = ring.source().watch();
    changes.mark_unchanged();
    ring.update(&tls(&good));
    assert!(!changes.has_changed().expect("alive"));
}

#[test]
fn a_deleted_secret_stays_in_use_for_its_grace_and_then_fails_closed() {
    let roots = secret(&[("ca.crt", &ca())]);
    let mut ring = Ring::new(wanted(Usage::Trust));
    ring.update(&roots);
    ring.update(&[]);
    ring.later(&[], DELETION_GRACE.saturating_sub(Duration::from_secs(1)));
    assert!(ring.find().is_ok());
    assert_eq!(ring.problem(), Some("secret_missing"));
    ring.later(&[], Duration::from_secs(1));
    assert_eq!(ring.find(), Err("secret_missing"));
    assert_eq!(ring.source().state().status, SourceStatus::Withdrawn);
    ring.later(&roots, Duration::from_secs(1));
    assert!(ring.find().is_ok());
    assert_eq!(ring.problem(), None);
}

#[test]
fn a_secret_made_again_within_the_grace_interrupts_nothing() {
    let good = pair(|_| {});
    let mut ring = Ring::new(wanted(Usage::Identity));
    ring.update(&tls(&good));
    let source = ring.source();
    ring.update(&[]);
    ring.later(&tls(&good), Duration::from_secs(30));
    assert_eq!((ring.problem(), source.state().revision), (None, 1));
    ring.later(&[], Duration::from_secs(1));
    ring.later(&[], DELETION_GRACE.saturating_sub(Duration::from_secs(1)));
    assert!(ring.find().is_ok(), "each deletion has a grace of its own");
    assert!(Arc::ptr_eq(&source, &ring.source()), "profiles go on following");
}

#[test]
fn what_is_not_wanted_any_longer_is_let_go() {
    let mut ring = Ring::new(wanted(Usage::Identity));
    ring.update(&tls(&pair(|_| {})));
    let name = ring.find().expect("usable");
    assert!(ring.keyring.source(&name).is_some());
    ring.keyring.update(&BTreeSet::new(), &[], ring.now);
    assert!(ring.keyring.source(&name).is_none());
    assert!(ring.keyring.sources().is_empty());
}

/// A cluster of the table before may be taken over into the table after: it follows the source that it knows.
#[test]
fn a_reference_that_is_wanted_again_feeds_whoever_still_follows_it() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let files = Files { cert: at("tls.crt"), key: Some(at("tls.key")), usage: Usage::Identity };
    for key in [wanted(Usage::Identity), KeyRef::Files(files)] {
        let give = |pair: &Pair| {
            write(folder.path(), "tls.crt", &pair.cert);
            write(folder.path(), "tls.key", &pair.key);
            tls(pair)
        };
        let take = || {
            let _may_be_gone = fs::remove_file(at("tls.crt"));
            Vec::new()
        };
        let mut ring = Ring::new(key.clone());
        ring.update(&give(&pair(|_| {})));
        let followed = ring.source();
        let serial =
            |source: &Source| source.state().material.as_ref().map(|material| material.own[0].serial.clone());
        let before = serial(&followed).expect("material");
        ring.keyring.update(&BTreeSet::new(), &[], ring.now);
        ring.update(&give(&pair(|_| {})));
        assert!(Arc::ptr_eq(&followed, &ring.source()), "{key}");
        assert_ne!(serial(&followed), Some(before), "{key}");
        ring.keyring.update(&BTreeSet::new(), &[], ring.now);
        ring.update(&take());
        assert!(ring.find().is_err(), "{key}: what is gone at the first look has no grace");
        assert_eq!((serial(&followed), followed.state().status), (None, SourceStatus::Withdrawn), "{key}");
    }
}

#[test]
fn the_workload_api_is_found_beside_secrets() {
    let spiffe = Source::new(SourceRef::new("spiffe:unix:/run/api.sock"));
    let mut ring = Keyring::new(Some(Arc::clone(&spiffe)), false);
    ring.update(&BTreeSet::from([wanted(Usage::Identity)]), &tls(&pair(|_| {})), SystemTime::now());
    assert_eq!(ring.spiffe().as_ref(), Some(spiffe.name()));
    assert!(ring.source(spiffe.name()).is_some_and(|found| Arc::ptr_eq(&found, &spiffe)));
    assert_eq!(ring.sources().len(), 2);
}

fn write(folder: &Path, name: &str, text: &str) {
    let fresh = folder.join("fresh");
    fs::write(&fresh, text).expect("write");
    fs::rename(fresh, folder.join(name)).expect("rename");
}

#[test]
fn files_are_followed_with_the_same_rules() {
    let folder = tempfile::tempdir().expect("folder");
    let at = |name: &str| folder.path().join(name);
    let (good, other) = (pair(|_| {}), pair(|_| {}));
    write(folder.path(), "tls.crt", &good.cert);
    write(folder.path(), "tls.key", &good.key);
    let key = KeyRef::Files(Files { cert: at("tls.crt"), key: Some(at("tls.key")), usage: Usage::Identity });
    let mut ring = Ring::new(key);
    ring.update(&[]);
    let name = ring.find().expect("usable");
    assert!(ring.keyring.source(&name).is_some());
    assert_eq!(ring.keyring.folders(), [folder.path()]);
    write(folder.path(), "tls.crt", &other.cert);
    ring.update(&[]);
    assert_eq!((ring.problem(), ring.find().is_ok()), (Some("key_mismatch"), true));
    write(folder.path(), "tls.key", &other.key);
    ring.update(&[]);
    assert_eq!((ring.problem(), ring.source().state().revision), (None, 2));
    fs::remove_file(at("tls.key")).expect("remove");
    ring.update(&[]);
    assert!(ring.find().is_ok());
    ring.later(&[], DELETION_GRACE);
    assert_eq!(ring.find(), Err("file_missing"));
}

/// The folder and the three files of Istio's agent.
fn istio_folder(own: &Pair) -> tempfile::TempDir {
    let folder = tempfile::tempdir().expect("folder");
    write(folder.path(), "cert-chain.pem", &own.cert);
    write(folder.path(), "key.pem", &own.key);
    write(folder.path(), "root-cert.pem", &ca());
    folder
}

fn istio_certs(namespace: &str, usage: Usage) -> KeyRef {
    KeyRef::Secret { namespace: namespace.into(), name: "istio-certs".into(), usage }
}

#[test]
fn a_folder_of_istio_stands_for_its_secret_in_the_own_namespace_only() {
    let folder = istio_folder(&pair(|_| {}));
    let identity = istio_certs("default", Usage::Identity);
    let (trust, crl) = (istio_certs("default", Usage::Trust), istio_certs("default", Usage::Crl));
    let other = istio_certs("shop", Usage::Identity);
    let mut ring = Keyring::default().with_istio_folder(Some(folder.path()), "default");
    let wanted = BTreeSet::from([identity.clone(), trust.clone(), crl.clone(), other.clone()]);
    ring.update(&wanted, &[], SystemTime::now());
    for key in [&identity, &trust] {
        let name = ring.find(key).expect("usable");
        assert!(ring.source(&name).is_some_and(|source| source.state().material.is_some()));
    }
    for key in [&crl, &other] {
        assert_eq!(ring.find(key).map_err(|problem| problem.code), Err("secret_missing"), "{key}");
    }
    assert!(ring.folders().contains(&folder.path().to_path_buf()), "it is watched");
}

#[test]
fn without_a_folder_of_istio_its_secret_is_as_any_other() {
    let mut ring = Ring::new(istio_certs("default", Usage::Identity));
    ring.update(&[]);
    assert_eq!(ring.find(), Err("secret_missing"));
    assert!(ring.keyring.folders().is_empty());
}

#[test]
fn the_pair_of_istio_rotates_whole_and_is_validated_as_a_secret() {
    let (first, second) = (pair(|_| {}), pair(|params| params.is_ca = CA));
    let folder = istio_folder(&first);
    for (force, problem) in [(true, Some("certificate_is_ca")), (false, None)] {
        let keyring = Keyring::new(None, force).with_istio_folder(Some(folder.path()), "default");
        let mut ring = Ring::of(istio_certs("default", Usage::Identity), keyring);
        write(folder.path(), "cert-chain.pem", &first.cert);
        write(folder.path(), "key.pem", &first.key);
        ring.update(&[]);
        assert_eq!((ring.find().is_ok(), ring.problem()), (true, None));
        write(folder.path(), "cert-chain.pem", &second.cert);
        ring.update(&[]);
        assert_eq!((ring.find().is_ok(), ring.problem()), (true, Some("key_mismatch")));
        write(folder.path(), "key.pem", &second.key);
        ring.update(&[]);
        assert_eq!((ring.find().is_ok(), ring.problem()), (true, problem));
    }
}

#[test]
fn nothing_printable_holds_a_key() {
    let good = pair(|_| {});
    let mut ring = Ring::new(wanted(Usage::Identity));
    ring.update(&tls(&good));
    ring.update(&secret(&[("tls.crt", "no certificate"), ("tls.key", &good.key)]));
    let line = good.key.lines().nth(1).expect("a line of the key");
    let printed = format!("{:?} {:?}", ring.keyring, ring.source().state().problem);
    assert!(!printed.contains(line) && !printed.contains(&format!("{:?}", &line.as_bytes()[..8])));
}

const MAPPING: &str = "
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: ours}
spec: {secret: s}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: m}
spec: {hostname: '*', prefix: /, service: 'https://127.0.0.1:1', tls: ours}
";

/// The serial that a cluster presents now.
fn presented(cluster: &Cluster) -> String {
    let Transport::Tls(tls) = &*cluster.transport else { panic!("TLS") };
    tls.profile.current().expect("usable").credential.as_ref().expect("a certificate").serial.clone()
}

/// A Mapping that goes and comes back while requests of the table before still run gets their cluster: with the key of now.
#[test]
fn a_cluster_that_is_taken_over_presents_what_its_secret_holds_now() {
    let settings = CompileSettings {
        ambassador_id: "default".to_owned(),
        namespace: "default".to_owned(),
        single_namespace: false,
        require_verified_upstreams: false,
        one_tenant: true,
        bind: std::net::Ipv4Addr::LOCALHOST.into(),
        http_port: 8080,
        https_port: 8443,
        resolve: Vec::new(),
    };
    let (mut keyring, mut publisher) = (Keyring::default(), Publisher::new(Clusters::new(None)));
    let mut publish = |text: &str, secret: &[Arc<Document>]| {
        let (documents, errors) =
            resource::parse(&Arc::new(PathBuf::from("m.yaml")), text, "default").expect("YAML");
        let documents: Vec<_> = documents.into_iter().map(Arc::new).chain(secret.iter().cloned()).collect();
        keyring.update(&wants(&documents, &settings), &documents, SystemTime::now());
        let input = Input { documents: &documents, errors: &errors, keys: &keyring, settings: &settings };
        publisher.table(compile(&input).0, &keyring).1
    };
    let before = publish(MAPPING, &tls(&pair(|_| {})));
    let serial = presented(&before[0]);
    assert!(publish("", &[]).is_empty());
    let after = publish(MAPPING, &tls(&pair(|_| {})));
    assert!(Arc::ptr_eq(&before[0], &after[0]), "pools and balancer state live on");
    assert_ne!(presented(&after[0]), serial);
}

/// What is used where it exists, and named by nobody, is no problem where it does not exist.
#[test]
fn an_optional_secret_is_held_while_there_is_something_to_it() {
    let (nobody, key, mut now) = (BTreeSet::new(), wanted(Usage::Identity), SystemTime::now());
    let mut keyring = Keyring::default().with_optional(key.clone());
    keyring.update(&nobody, &[], now);
    assert!(keyring.sources().is_empty() && keyring.find(&key).is_err());
    let good = tls(&pair(|_| {}));
    keyring.update(&nobody, &good, now);
    assert!(keyring.find(&key).is_ok());
    keyring.update(&nobody, &[], now);
    now += DELETION_GRACE.saturating_sub(Duration::from_secs(1));
    keyring.update(&nobody, &[], now);
    assert!(keyring.find(&key).is_ok(), "it has the grace of every Secret");
    for _ in 0..2 {
        now += Duration::from_secs(1);
        keyring.update(&nobody, &[], now);
    }
    assert!(keyring.sources().is_empty() && keyring.find(&key).is_err());
    keyring.update(&nobody, &secret(&[("tls.key", "")]), now);
    assert_eq!(keyring.find(&key).map_err(|problem| problem.code), Err("secret_no_certificate"));
    keyring.update(&BTreeSet::from([key.clone()]), &[], now);
    assert_eq!(keyring.find(&key).map_err(|problem| problem.code), Err("secret_missing"));
}
