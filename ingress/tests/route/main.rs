//! The route table through parse, compile and publish: what people write decides, not our own structures.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    reason = "a failure in a test is a panic"
)]

mod conditions;
mod harness;
mod hosts;
mod order;
mod redirects;
mod scan;
mod tls;
mod weights;
mod written;
