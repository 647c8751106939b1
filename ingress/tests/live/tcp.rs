//! TCPMappings on the real program: cleartext, TLS originated, TLS ended here, TLS passed on by its server name.

use std::{net::SocketAddr, sync::Arc};

use rustls::{ClientConfig, RootCertStore, pki_types::ServerName};
use serde_json::Value;
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpStream,
};
use tokio_rustls::{TlsConnector, client::TlsStream};

use super::harness::{Authority, Echo, Ingress, certs::secret, process::run, replace, until};

/// A TCPMapping.
pub(super) fn mapping(name: &str, fields: &str) -> String {
    object("TCPMapping", name, fields)
}

pub(super) fn object(kind: &str, name: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{fields}}}\n"
    )
}

/// Manifests in a folder, and the program on them.
pub(super) struct Scene {
    pub(super) folder: tempfile::TempDir,
    pub(super) ingress: Ingress,
}

impl Scene {
    pub(super) async fn start(manifests: &str, flags: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("folder");
        replace(&folder.path().join("all.yaml"), manifests);
        let ingress = Ingress::start(folder.path(), flags).await;
        Self { folder, ingress }
    }

    pub(super) fn write(&self, manifests: &str) {
        replace(&self.folder.path().join("all.yaml"), manifests);
    }

    pub(super) async fn connect(&self, listener: &str) -> TcpStream {
        TcpStream::connect(self.ingress.listener(listener)).await.expect("connect")
    }

    /// The lines of the access log for connections, once there are so many.
    pub(super) async fn lines(&self, count: usize) -> Vec<Value> {
        let mut lines = Vec::new();
        until(&format!("{count} lines of connections"), async || {
            lines = self.ingress.access_log();
            lines.retain(|line| line["protocol"] == "TCP");
            lines.len() >= count
        })
        .await;
        lines
    }
}

/// Says something, ends its side, and gives all that came.
pub(super) async fn talk<S: AsyncRead + AsyncWrite + Unpin>(mut stream: S, text: &str) -> String {
    stream.write_all(text.as_bytes()).await.expect("write");
    stream.shutdown().await.expect("end");
    rest(stream).await
}

/// All that comes.
pub(super) async fn rest<S: AsyncRead + Unpin>(mut stream: S) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _end = stream.read_to_end(&mut answer).await;
    String::from_utf8(answer).expect("UTF-8")
}

pub(super) async fn dial(
    addr: SocketAddr,
    roots: &Authority,
    name: &str,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    connect_tls(TcpStream::connect(addr).await?, roots, name).await
}

/// TLS on a connection that there is already.
pub(super) async fn connect_tls(
    stream: TcpStream,
    roots: &Authority,
    name: &str,
) -> Result<TlsStream<TcpStream>, std::io::Error> {
    let mut store = RootCertStore::empty();
    store.add(roots.der().clone()).expect("authority");
    let config = ClientConfig::builder().with_root_certificates(store).with_no_client_auth();
    let name = ServerName::try_from(name.to_owned()).expect("name");
    TlsConnector::from(Arc::new(config)).connect(name, stream).await
}

const INGRESS: &str = "spiffe://example.org/ingress";
const DATABASE: &str = "spiffe://example.org/db";

