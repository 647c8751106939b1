//! Valid settings: flags, then `SELVEDGE_*`, then Emissary's or Envoy's variable, then the default.

use std::{
    net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr},
    path::PathBuf,
    str::FromStr,
    sync::Arc,
    time::Duration,
};

use identity::Source;
use proxy::{limits::Limits, net::Settings, observe::AccessLog, upstream::Resolver};

use super::{CommonArgs, DecisionArgs, ResolveRule, RunArgs, common::AccessLogForm};
use crate::keyring::{KeyRef, Keyring};

/// A setting that cannot be used: exit 2.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct UsageError(pub String);

/// Where the environment is read from: the process, or a table in tests.
pub type Env<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Where SVIDs come from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum SpiffeSocket {
    /// The dev authority in this process.
    Dev,
    /// A Workload API.
    Uri(String),
}

impl SpiffeSocket {
    /// The name of its source.
    pub fn source_ref(&self) -> identity::SourceRef {
        match self {
            Self::Dev => identity::SourceRef::new("spiffe:dev"),
            Self::Uri(uri) => identity::SourceRef::new(format!("spiffe:{uri}")),
        }
    }
}

/// Ports and address when no Listener says otherwise.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ListenPorts {
    /// Address.
    pub bind: IpAddr,
    /// Cleartext port.
    pub http: u16,
    /// TLS port.
    pub https: u16,
}

/// What changes a decision; the same for `run`, `check` and `explain`.
#[derive(Clone, Debug)]
pub struct DecisionSettings {
    /// `--resolve`.
    pub resolve: Vec<ResolveRule>,
    /// `--require-verified-upstreams`.
    pub require_verified_upstreams: bool,
    /// `--allow-upstream`.
    pub allow_upstream: Vec<ipnet::IpNet>,
    /// `--bind`, `--http-port`, `--https-port`.
    pub ports: ListenPorts,
    /// `--spiffe-socket`.
    pub spiffe: Option<SpiffeSocket>,
    /// `AMBASSADOR_ID`.
    pub ambassador_id: String,
    /// `AMBASSADOR_NAMESPACE`.
    pub namespace: String,
    /// `AMBASSADOR_SINGLE_NAMESPACE`.
    pub single_namespace: bool,
    /// `AMBASSADOR_FORCE_SECRET_VALIDATION`.
    pub force_secret_validation: bool,
    /// `AMBASSADOR_ISTIO_SECRET_DIR`: its files are Secret `istio-certs` of the own namespace.
    pub istio_secret_dir: Option<PathBuf>,
}

/// Everything `run` needs.
#[derive(Clone, Debug)]
pub struct IngressSettings {
    /// `--manifests`.
    pub manifests: Vec<PathBuf>,
    /// What changes a decision.
    pub decision: DecisionSettings,
    /// The data plane's.
    pub server: Settings,
    /// `--access-log`.
    pub access_log: AccessLog,
    /// `--admin`.
    pub admin: SocketAddr,
    /// `--health`.
    pub health: Option<SocketAddr>,
    /// `--ready-file`.
    pub ready_file: Option<PathBuf>,
    /// `--identity-timeout`.
    pub identity_timeout: Duration,
}

impl From<&DecisionSettings> for crate::compile::CompileSettings {
    fn from(decision: &DecisionSettings) -> Self {
        let rule = |rule: &ResolveRule| (rule.host.clone(), rule.port, rule.addresses.clone());
        Self {
            ambassador_id: decision.ambassador_id.clone(),
            namespace: decision.namespace.clone(),
            single_namespace: decision.single_namespace,
            require_verified_upstreams: decision.require_verified_upstreams,
            one_tenant: true,
            bind: decision.ports.bind,
            http_port: decision.ports.http,
            https_port: decision.ports.https,
            resolve: decision.resolve.iter().map(rule).collect(),
        }
    }
}

