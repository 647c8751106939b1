//! A source of documents: it is told what is wanted and delivers whole states, kind by kind.

use std::{collections::BTreeMap, path::PathBuf, sync::Arc};

use tokio::sync::watch;

use crate::{Document, Kind, ObjectRef};

/// What is wanted. Changes over time: which Secrets, by name, is computed by compile.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Wants {
    /// Kinds wanted whole.
    pub kinds: Vec<Kind>,
    /// Single objects wanted by name (Secrets).
    pub objects: Vec<ObjectRef>,
}

/// Where a source stands with a kind.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum KindState {
    /// Everything of this kind was delivered.
    Synced,
    /// Not yet.
    Pending,
    /// It never will be: why.
    Forbidden(String),
}

/// Something of a source that cannot be read: the last good state of that part stays.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SourceError {
    /// The file, or the cluster's object.
    pub path: Option<Arc<PathBuf>>,
    /// Line, from 1; 0 if unknown.
    pub line: u32,
    /// What is wrong.
    pub message: String,
    /// What to do about it.
    pub remedy: String,
    /// Documents of an earlier state of this part are still in the set.
    pub kept_last_good: bool,
}

/// One whole state of a source.
#[derive(Clone, Debug, Default)]
pub struct Set {
    /// All documents.
    pub documents: Vec<Arc<Document>>,
    /// What could not be read.
    pub errors: Vec<SourceError>,
}

/// What a source delivers: the state of each wanted kind, and the documents.
#[derive(Clone, Debug, Default)]
pub struct Delivery {
    /// State of each kind. Nothing is published before every kind is synced or forbidden.
    pub kinds: BTreeMap<Kind, KindState>,
    /// The documents.
    pub set: Arc<Set>,
    /// Counts deliveries.
    pub revision: u64,
}

/// Where documents come from.
pub trait Source: Send + Sync {
    /// Says what is wanted from now on.
    fn want(&self, wants: Wants);
    /// The present delivery, and a wake-up for each later one.
    fn watch(&self) -> watch::Receiver<Delivery>;
}
