//! Trust anchors of one bundle, prepared once: parsed, filtered, and chosen by key identifier before a path is built.

use std::time::SystemTime;

use rustls_pki_types::{CertificateDer, TrustAnchor};
use x509_parser::prelude::{GeneralName, ParsedExtension, X509Certificate};

use crate::material::{parse, subject_key_id, time, unusable_authority};

/// Most anchors tried for one chain: 50 roots of one name would cost 43 times one (spiffe.md 6.2).
const MAX_CANDIDATES: usize = 8;

/// One trust anchor with what choosing it needs.
#[derive(Debug)]
pub(super) struct Anchor {
    root: TrustAnchor<'static>,
    subject: Vec<u8>,
    key_id: Option<Vec<u8>>,
    /// A CA that may sign. Others stay, so that a chain below one is told why it is refused.
    is_ca: bool,
    not_before: SystemTime,
    not_after: SystemTime,
    /// URI name constraints, which webpki cannot evaluate (6.3, option b).
    uris: UriConstraints,
}

/// URI name constraints: hosts, or domains with a leading dot (RFC 5280, 4.2.1.10).
#[derive(Debug, Default)]
struct UriConstraints {
    permitted: Vec<String>,
    excluded: Vec<String>,
}

/// The anchors of a bundle.
#[derive(Debug, Default)]
pub(super) struct Anchors(Vec<Anchor>);

/// The anchors that may have signed a chain.
pub(super) enum Candidates {
    /// Try these.
    Some(Vec<TrustAnchor<'static>>),
    /// The only fitting ones are no CAs, have expired, or are not valid yet.
    Unusable,
    /// None fits.
    None,
}

impl Anchors {
    pub(super) fn new(authorities: &[CertificateDer<'static>]) -> Self {
        Self(authorities.iter().filter_map(Anchor::new).collect())
    }

    pub(super) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Anchors whose name issued a certificate of the chain, those named by key identifier first.
    pub(super) fn candidates(&self, chain: &[X509Certificate<'_>], now: SystemTime) -> Candidates {
        let by_name = |anchor: &&Anchor| chain.iter().any(|cert| cert.issuer().as_raw() == anchor.subject);
        let mut fitting: Vec<&Anchor> = self.0.iter().filter(by_name).collect();
        if fitting.is_empty() {
            return Candidates::None;
        }
        fitting.retain(|anchor| anchor.is_ca && anchor.not_before <= now && now < anchor.not_after);
        if fitting.is_empty() {
            return Candidates::Unusable;
        }
        let named = |anchor: &Anchor| {
            anchor.key_id.is_some()
                && chain.iter().any(|cert| authority_key_id(cert) == anchor.key_id.as_deref())
        };
        fitting.sort_by_key(|anchor| !named(anchor));
        fitting.truncate(MAX_CANDIDATES);
        Candidates::Some(fitting.into_iter().map(|anchor| anchor.root.clone()).collect())
    }

    /// Whether the anchors of this name and key constrain URIs.
    pub(super) fn constrains_uris(&self, used: &TrustAnchor<'_>) -> bool {
        self.same(used).any(|anchor| !anchor.uris.permitted.is_empty() || !anchor.uris.excluded.is_empty())
    }

    /// Whether the URI constraints of the anchor that ended a path permit these hosts.
    pub(super) fn permits(&self, used: &TrustAnchor<'_>, hosts: &[String]) -> bool {
        self.same(used).all(|anchor| hosts.iter().all(|host| anchor.uris.permit(host)))
    }

    /// The end of validity of the anchor that ended a path.
    pub(super) fn not_after(&self, used: &TrustAnchor<'_>) -> Option<SystemTime> {
        self.same(used).map(|anchor| anchor.not_after).max()
    }

    fn same<'a>(&'a self, used: &'a TrustAnchor<'_>) -> impl Iterator<Item = &'a Anchor> {
        self.0.iter().filter(|anchor| {
            anchor.root.subject_public_key_info == used.subject_public_key_info
                && anchor.root.subject == used.subject
        })
    }
}

impl Anchor {
    fn new(der: &CertificateDer<'static>) -> Option<Self> {
        let cert = parse(der)?;
        let mut root = webpki::anchor_from_trusted_cert(der).ok()?.to_owned();
        let (uris, only_uris) = UriConstraints::read(&cert);
        if only_uris {
            // Ours to evaluate; a mix with other kinds stays with webpki, which fails closed.
            root.name_constraints = None;
        }
        Some(Self {
            subject: cert.subject().as_raw().to_vec(),
            // Expiry is judged at use.
            is_ca: unusable_authority(der, SystemTime::UNIX_EPOCH).is_none(),
            key_id: subject_key_id(&cert).map(<[u8]>::to_vec),
            not_before: time(cert.validity().not_before),
            not_after: time(cert.validity().not_after),
            root,
            uris,
        })
    }
}

impl UriConstraints {
    /// The URI constraints, and whether there are no others.
    fn read(cert: &X509Certificate<'_>) -> (Self, bool) {
        let mut read = Self::default();
        let mut only_uris = true;
        for extension in cert.extensions() {
            let ParsedExtension::NameConstraints(constraints) = extension.parsed_extension() else {
                continue;
            };
            let lists = [(&constraints.permitted_subtrees, true), (&constraints.excluded_subtrees, false)];
            for (subtrees, permitted) in lists {
                for subtree in subtrees.iter().flatten() {
                    match &subtree.base {
                        GeneralName::URI(host) if permitted => read.permitted.push(host.to_ascii_lowercase()),
                        GeneralName::URI(host) => read.excluded.push(host.to_ascii_lowercase()),
                        _ => only_uris = false,
                    }
                }
            }
        }
        (read, only_uris)
    }

    fn permit(&self, host: &str) -> bool {
        let matches = |constraint: &String| match constraint.strip_prefix('.') {
            Some(domain) => host.strip_suffix(domain).is_some_and(|sub| sub.len() > 1 && sub.ends_with('.')),
            None => host == constraint,
        };
        let permitted = self.permitted.is_empty() || self.permitted.iter().any(matches);
        permitted && !self.excluded.iter().any(matches)
    }
}

fn authority_key_id<'a>(cert: &'a X509Certificate<'_>) -> Option<&'a [u8]> {
    cert.extensions().iter().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::AuthorityKeyIdentifier(id) => id.key_identifier.as_ref().map(|id| id.0),
        _ => None,
    })
}
