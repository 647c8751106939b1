//! Our checks on a path that webpki has built.

use rustls_pki_types::CertificateDer;
use x509_parser::prelude::X509Certificate;

use super::{VerifyFailure, anchors::Anchors, leaf};

/// A chain being verified.
pub(super) struct Path<'a> {
    pub(super) leaf: &'a CertificateDer<'a>,
    pub(super) intermediates: &'a [CertificateDer<'a>],
    pub(super) parsed: &'a [X509Certificate<'a>],
    /// Whether the rules of X509-SVID hold for the intermediates, too.
    pub(super) spiffe: bool,
}

impl<'a> Path<'a> {
    /// The certificates of a built path, leaf first: a peer may send others, whose dates and names mean nothing.
    pub(super) fn used(
        &self,
        built: &webpki::VerifiedPath<'_>,
    ) -> Result<Vec<&'a X509Certificate<'a>>, VerifyFailure> {
        let mut used: Vec<_> = self.parsed.first().into_iter().collect();
        for issuer in built.intermediate_certificates() {
            let der = issuer.der();
            let at = self.intermediates.iter().position(|sent| sent.as_ref() == der.as_ref());
            used.push(at.and_then(|at| self.parsed.get(at + 1)).ok_or(VerifyFailure::Malformed)?);
        }
        Ok(used)
    }

    /// Intermediates may sign, and the anchor's URI constraints hold.
    pub(super) fn check(
        &self,
        built: &webpki::VerifiedPath<'_>,
        anchors: &Anchors,
    ) -> Result<(), VerifyFailure> {
        let used = self.used(built)?;
        for issuer in used.iter().skip(1) {
            leaf::check_issuer(issuer, self.spiffe)?;
        }
        if !anchors.constrains_uris(built.anchor()) {
            return Ok(());
        }
        let mut hosts = Vec::new();
        for uri in used.into_iter().map(leaf::uri_names).collect::<Result<Vec<_>, _>>()?.into_iter().flatten()
        {
            hosts.push(host(uri).ok_or(VerifyFailure::NameConstraint)?);
        }
        if anchors.permits(built.anchor(), &hosts) { Ok(()) } else { Err(VerifyFailure::NameConstraint) }
    }
}

/// The host of a URI in lower case, to which URI name constraints apply. `None`: it has none, or an address in brackets.
fn host(uri: &[u8]) -> Option<String> {
    let (_, rest) = std::str::from_utf8(uri).ok()?.split_once("://")?;
    let authority = rest.split(['/', '?', '#']).next()?;
    let host = authority.rsplit('@').next()?.split(':').next()?;
    (!host.is_empty() && host != "[").then(|| host.to_ascii_lowercase())
}
