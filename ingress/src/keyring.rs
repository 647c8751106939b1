//! The keyring: Secrets, files and the Workload API by name, as sources of key material; last good material and the grace of deletions.

use std::sync::Arc;

use identity::{Problem, Source, SourceRef};

/// What a reference to key material is used for; decides which keys of a Secret must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// `tls.crt` + `tls.key` (or Istio's names).
    Identity,
    /// `ca.crt`, then `tls.crt` (or `root-cert.pem`).
    Trust,
    /// `crl.pem`.
    Crl,
}

/// A reference to key material as a resource writes it, resolved to a full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRef {
    /// A Kubernetes Secret.
    Secret {
        /// Namespace.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
        /// What for.
        usage: Usage,
    },
    /// PEM files: certificate chain and key, or CA, or CRL alone.
    Files {
        /// `cert_chain_file`, `cacert_chain_file` or `crl_file`, absolute.
        cert: Arc<std::path::Path>,
        /// `private_key_file`, with [`Usage::Identity`].
        key: Option<Arc<std::path::Path>>,
        /// What for.
        usage: Usage,
    },
}

/// What compile may ask. Implemented by the keyring, and by tables in tests.
pub trait Keys {
    /// The source of a reference, if it is usable now: it has good material, or an earlier good one is still in use.
    /// Otherwise why not, under its code: `secret_missing`, `secret_no_key`, `key_mismatch`, `certificate_expired`...
    fn find(&self, key: &KeyRef) -> Result<SourceRef, Problem>;
    /// The source of the Workload API, if one is configured.
    fn spiffe(&self) -> Option<SourceRef>;
}

/// Sources by name: what publishing needs.
pub trait Sources {
    /// A source by its name. Every reference that compile got from [`Keys`] is there.
    fn source(&self, name: &SourceRef) -> Option<Arc<Source>>;
}