impl DecisionSettings {
    /// From flags and environment.
    pub fn new(args: &DecisionArgs, env: Env<'_>) -> Result<Self, UsageError> {
        let bind = match args.bind {
            Some(bind) => bind,
            None => other(env, "AMBASSADOR_ENVOY_BIND_ADDRESS")?.unwrap_or_else(default_bind),
        };
        let socket = args.spiffe_socket.clone().or_else(|| env("SPIFFE_ENDPOINT_SOCKET"));
        Ok(Self {
            resolve: repeated(&args.resolve, env, "SELVEDGE_RESOLVE")?,
            require_verified_upstreams: args.require_verified_upstreams,
            allow_upstream: repeated(&args.allow_upstream, env, "SELVEDGE_ALLOW_UPSTREAM")?,
            ports: ListenPorts { bind, http: args.http_port, https: args.https_port },
            spiffe: socket.filter(|uri| !uri.is_empty()).map(|uri| match uri.as_str() {
                "dev" => SpiffeSocket::Dev,
                _ => SpiffeSocket::Uri(uri),
            }),
            ambassador_id: env("AMBASSADOR_ID").unwrap_or_else(|| "default".to_owned()),
            namespace: env("AMBASSADOR_NAMESPACE").unwrap_or_else(|| "default".to_owned()),
            single_namespace: env("AMBASSADOR_SINGLE_NAMESPACE").is_some_and(|value| !value.is_empty()),
            force_secret_validation: env("AMBASSADOR_FORCE_SECRET_VALIDATION")
                .is_some_and(|value| matches!(value.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")),
            istio_secret_dir: env("AMBASSADOR_ISTIO_SECRET_DIR")
                .filter(|folder| !folder.is_empty())
                .map(PathBuf::from),
        })
    }
}

impl DecisionSettings {
    /// The keyring that these settings ask for, still empty.
    pub fn keyring(&self, spiffe: Option<Arc<Source>>) -> Keyring {
        Keyring::new(spiffe, self.force_secret_validation)
            .with_istio_folder(self.istio_secret_dir.as_deref(), &self.namespace)
            .with_optional(KeyRef::fallback(&self.namespace))
    }
}

impl IngressSettings {
    /// From flags and environment.
    pub fn new(args: &RunArgs, env: Env<'_>) -> Result<Self, UsageError> {
        let manifests = repeated(&args.manifests, env, "SELVEDGE_MANIFESTS")?;
        if manifests.is_empty() {
            return Err(UsageError(
                "there is nothing to serve; give manifests with --manifests DIR|FILE (try `selvedge-ingress run \
                 --manifests examples/localhost.yaml`), or see everything at work with `selvedge-ingress demo`"
                    .to_owned(),
            ));
        }
        let common = &args.common;
        Ok(Self {
            manifests,
            decision: DecisionSettings::new(&args.decision, env)?,
            server: server(common, env)?,
            access_log: match common.access_log {
                AccessLogForm::Off => AccessLog::Off,
                AccessLogForm::Text => AccessLog::Text,
                AccessLogForm::Json => AccessLog::Json,
            },
            admin: common.admin,
            health: common.health,
            ready_file: common.ready_file.clone(),
            identity_timeout: common.identity_timeout.0,
        })
    }
}

/// The manifests that a command reads: those given, else `SELVEDGE_MANIFESTS`; without any, how to give them.
pub fn manifests(given: &[PathBuf], env: Env<'_>, how: &str) -> Result<Vec<PathBuf>, UsageError> {
    let manifests = repeated(given, env, "SELVEDGE_MANIFESTS")?;
    if manifests.is_empty() {
        return Err(UsageError(format!("no manifests are given; {how}, or set SELVEDGE_MANIFESTS")));
    }
    Ok(manifests)
}

/// The data plane's settings.
fn server(args: &CommonArgs, env: Env<'_>) -> Result<Settings, UsageError> {
    let workers = match args.workers {
        Some(workers) => usize::from(workers),
        None => other::<u16>(env, "ENVOY_CONCURRENCY")?
            .filter(|workers| *workers > 0)
            .map_or_else(cpus, usize::from),
    };
    let drain_timeout = match args.drain_timeout {
        Some(timeout) => timeout.0,
        None => other(env, "AMBASSADOR_DRAIN_TIME")?.map_or(Duration::from_secs(30), Duration::from_secs),
    };
    let files = file_limit();
    Ok(Settings {
        workers,
        allow_dev_identity: args.allow_dev_identity,
        limits: Limits {
            header_timeout: args.header_timeout.0,
            idle_timeout: args.idle_timeout.0,
            handshake_timeout: args.handshake_timeout.0,
            connect_timeout: args.connect_timeout.0,
            upstream_timeout: args.upstream_timeout.0,
            stream_idle_timeout: args.stream_idle_timeout.0,
            max_header_bytes: args.max_header_bytes.0,
            max_headers: args.max_headers as usize,
            max_connections: args.max_connections.map_or_else(|| connections_for(files), |max| max as usize),
            max_descriptors: files.unwrap_or(usize::MAX),
            max_streams: args.max_streams,
            max_resets: args.max_resets as usize,
            max_handshakes: args.max_handshakes as usize,
            proxy_protocol_from: repeated(&args.proxy_protocol_from, env, "SELVEDGE_PROXY_PROTOCOL_FROM")?,
            drain_delay: args.drain_delay.0,
            drain_timeout,
            ..Limits::default()
        },
    })
}

/// A repeated flag, or the variable's items separated by white space.
fn repeated<T>(given: &[T], env: Env<'_>, variable: &str) -> Result<Vec<T>, UsageError>
where
    T: Clone + FromStr,
    T::Err: std::fmt::Display,
{
    if !given.is_empty() {
        return Ok(given.to_vec());
    }
    let text = env(variable).unwrap_or_default();
    text.split_whitespace()
        .map(|item| item.parse().map_err(|error| UsageError(format!("{variable}: `{item}`: {error}"))))
        .collect()
}

/// Emissary's or Envoy's variable.
fn other<T>(env: Env<'_>, variable: &str) -> Result<Option<T>, UsageError>
where
    T: FromStr,
    T::Err: std::fmt::Display,
{
    match env(variable).filter(|text| !text.is_empty()) {
        None => Ok(None),
        Some(text) => {
            text.parse().map(Some).map_err(|error| UsageError(format!("{variable}: `{text}`: {error}")))
        }
    }
}

/// `::` takes IPv4 as well; 0.0.0.0 where the kernel has no IPv6.
fn default_bind() -> IpAddr {
    match std::net::UdpSocket::bind((Ipv6Addr::UNSPECIFIED, 0)) {
        Ok(_probe) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
        Err(_no_ipv6) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
    }
}

/// The CPUs this process may use; honours cgroup quotas and affinity.
fn cpus() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

/// What the system lets the process open; `None`: it does not say.
fn file_limit() -> Option<usize> {
    let limits = std::fs::read_to_string("/proc/self/limits").ok()?;
    let line = limits.lines().find(|line| line.starts_with("Max open files"))?;
    line.split_whitespace().nth(3)?.parse().ok()
}

/// Two descriptors for each client connection (one to it, one upstream), and some for the rest: admin, files, and the lookups
/// of names, each with a socket for A and one for AAAA.
fn connections_for(file_limit: Option<usize>) -> usize {
    const KEPT_FOR_THE_REST: usize = 64 + 2 * Resolver::MAX_LOOKUPS;
    file_limit.map_or(Limits::default().max_connections, |files| {
        (files.saturating_sub(KEPT_FOR_THE_REST) / 2).max(16)
    })
}

#[cfg(test)]
mod tests {
    use clap::Parser as _;

    use super::*;
    use crate::cli::{Cli, Command};

    fn settings(flags: &[&str], env: &[(&str, &str)]) -> Result<IngressSettings, UsageError> {
        let cli = Cli::try_parse_from(["selvedge-ingress", "run"].iter().chain(flags)).expect("valid flags");
        let Command::Run(run) = cli.command else { panic!("run was asked for") };
        IngressSettings::new(&run, &|name| {
            env.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
        })
    }

    #[test]
    fn the_variables_about_secrets_reach_the_keyring() {
        use crate::keyring::{KeyRef, Keys as _, Usage};

        let code = |env: &[(&str, &str)], namespace: &str| {
            let settings = settings(&["--manifests", "a"], env).expect("valid");
            let key = KeyRef::Secret {
                namespace: namespace.into(),
                name: "istio-certs".into(),
                usage: Usage::Trust,
            };
            let mut keyring = settings.decision.keyring(None);
            keyring.update(&[key.clone()].into(), &[], std::time::SystemTime::now());
            keyring.find(&key).expect_err("there is nothing").code
        };
        assert_eq!(code(&[], "default"), "secret_missing");
        assert_eq!(code(&[("AMBASSADOR_ISTIO_SECRET_DIR", "")], "default"), "secret_missing");
        let env = [("AMBASSADOR_ISTIO_SECRET_DIR", "/nowhere/istio"), ("AMBASSADOR_NAMESPACE", "edge")];
        assert_eq!(code(&env, "edge"), "file_missing");
        assert_eq!(code(&env, "default"), "secret_missing");
        for (text, force) in [("true", true), ("1", true), ("false", false), ("yes", false)] {
            let env = [("AMBASSADOR_FORCE_SECRET_VALIDATION", text)];
            let settings = settings(&["--manifests", "a"], &env).expect("valid");
            assert_eq!(settings.decision.force_secret_validation, force, "{text}");
        }
    }

    #[test]
    fn emissarys_variables_keep_their_units_and_lose_to_flags() {
        let env =
            [("AMBASSADOR_DRAIN_TIME", "600"), ("ENVOY_CONCURRENCY", "3"), ("SELVEDGE_MANIFESTS", "a b")];
        let got = settings(&[], &env).expect("valid");
        assert_eq!(got.server.limits.drain_timeout, Duration::from_mins(10));
        assert_eq!(got.server.workers, 3);
        assert_eq!(got.manifests, [PathBuf::from("a"), PathBuf::from("b")]);
        let got = settings(&["--drain-timeout", "5s", "--workers", "1", "--manifests", "c d"], &env)
            .expect("valid");
        assert_eq!(got.server.limits.drain_timeout, Duration::from_secs(5));
        assert_eq!(got.server.workers, 1);
        assert_eq!(got.manifests, [PathBuf::from("c d")]);
    }

    #[test]
    fn a_bad_variable_is_named() {
        let error =
            settings(&["--manifests", "x"], &[("AMBASSADOR_DRAIN_TIME", "soon")]).expect_err("not a number");
        assert!(error.to_string().contains("AMBASSADOR_DRAIN_TIME"), "{error}");
    }

    #[test]
    fn nothing_to_do_says_how_to_give_it_something() {
        let error = settings(&[], &[]).expect_err("no manifests");
        assert!(error.to_string().contains("--manifests"), "{error}");
    }

    #[test]
    fn the_spiffe_variable_is_the_last_resort() {
        let env = [("SPIFFE_ENDPOINT_SOCKET", "unix:///run/api.sock")];
        let got = settings(&["--manifests", "x"], &env).expect("valid");
        assert_eq!(got.decision.spiffe, Some(SpiffeSocket::Uri("unix:///run/api.sock".to_owned())));
        let got = settings(&["--manifests", "x", "--spiffe-socket", "dev"], &env).expect("valid");
        assert_eq!(got.decision.spiffe, Some(SpiffeSocket::Dev));
    }
}
