//! Key material from named bytes: the keys of a Kubernetes Secret (emissary.md 1.7), or the contents of files.

use std::{collections::BTreeMap, sync::Arc, time::SystemTime};

use crate::{Bundle, Credential, Material, Problem, Trust, material::crls_from_pem};

/// What the material is for; decides which keys must be there.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Usage {
    /// `tls.crt` + `tls.key`, or Istio's `cert-chain.pem` + `key.pem`.
    Identity,
    /// `ca.crt`, then Istio's `root-cert.pem`, then `tls.crt`.
    Trust,
    /// `crl.pem`.
    Crl,
}

impl Usage {
    /// The word used in the names of sources.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Identity => "identity",
            Self::Trust => "trust",
            Self::Crl => "crl",
        }
    }
}

/// Reads material for a usage. `what` names the Secret in messages; warnings name authorities that were left out.
pub fn read(
    what: &str,
    usage: Usage,
    data: &BTreeMap<String, Vec<u8>>,
    now: SystemTime,
) -> Result<(Material, Vec<String>), Problem> {
    let first = |keys: &[&str]| keys.iter().find_map(|key| data.get(*key).filter(|bytes| !bytes.is_empty()));
    match usage {
        Usage::Identity => {
            let chain = first(&["tls.crt", "cert-chain.pem"]).ok_or_else(|| {
                Problem::new("secret_no_certificate", format!("{what} has no certificate (key tls.crt)"))
            })?;
            let key = first(&["tls.key", "key.pem"]).ok_or_else(|| {
                Problem::new("secret_no_key", format!("{what} has no private key (key tls.key)"))
            })?;
            let credential = Credential::from_pem(what, chain, key, now)?;
            Ok((Material { own: vec![Arc::new(credential)], trust: None }, Vec::new()))
        }
        Usage::Trust => {
            let pem = first(&["ca.crt", "root-cert.pem", "tls.crt"]).ok_or_else(|| {
                Problem::new("ca_missing", format!("{what} has no CA certificate (key ca.crt, or tls.crt)"))
            })?;
            let (bundle, warnings) = Bundle::from_pem(what, pem, now)?;
            Ok((Material { own: Vec::new(), trust: Some(Arc::new(Trust::Roots(bundle))) }, warnings))
        }
        Usage::Crl => {
            let pem = first(&["crl.pem"]).ok_or_else(|| {
                Problem::new("crl_missing", format!("{what} has no revocation list (key crl.pem)"))
            })?;
            let crls = crls_from_pem(what, pem)?;
            Ok((Material { own: Vec::new(), trust: Some(Arc::new(Trust::Crls(crls))) }, Vec::new()))
        }
    }
}
