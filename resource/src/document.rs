//! A document: one Kubernetes-style object with the place of each of its fields.

use std::{collections::BTreeMap, fmt, path::PathBuf, sync::Arc};

/// Where a document stands.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Origin {
    /// A file.
    File {
        /// Path as it was given or found.
        path: Arc<PathBuf>,
        /// First line of the document, from 1.
        line: u32,
    },
    /// An object of a cluster.
    Cluster,
}

/// API group and kind: `getambassador.io` `Mapping`, `` `Secret`.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Kind {
    /// Group without version; empty for the core group.
    pub group: Arc<str>,
    /// Kind.
    pub kind: Arc<str>,
}

/// Kind, namespace and name: the key of an object.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct ObjectRef {
    /// Group and kind.
    pub kind: Kind,
    /// Namespace; `default` where a file says nothing (`AMBASSADOR_NAMESPACE`).
    pub namespace: Arc<str>,
    /// Name.
    pub name: Arc<str>,
}

impl fmt::Display for ObjectRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}/{}", self.kind.kind, self.namespace, self.name)
    }
}

/// One object as written, not yet understood.
#[derive(Clone, Debug)]
pub struct Document {
    /// Its key.
    pub object: ObjectRef,
    /// Version part of `apiVersion`: `v1`, `v2`, `v3alpha1`.
    pub version: Arc<str>,
    /// Where it stands.
    pub origin: Origin,
    /// `metadata.labels`.
    pub labels: BTreeMap<String, String>,
    /// The whole object with lines.
    pub root: Node,
}

/// A value and the line it stands on (0 when it comes from a cluster).
#[derive(Clone, Debug, PartialEq)]
pub struct Node {
    /// Line, from 1.
    pub line: u32,
    /// The value.
    pub value: Value,
}

/// A YAML value under the JSON data model, order kept.
#[derive(Clone, Debug, PartialEq)]
pub enum Value {
    /// `null`, or nothing.
    Null,
    /// A boolean.
    Bool(bool),
    /// A whole number.
    Int(i64),
    /// A number with a fraction.
    Float(f64),
    /// Text.
    Text(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping; keys are text and unique.
    Map(Vec<(String, Node)>),
}

impl Node {
    /// A field of a map by name.
    pub fn get(&self, field: &str) -> Option<&Self> {
        match &self.value {
            Value::Map(fields) => fields.iter().find(|(name, _)| name == field).map(|(_, node)| node),
            _ => None,
        }
    }

    /// A field by a dotted path: `spec.tls.ca_secret`.
    pub fn at(&self, path: &str) -> Option<&Self> {
        path.split('.').try_fold(self, |node, field| node.get(field))
    }

    /// The text, if it is one.
    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }
}
