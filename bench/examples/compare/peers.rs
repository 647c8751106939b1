//! The proxies, each configured for the same work: plaintext HTTP/1.1 in, pooled mTLS HTTP/1.1 out, one worker.

use std::{
    fs,
    net::{Ipv4Addr, SocketAddr, TcpListener},
    path::{Path, PathBuf},
    str::FromStr,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    certs::{ORIGIN, ca, client, client_both, client_key},
    process::Process,
};

/// Which proxy.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Name {
    /// This project's ingress.
    Selvedge,
    /// Envoy, with its defaults.
    Envoy,
    /// `HAProxy`, one thread.
    Haproxy,
    /// nginx, a master and one worker.
    Nginx,
}

impl Name {
    pub(crate) const ALL: [Self; 4] = [Self::Selvedge, Self::Envoy, Self::Haproxy, Self::Nginx];

    pub(crate) const fn text(self) -> &'static str {
        match self {
            Self::Selvedge => "selvedge",
            Self::Envoy => "envoy",
            Self::Haproxy => "haproxy",
            Self::Nginx => "nginx",
        }
    }
}

impl FromStr for Name {
    type Err = anyhow::Error;

    fn from_str(text: &str) -> anyhow::Result<Self> {
        let found = Self::ALL.into_iter().find(|name| name.text() == text);
        found.with_context(|| format!("`{text}` is none of selvedge, envoy, haproxy, nginx"))
    }
}

/// A proxy that is installed.
#[derive(Clone, Debug)]
pub(crate) struct Peer {
    pub(crate) name: Name,
    program: PathBuf,
}

/// What a proxy is to do.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Role {
    /// Where requests go; `None`: nothing is configured but what the program needs to start.
    pub(crate) origin: Option<SocketAddr>,
    pub(crate) access_log: bool,
}

/// A proxy at work.
#[derive(Debug)]
pub(crate) struct Running {
    pub(crate) process: Process,
    pub(crate) addr: SocketAddr,
}

impl Peer {
    /// Looks for the program.
    pub(crate) fn find(name: Name) -> Option<Self> {
        let program = match name {
            Name::Selvedge => PathBuf::from(std::env::var_os("SELVEDGE")?),
            Name::Envoy => {
                let home = PathBuf::from(std::env::var_os("HOME")?);
                let parts = home.join(".cache/selvedge/parts/py/lib");
                // The wheel's launcher is Python: the program itself is what runs.
                let wheels = fs::read_dir(parts).ok()?.filter_map(Result::ok);
                let path = wheels.map(|python| python.path().join("site-packages/envoy/_bin/envoy"));
                path.into_iter().find(|path| path.exists())?
            }
            Name::Haproxy | Name::Nginx => {
                let path = std::env::var_os("PATH")?;
                let folders = std::env::split_paths(&path).chain(["/usr/sbin".into()]);
                folders.map(|dir| dir.join(name.text())).find(|path| path.exists())?
            }
        };
        program.exists().then_some(Self { name, program })
    }

    /// Starts it and waits until it takes connections.
    pub(crate) async fn start(&self, dir: &Path, role: Role) -> anyhow::Result<Running> {
        let name = self.name.text();
        let addr = free_port()?;
        // Selvedge and Envoy go by the end of a file's name.
        let config = dir.join(match self.name {
            Name::Selvedge | Name::Envoy => format!("{name}.yaml"),
            Name::Haproxy | Name::Nginx => format!("{name}.conf"),
        });
        let text = match self.name {
            Name::Selvedge => selvedge(dir, role),
            Name::Envoy => envoy(dir, addr, role),
            Name::Haproxy => haproxy(dir, addr, role),
            Name::Nginx => nginx(dir, addr, role),
        };
        fs::write(&config, text).with_context(|| config.display().to_string())?;
        let path = config.display().to_string();
        let args: Vec<String> = match self.name {
            Name::Selvedge => selvedge_args(&config, addr, role),
            Name::Envoy => {
                let args = [
                    "--config-path",
                    &path,
                    "--concurrency",
                    "1",
                    "--log-level",
                    "error",
                    "--use-dynamic-base-id",
                ];
                args.map(str::to_owned).to_vec()
            }
            Name::Haproxy => vec!["-f".to_owned(), path],
            Name::Nginx => vec!["-c".to_owned(), path, "-e".to_owned(), "stderr".to_owned()],
        };
        let log = dir.join(format!("{name}.log"));
        let mut process = Process::start(&self.program, &args, &log)?;
        let begun = Instant::now();
        while tokio::net::TcpStream::connect(addr).await.is_err() {
            process.alive(&log)?;
            ensure!(begun.elapsed() < Duration::from_secs(30), "{name} does not listen on {addr}");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        Ok(Running { process, addr })
    }
}

/// A port of loopback that is free now.
fn free_port() -> anyhow::Result<SocketAddr> {
    Ok(TcpListener::bind((Ipv4Addr::LOCALHOST, 0))?.local_addr()?)
}

fn selvedge(dir: &Path, role: Role) -> String {
    let Some(origin) = role.origin else { return String::new() };
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {{name: up}}\nspec:\n  hosts: []\n  \
         sni: {ORIGIN}\n  cert_chain_file: {}\n  private_key_file: {}\n  cacert_chain_file: {}\n  \
         alpn_protocols: http/1.1\n---\n\
         apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: all}}\nspec:\n  hostname: \"*\"\n  \
         prefix: /\n  service: https://origin.bench:{}\n  tls: up\n",
        client(dir).display(),
        client_key(dir).display(),
        ca(dir).display(),
        origin.port(),
    )
}

