//! What is deleted and made again, as many tools rotate, goes on serving; and what listeners present is rotated, too.

use std::time::Duration;

use http_body_util::BodyExt as _;
use serde_json::Value;
use tokio_util::either::Either;

use super::harness::{
    Authority, Ingress, Pair, Upstream,
    certs::secret,
    client::{self, Http2, Target, call},
    kubelet, replace, until,
};

fn own(pair: &Pair) -> String {
    secret("own", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
}

fn context(authority: &Authority) -> String {
    let roots = secret("roots", &[("ca.crt", &authority.pem())]);
    roots
        + "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {name: mesh}\n\
           spec: {hosts: [], sni: app.internal, secret: own, ca_secret: roots}\n"
}

fn mapping(name: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
         spec: {{hostname: \"*\", prefix: /{name}/, rewrite: \"\", {fields}}}\n"
    )
}

/// A folder with a Secret, a context and a Mapping in a file each, and an ingress on it.
struct Rig {
    folder: tempfile::TempDir,
    authority: Authority,
    upstream: Upstream,
    plain: Upstream,
    ingress: Ingress,
    first: Pair,
}

impl Rig {
    async fn start() -> Self {
        let authority = Authority::new("recreated");
        let upstream = Upstream::mutual(&authority.leaf("app.internal"), &authority).await;
        let plain = Upstream::plain().await;
        let folder = tempfile::tempdir().expect("folder");
        let first = authority.leaf("ingress.internal");
        let at = |name: &str| folder.path().join(name);
        replace(&at("own.yaml"), &own(&first));
        replace(&at("context.yaml"), &context(&authority));
        let routes = mapping("app", &format!("service: \"https://{}\", tls: mesh", upstream.addr))
            + &mapping("grpc", &format!("service: \"{}\", grpc: true, timeout_ms: 0", plain.addr));
        replace(&at("routes.yaml"), &routes);
        let ingress = Ingress::start(folder.path(), &[]).await;
        Self { folder, authority, upstream, plain, ingress, first }
    }

    fn file(&self, name: &str) -> std::path::PathBuf {
        self.folder.path().join(name)
    }

    /// Status, and the serial number that the upstream saw.
    async fn ask(&self) -> (u16, String) {
        let (status, body) = client::get(self.ingress.http(), "shop.example", "/app/x").await;
        (status, body.split(' ').next().unwrap_or_default().to_owned())
    }

    async fn until_reason(&self, reason: &str) {
        until(&format!("{reason} in /config"), async || {
            self.ingress.config().await.to_string().contains(reason)
        })
        .await;
    }

    async fn until_serial(&self, pair: &Pair) {
        until(&format!("serial {}", pair.serial), async || self.ask().await == (200, pair.serial.clone()))
            .await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_secret_that_is_deleted_stays_in_use_and_is_named_until_it_is_made_again() {
    let rig = Rig::start().await;
    assert_eq!(rig.ask().await, (200, rig.first.serial.clone()));
    std::fs::remove_file(rig.file("own.yaml")).expect("remove");
    rig.until_reason("Secret default/own does not exist").await;
    assert_eq!(rig.ask().await, (200, rig.first.serial.clone()), "within its grace");
    let second = rig.authority.leaf("ingress.internal");
    replace(&rig.file("own.yaml"), &own(&second));
    rig.until_serial(&second).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_context_that_is_made_again_follows_its_secret_even_while_the_old_table_is_in_use() {
    let rig = Rig::start().await;
    assert_eq!(rig.ask().await, (200, rig.first.serial.clone()));
    // A stream keeps the table that it began with.
    let mut client = Http2::new(rig.ingress.http());
    let mut stream = client.send(|| call("Long")).await.expect("sent").expect("accepted");
    assert!(stream.body_mut().frame().await.expect("a message").is_ok());
    std::fs::remove_file(rig.file("context.yaml")).expect("remove");
    std::fs::remove_file(rig.file("own.yaml")).expect("remove");
    rig.until_reason("tls_context_missing").await;
    assert_eq!(rig.ask().await, (200, rig.first.serial.clone()), "within its grace");
    assert_eq!(
        rig.plain.seen.connections.load(std::sync::atomic::Ordering::Relaxed),
        1,
        "nothing in cleartext"
    );
    replace(&rig.file("context.yaml"), &context(&rig.authority));
    let second = rig.authority.leaf("ingress.internal");
    replace(&rig.file("own.yaml"), &own(&second));
    rig.until_serial(&second).await;
    let third = rig.authority.leaf("ingress.internal");
    replace(&rig.file("own.yaml"), &own(&third));
    rig.until_serial(&third).await;
    assert!(rig.upstream.has_seen(&third.serial));
    assert!(stream.into_body().collect().await.is_ok(), "the stream goes on to its end");
}

/// The serial number that a listener presents to a new connection.
async fn presented(addr: std::net::SocketAddr, authority: &Authority) -> String {
    let target = Target::tls(addr, authority, b"http/1.1");
    let Some(Either::Right(stream)) = target.connect().await else { panic!("no handshake") };
    super::harness::upstream::serial(stream.get_ref().1.peer_certificates().expect("presented")[0].as_ref())
}

fn host_secret(pair: &Pair) -> String {
    secret("shop", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)])
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_listener_presents_the_new_certificate_soon_and_keeps_the_old_one_over_a_broken_edit() {
    let authority = Authority::new("listener");
    let upstream = Upstream::plain().await;
    let folder = tempfile::tempdir().expect("folder");
    let secrets = folder.path().join("secrets");
    std::fs::create_dir(&secrets).expect("mkdir");
    let first = authority.leaf("shop.example");
    kubelet(&secrets, 1, &[("shop.yaml", &host_secret(&first))]);
    let host = "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {name: shop}\n\
                spec: {hostname: shop.example, tlsSecret: {name: shop}}\n";
    let routes = mapping("app", &format!("service: \"{}\"", upstream.addr));
    replace(&folder.path().join("routes.yaml"), &(host.to_owned() + &routes));
    let ingress = Ingress::start(folder.path(), &[]).await;
    let https = ingress.listener("https");
    assert_eq!(presented(https, &authority).await, first.serial);
    let second = authority.leaf("shop.example");
    kubelet(&secrets, 2, &[("shop.yaml", &host_secret(&second))]);
    let took = until("the new serial", async || presented(https, &authority).await == second.serial).await;
    eprintln!("clients saw the new serial after {took:?}");
    assert!(took < Duration::from_secs(4), "{took:?}");
    let stranger = authority.leaf("shop.example");
    let torn = secret("shop", &[("tls.crt", &stranger.cert), ("tls.key", &second.key)]);
    kubelet(&secrets, 3, &[("shop.yaml", &torn)]);
    until("key_mismatch in /config", async || problem(&ingress.config().await) == "key_mismatch").await;
    assert_eq!(presented(https, &authority).await, second.serial);
}

/// The problem of the Host's Secret.
fn problem(config: &Value) -> String {
    let rows = config["identities"].as_array().expect("identities");
    let row = rows.iter().find(|row| row["source"] == "secret:default/shop#identity").expect("a row");
    row["problem"]["reason"].as_str().unwrap_or_default().to_owned()
}
