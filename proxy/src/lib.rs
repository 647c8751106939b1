//! The data plane as a library: listen, TLS, HTTP, TCP, upstreams, observe, admin, drain.
//!
//! One request takes ten steps, each a function of that name: accept, preface, handshake, serve, route, admit, prepare,
//! pick, dispatch, relay. What to do with a request is decided by a [`route::Router`], a pure function over one immutable
//! table. No Kubernetes, no YAML and no command line in this crate.

pub mod admin;
pub mod conn;
pub mod error;
pub(crate) mod guard;
pub mod http;
pub mod in_memory;
pub mod limits;
pub mod message;
pub mod net;
pub mod observe;
pub mod parsers;
pub mod reason;
pub mod registry;
mod relay;
pub mod revoke;
pub mod route;
mod serve;
pub mod tcp;
pub mod tls;
pub mod upstream;

pub use conn::{Alpn, ConnMeta, TlsMeta};
pub use error::{Error, Origin, Retry};
pub use reason::Reason;
