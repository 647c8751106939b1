//! Fuzz targets: one function for each parser of bytes that strangers write, and for compiling manifests.
//!
//! A target is a plain function over bytes that asserts what must hold for all of them. `cargo test` replays the corpora
//! (`corpus/TARGET/`, past findings among them) through it; under libFuzzer the binaries of `fuzz_targets/` do nothing but call
//! it (`README.md` beside this crate says how).

pub mod authority;
pub mod chain;
pub mod compile_documents;
pub mod compile_yaml;
pub mod dev_entries;
pub mod explain;
mod fields;
pub mod fixtures;
pub mod forwarded;
pub mod framing;
pub mod h1_head;
pub mod h2_frames;
pub mod http1_request;
pub mod http1_response;
pub mod http2_request;
pub mod hygiene;
mod manifests;
pub mod path;
pub mod peer_rule;
pub mod proxy_protocol;
pub mod revocation;
mod rig;
pub mod route;
pub mod secret;
pub mod spiffe_id;
mod strict;
pub mod units;
pub mod workload_api;
#[path = "../../ingress/tests/route/written.rs"]
mod written;
pub mod yaml;

/// A name, which is also its corpus' and its binary's, and the function.
pub type Target = (&'static str, fn(&[u8]));

/// Every target.
pub const TARGETS: &[Target] = &[
    ("authority", authority::target),
    ("chain", chain::target),
    ("compile_documents", compile_documents::target),
    ("compile_yaml", compile_yaml::target),
    ("dev_entries", dev_entries::target),
    ("explain", explain::target),
    ("forwarded", forwarded::target),
    ("framing", framing::target),
    ("h1_head", h1_head::target),
    ("h2_frames", h2_frames::target),
    ("http1_request", http1_request::target),
    ("http1_response", http1_response::target),
    ("http2_request", http2_request::target),
    ("hygiene", hygiene::target),
    ("path", path::target),
    ("peer_rule", peer_rule::target),
    ("proxy_protocol", proxy_protocol::target),
    ("revocation", revocation::target),
    ("route", route::target),
    ("secret", secret::target),
    ("spiffe_id", spiffe_id::target),
    ("units", units::target),
    ("workload_api", workload_api::target),
    ("yaml", yaml::target),
];
