//! The plan: what compile makes of all documents. Valid, plain data without sockets, sources or clocks; the table is built from it.

mod tcp;

use std::{net::SocketAddr, ops::Range, sync::Arc, time::Duration};

use identity::{ClientAuth, IdPattern, SourceRef, TrustDomain, Versions};
use proxy::{
    Reason,
    message::Edits,
    net::Layer,
    route::{HttpPolicy, Upgrades},
    upstream::{ClusterPolicy, EndpointOrigin, RetryPolicy, TransportKey},
};
use regex_automata::meta::Regex;
use resource::ObjectRef;

pub use tcp::TcpMappingPlan;

/// Everything that serves. Indices are positions in these vectors.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    /// What to listen on, and which Hosts each listener has.
    pub listeners: Vec<ListenerPlan>,
    /// Virtual hosts.
    pub hosts: Vec<HostPlan>,
    /// Mappings.
    pub mappings: Vec<MappingPlan>,
    /// TCPMappings.
    pub tcp_mappings: Vec<TcpMappingPlan>,
    /// Clusters, one for each key.
    pub clusters: Vec<ClusterPlan>,
}

/// A listener.
#[derive(Clone, Debug)]
pub struct ListenerPlan {
    /// `namespace/name`, or `http`, `https`.
    pub name: Arc<str>,
    /// Address and port.
    pub bind: SocketAddr,
    /// TLS is looked for.
    pub tls: bool,
    /// A PROXY protocol header comes first.
    pub proxy_protocol: bool,
    /// What is spoken; bytes of a TCPMapping with `host` also where HTTP is.
    pub layer: Layer,
    /// Whether cleartext is served.
    pub cleartext: Cleartext,
    /// TCPMappings bound to it, as indices into [`Plan::tcp_mappings`].
    pub tcp: Vec<usize>,
    /// What counts as secure.
    pub security: SecurityModel,
    /// HTTP settings, Module and `l7Depth` applied.
    pub http: HttpPolicy,
    /// Hosts bound to it, as indices into [`Plan::hosts`].
    pub hosts: Vec<usize>,
    /// The listener's own port is taken off the authority before Hosts are compared (`strip_matching_host_port`).
    pub strip_port: bool,
}

/// What happens to cleartext on a listener.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Cleartext {
    /// It is served.
    Served,
    /// It is refused (`protocol: TLS`).
    Refused,
}

/// `Listener.securityModel`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SecurityModel {
    /// By TLS, or by `x-forwarded-proto` when `l7Depth` trusts it.
    Xfp,
    /// Always secure.
    Secure,
    /// Never secure.
    Insecure,
}

/// `Host.requestPolicy.insecure.action`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum InsecureAction {
    /// 301 to https, only on paths that have a route.
    Redirect,
    /// As a secure request.
    Route,
    /// 404 with its own reason; never taken by another Host.
    Reject,
}

/// A virtual host.
#[derive(Clone, Debug)]
pub struct HostPlan {
    /// `namespace/name` of the Host; `*` for the synthetic one.
    pub name: Arc<str>,
    /// Its hostname.
    pub hostname: HostGlob,
    /// TLS termination; `None`: cleartext only.
    pub tls: Option<ServerPlan>,
    /// What happens to insecure requests.
    pub insecure: InsecureAction,
    /// Mappings attached to it, as indices into [`Plan::mappings`].
    pub mappings: Vec<usize>,
    /// The Host exists but cannot serve (its Secret is missing...): handshakes for its names are refused with this, and its
    /// names are never served in cleartext by another Host.
    pub unavailable: Option<Unavailable>,
}

/// A hostname glob: `*` at the start or at the end only, for one or more characters. Lower case.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum HostGlob {
    /// `*`
    Any,
    /// A whole name, with a port if written so.
    Exact(Arc<str>),
    /// `*.suffix`: the text after the star.
    Suffix(Arc<str>),
    /// `prefix.*`: the text before the star.
    Prefix(Arc<str>),
}

