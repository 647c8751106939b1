//! Keys of clusters: they name sources, never contents, so that rotations and edits leave pools and balancer state alone.

use std::sync::Arc;

use identity::{SourceRef, Versions};

/// The service a cluster sends to: host and port as resolved from a Mapping's `service`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ServiceRef {
    /// Host: a DNS name (lower case), or an IP literal without brackets.
    pub host: Arc<str>,
    /// Port.
    pub port: u16,
}

/// The protocol spoken upstream.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Protocol {
    /// HTTP/1.1, or HTTP/2 when ALPN offers and chooses it.
    Auto,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, with prior knowledge on cleartext (`grpc: true`).
    Http2,
    /// Bytes.
    Tcp,
}

/// Names a peer rule: its place in the configuration, not its content.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct RuleRef(pub Arc<str>);

/// `cluster_tag`: a separate pool on purpose.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Tag(pub Arc<str>);

/// TLS of a cluster, by reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TlsKey {
    /// Where the client certificate comes from.
    pub identity: Option<SourceRef>,
    /// Which SVID of it.
    pub hint: Option<String>,
    /// Where trust comes from; `None`: not verified, or the system's roots (see `verify`).
    pub trust: Option<SourceRef>,
    /// `none`, `roots`, `system` or `spiffe`.
    pub verify: &'static str,
    /// The peer rule's name.
    pub peer: RuleRef,
    /// Server name sent.
    pub sni: Option<Arc<str>>,
    /// Protocols offered.
    pub alpn: Vec<Vec<u8>>,
    /// Versions offered.
    pub versions: Versions,
    /// Suites and groups, by name.
    pub ciphers: Vec<String>,
    /// Where extra revocation lists come from.
    pub crl: Option<SourceRef>,
}

/// Identity of a cluster from table to table.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TransportKey {
    /// Where it sends to.
    pub service: ServiceRef,
    /// What it speaks.
    pub protocol: Protocol,
    /// How it is secured; `None`: cleartext.
    pub tls: Option<TlsKey>,
    /// `cluster_tag`.
    pub tag: Tag,
}
