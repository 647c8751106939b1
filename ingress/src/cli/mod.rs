//! The command line: raw flags as clap reads them. `settings` turns them, with the environment, into valid values.

mod common;
mod settings;
mod units;

use std::{net::IpAddr, path::PathBuf};

use clap::{Args, Parser, Subcommand, ValueEnum, builder::BoolishValueParser};

pub use common::{AccessLogForm, CommonArgs, LogForm};
pub use settings::{
    DecisionSettings, Env, IngressSettings, ListenPorts, SpiffeSocket, UsageError, manifests,
};
pub use units::{HumanDuration, HumanSize, ResolveRule};

/// An ingress that gives every connection a SPIFFE identity: it routes Emissary Mappings and originates TLS and mTLS.
#[derive(Debug, Parser)]
#[command(
    name = "selvedge-ingress",
    version,
    about,
    max_term_width = 100,
    after_help = "Start here:\n  \
        selvedge-ingress demo                                     everything at once, on this machine\n  \
        selvedge-ingress run --manifests examples/localhost.yaml  serve a folder or file of manifests\n  \
        selvedge-ingress check examples/                          what is wrong with manifests, line by line\n\n\
        Every flag --x-y can also be given as the environment variable SELVEDGE_X_Y (a flag wins)."
)]
pub struct Cli {
    /// What to do
    #[command(subcommand)]
    pub command: Command,
}

/// The program's commands.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve traffic as the manifests say, until SIGTERM
    Run(Box<RunArgs>),
    /// Read manifests, print one line for each finding; exit 1 if there is an error
    Check(Box<CheckArgs>),
    /// Say which Mapping a request or connection would take, and why each better candidate lost
    Explain(Box<ExplainArgs>),
    /// Show the whole product at work: dev authority, an app behind mTLS, this ingress, load, rotations
    #[cfg(feature = "demo")]
    Demo(Box<DemoArgs>),
    /// Ask a SPIFFE Workload API which SVIDs and bundles this process would get; if none, why
    Identity(IdentityArgs),
    /// Serve SVIDs of a throw-away CA as a real Workload API on unix sockets
    DevAuthority(DevAuthorityArgs),
    /// Print the version
    Version(VersionArgs),
}

/// Flags that change a decision: `run`, `check` and `explain` take all of them.
#[derive(Clone, Debug, Default, Args)]
pub struct DecisionArgs {
    /// Send requests for HOST (and PORT) to these addresses instead of asking DNS; repeatable. HOST may be a name, an IP
    /// literal or localhost; IPv6 stands in brackets. Example: --resolve quote=127.0.0.1:9000
    #[arg(long, value_name = "HOST[:PORT]=ADDR:PORT[,ADDR:PORT]")]
    pub resolve: Vec<ResolveRule>,
    /// Make an upstream that is encrypted but not verified an error: its Mapping answers 503
    #[arg(long, env = "SELVEDGE_REQUIRE_VERIFIED_UPSTREAMS", value_parser = BoolishValueParser::new())]
    pub require_verified_upstreams: bool,
    /// Let upstreams be in this network although it is link-local, metadata or our own address; repeatable
    #[arg(long, value_name = "CIDR")]
    pub allow_upstream: Vec<ipnet::IpNet>,
    /// Address that listeners bind to [default: ::, or 0.0.0.0 where IPv6 is off] [also: AMBASSADOR_ENVOY_BIND_ADDRESS]
    #[arg(long, value_name = "ADDR", env = "SELVEDGE_BIND")]
    pub bind: Option<IpAddr>,
    /// Cleartext port when no Listener is given
    #[arg(long, value_name = "N", env = "SELVEDGE_HTTP_PORT", default_value_t = 8080)]
    pub http_port: u16,
    /// TLS port when no Listener is given and a Host has a certificate
    #[arg(long, value_name = "N", env = "SELVEDGE_HTTPS_PORT", default_value_t = 8443)]
    pub https_port: u16,
    /// Where SVIDs come from: `unix:///path`, `tcp://ip:port`, or `dev` for the dev authority in this process
    /// [also: SPIFFE_ENDPOINT_SOCKET]
    #[arg(long, value_name = "URI|dev", env = "SELVEDGE_SPIFFE_SOCKET")]
    pub spiffe_socket: Option<String>,
}

/// `run`
#[derive(Clone, Debug, Args)]
#[command(after_help = "Give it something to do:\n  \
    selvedge-ingress run --manifests examples/localhost.yaml\n\n\
    Files and folders are watched: a saved file is live within a second, a broken one keeps its last good state and says why.")]
pub struct RunArgs {
    /// File or folder with manifests (Mapping, TCPMapping, TLSContext, Host, Listener, Module, Secret, Service, EndpointSlice);
    /// repeatable
    #[arg(long, value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// Flags that change decisions
    #[command(flatten)]
    pub decision: DecisionArgs,
    /// Flags of every proxy
    #[command(flatten)]
    pub common: CommonArgs,
}

