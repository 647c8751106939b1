//! Authorisation: comparing a proven identity with the rule of an endpoint or a listener.

use std::{fmt, str::FromStr, sync::Arc};

use rustls_pki_types::ServerName;

use crate::{PeerId, Source, SpiffeId, TrustDomain, id::parse_peer_id};

/// An exact SPIFFE ID, or a pattern of path segments: `*` stands for one segment, `**` for one or more, last only.
/// `spiffe://<td>/spire/**` never matches: those are SPIRE's own servers and agents.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum IdPattern {
    /// Exactly this ID.
    Exact(SpiffeId),
    /// Segments under a trust domain.
    Segments {
        /// The trust domain, always literal.
        trust_domain: TrustDomain,
        /// Literal segments, or `*`.
        segments: Vec<String>,
        /// Whether `**` follows.
        rest: bool,
    },
}

impl FromStr for IdPattern {
    type Err = String;

    /// Reads `spiffe://td/a/*/b` or `spiffe://td/ns/**`. The trust domain may be written in upper case.
    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = |why: &str| {
            format!("`{text}` {why}; write spiffe://<trust domain>/<path>, `*` for one segment, `**` last")
        };
        let rest = text.strip_prefix("spiffe://").ok_or_else(|| wrong("is not a SPIFFE ID"))?;
        let (domain, path) = rest.split_once('/').ok_or_else(|| wrong("has no path"))?;
        let domain = domain.to_ascii_lowercase();
        let literal = path.replace("**", "x").replace('*', "x");
        parse_peer_id(&format!("spiffe://{domain}/{literal}")).map_err(|error| wrong(&error.to_string()))?;
        if !path.contains('*') {
            let id = SpiffeId::new(format!("spiffe://{domain}/{path}"))
                .map_err(|error| wrong(&error.to_string()))?;
            return Ok(Self::Exact(id));
        }
        let mut segments: Vec<String> = path.split('/').map(str::to_owned).collect();
        let rest = segments.last().is_some_and(|last| last == "**");
        if rest {
            segments.pop();
        }
        if segments.iter().any(|segment| segment.contains('*') && segment != "*") {
            return Err(wrong("has a star that is not a whole segment, or `**` that is not last"));
        }
        let trust_domain = TrustDomain::new(&domain).map_err(|error| wrong(&error.to_string()))?;
        Ok(Self::Segments { trust_domain, segments, rest })
    }
}

impl fmt::Display for IdPattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exact(id) => id.fmt(f),
            Self::Segments { trust_domain, segments, rest } => {
                write!(f, "spiffe://{trust_domain}")?;
                segments.iter().try_for_each(|segment| write!(f, "/{segment}"))?;
                if *rest { f.write_str("/**") } else { Ok(()) }
            }
        }
    }
}

impl IdPattern {
    /// The trust domain, which no pattern leaves open.
    pub fn trust_domain(&self) -> &TrustDomain {
        match self {
            Self::Exact(id) => id.trust_domain(),
            Self::Segments { trust_domain, .. } => trust_domain,
        }
    }

    /// Whether an ID is meant.
    pub fn matches(&self, id: &SpiffeId) -> bool {
        match self {
            Self::Exact(exact) => exact == id,
            Self::Segments { trust_domain, segments, rest } => {
                id.is_member_of(trust_domain) && !is_reserved(id) && path_matches(segments, *rest, id.path())
            }
        }
    }
}

fn path_matches(segments: &[String], rest: bool, path: &str) -> bool {
    let mut given = path.split('/').skip(1);
    for wanted in segments {
        match given.next() {
            Some(segment) if wanted == "*" || wanted == segment => {}
            _ => return false,
        }
    }
    given.next().is_some() == rest
}

/// IDs below `/spire/` belong to SPIRE itself.
fn is_reserved(id: &SpiffeId) -> bool {
    id.path() == "/spire" || id.path().starts_with("/spire/")
}

