//! Reason codes: one list, the same in the access log, metric labels, status conditions and `docs/reasons.md`.

use std::borrow::Cow;

/// Why a request or connection ended as it did. A code of `docs/reasons.md`.
///
/// The codes of this crate are constants here; identity's verification codes and ingress' compile codes are carried as they are.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Reason(Cow<'static, str>);

impl Reason {
    /// A reason from its code.
    pub const fn new(code: &'static str) -> Self {
        Self(Cow::Borrowed(code))
    }

    /// The code.
    pub fn code(&self) -> &str {
        &self.0
    }
}

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $code:literal;)*) => {
        impl Reason {
            $($(#[$doc])* pub const $name: Self = Self::new($code);)*

            /// Every code that this crate can give, for documentation tests.
            pub const ALL: &'static [&'static str] = &[$($code),*];
        }
    };
}

reasons! {
    /// Answered by the upstream, or relayed to the end.
    OK = "ok";
    /// Answered by a redirect of a Mapping or of a Host's insecure policy.
    REDIRECT = "redirect";
    /// No Host has this name.
    NO_HOST = "no_host";
    /// The Host has no Mapping for this request.
    NO_ROUTE = "no_route";
    /// Cleartext request to a Host that rejects cleartext.
    INSECURE_REJECTED = "insecure_rejected";
    /// The request's Host does not belong to the TLS profile that its SNI chose (421).
    MISDIRECTED = "misdirected_request";
    /// The SNI of a client's hello fits no Host of this listener.
    NO_SNI_PROFILE = "no_sni_profile";
    /// Cleartext on a listener that takes TLS alone.
    TLS_REQUIRED = "tls_required";
    /// The listener's own certificate is not usable now.
    SERVER_IDENTITY_UNAVAILABLE = "server_identity_unavailable";
    /// Framing that two parsers could read differently.
    BAD_FRAMING = "bad_framing";
    /// A request that is not valid HTTP.
    BAD_REQUEST = "bad_request";
    /// The Mapping does not allow the protocol that the request wants to switch to.
    UPGRADE_NOT_ALLOWED = "upgrade_not_allowed";
    /// The upstream is reached by HTTP/2, which carries no upgrade of HTTP/1.1.
    UPGRADE_UNSUPPORTED = "upgrade_unsupported";
    /// A path that cannot be normalised.
    BAD_PATH = "bad_path";
    /// A missing, repeated or malformed Host.
    BAD_HOST = "bad_host";
    /// More header bytes or fields than allowed.
    HEADERS_TOO_LARGE = "headers_too_large";
    /// The request head did not arrive in time.
    HEADER_TIMEOUT = "header_timeout";
    /// The TLS handshake of the client did not end in time.
    HANDSHAKE_TIMEOUT = "handshake_timeout";
    /// The TLS handshake of the client failed.
    HANDSHAKE_FAILED = "handshake_failed";
    /// Too many TLS handshakes under way.
    TOO_MANY_HANDSHAKES = "too_many_handshakes";
    /// More connections than allowed.
    TOO_MANY_CONNECTIONS = "too_many_connections";
    /// The PROXY protocol preface is missing, malformed or not allowed from this peer.
    BAD_PROXY_PROTOCOL = "bad_proxy_protocol";
    /// No bytes either way for the stream idle timeout.
    STREAM_IDLE = "stream_idle_timeout";
    /// The client went away.
    DOWNSTREAM_RESET = "downstream_reset";
    /// The name of the upstream could not be resolved.
    UPSTREAM_DNS = "upstream_dns";
    /// The upstream has no endpoint.
    NO_ENDPOINTS = "no_endpoints";
    /// The upstream's address is not allowed (loopback, link-local, metadata, our own ports).
    ADDRESS_REFUSED = "upstream_address_refused";
    /// The upstream refused the connection or cannot be reached.
    CONNECT_FAILED = "upstream_connect_failed";
    /// The upstream did not accept the connection in time.
    CONNECT_TIMEOUT = "upstream_connect_timeout";
    /// The TLS handshake with the upstream failed; a verification failure has its own code.
    UPSTREAM_TLS = "upstream_tls_failed";
    /// The upstream refused our client certificate, or wanted one and got none.
    UPSTREAM_REFUSED_CERTIFICATE = "upstream_refused_certificate";
    /// The upstream closed or reset the connection before its answer was whole.
    UPSTREAM_RESET = "upstream_reset";
    /// The upstream's answer is not valid HTTP.
    UPSTREAM_PROTOCOL = "upstream_protocol";
    /// The answer did not end within the request timeout.
    UPSTREAM_TIMEOUT = "upstream_timeout";
    /// Too many connections, requests or pending requests to this cluster.
    OVERFLOW = "upstream_overflow";
    /// The own certificate or the trust for this upstream was not delivered yet.
    IDENTITY_PENDING = "identity_pending";
    /// The own certificate or the trust for this upstream is not usable.
    IDENTITY_UNAVAILABLE = "identity_unavailable";
    /// The own certificate has expired.
    IDENTITY_EXPIRED = "identity_expired";
    /// The connection was cut because the trust it rests on was taken away.
    TRUST_REMOVED = "trust_removed";
    /// The drain deadline passed.
    DRAIN_TIMEOUT = "drain_timeout";
    /// The Mapping's rewrite gives no path for this request.
    BAD_REWRITE = "bad_rewrite";
    /// A defect of this program; please report it.
    INTERNAL = "internal";
}

impl From<&'static str> for Reason {
    fn from(code: &'static str) -> Self {
        Self::new(code)
    }
}
