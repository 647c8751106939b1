//! Documents with an origin, and where they come from: files, later Kubernetes. This crate does not know what a Mapping is.

pub mod document;
pub mod files;
mod parse;
pub mod source;
pub mod status;
mod walk;
mod watch;

pub use document::{Document, Kind, Node, ObjectRef, Origin, Value, secret_data};
pub use files::{FileSource, LoadError};
pub use parse::{parse, parse_each, parse_value};
pub use source::{Delivery, KindState, Set, Source, SourceError, Wants};
pub use status::{Condition, StatusSink};
pub use watch::FolderWatch;
