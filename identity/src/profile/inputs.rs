//! What a profile is made from at one moment: own certificate, trust and revocation lists of its sources, or why not.

use std::{sync::Arc, time::SystemTime};

use rustls_pki_types::CertificateRevocationListDer;

use super::Verify;
use crate::{
    Credential, Problem, Source, SourceStatus, Trust, provider,
    verify::{TrustInput, TrustInputs},
};

pub(super) fn pending(what: &str) -> Problem {
    Problem::new("identity_pending", format!("{what} has not delivered yet"))
}

/// The material of a source, or why there is none.
fn material(source: &Source) -> Result<Arc<crate::Material>, Problem> {
    let state = source.state();
    match (&state.material, state.status) {
        (Some(material), _) => Ok(Arc::clone(material)),
        (None, SourceStatus::Pending) if state.problem.is_none() => Err(pending(source.name().as_str())),
        (None, SourceStatus::Pending) => Err(Problem::new(
            "identity_pending",
            format!("{}: {}", source.name(), state.problem.as_ref().map_or("", |problem| &problem.message)),
        )),
        (None, _) => Err(state.problem.clone().unwrap_or_else(|| {
            Problem::new("identity_unavailable", format!("{} was withdrawn", source.name()))
        })),
    }
}

/// The own certificate that the hint names; the first without one (W-14, W-15).
pub(super) fn own(source: &Source, hint: Option<&str>) -> Result<Arc<Credential>, Problem> {
    let material = material(source)?;
    let found = match hint {
        None => material.own.first(),
        Some(hint) => material.own.iter().find(|credential| credential.hint.as_deref() == Some(hint)),
    };
    found.cloned().ok_or_else(|| {
        let message = match hint {
            Some(hint) => format!("{} delivers no SVID with the hint `{hint}`", source.name()),
            None => format!("{} delivers no certificate", source.name()),
        };
        Problem::new("identity_unavailable", message)
    })
}

pub(super) fn not_expired(credential: &Credential, source: &Source) -> Result<(), Problem> {
    credential.expired(source.name(), SystemTime::now()).map_or(Ok(()), Err)
}

pub(super) fn trust_inputs(verify: &Verify, crl: Option<&Arc<Source>>) -> Result<TrustInputs, Problem> {
    let crls = crl.map(|source| revocation_lists(source)).transpose()?;
    let trust = match verify {
        Verify::Nothing => TrustInput::Nothing,
        Verify::System => TrustInput::Roots(provider::system_roots()?),
        Verify::Roots(source) => match &*trust(source)? {
            Trust::Roots(bundle) => TrustInput::Roots(bundle.clone()),
            // Their CAs may vouch for their own trust domains alone, which no name says.
            Trust::Spiffe(_) => {
                return Err(no_ca(source, "bundles of trust domains, for `spiffe` rules alone"));
            }
            Trust::Crls(_) => return Err(no_ca(source, "revocation lists alone")),
        },
        Verify::Spiffe { trust: source, trust_domains } => match &*trust(source)? {
            Trust::Spiffe(bundles) => TrustInput::Spiffe(bundles.clone()),
            Trust::Roots(bundle) => TrustInput::SpiffeRoots(bundle.clone(), trust_domains.clone()),
            Trust::Crls(_) => return Err(no_ca(source, "revocation lists alone")),
        },
    };
    Ok(TrustInputs { trust, crls })
}

fn no_ca(source: &Source, what: &str) -> Problem {
    Problem::new("ca_missing", format!("{} delivers no CA certificates, but {what}", source.name()))
}

/// The lists of a source that was named for them: without any, nobody could be told from the revoked.
fn revocation_lists(source: &Source) -> Result<Vec<CertificateRevocationListDer<'static>>, Problem> {
    let lists = match material(source)?.trust.as_deref() {
        Some(Trust::Crls(lists)) => lists.clone(),
        Some(Trust::Roots(bundle)) => bundle.crls.clone(),
        Some(Trust::Spiffe(_)) | None => Vec::new(),
    };
    if lists.is_empty() {
        return Err(Problem::new("crl_missing", format!("{} delivers no revocation list", source.name())));
    }
    Ok(lists)
}

fn trust(source: &Source) -> Result<Arc<Trust>, Problem> {
    let held = material(source)?.trust.clone();
    held.ok_or_else(|| no_ca(source, "certificates of its own alone"))
}
