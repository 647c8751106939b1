//! The contract between the data plane and what decides: one immutable table behind [`Router`], pure and printable decisions.

use std::{rc::Rc, sync::Arc, time::Duration};

use identity::ServerProfile;
use smallvec::SmallVec;

use crate::{
    ConnMeta, Reason,
    message::{Answer, Edits, Head},
    upstream::{Cluster, RetryPolicy},
};

/// A number from 0 to 99, rolled once for each request and logged, so that weights can be explained and tested.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Dice(u8);

impl Dice {
    /// A dice from its number, taken modulo 100.
    pub const fn new(value: u8) -> Self {
        Self(value % 100)
    }

    /// The number.
    pub const fn value(self) -> u8 {
        self.0
    }
}

/// Index of a [`Route`] in its table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct RouteIx(pub u32);

/// Index of [`Edits`] in its table; index 0 is always "no edits".
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Default)]
pub struct EditsIx(pub u32);

/// Names the rule that decided: an index into the table's names, or none.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum RouteId {
    /// The rule with this index; [`Router::name`] gives `namespace/name`.
    Rule(u32),
    /// No rule: no Host, no route, a built-in answer.
    None,
}

/// Clusters that get a copy of the request.
pub type Shadows = SmallVec<[RouteIx; 1]>;

/// What the `ClientHello` says, before any certificate is chosen.
#[derive(Clone, Copy, Debug)]
pub struct Hello<'a> {
    /// Server name, lower case.
    pub sni: Option<&'a str>,
    /// ALPN protocols offered, in order.
    pub alpn: &'a [&'a [u8]],
}

/// One table, shared by all threads. Pure: no clock and no dice of its own.
pub trait Router: Send + Sync + 'static {
    /// Before TLS: which profile terminates, or whether the connection passes through. `hello` is `None` when the first
    /// bytes are not TLS.
    fn accept(&self, conn: &ConnMeta, hello: Option<&Hello<'_>>) -> Accept;
    /// Layer 4: TCP routes, sidecar policy.
    fn connection(&self, conn: &ConnMeta, dice: Dice) -> Decision;
    /// Layer 7: one request.
    fn request(&self, head: &Head<'_>, dice: Dice) -> Decision;
    /// A route by its index.
    fn route(&self, ix: RouteIx) -> &Route;
    /// Edits by their index.
    fn edits(&self, ix: EditsIx) -> &Edits;
    /// The name of a rule, for the access log: `namespace/name`; empty for [`RouteId::None`].
    fn name(&self, id: RouteId) -> &str;
    /// Settings of HTTP handling that the table carries (Module `ambassador`, Listener).
    fn http(&self, conn: &ConnMeta) -> &HttpPolicy;
}

/// What happens to a connection before TLS.
#[derive(Clone, Debug)]
pub enum Accept {
    /// Terminate TLS with this profile.
    Terminate(Arc<ServerProfile>),
    /// Terminate TLS with this profile and relay what is inside, whatever the listener speaks: [`Router::connection`] decides.
    TerminateTcp(Arc<ServerProfile>),
    /// Relay the bytes as they are, `ClientHello` included: [`Router::connection`] decides.
    Passthrough,
    /// Go on in cleartext.
    Plain,
    /// Close.
    Refuse(Reason),
}

/// What to do, as indices into the table that decided. Plain data: it can be printed, fuzzed and benchmarked without a socket.
#[derive(Clone, Debug)]
pub struct Decision {
    /// What to do.
    pub action: Action,
    /// What to change.
    pub edits: EditsIx,
    /// Who gets a copy.
    pub shadows: Shadows,
    /// The rule that decided.
    pub why: RouteId,
}

/// The four things that can be done with a request or connection.
#[derive(Clone, Debug)]
pub enum Action {
    /// Send it upstream.
    Forward(RouteIx),
    /// Relay bytes both ways.
    Tunnel(RouteIx),
    /// Answer without an upstream.
    Respond(Box<Answer>),
    /// Close the connection.
    Close(Reason),
}

/// Where a request goes and with which policy. Belongs to one rule of the table.
#[derive(Debug)]
pub struct Route {
    /// The cluster.
    pub cluster: Arc<Cluster>,
    /// To the end of the response; `None`: the process default; zero: none.
    pub timeout: Option<Duration>,
    /// No bytes either way; `None`: the process default; zero: none.
    pub idle_timeout: Option<Duration>,
    /// When to try again.
    pub retry: RetryPolicy,
    /// What a client may switch to.
    pub upgrades: Upgrades,
}

/// Protocols that a request may switch its connection to: names of the `Upgrade` field, and `CONNECT`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Upgrades(Arc<[Box<str>]>);

impl Upgrades {
    /// Of names, whose case does not count.
    pub fn new(names: impl IntoIterator<Item = impl AsRef<str>>) -> Self {
        Self(names.into_iter().map(|name| name.as_ref().to_ascii_lowercase().into()).collect())
    }

    /// Whether a protocol, with its version if it has one, may be switched to.
    pub fn allow(&self, protocol: &str) -> bool {
        self.0.iter().any(|allowed| allowed.eq_ignore_ascii_case(protocol))
    }

    /// The names, in lower case.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.0.iter().map(|name| &**name)
    }
}

/// How HTTP is handled on a listener. From the Module and the Listener, with the process defaults where they say nothing.
#[derive(Clone, Debug, Default)]
#[allow(clippy::struct_excessive_bools, reason = "each is a setting of its own that people write")]
pub struct HttpPolicy {
    /// Trusted proxies in front (`xff_num_trusted_hops`, `l7Depth`): how many `x-forwarded-for` entries from the right are theirs.
    pub trusted_hops: u32,
    /// `x-forwarded-proto` of the client is believed (`l7Depth` > 0).
    pub trust_forwarded_proto: bool,
    /// Fold `//` into `/` before routing.
    pub merge_slashes: bool,
    /// Refuse `%2F` and `%5C` in paths with 400.
    pub reject_escaped_slashes: bool,
    /// The `server` response header; `None`: `selvedge`.
    pub server_name: Option<http::HeaderValue>,
    /// Keep the client's `x-request-id`.
    pub preserve_request_id: bool,
    /// No `x-envoy-*` response headers.
    pub suppress_envoy_headers: bool,
    /// Idle client connections are closed after this; `None`: the process default.
    pub idle_timeout: Option<Duration>,
}

/// A worker's handle on the published table: made once for each table, cloned by requests, bodies and records.
#[derive(Debug)]
#[allow(
    clippy::redundant_allocation,
    reason = "requests count on the worker's Rc; the table's own count is shared by threads"
)]
pub struct View<R>(Rc<Arc<R>>);

impl<R> View<R> {
    /// A view of a table.
    pub fn new(table: Arc<R>) -> Self {
        Self(Rc::new(table))
    }
}

impl<R> Clone for View<R> {
    fn clone(&self) -> Self {
        Self(Rc::clone(&self.0))
    }
}

impl<R> std::ops::Deref for View<R> {
    type Target = R;

    fn deref(&self) -> &R {
        &self.0
    }
}