/// Why something answers 503 (or 404), or closes its connections, instead of serving.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unavailable {
    /// The code.
    pub reason: Reason,
    /// One sentence for the log and `/config`.
    pub message: Arc<str>,
}

/// TLS termination by reference; profiles are shared by all Hosts with an equal plan.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ServerPlan {
    /// Names the profile: the Host's or TLSContext's `namespace/name`.
    pub name: Arc<str>,
    /// Where the certificate comes from.
    pub identity: SourceRef,
    /// Which SVID.
    pub hint: Option<String>,
    /// Client certificates.
    pub client_auth: ClientAuth,
    /// How they are verified.
    pub verify: Option<VerifyPlan>,
    /// Who may connect.
    pub rule: RulePlan,
    /// Revocation lists.
    pub crl: Option<SourceRef>,
    /// Protocols accepted; empty: those of HTTP where HTTP is inside, any where bytes are.
    pub alpn: Vec<Vec<u8>>,
    /// Versions accepted.
    pub versions: Versions,
    /// Suites by name.
    pub cipher_suites: Vec<String>,
    /// Groups by name.
    pub groups: Vec<String>,
}

/// [`identity::Verify`] by reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum VerifyPlan {
    /// Nobody is verified.
    Nothing,
    /// Web PKI against a CA.
    Roots(SourceRef),
    /// Web PKI against the system's roots.
    System,
    /// X509-SVID rules.
    Spiffe {
        /// Bundles, or a CA.
        trust: SourceRef,
        /// Trust domains of a CA; empty when bundles carry their own.
        trust_domains: Vec<TrustDomain>,
    },
}

/// [`identity::PeerRule`] as data.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RulePlan {
    /// Whoever the verifier let through.
    Anyone,
    /// SPIFFE IDs and trust domains.
    Spiffe {
        /// Exact IDs and patterns.
        ids: Vec<IdPattern>,
        /// Whole trust domains.
        trust_domains: Vec<TrustDomain>,
    },
    /// A workload of the trust domain of this source's SVID.
    OwnTrustDomain(SourceRef),
    /// DNS names or addresses, as text that was checked.
    Names(Vec<String>),
}

/// A cluster.
#[derive(Clone, Debug)]
pub struct ClusterPlan {
    /// Its key.
    pub key: TransportKey,
    /// Its name in logs: readable and unique.
    pub name: Arc<str>,
    /// TLS, matching `key.tls`.
    pub tls: Option<ClientPlan>,
    /// Where addresses come from.
    pub endpoints: EndpointOrigin,
    /// Hot settings.
    pub policy: ClusterPolicy,
}

/// TLS origination by reference.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct ClientPlan {
    /// `namespace/name` of the TLSContext; `None`: plain `https://`.
    pub context: Option<Arc<str>>,
    /// Own certificate.
    pub identity: Option<SourceRef>,
    /// Which SVID.
    pub hint: Option<String>,
    /// How the upstream is verified.
    pub verify: VerifyPlan,
    /// Who it has to be.
    pub rule: RulePlan,
    /// Revocation lists.
    pub crl: Option<SourceRef>,
    /// Server name sent.
    pub sni: Option<Arc<str>>,
    /// Protocols offered.
    pub alpn: Vec<Vec<u8>>,
    /// Versions offered.
    pub versions: Versions,
    /// Suites by name.
    pub cipher_suites: Vec<String>,
    /// Groups by name.
    pub groups: Vec<String>,
}

