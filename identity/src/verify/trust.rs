//! What a verifier trusts: as plain data that can be compared, and prepared for use.

use std::collections::BTreeMap;

use rustls_pki_types::CertificateRevocationListDer;
use x509_parser::prelude::X509Certificate;

use super::{VerifyFailure, anchors::Anchors, leaf};
use crate::{Bundle, SpiffeId, TrustDomain};

/// Everything a verifier is made from. Two equal ones need one verifier, so that a rotation of the own SVID keeps the
/// chain cache.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TrustInputs {
    /// Whom to trust.
    pub(crate) trust: TrustInput,
    /// The lists of a source of revocation lists, if one was named: then every certificate of a chain needs one.
    pub(crate) crls: Option<Vec<CertificateRevocationListDer<'static>>>,
}

/// Trust as plain data.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum TrustInput {
    /// Nobody is verified.
    Nothing,
    /// Web PKI.
    Roots(Bundle),
    /// SPIFFE bundles.
    Spiffe(BTreeMap<TrustDomain, Bundle>),
    /// SPIFFE rules over a plain CA that vouches for these trust domains.
    SpiffeRoots(Bundle, Vec<TrustDomain>),
}

impl TrustInput {
    /// The revocation lists that came with the trust.
    pub(super) fn crls(&self) -> Vec<&CertificateRevocationListDer<'static>> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Roots(bundle) | Self::SpiffeRoots(bundle, _) => bundle.crls.iter().collect(),
            Self::Spiffe(bundles) => bundles.values().flat_map(|bundle| &bundle.crls).collect(),
        }
    }
}

/// Trust, prepared.
#[derive(Debug)]
pub(super) enum Mode {
    Nothing,
    Roots(Anchors),
    Spiffe(BTreeMap<TrustDomain, Anchors>),
    SpiffeRoots(Anchors, Vec<TrustDomain>),
}

impl Mode {
    pub(super) fn new(trust: &TrustInput) -> Self {
        let anchors = |bundle: &Bundle| Anchors::new(&bundle.authorities);
        match trust {
            TrustInput::Nothing => Self::Nothing,
            TrustInput::Roots(bundle) => Self::Roots(anchors(bundle)),
            TrustInput::Spiffe(bundles) => Self::Spiffe(
                bundles.iter().map(|(domain, bundle)| (domain.clone(), anchors(bundle))).collect(),
            ),
            TrustInput::SpiffeRoots(bundle, domains) => Self::SpiffeRoots(anchors(bundle), domains.clone()),
        }
    }

    /// The anchors of the leaf's own trust domain, chosen before anything is verified.
    pub(super) fn anchors_for(
        &self,
        leaf: &X509Certificate<'_>,
    ) -> Result<(&Anchors, Option<SpiffeId>), VerifyFailure> {
        let svid = || {
            leaf::check_svid(leaf)?;
            leaf::spiffe_id(leaf)
        };
        let (anchors, id) = match self {
            Self::Nothing => return Err(VerifyFailure::NoTrust),
            Self::Roots(anchors) => return Ok((anchors, None)),
            Self::Spiffe(bundles) => {
                let id = svid()?;
                (bundles.get(id.trust_domain()), id)
            }
            Self::SpiffeRoots(anchors, domains) => {
                let id = svid()?;
                (domains.contains(id.trust_domain()).then_some(anchors), id)
            }
        };
        let anchors = anchors.filter(|anchors| !anchors.is_empty());
        anchors.map(|anchors| (anchors, Some(id))).ok_or(VerifyFailure::NoBundle)
    }
}
