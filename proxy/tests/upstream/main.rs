//! The upstream side of a worker against real sockets: pools, retries, identity, names.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "helpers of tests fail the test"
)]

mod endpoints;
mod http1;
mod http2;
mod names;
mod storms;
mod support;
mod tls;
