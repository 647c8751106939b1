//! `demo`: the whole product at work on one machine: dev authority, an app behind mTLS, the ingress, load, rotations.

mod load;
mod stand_in;

use std::{
    io::{self, IsTerminal as _, Write},
    net::{Ipv4Addr, SocketAddr},
    path::Path,
    sync::Arc,
    time::Duration,
};

use identity::{
    dev::{DevAuthority, Entries},
    source::{WorkloadApi, WorkloadEndpoint},
};
use proxy::{limits::Limits, net::Settings, observe::AccessLog, observe::Counter, registry::Role};
use serde_json::{Value, json};
use tokio_util::sync::CancellationToken;

use crate::{
    app::{App, Termination, fresh_folder},
    cli::{DecisionSettings, DemoArgs, IngressSettings, ListenPorts, Output, ResolveRule, SpiffeSocket},
};
use stand_in::DemoApp;

const MANIFESTS: &str = include_str!("../../../../examples/demo/demo.yaml");
const INGRESS: &str = "spiffe://dev.local/demo/ingress";
const APP: &str = "spiffe://dev.local/demo/app";
/// Renewed at half of it: every second.
const TTL: &str = "2s";
/// With `--serve` nothing needs to be proved by then.
const TTL_SERVING: &str = "1h";

/// Runs the command; gives its exit status: 1 when a request failed.
pub async fn run(args: &DemoArgs, out: &mut dyn Write) -> anyhow::Result<u8> {
    let folder = fresh_folder("selvedge-demo");
    let result = play(args, &folder, out).await;
    let _not_fatal = std::fs::remove_dir_all(&folder);
    result
}

async fn play(args: &DemoArgs, folder: &Path, out: &mut dyn Write) -> anyhow::Result<u8> {
    let ttl = if args.serve { TTL_SERVING } else { TTL };
    let authority = DevAuthority::start(Entries::simple("dev.local", &[INGRESS, APP], ttl), folder, false)?;
    let socket =
        |id: &str| authority.sockets().into_iter().find(|(known, _)| known == id).map(|(_, socket)| socket);
    let cancel = CancellationToken::new();
    let endpoint = WorkloadEndpoint::Unix(socket(APP).unwrap_or_default());
    let api = WorkloadApi::new(endpoint, identity::SourceRef::new("spiffe:app"), Duration::ZERO);
    let app_source = Arc::clone(api.source());
    let following = tokio::spawn(api.run(cancel.clone()));
    let app = DemoApp::start(&app_source)?;
    std::fs::write(folder.join("demo.yaml"), MANIFESTS)?;
    let ingress = App::start(settings(folder, &socket(INGRESS).unwrap_or_default(), app.addr())).await?;
    let own = ingress.state().spiffe_source();
    for source in [Some(&app_source), own.as_ref()].into_iter().flatten() {
        let mut changes = source.watch();
        let there = changes.wait_for(|_| source.state().material.is_some());
        tokio::time::timeout(Duration::from_secs(10), there).await??;
    }
    let addr =
        ingress.listeners().first().map(|(_, addr)| SocketAddr::from((Ipv4Addr::LOCALHOST, addr.port())));
    let addr = addr.ok_or_else(|| anyhow::anyhow!("the ingress has no listener"))?;
    let status = if args.serve {
        serve(&ingress, addr, out).await?
    } else {
        prove(args, &ingress, &app, addr, out).await?
    };
    ingress.drain().await;
    cancel.cancel();
    following.await?;
    app.stop().await;
    authority.stop().await;
    Ok(status)
}

/// Sends the load and prints the table.
async fn prove(
    args: &DemoArgs,
    ingress: &App,
    app: &DemoApp,
    addr: SocketAddr,
    out: &mut dyn Write,
) -> anyhow::Result<u8> {
    let show = io::stderr().is_terminal() || args.output == Output::Text;
    let before = ingress.state().svid_revision();
    let sent = load::send(addr, |done, total, failed| {
        if show {
            let rotations = ingress.state().svid_revision().saturating_sub(before);
            let certificates = app.certificates();
            let _unwritable = writeln!(
                io::stderr(),
                "{done:>6} of {total} requests, {failed} failed, {rotations} rotations, {certificates} client certificates seen"
            );
        }
    })
    .await?;
    let ids = ingress.state().upstream_ids();
    let figures = json!({
        "requests": sent.requests,
        "failed": sent.failed,
        "rotations": ingress.state().svid_revision().saturating_sub(before),
        "client_certificates": app.certificates(),
        "ingress_id": app.caller(),
        "app_id": ids.first().cloned().unwrap_or_default(),
        "protocols": {"HTTP/1.1": sent.http1, "HTTP/2": sent.http2},
        "handshakes": ingress.state().total(Counter::UpstreamHandshakes),
        "p50_us": sent.latency.value_at_quantile(0.5),
        "p99_us": sent.latency.value_at_quantile(0.99),
    });
    match args.output {
        Output::Json => writeln!(out, "{figures:#}")?,
        Output::Text => table(&figures, sent.first_failure.as_deref(), out)?,
    }
    Ok(u8::from(sent.failed > 0))
}

