//! The program as people run it: a child process on loopback, manifests in a folder, real TLS upstreams and real clients.
#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    clippy::print_stderr,
    reason = "a test may stop where it fails, and says what it measured"
)]

mod drain;
mod explain_agrees;
mod fail_closed;
mod faults;
mod flags;
mod harness;
mod opened;
mod preface;
mod recreated;
mod relayed;
mod removed;
mod revoked;
mod rotation;
mod streams;
mod tcp;
mod thousand;
mod workload_api;