/// Who a peer has to be. Evaluated after authentication, before the first application byte.
#[derive(Clone, Debug)]
pub enum PeerRule {
    /// Whoever the verifier let through (`verify: none`, `chain_only`, no client certificate asked for).
    Anyone,
    /// One of these IDs, or any workload of these trust domains.
    Spiffe {
        /// Exact IDs and patterns.
        ids: Vec<IdPattern>,
        /// Whole trust domains.
        trust_domains: Vec<TrustDomain>,
    },
    /// A workload of the trust domain that our own SVID of this source is in (a `spiffe` block without ids and domains).
    OwnTrustDomain(Arc<Source>),
    /// The certificate is valid for one of these DNS names or addresses.
    Names(Vec<ServerName<'static>>),
}

/// Two rules are equal if they let the same peers through at any time; so far as that can be told from what they say.
impl PartialEq for PeerRule {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Anyone, Self::Anyone) => true,
            (
                Self::Spiffe { ids, trust_domains },
                Self::Spiffe { ids: other_ids, trust_domains: other_domains },
            ) => ids == other_ids && trust_domains == other_domains,
            (Self::OwnTrustDomain(source), Self::OwnTrustDomain(other)) => Arc::ptr_eq(source, other),
            (Self::Names(names), Self::Names(other)) => names == other,
            _ => false,
        }
    }
}

/// Why a rule refused a peer. The message is for our log, never for the peer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct Denied {
    /// One of [`Denied::CODES`].
    pub code: &'static str,
    /// What was expected and what came.
    pub message: String,
}

impl Denied {
    /// Every code, for documentation tests.
    pub const CODES: &'static [&'static str] = &[
        "peer_no_certificate",
        "peer_not_verified",
        "peer_id_mismatch",
        "peer_name_mismatch",
        "identity_unavailable",
    ];
}

impl PeerRule {
    /// Whether the peer satisfies the rule.
    pub fn check(&self, peer: Option<&PeerId>) -> Result<(), Denied> {
        match self {
            Self::Anyone => Ok(()),
            Self::Spiffe { ids, trust_domains } => {
                let id = spiffe_id(peer)?;
                let meant = ids.iter().any(|pattern| pattern.matches(id))
                    || (trust_domains.iter().any(|domain| id.is_member_of(domain)) && !is_reserved(id));
                if meant { Ok(()) } else { Err(mismatch(id, &self.to_string())) }
            }
            Self::OwnTrustDomain(source) => {
                let id = spiffe_id(peer)?;
                let own = own_trust_domain(source).ok_or_else(|| Denied {
                    code: "identity_unavailable",
                    message: format!(
                        "the rule is our own trust domain, but {} has no SVID now",
                        source.name()
                    ),
                })?;
                let meant = id.is_member_of(&own) && !is_reserved(id);
                if meant { Ok(()) } else { Err(mismatch(id, &format!("a workload of {own}"))) }
            }
            Self::Names(names) => check_names(peer, names),
        }
    }
}

impl fmt::Display for PeerRule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let join = |items: Vec<String>| items.join(" or ");
        match self {
            Self::Anyone => f.write_str("anyone"),
            Self::Spiffe { ids, trust_domains } => {
                let ids = ids.iter().map(ToString::to_string);
                f.write_str(&join(
                    ids.chain(trust_domains.iter().map(|td| format!("spiffe://{td}/**"))).collect(),
                ))
            }
            Self::OwnTrustDomain(_) => f.write_str("a workload of our own trust domain"),
            Self::Names(names) => {
                f.write_str(&join(names.iter().map(|name| name.to_str().into_owned()).collect()))
            }
        }
    }
}

fn own_trust_domain(source: &Source) -> Option<TrustDomain> {
    let state = source.state();
    let own = state.material.as_ref()?.own.first()?;
    own.spiffe_id.as_ref().map(|id| id.trust_domain().clone())
}

fn no_certificate() -> Denied {
    Denied { code: "peer_no_certificate", message: "the peer presented no certificate".to_owned() }
}

/// A peer whose chain was proved. What an unverified one says about itself satisfies no rule.
fn proved(peer: Option<&PeerId>) -> Result<&PeerId, Denied> {
    let peer = peer.ok_or_else(no_certificate)?;
    if peer.verified {
        return Ok(peer);
    }
    let message = format!("the certificate {} of the peer was not verified", peer.serial);
    Err(Denied { code: "peer_not_verified", message })
}

fn spiffe_id(peer: Option<&PeerId>) -> Result<&SpiffeId, Denied> {
    proved(peer)?.spiffe_id.as_ref().ok_or_else(|| Denied {
        code: "peer_id_mismatch",
        message: "the peer has no verified SPIFFE ID".to_owned(),
    })
}