/// Two ends of mTLS by SPIFFE, with a context that expects an ID.
pub(super) fn context(authority: &Authority, name: &str, id: &str) -> String {
    let own = authority.workload(INGRESS);
    secret("own", &[("tls.crt", &own.cert), ("tls.key", &own.key)])
        + &secret("roots", &[("ca.crt", &authority.pem())])
        + &object(
            "TLSContext",
            name,
            &format!("hosts: [], secret: own, ca_secret: roots, spiffe: {{ids: [\"{id}\"]}}"),
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn bytes_go_to_a_plain_upstream_and_to_one_behind_mutual_tls() {
    let authority = Authority::new("tcp");
    let plain = Echo::plain("hello ").await;
    let mutual = Echo::mutual("secret hello ", &authority.workload(DATABASE), &authority).await;
    let manifests = context(&authority, "db", DATABASE)
        + &mapping("plain", &format!("port: 0, address: 127.0.0.1, service: \"{}\"", plain.addr))
        + &mapping("db", &format!("port: 0, address: 127.0.0.2, service: \"{}\", tls: db", mutual.addr));
    let scene = Scene::start(&manifests, &[]).await;
    assert_eq!(talk(scene.connect("tcp-127.0.0.1-0").await, "ping").await, "hello ping 4");
    assert_eq!(talk(scene.connect("tcp-127.0.0.2-0").await, "pong!").await, "secret hello pong! 5");
    let lines = scene.lines(2).await;
    let line = |route: &str| lines.iter().find(|line| line["route"] == route).expect(route);
    let plain_line = line("default/plain");
    assert_eq!(plain_line["reason"], "ok");
    assert_eq!(plain_line["upstream"], plain.addr.to_string());
    assert_eq!((&plain_line["bytes_in"], &plain_line["bytes_out"]), (&4.into(), &12.into()));
    let line = line("default/db");
    assert_eq!(line["reason"], "ok");
    assert_eq!(line["upstream_tls"], "TLSv1.3");
    assert_eq!(line["upstream_spiffe_id"], DATABASE);
    assert_eq!(line["local_spiffe_id"], INGRESS);
    assert_eq!((&line["bytes_in"], &line["bytes_out"]), (&5.into(), &20.into()));
    assert_eq!((plain.greeted(), mutual.greeted()), (1, 1));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_trusted_closes_the_connection_under_its_reason() {
    let (authority, other) = (Authority::new("tcp"), Authority::new("other"));
    let mutual = Echo::mutual("secret", &authority.workload(DATABASE), &authority).await;
    let stranger = Echo::mutual("secret", &other.workload(DATABASE), &authority).await;
    let picky = Echo::mutual("secret", &authority.workload(DATABASE), &other).await;
    let plain = Echo::plain("clear").await;
    let dead = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let lost = "hosts: [], secret: nobody, ca_secret: roots";
    let manifests = context(&authority, "db", DATABASE)
        + &object(
            "TLSContext",
            "wrong",
            "hosts: [], secret: own, ca_secret: roots, spiffe: {ids: [\"spiffe://example.org/other\"]}",
        )
        + &object("TLSContext", "lost", lost);
    // Name, service, context, reason; whether the upstream may see a connection.
    let cases = [
        ("wrong-id", mutual.addr, "tls: wrong", "peer_id_mismatch"),
        ("stranger", stranger.addr, "tls: db", "peer_unknown_issuer"),
        ("picky", picky.addr, "tls: db", "upstream_refused_certificate"),
        ("missing", plain.addr, "tls: nobody", "tls_context_missing"),
        ("broken", plain.addr, "tls: lost", "secret_missing"),
        ("number", plain.addr, "tls: [db]", "wrong_type"),
        ("dead", dead, "idle_timeout_ms: \"1000\"", "upstream_connect_failed"),
    ];
    let rows = cases.iter().zip(1..).map(|((name, addr, tls, _), at)| {
        mapping(name, &format!("port: 0, address: 127.0.1.{at}, service: \"{addr}\", {tls}"))
    });
    let scene = Scene::start(&(manifests + &rows.collect::<String>()), &[]).await;
    for ((name, _, _, reason), at) in cases.iter().zip(1..) {
        let listener = format!("tcp-127.0.1.{at}-0");
        let mut client = scene.connect(&listener).await;
        // It may be closed before it has said anything.
        let _closed = client.write_all(b"password").await;
        let mut seen = Vec::new();
        let _reset = client.read_to_end(&mut seen).await;
        assert!(seen.is_empty(), "{name}: {seen:?}");
        let lines = scene.lines(at).await;
        let line = lines.iter().find(|line| line["route"] == format!("default/{name}")).expect(name);
        assert_eq!(line["reason"], *reason, "{line}");
    }
    assert_eq!([&mutual, &stranger, &picky, &plain].map(Echo::heard), [0; 4]);
    assert_eq!(plain.accepted(), 0, "nothing is sent in cleartext instead");
    let config = scene.ingress.config().await;
    let state = |name: &str| {
        let rows = config["tcp"].as_array().expect("tcp");
        let row = rows.iter().find(|row| row["mapping"] == format!("default/{name}")).expect(name);
        (row["action"].clone(), row["unavailable"]["reason"].clone())
    };
    assert_eq!(state("missing"), ("unavailable".into(), "tls_context_missing".into()));
    assert_eq!(state("broken"), ("unavailable".into(), "secret_missing".into()));
    assert_eq!(state("wrong-id"), ("forward".into(), Value::Null));
}

/// A Host that ends TLS for a name.
pub(super) fn host(authority: &Authority, name: &str, hostname: &str) -> String {
    let own = authority.leaf(hostname);
    secret(name, &[("tls.crt", &own.cert), ("tls.key", &own.key)])
        + &object(
            "Host",
            name,
            &format!(
                "hostname: {hostname}, tlsSecret: {{name: {name}}}, mappingSelector: {{matchLabels: {{no: thing}}}}"
            ),
        )
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_server_name_decides_who_ends_tls_and_an_unknown_one_is_told_so() {
    let authority = Authority::new("tcp");
    let (ended, passed) =
        (Echo::plain("ended ").await, Echo::tls("passed ", &authority.leaf("through.example")).await);
    let manifests = host(&authority, "db", "db.example")
        + &object("Host", "lost", "hostname: lost.example, tlsSecret: {name: nobody}")
        + &mapping("ended", &format!("port: 0, host: db.example, service: \"{}\"", ended.addr))
        + &mapping("passed", &format!("port: 0, host: through.example, service: \"{}\"", passed.addr))
        + &mapping("lost", &format!("port: 0, host: lost.example, service: \"{}\"", passed.addr));
    let scene = Scene::start(&manifests, &[]).await;
    let addr = scene.ingress.listener("tcp-0");
    let client = dial(addr, &authority, "DB.example").await.expect("ended here");
    assert_eq!(talk(client, "a").await, "ended a 1");
    let client = dial(addr, &authority, "through.example").await.expect("ended there");
    assert_eq!(talk(client, "bb").await, "passed bb 2");
    for (name, alert) in [
        ("lost.example", "HandshakeFailure"),
        ("unknown.example", "UnrecognisedName"),
        ("127.0.0.1", "HandshakeFailure"),
    ] {
        let refused = dial(addr, &authority, name).await.expect_err(name);
        assert!(refused.to_string().contains(alert), "{name}: {refused}");
    }
    assert_eq!(talk(TcpStream::connect(addr).await.expect("connect"), "clear").await, "");
    let lines = scene.lines(6).await;
    let seen = lines.iter().map(|line| {
        let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
        format!("{} {} {} {}", text("authority"), text("route"), text("downstream_tls"), text("reason"))
    });
    let mut seen: Vec<_> = seen.collect();
    seen.sort();
    assert_eq!(
        seen,
        [
            "   no_route",
            "   no_sni_profile",
            "db.example default/ended TLSv1.3 ok",
            "lost.example   secret_missing",
            "through.example default/passed  ok",
            "unknown.example   no_sni_profile",
        ]
    );
    assert_eq!((ended.greeted(), passed.greeted()), (1, 1));
}

/// What `explain` says of a connection.
fn explained(scene: &Scene, url: &str, dice: u64) -> Value {
    let (path, dice) = (scene.folder.path().display().to_string(), dice.to_string());
    let said = run(&["explain", "--output", "json", "--manifests", &path, "--dice", &dice, "TCP", url]);
    assert_eq!(said.status, 0, "{}", said.stderr);
    serde_json::from_str(&said.stdout).expect("JSON")
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn weights_share_connections_as_written_and_explain_knows_which() {
    let (blue, green) = (Echo::plain("blue").await, Echo::plain("green").await);
    let manifests = mapping("blue", &format!("port: 0, weight: 70, service: \"{}\"", blue.addr))
        + &mapping("green", &format!("port: 0, weight: 30, service: \"{}\"", green.addr));
    let scene = Scene::start(&manifests, &[]).await;
    let count = 100;
    for _ in 0..count {
        let answer = talk(scene.connect("tcp-0").await, "").await;
        assert!(answer == "blue 0" || answer == "green 0", "{answer}");
    }
    for line in scene.lines(count).await {
        let dice = line["dice"].as_u64().expect("dice");
        let route = if dice < 70 { "default/blue" } else { "default/green" };
        assert_eq!(line["route"], route, "{line}");
    }
    assert_eq!(blue.greeted() + green.greeted(), 100);
    for (dice, route) in
        [(0, "default/blue"), (69, "default/blue"), (70, "default/green"), (99, "default/green")]
    {
        let found = explained(&scene, "tcp://any:0", dice);
        assert_eq!((&found["mapping"], &found["action"]), (&route.into(), &"relay".into()), "{found}");
        assert_eq!(found["lost"].as_array().map(Vec::len), Some(1), "{found}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_edit_reaches_new_connections_and_leaves_the_open_ones_alone() {
    let authority = Authority::new("tcp");
    let (one, two) = (Echo::plain("one ").await, Echo::plain("two ").await);
    let to = |echo: &Echo| mapping("m", &format!("port: 0, service: \"{}\"", echo.addr));
    let scene = Scene::start(&to(&one), &[]).await;
    let addr = scene.ingress.listener("tcp-0");
    let open = TcpStream::connect(addr).await.expect("connect");
    until("it is relayed", async || one.greeted() == 1).await;
    // TLS is now looked for on the very same socket.
    let named = mapping("named", &format!("port: 0, host: db.example, service: \"{}\"", two.addr));
    scene.write(&(to(&two) + &named + &host(&authority, "db", "db.example")));
    let asks = async || {
        let client = TcpStream::connect(addr).await.expect("the port stays open");
        talk(client, "x").await
    };
    until("new connections go to the new upstream", async || asks().await == "two x 1").await;
    let client = dial(addr, &authority, "db.example").await.expect("TLS ends here");
    assert_eq!(talk(client, "x").await, "two x 1");
    assert_eq!(talk(open, "still there").await, "one still there 11");
    scene.write("");
    until("the port is closed", async || TcpStream::connect(addr).await.is_err()).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn http_and_tcp_live_on_one_port() {
    let authority = Authority::new("tcp");
    let (ended, passed) =
        (Echo::plain("ended ").await, Echo::tls("passed ", &authority.leaf("through.example")).await);
    let web = super::harness::Upstream::plain().await;
    let port = {
        let held = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        held.local_addr().expect("address").port()
    };
    let manifests = object(
        "Listener",
        "l",
        &format!(
            "port: {port}, protocol: HTTPS, securityModel: XFP, hostBinding: {{namespace: {{from: ALL}}}}"
        ),
    ) + &host(&authority, "db", "db.example")
        + &host(&authority, "web", "shop.example")
            .replace(", mappingSelector: {matchLabels: {no: thing}}", "")
        + &object("Mapping", "m", &format!("hostname: shop.example, prefix: /, service: \"{}\"", web.addr))
        + &mapping("ended", &format!("port: {port}, host: db.example, service: \"{}\"", ended.addr))
        + &mapping("passed", &format!("port: {port}, host: through.example, service: \"{}\"", passed.addr));
    let scene = Scene::start(&manifests, &[]).await;
    let addr = scene.ingress.listener("default/l");
    let ask =
        async |name: &str, text: &str| talk(dial(addr, &authority, name).await.expect(name), text).await;
    assert_eq!(ask("db.example", "a").await, "ended a 1");
    assert_eq!(ask("through.example", "b").await, "passed b 1");
    let request = "GET /x HTTP/1.1\r\nhost: shop.example\r\nconnection: close\r\n\r\n";
    let mut web_client = dial(addr, &authority, "shop.example").await.expect("HTTP");
    web_client.write_all(request.as_bytes()).await.expect("write");
    assert!(rest(web_client).await.starts_with("HTTP/1.1 200 OK"));
    assert!(dial(addr, &authority, "other.example").await.is_err());
    for (url, mapping, downstream) in [
        ("tls://db.example", "default/ended", "terminated"),
        ("tls://through.example", "default/passed", "passed_on"),
        ("https://db.example", "default/ended", "terminated"),
    ] {
        let method = if url.starts_with("tls") { "TCP" } else { "GET" };
        let path = scene.folder.path().display().to_string();
        let url = format!("{url}:{port}/");
        let said = run(&["explain", "--output", "json", "--manifests", &path, method, &url]);
        let found: Value = serde_json::from_str(&said.stdout).expect("JSON");
        assert_eq!(
            (&found["mapping"], &found["downstream_tls"]),
            (&mapping.into(), &downstream.into()),
            "{found}"
        );
    }
}