/// One Mapping.
#[derive(Clone, Debug)]
pub struct MappingPlan {
    /// The resource.
    pub object: ObjectRef,
    /// `namespace/name`: `route` in the access log.
    pub name: Arc<str>,
    /// `precedence`.
    pub precedence: i64,
    /// Path condition.
    pub path: PathMatch,
    /// Text of `prefix`, for ordering (3.2) and grouping (3.3).
    pub prefix: Arc<str>,
    /// Method condition.
    pub method: Option<TextMatch>,
    /// Host condition of the Mapping itself, checked besides the virtual host.
    pub host: HostMatch,
    /// Header conditions.
    pub headers: Vec<FieldMatch>,
    /// Query conditions.
    pub query: Vec<FieldMatch>,
    /// `weight`; `None`: takes what the others leave.
    pub weight: Option<i64>,
    /// Faces of the dice on which it is taken: its part of its group.
    pub share: Range<u8>,
    /// What it does.
    pub outcome: Outcome,
    /// What it changes.
    pub edits: Edits,
}

/// Path condition.
#[derive(Clone, Debug)]
pub enum PathMatch {
    /// Literal start, not segment-aware.
    Prefix {
        /// The text; lower case when case does not count.
        text: Arc<str>,
        /// `case_sensitive`.
        case_sensitive: bool,
    },
    /// The whole path.
    Exact {
        /// The text; lower case when case does not count.
        text: Arc<str>,
        /// `case_sensitive`.
        case_sensitive: bool,
    },
    /// Full match of the whole path.
    Regex(Arc<Regex>),
}

/// Condition on one text.
#[derive(Clone, Debug)]
pub enum TextMatch {
    /// Equal.
    Exact(Arc<str>),
    /// Full match.
    Regex {
        /// The compiled pattern, anchored by the caller's full-match search.
        regex: Arc<Regex>,
        /// Its text, for ordering and grouping.
        text: Arc<str>,
    },
    /// Present with any value.
    Present,
    /// Cannot be read: any request may have been meant, whether it has the field or not.
    Unreadable,
}

/// Condition on a header field or a query parameter.
#[derive(Clone, Debug)]
pub struct FieldMatch {
    /// Name: lower case for headers, literal for query parameters.
    pub name: Arc<str>,
    /// Condition on the value.
    pub value: TextMatch,
}

/// Host condition of a Mapping.
#[derive(Clone, Debug)]
pub enum HostMatch {
    /// `*`, or none.
    Any,
    /// `hostname`, or exact `host`.
    Glob(HostGlob),
    /// `host` with `host_regex`.
    Regex {
        /// The compiled pattern.
        regex: Arc<Regex>,
        /// Its text.
        text: Arc<str>,
    },
    /// Cannot be read, and is met by any host; with its text, for ordering and grouping.
    Unreadable(Arc<str>),
}

/// What a Mapping does with a request.
#[derive(Clone, Debug)]
pub enum Outcome {
    /// Sends it to a cluster.
    Forward {
        /// Index into [`Plan::clusters`].
        cluster: usize,
        /// `timeout_ms`; `None`: Module, then process default.
        timeout: Option<Duration>,
        /// `idle_timeout_ms`.
        idle_timeout: Option<Duration>,
        /// `retry_policy`.
        retry: RetryPolicy,
        /// `allow_upgrade`.
        upgrades: Upgrades,
    },
    /// Answers a redirect.
    Redirect(RedirectPlan),
    /// Keeps its place in the table and answers 503 with its reason.
    Unavailable(Unavailable),
}

/// A redirect: `Location` = scheme + host + path + query.
#[derive(Clone, Debug)]
pub struct RedirectPlan {
    /// Target host, with port if written so.
    pub host: Arc<str>,
    /// Change of the path.
    pub path: RedirectPath,
    /// 301, 302, 303, 307 or 308.
    pub code: u16,
}

/// Change of the path in a redirect.
#[derive(Clone, Debug)]
pub enum RedirectPath {
    /// Kept.
    Keep,
    /// `path_redirect`; its own query wins.
    Replace(Arc<str>),
    /// `prefix_redirect`.
    Prefix(Arc<str>),
    /// `regex_redirect`.
    Regex {
        /// The compiled pattern.
        pattern: Arc<Regex>,
        /// The substitution.
        substitution: Arc<str>,
    },
}