/// Form of a result.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    #[default]
    Text,
    /// For programs
    Json,
}

/// `check`
#[derive(Clone, Debug, Args)]
pub struct CheckArgs {
    /// Files and folders to read [default: those of `SELVEDGE_MANIFESTS`]
    #[arg(value_name = "PATH")]
    pub paths: Vec<PathBuf>,
    /// Warnings fail, too
    #[arg(long, env = "SELVEDGE_STRICT", value_parser = BoolishValueParser::new())]
    pub strict: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value_t, env = "SELVEDGE_OUTPUT")]
    pub output: Output,
    /// Flags that change decisions
    #[command(flatten)]
    pub decision: DecisionArgs,
}

/// `explain`
#[derive(Clone, Debug, Args)]
pub struct ExplainArgs {
    /// Method of the request; `TCP` for a connection
    #[arg(value_name = "METHOD")]
    pub method: String,
    /// URL of the request: `http://host/path?query`, or a path alone; of a connection: `tcp://host:port`, or
    /// `tls://name:port` with a server name
    #[arg(value_name = "URL")]
    pub url: String,
    /// File or folder with manifests; repeatable [also: `SELVEDGE_MANIFESTS`, separated by spaces]
    #[arg(long, value_name = "PATH")]
    pub manifests: Vec<PathBuf>,
    /// A header of the request; repeatable
    #[arg(short = 'H', long = "header", value_name = "NAME: VALUE")]
    pub headers: Vec<String>,
    /// Port of the listener that takes it [default: by the URL]
    #[arg(long, value_name = "PORT", env = "SELVEDGE_LISTENER")]
    pub listener: Option<u16>,
    /// Server name of the TLS handshake [default: the URL's host, with https]
    #[arg(long, value_name = "NAME", env = "SELVEDGE_SNI")]
    pub sni: Option<String>,
    /// SPIFFE ID of the client's certificate
    #[arg(long, value_name = "ID", env = "SELVEDGE_PEER")]
    pub peer: Option<String>,
    /// The number that weights are decided by [default: 0]
    #[arg(long, value_name = "0..99", env = "SELVEDGE_DICE", value_parser = clap::value_parser!(u8).range(0..100))]
    pub dice: Option<u8>,
    /// Form of the result
    #[arg(long, value_enum, default_value_t, env = "SELVEDGE_OUTPUT")]
    pub output: Output,
    /// Flags that change decisions
    #[command(flatten)]
    pub decision: DecisionArgs,
}

/// `demo`
#[cfg(feature = "demo")]
#[derive(Clone, Debug, Args)]
pub struct DemoArgs {
    /// Stay up afterwards and print curl lines to try
    #[arg(long, conflicts_with = "output", env = "SELVEDGE_SERVE", value_parser = BoolishValueParser::new())]
    pub serve: bool,
    /// Form of the result
    #[arg(long, value_enum, default_value_t, env = "SELVEDGE_OUTPUT")]
    pub output: Output,
}

/// `identity`
#[derive(Clone, Debug, Args)]
pub struct IdentityArgs {
    /// The Workload API: `unix:///path` or `tcp://ip:port` [also: SPIFFE_ENDPOINT_SOCKET]
    #[arg(long, value_name = "URI", env = "SELVEDGE_SPIFFE_SOCKET")]
    pub spiffe_socket: Option<String>,
    /// How long to wait for an answer
    #[arg(long, value_name = "DURATION", default_value = "5s", env = "SELVEDGE_TIMEOUT")]
    pub timeout: HumanDuration,
    /// Form of the result
    #[arg(long, value_enum, default_value_t, env = "SELVEDGE_OUTPUT")]
    pub output: Output,
}

/// `version`
#[derive(Clone, Debug, Args)]
pub struct VersionArgs {
    /// Form of the result
    #[arg(long, value_enum, default_value_t, env = "SELVEDGE_OUTPUT")]
    pub output: Output,
}

/// `dev-authority`
#[derive(Clone, Debug, Args)]
#[command(after_help = "The entries file, reloaded on save:\n\n  \
    trust_domain: example.org\n  \
    entries:\n  \
    - {spiffe_id: \"spiffe://example.org/ingress\", socket: ingress.sock, ttl: 60s}\n\n\
    Then: selvedge-ingress identity --spiffe-socket unix:///STATE/ingress.sock")]
pub struct DevAuthorityArgs {
    /// YAML file with the trust domain and one entry for each workload
    #[arg(long, value_name = "FILE", env = "SELVEDGE_ENTRIES")]
    pub entries: PathBuf,
    /// Folder for the sockets and the CA, made with mode 0700 [default: a fresh folder, the CA in memory only]
    #[arg(long, value_name = "DIR", env = "SELVEDGE_STATE")]
    pub state: Option<PathBuf>,
}
