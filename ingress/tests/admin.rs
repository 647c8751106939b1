//! The admin side of a running ingress: what it shows, what it never shows, and what its two orders do.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test"
)]

use std::{net::SocketAddr, time::Duration};

use clap::Parser as _;
use ingress::{
    app::{App, Termination},
    cli::{Cli, Command, IngressSettings},
};
use proxy::observe::names;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
    task::{JoinHandle, LocalSet},
};

/// Values of headers that must not be shown.
const SECRETS: [&str; 3] = ["api-key-of-the-upstream", "value-that-admits", "value-by-pattern"];

const MANIFESTS: &str = r#"
apiVersion: getambassador.io/v3alpha1
kind: Listener
metadata: {name: web}
spec: {port: 0, protocol: HTTP, securityModel: INSECURE, hostBinding: {namespace: {from: ALL}}}
---
apiVersion: getambassador.io/v3alpha1
kind: TLSContext
metadata: {name: own}
spec: {hosts: [], secret: own-cert, verify: none}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: good}
spec:
  hostname: "*"
  prefix: /good/
  service: https://127.0.0.1:1
  tls: own
  add_request_headers: {x-api-key: {value: api-key-of-the-upstream}}
  headers: {x-admit: value-that-admits}
  regex_headers: {x-pattern: "value-by-pattern.*"}
---
apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: bad}
spec: {hostname: "*", prefix: /bad/, service: https://127.0.0.1:1, tls: nowhere}
"#;

struct Running {
    admin: SocketAddr,
    listener: SocketAddr,
    /// The private key, as it stands in the Secret.
    key: String,
    ended: JoinHandle<u8>,
    _manifests: tempfile::TempDir,
}

impl Running {
    async fn start() -> Self {
        identity::provider::install();
        let folder = tempfile::tempdir().unwrap();
        let own = rcgen::generate_simple_self_signed(["own.example".to_owned()]).unwrap();
        let indent = |pem: &str| pem.lines().map(|line| format!("    {line}\n")).collect::<Vec<_>>().concat();
        let secret = format!(
            "apiVersion: v1\nkind: Secret\nmetadata: {{name: own-cert}}\ntype: kubernetes.io/tls\nstringData:\n  tls.crt: |\n{}  tls.key: |\n{}",
            indent(&own.cert.pem()),
            indent(&own.signing_key.serialize_pem()),
        );
        std::fs::write(folder.path().join("all.yaml"), format!("{secret}---{MANIFESTS}")).unwrap();
        let path = folder.path().to_str().unwrap();
        let flags =
            ["--admin", "127.0.0.1:0", "--bind", "127.0.0.1", "--access-log", "off", "--drain-timeout", "5s"];
        let line = ["selvedge-ingress", "run", "--manifests", path];
        let cli = Cli::parse_from(line.into_iter().chain(flags));
        let Command::Run(args) = cli.command else { panic!("not run") };
        let app = App::start(IngressSettings::new(&args, &|_| None).unwrap()).await.unwrap();
        let (admin, listener) = (app.admin(), app.listeners()[0].1);
        let ended = tokio::task::spawn_local(app.run(Termination::new().unwrap()));
        let key = own.signing_key.serialize_pem();
        Self { admin, listener, key, ended, _manifests: folder }
    }

    async fn ask(&self, line: &str) -> String {
        let mut stream = TcpStream::connect(self.admin).await.unwrap();
        let head = format!("{line} HTTP/1.1\r\nhost: {}\r\nconnection: close\r\n\r\n", self.admin);
        stream.write_all(head.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        answer
    }

    async fn json(&self, line: &str) -> Value {
        let answer = self.ask(line).await;
        serde_json::from_str(answer.split_once("\r\n\r\n").unwrap().1).unwrap_or_else(|_| panic!("{answer}"))
    }

    async fn end(self) -> u8 {
        assert!(self.ask("POST /shutdown").await.starts_with("HTTP/1.1 200"));
        tokio::time::timeout(Duration::from_secs(20), self.ended).await.unwrap().unwrap()
    }
}

async fn local<F: Future<Output = ()>>(test: F) {
    LocalSet::new().run_until(test).await;
}

#[tokio::test]
async fn the_configuration_is_shown_with_conditions_and_without_secrets() {
    local(async {
        let running = Running::start().await;
        let config = running.json("GET /config").await;
        for key in ["listeners", "hosts", "clusters", "identities", "problems", "conditions", "connections"] {
            assert!(!config[key].is_null(), "{key}: {config:#}");
        }
        let own =
            config["identities"].as_array().unwrap().iter().find(|one| !one["own"][0].is_null()).unwrap();
        assert!(own["own"][0]["not_after"].as_str().unwrap().ends_with('Z'), "{own:#}");
        let condition = |mapping: &str, kind: &str| {
            let of = config["conditions"].as_array().unwrap().iter().find(|one| one["name"] == mapping);
            let all = of.unwrap()["conditions"].as_array().unwrap();
            let one = all.iter().find(|one| one["type"] == kind).unwrap();
            (one["status"].as_str().unwrap().to_owned(), one["reason"].as_str().unwrap().to_owned())
        };
        assert_eq!(condition("good", "Programmed"), ("True".to_owned(), "ok".to_owned()));
        assert_eq!(condition("bad", "Programmed"), ("False".to_owned(), "tls_context_missing".to_owned()));
        assert_eq!(condition("bad", "ResolvedRefs").0, "False");

        let metrics = running.ask("GET /metrics").await;
        for metric in names::OF_PROGRAM {
            assert!(metrics.contains(&format!("# TYPE {} gauge\n", metric.name)), "{}", metric.name);
        }
        let explained = running.ask("GET /explain?url=http%3A%2F%2Fa%2Fgood%2F").await;
        let key = running.key.lines().nth(1).unwrap();
        for shown in [&config.to_string(), &metrics, &explained] {
            for secret in SECRETS.into_iter().chain([key, "PRIVATE"]) {
                assert!(!shown.contains(secret), "{secret} in {shown}");
            }
        }
        assert_eq!(running.end().await, 0);
    })
    .await;
}

#[tokio::test]
async fn a_drain_closes_the_data_plane_and_the_process_stays_until_it_is_shut_down() {
    local(async {
        let running = Running::start().await;
        assert!(running.ask("GET /ready").await.starts_with("HTTP/1.1 200"));
        drop(TcpStream::connect(running.listener).await.unwrap());
        for _twice in 0..2 {
            assert!(running.ask("POST /drain").await.starts_with("HTTP/1.1 200"));
        }
        assert!(running.ask("GET /ready").await.starts_with("HTTP/1.1 503"));
        let closed = async { while TcpStream::connect(running.listener).await.is_ok() {} };
        tokio::time::timeout(Duration::from_secs(10), closed).await.expect("the listener is open");
        assert_eq!(running.json("GET /config").await["draining"], true);
        assert!(running.ask("GET /live").await.starts_with("HTTP/1.1 200"));
        assert!(!running.ended.is_finished());
        assert_eq!(running.end().await, 0);
    })
    .await;
}
