//! The server side of the data plane over real sockets: listeners, TLS, HTTP both ways, bytes, drain.

#![allow(
    clippy::expect_used,
    clippy::unwrap_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::string_slice,
    reason = "helpers of tests fail the test"
)]

mod admin;
mod attacks;
mod bodies;
mod connect;
mod cut_answers;
mod drain;
mod faults;
mod floods;
mod frames;
mod hello;
mod hygiene;
mod limits;
mod metrics;
mod parking;
mod preface;
mod protocols;
mod revoked;
mod smuggling;
mod support;
mod tls;
mod upgrades;
