//! Documents with an origin, and where they come from: files, later Kubernetes. This crate does not know what a Mapping is.

pub mod document;
pub mod files;
pub mod source;
pub mod status;

pub use document::{Document, Kind, Node, ObjectRef, Origin, Value};
pub use source::{Delivery, KindState, Set, Source, SourceError, Wants};
pub use status::{Condition, StatusSink};