fn mismatch(id: &SpiffeId, wanted: &str) -> Denied {
    Denied { code: "peer_id_mismatch", message: format!("the peer is {id}, expected {wanted}") }
}

fn check_names(peer: Option<&PeerId>, names: &[ServerName<'static>]) -> Result<(), Denied> {
    let peer = proved(peer)?;
    let leaf = peer.chain.first().ok_or_else(no_certificate)?;
    let valid = webpki::EndEntityCert::try_from(leaf)
        .is_ok_and(|leaf| names.iter().any(|name| leaf.verify_is_valid_for_subject_name(name).is_ok()));
    if valid {
        return Ok(());
    }
    let wanted: Vec<_> = names.iter().map(ServerName::to_str).collect();
    Err(Denied {
        code: "peer_name_mismatch",
        message: format!("the certificate {} is not valid for {}", peer.serial, wanted.join(" or ")),
    })
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn matches(pattern: &str, id: &str) -> bool {
        pattern.parse::<IdPattern>().expect(pattern).matches(&SpiffeId::new(id).expect(id))
    }

    #[test]
    fn patterns() {
        assert!(matches("spiffe://td/a/b", "spiffe://td/a/b"));
        assert!(!matches("spiffe://td/a/b", "spiffe://td/a/B"));
        assert!(matches("spiffe://td/a/*/c", "spiffe://td/a/b/c"));
        assert!(!matches("spiffe://td/a/*/c", "spiffe://td/a/b/b/c"));
        assert!(!matches("spiffe://td/a/*", "spiffe://td/a"));
        assert!(matches("spiffe://td/a/**", "spiffe://td/a/b"));
        assert!(matches("spiffe://td/a/**", "spiffe://td/a/b/c"));
        assert!(!matches("spiffe://td/a/**", "spiffe://td/a"));
        assert!(!matches("spiffe://td/a/**", "spiffe://td/ab/c"));
        assert!(!matches("spiffe://td/**", "spiffe://other/a"));
        assert!(matches("spiffe://TD/**", "spiffe://td/a"));
    }

    #[test]
    fn spire_itself_is_never_meant_by_a_pattern() {
        assert!(!matches("spiffe://td/**", "spiffe://td/spire/agent/x"));
        assert!(!matches("spiffe://td/spire/**", "spiffe://td/spire/server"));
        assert!(!matches("spiffe://td/*", "spiffe://td/spire"));
        assert!(matches("spiffe://td/**", "spiffe://td/spirex"));
        assert!(matches("spiffe://td/spire/server", "spiffe://td/spire/server"), "written out, it is meant");
    }

    #[test]
    fn bad_patterns_are_refused() {
        for bad in [
            "",
            "td/a",
            "spiffe://td",
            "spiffe://td/",
            "spiffe://*/a",
            "spiffe://td/**/a",
            "spiffe://td/a*",
            "spiffe://td/a/b**",
            "spiffe://td/a//b",
            "spiffe://td/***",
        ] {
            assert!(bad.parse::<IdPattern>().is_err(), "{bad}");
        }
    }

    proptest! {
        #[test]
        fn a_pattern_made_from_an_id_matches_it(segments in prop::collection::vec("[a-z][a-z0-9]{0,4}", 1..5), star in any::<prop::sample::Index>(), cut in any::<prop::sample::Index>()) {
            let id = SpiffeId::new(format!("spiffe://td/{}", segments.join("/"))).expect("valid");
            prop_assume!(!is_reserved(&id));
            let mut starred = segments.clone();
            starred[star.index(segments.len())] = "*".to_owned();
            // `prop_assert!` takes the braces of a format string in it for its own.
            let starred = format!("spiffe://td/{}", starred.join("/"));
            prop_assert!(matches(&starred, &id.to_string()));
            let kept = &segments[..cut.index(segments.len())];
            let shorter = [&["spiffe://td".to_owned()], kept, &["**".to_owned()]].concat().join("/");
            prop_assert!(matches(&shorter, &id.to_string()));
            let longer = format!("spiffe://td/{}/**", segments.join("/"));
            prop_assert!(!matches(&longer, &id.to_string()));
        }

        #[test]
        fn printing_and_reading_agree(text in "spiffe://[a-z]{1,3}(/([a-z]{1,3}|\\*)){1,4}(/\\*\\*)?") {
            let pattern: IdPattern = text.parse().expect("valid");
            prop_assert_eq!(pattern.to_string(), text);
        }
    }
}