fn table(figures: &Value, failure: Option<&str>, out: &mut dyn Write) -> io::Result<()> {
    let plain = |name: &str| {
        figures.get(name).map(|value| value.as_str().map_or_else(|| value.to_string(), str::to_owned))
    };
    writeln!(out)?;
    for (name, label) in [
        ("ingress_id", "ingress, as the app saw it"),
        ("app_id", "app, as the ingress verified it"),
        ("requests", "requests"),
        ("protocols", "  by protocol"),
        ("failed", "failed"),
        ("rotations", "rotations of the ingress' SVID"),
        ("client_certificates", "client certificates, as the app saw them"),
        ("handshakes", "handshakes with the app"),
        ("p50_us", "latency p50, microseconds"),
        ("p99_us", "latency p99, microseconds"),
    ] {
        writeln!(out, "  {label:42} {}", plain(name).unwrap_or_default())?;
    }
    if let Some(failure) = failure {
        writeln!(out, "  first failure: {failure}")?;
    }
    writeln!(out, "\nTry it yourself: selvedge-ingress demo --serve")
}

/// Stays up, with lines to try.
async fn serve(ingress: &App, addr: SocketAddr, out: &mut dyn Write) -> anyhow::Result<u8> {
    let admin = ingress.admin();
    writeln!(
        out,
        "The ingress listens on http://{addr}; the app behind it wants mTLS and says who called it. Try:\n"
    )?;
    writeln!(
        out,
        "  curl http://{addr}/hello                  # the app answers with the caller's SPIFFE ID"
    )?;
    writeln!(out, "  curl --http2-prior-knowledge http://{addr}/hello")?;
    writeln!(
        out,
        "  curl -i http://{addr}/wrong/hello         # somebody else is expected there: 503, the app sees nothing"
    )?;
    writeln!(
        out,
        "  curl http://{admin}/config                # listeners, routes, clusters, identities with expiry"
    )?;
    writeln!(out, "  curl http://{admin}/metrics")?;
    writeln!(out, "\nCtrl-C ends it.")?;
    out.flush()?;
    Termination::new()?.requested().await;
    Ok(0)
}

fn settings(folder: &Path, socket: &Path, app: SocketAddr) -> IngressSettings {
    IngressSettings {
        manifests: vec![folder.join("demo.yaml")],
        decision: DecisionSettings {
            resolve: vec![ResolveRule { host: "app.demo".to_owned(), port: None, addresses: vec![app] }],
            require_verified_upstreams: true,
            allow_upstream: Vec::new(),
            ports: ListenPorts { bind: Ipv4Addr::LOCALHOST.into(), http: 0, https: 0 },
            spiffe: Some(SpiffeSocket::Uri(format!("unix://{}", socket.display()))),
            ambassador_id: "default".to_owned(),
            namespace: "default".to_owned(),
            single_namespace: false,
            force_secret_validation: true,
            istio_secret_dir: None,
        },
        server: Settings { workers: 2, limits: Limits::default(), allow_dev_identity: false },
        access_log: AccessLog::Off,
        admin: SocketAddr::from((Ipv4Addr::LOCALHOST, 0)),
        health: None,
        ready_file: None,
        identity_timeout: Duration::from_secs(10),
    }
}

impl crate::app::State {
    /// SPIFFE IDs of the upstreams that are connected now.
    fn upstream_ids(&self) -> Vec<String> {
        let facts = self.server().registry().facts();
        let ids =
            facts.iter().filter(|facts| facts.role == Role::Upstream).filter_map(|facts| facts.peer.as_ref());
        ids.filter_map(|peer| peer.spiffe_id.as_ref()).map(ToString::to_string).collect()
    }
}
