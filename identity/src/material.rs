//! Material: own certificates and trust, parsed and checked once, never half.

use std::{collections::BTreeMap, fmt, sync::Arc, time::SystemTime};

use rustls_pki_types::{CertificateDer, CertificateRevocationListDer};

use crate::{SpiffeId, TrustDomain};

/// One coherent delivery of a source. Own certificates and trust may both be there, or one of them.
#[derive(Clone, Debug, Default)]
pub struct Material {
    /// Own certificates; the first is the default (Workload API, W-14).
    pub own: Vec<Arc<Credential>>,
    /// Whom to trust. `None`: this source says nothing about trust.
    pub trust: Option<Arc<Trust>>,
}

/// An own certificate chain with its private key. The key was checked against the leaf.
pub struct Credential {
    /// Leaf first, DER.
    pub chain: Vec<CertificateDer<'static>>,
    /// The key, ready to sign. Never printed.
    pub key: Arc<dyn rustls::sign::SigningKey>,
    /// The SPIFFE ID of the leaf, if it has exactly one valid one.
    pub spiffe_id: Option<SpiffeId>,
    /// The hint of the Workload API, if any.
    pub hint: Option<String>,
    /// The leaf's serial number, upper-case hexadecimal without separators, as `openssl x509 -serial` and nginx print it.
    pub serial: String,
    /// Start of validity of the leaf.
    pub not_before: SystemTime,
    /// End of validity of the leaf.
    pub not_after: SystemTime,
    /// The leaf carries the mark of the dev authority.
    pub dev: bool,
}

impl fmt::Debug for Credential {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Credential")
            .field("spiffe_id", &self.spiffe_id)
            .field("serial", &self.serial)
            .field("not_after", &self.not_after)
            .finish_non_exhaustive()
    }
}

/// Whom to trust.
#[derive(Clone, Debug)]
pub enum Trust {
    /// One bundle for each trust domain; bundles are never pooled.
    Spiffe(BTreeMap<TrustDomain, Bundle>),
    /// Plain CA certificates that belong to no trust domain, from a file or a Secret.
    Roots(Bundle),
    /// The operating system's roots.
    System,
}

/// Trust anchors and revocation lists that belong together.
#[derive(Clone, Debug, Default)]
pub struct Bundle {
    /// CA certificates, DER, each checked to be a usable CA when the bundle was made.
    pub authorities: Vec<CertificateDer<'static>>,
    /// Certificate revocation lists, DER.
    pub crls: Vec<CertificateRevocationListDer<'static>>,
}
