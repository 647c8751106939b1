//! HTTP: an unambiguous request in, hygiene both ways, relay with deadlines.

mod body;
mod driver;
mod engine;
mod exchange;
pub mod fields;
pub(crate) mod frames;
mod framing;
mod normalize;
mod notice;
mod outcome;
mod prepare;
mod resets;
mod respond;
mod stuck;
pub(crate) mod timed;
mod tunnel;
mod upgrade;

pub(crate) use engine::serve;
pub use framing::{Reject, authority, connect, message, request, target};
pub use normalize::path as normalize_path;
pub use upgrade::switches;