fn selvedge_args(manifests: &Path, addr: SocketAddr, role: Role) -> Vec<String> {
    let mut args: Vec<String> = [
        "run",
        "--bind",
        "127.0.0.1",
        "--admin",
        "127.0.0.1:0",
        "--log-level",
        "warn",
        "--access-log",
        if role.access_log { "json" } else { "off" },
    ]
    .map(str::to_owned)
    .to_vec();
    args.extend(["--manifests".to_owned(), manifests.display().to_string()]);
    args.extend(["--http-port".to_owned(), addr.port().to_string()]);
    if let Some(origin) = role.origin {
        args.extend(["--workers".to_owned(), "1".to_owned()]);
        args.extend(["--resolve".to_owned(), format!("origin.bench={origin}")]);
    } else {
        // As it runs on this machine, not as it is pinned here.
        args.extend(["--workers".to_owned(), "2".to_owned()]);
    }
    args
}

fn nginx(dir: &Path, addr: SocketAddr, role: Role) -> String {
    let log = if role.access_log { "/dev/null combined" } else { "off" };
    let at = dir.display();
    let location = role.origin.map_or_else(
        || "return 404;".to_owned(),
        |_| {
            format!(
                "proxy_pass https://origin; proxy_http_version 1.1; proxy_set_header Connection \"\"; \
                 proxy_ssl_certificate {}; proxy_ssl_certificate_key {}; proxy_ssl_trusted_certificate {}; \
                 proxy_ssl_verify on; proxy_ssl_name {ORIGIN}; proxy_ssl_server_name on; proxy_ssl_protocols TLSv1.3;",
                client(dir).display(),
                client_key(dir).display(),
                ca(dir).display()
            )
        },
    );
    let upstream = role.origin.map_or_else(String::new, |origin| {
        format!(
            "upstream origin {{ server {origin}; keepalive 256; keepalive_requests 1000000000; keepalive_timeout 1h; }}"
        )
    });
    format!(
        "daemon off; pid {at}/nginx.pid; error_log stderr error; worker_processes 1; worker_rlimit_nofile 20000;\n\
         events {{ worker_connections 19000; }}\nhttp {{ access_log {log}; keepalive_requests 1000000000; \
         keepalive_timeout 1h; client_body_temp_path {at}/body; proxy_temp_path {at}/proxy; \
         fastcgi_temp_path {at}/fastcgi; uwsgi_temp_path {at}/uwsgi; scgi_temp_path {at}/scgi; {upstream}\n\
         server {{ listen {addr} backlog=1024; location / {{ {location} }} }} }}\n"
    )
}

fn haproxy(dir: &Path, addr: SocketAddr, role: Role) -> String {
    let (target, log) = if role.access_log {
        (" log stdout format raw local0 info\n", " log global\n option httplog\n")
    } else {
        ("", "")
    };
    let backend = role.origin.map_or_else(String::new, |origin| {
        format!(
            " http-reuse always\n server origin {origin} ssl crt {} ca-file {} verify required verifyhost {ORIGIN} \
             sni str({ORIGIN}) ssl-min-ver TLSv1.3 pool-max-conn 256\n",
            client_both(dir).display(),
            ca(dir).display()
        )
    });
    format!(
        "global\n nbthread 1\n no strict-limits\n maxconn 15000\n{target}defaults\n mode http\n{log} timeout connect 5s\n \
         timeout client 1h\n timeout server 1h\n timeout http-keep-alive 1h\n timeout http-request 1h\nfrontend in\n \
         bind {addr} backlog 1024\n default_backend out\nbackend out\n{backend}"
    )
}

fn envoy(dir: &Path, addr: SocketAddr, role: Role) -> String {
    let log = if role.access_log {
        ", access_log: [{name: envoy.access_loggers.file, typed_config: {\"@type\": \
         type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog, path: /dev/null}}]"
    } else {
        ""
    };
    let action =
        if role.origin.is_some() { "route: {cluster: origin}" } else { "direct_response: {status: 404}" };
    let clusters = role.origin.map_or_else(
        || "clusters: []".to_owned(),
        |origin| {
            format!(
                "clusters:\n  - name: origin\n    type: STATIC\n    load_assignment: {{cluster_name: origin, endpoints: \
                 [{{lb_endpoints: [{{endpoint: {{address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}}}}}]}}]}}\n    \
                 transport_socket: {{name: tls, typed_config: {{\"@type\": \
                 type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext, sni: {ORIGIN}, \
                 common_tls_context: {{tls_params: {{tls_minimum_protocol_version: TLSv1_3, tls_maximum_protocol_version: \
                 TLSv1_3}}, tls_certificates: [{{certificate_chain: {{filename: {}}}, private_key: {{filename: {}}}}}], \
                 validation_context: {{trusted_ca: {{filename: {}}}, match_typed_subject_alt_names: [{{san_type: DNS, \
                 matcher: {{exact: {ORIGIN}}}}}]}}}}}}}}",
                origin.port(),
                client(dir).display(),
                client_key(dir).display(),
                ca(dir).display()
            )
        },
    );
    format!(
        "static_resources:\n  listeners:\n  - address: {{socket_address: {{address: 127.0.0.1, port_value: {}}}}}\n    \
         filter_chains: [{{filters: [{{name: hcm, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager, \
         stat_prefix: in{log}, route_config: {{virtual_hosts: [{{name: all, domains: [\"*\"], routes: [{{match: \
         {{prefix: /}}, {action}}}]}}]}}, http_filters: [{{name: router, typed_config: {{\"@type\": \
         type.googleapis.com/envoy.extensions.filters.http.router.v3.Router}}}}]}}}}]}}]\n  {clusters}\n",
        addr.port()
    )
}