impl MappingPlan {
    /// Text of the method condition, for ordering and grouping; `GET` when unset.
    pub fn method_text(&self) -> &str {
        match &self.method {
            None | Some(TextMatch::Present | TextMatch::Unreadable) => "GET",
            Some(TextMatch::Exact(text) | TextMatch::Regex { text, .. }) => text,
        }
    }

    /// What a client may switch to; `None` where nothing is sent.
    pub fn upgrades(&self) -> Option<&Upgrades> {
        match &self.outcome {
            Outcome::Forward { upgrades, .. } => Some(upgrades),
            Outcome::Redirect(_) | Outcome::Unavailable(_) => None,
        }
    }

    /// When requests are sent again; `None` where none is sent.
    pub fn retry(&self) -> Option<&RetryPolicy> {
        match &self.outcome {
            Outcome::Forward { retry, .. } => Some(retry),
            Outcome::Redirect(_) | Outcome::Unavailable(_) => None,
        }
    }
}

impl TextMatch {
    /// Whether it means more than one text.
    pub fn is_pattern(&self) -> bool {
        !matches!(self, Self::Exact(_))
    }
}

impl HostGlob {
    /// Reads a glob: `*` only at the start or at the end; anywhere else it is plain text.
    pub fn parse(text: &str) -> Self {
        let text = text.to_ascii_lowercase();
        match (text.strip_prefix('*'), text.strip_suffix('*')) {
            (Some(""), _) => Self::Any,
            (Some(suffix), _) => Self::Suffix(suffix.into()),
            (None, Some(prefix)) => Self::Prefix(prefix.into()),
            (None, None) => Self::Exact(text.into()),
        }
    }

    /// Whether a lower-case name is meant. A star stands for one or more characters.
    pub fn matches(&self, name: &str) -> bool {
        match self {
            Self::Any => true,
            Self::Exact(exact) => **exact == *name,
            Self::Suffix(suffix) => name.len() > suffix.len() && name.ends_with(&**suffix),
            Self::Prefix(prefix) => name.len() > prefix.len() && name.starts_with(&**prefix),
        }
    }

    /// Whether some name is meant by both (emissary.md 3.1).
    pub fn overlaps(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Any, _)
            | (_, Self::Any)
            | (Self::Suffix(_), Self::Prefix(_))
            | (Self::Prefix(_), Self::Suffix(_)) => true,
            (Self::Exact(name), glob) | (glob, Self::Exact(name)) => glob.matches(name),
            (Self::Suffix(a), Self::Suffix(b)) => a.ends_with(&**b) || b.ends_with(&**a),
            (Self::Prefix(a), Self::Prefix(b)) => a.starts_with(&**b) || b.starts_with(&**a),
        }
    }

    /// The text.
    pub fn text(&self) -> String {
        match self {
            Self::Any => "*".to_owned(),
            Self::Exact(exact) => exact.to_string(),
            Self::Suffix(suffix) => format!("*{suffix}"),
            Self::Prefix(prefix) => format!("{prefix}*"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn globs_overlap_as_in_emissary() {
        let table = [
            ("*", "a.b", true),
            ("*.com", "a.example.com", true),
            ("*example.com", "example.com", false),
            ("a.*.com", "a.b.com", false),
            ("*.example.com", "a.example.*", true),
            ("*.local:8500", "quote.local", false),
            ("quote.*", "quote.local:8500", true),
            ("A.example", "a.EXAMPLE", true),
            ("*.a.b", "*.b", true),
            ("*.a", "*.b", false),
        ];
        for (a, b, overlap) in table {
            assert_eq!(HostGlob::parse(a).overlaps(&HostGlob::parse(b)), overlap, "{a} {b}");
            assert_eq!(HostGlob::parse(b).overlaps(&HostGlob::parse(a)), overlap, "{b} {a}");
        }
    }
}
