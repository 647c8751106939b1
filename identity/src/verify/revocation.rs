//! The revocation lists of one verifier.

use std::time::SystemTime;

use rustls_pki_types::CertificateRevocationListDer;
use webpki::{
    CertRevocationList, ExpirationPolicy, OwnedCertRevocationList, RevocationOptions,
    RevocationOptionsBuilder, UnknownStatusPolicy,
};
use x509_parser::{prelude::FromDer as _, revocation_list::CertificateRevocationList};

use super::{VerifyFailure, trust::TrustInputs};
use crate::material::time;

/// Revocation lists, parsed once.
#[derive(Debug)]
pub(super) struct Revocation {
    lists: Vec<CertRevocationList<'static>>,
    /// When each list ends: what was proved under it is proved again after that.
    ends: Vec<SystemTime>,
    /// Every certificate of a chain needs a list of its issuer, as in Envoy once a list is configured. Those that come with
    /// a bundle of the Workload API are an offer, not a demand (W-18).
    demanded: bool,
}

impl Revocation {
    /// All lists of the inputs. One that cannot be read may be the one that is needed, so all are demanded then.
    pub(super) fn new(inputs: &TrustInputs) -> Self {
        let given: Vec<_> = inputs.crls.iter().flatten().chain(inputs.trust.crls()).collect();
        let lists: Vec<CertRevocationList<'static>> = given
            .iter()
            .filter_map(|list| OwnedCertRevocationList::from_der(list).ok())
            .map(Into::into)
            .collect();
        let demanded = inputs.crls.is_some() || lists.len() < given.len();
        Self { lists, ends: given.into_iter().filter_map(next_update).collect(), demanded }
    }

    /// The lists as webpki wants them.
    pub(super) fn lists(&self) -> Vec<&CertRevocationList<'static>> {
        self.lists.iter().collect()
    }

    /// How webpki uses the lists. `None`: there is nothing to check.
    pub(super) fn options<'a>(
        &self,
        lists: &'a [&'a CertRevocationList<'static>],
    ) -> Result<Option<RevocationOptions<'a>>, VerifyFailure> {
        let Ok(options) = RevocationOptionsBuilder::new(lists) else {
            return if self.demanded { Err(VerifyFailure::NoRevocationList) } else { Ok(None) };
        };
        let unknown = if self.demanded { UnknownStatusPolicy::Deny } else { UnknownStatusPolicy::Allow };
        Ok(Some(
            options.with_status_policy(unknown).with_expiration_policy(ExpirationPolicy::Enforce).build(),
        ))
    }

    /// When the next list ends.
    pub(super) fn next_end(&self, now: SystemTime) -> Option<SystemTime> {
        self.ends.iter().filter(|end| now < **end).min().copied()
    }
}

/// When a revocation list ends.
fn next_update(crl: &CertificateRevocationListDer<'_>) -> Option<SystemTime> {
    let (_, list) = CertificateRevocationList::from_der(crl).ok()?;
    list.next_update().map(time)
}
