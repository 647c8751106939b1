//! Guards: what a connection rests on, and whom to ask whether its peer may still be here.

use std::{
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{ChainHash, PeerId, PeerRule, ServerProfile};

use crate::{Reason, upstream::Transport};

/// What a connection rests on: whom to ask whether its peer may still be here.
#[derive(Clone, Debug)]
pub enum Guard {
    /// A client that came in through this profile; the profile holds its rule.
    Server(Arc<ServerProfile>),
    /// An upstream reached by this transport, under the endpoint's own rule or the transport's.
    Client {
        /// Holds profile and rule.
        transport: Arc<Transport>,
        /// The endpoint's rule, where it brought one.
        rule: Option<Arc<PeerRule>>,
    },
}

impl Guard {
    /// Whether the peer's chain still verifies and its identity still satisfies the rule. The error is the code of what it
    /// broke.
    pub fn recheck(&self, peer: Option<&PeerId>) -> Result<(), Reason> {
        self.verify(peer)?;
        self.admits(peer)
    }

    /// Whether the peer, as it was verified, satisfies the present rule.
    pub fn admits(&self, peer: Option<&PeerId>) -> Result<(), Reason> {
        match self.rule() {
            Some(rule) => rule.check(peer).map_err(|denied| Reason::new(denied.code)),
            None => Ok(()),
        }
    }

    /// Verifies the peer's chain against the present trust; gives until when that holds if nothing changes.
    fn verify(&self, peer: Option<&PeerId>) -> Result<SystemTime, Reason> {
        let chain = peer.map(|peer| &*peer.chain);
        let verified = match self {
            Self::Server(profile) => profile.recheck(chain),
            Self::Client { transport, .. } => match (transport.as_ref(), chain) {
                (Transport::Tls(tls), Some(chain)) => tls.profile.recheck(chain),
                _ => Ok(SystemTime::now() + FOREVER),
            },
        };
        verified.map_err(|failure| Reason::new(failure.code()))
    }

    /// The rule that holds now.
    fn rule(&self) -> Option<Arc<PeerRule>> {
        match self {
            Self::Server(profile) => Some(profile.rule()),
            Self::Client { transport, rule } => match transport.as_ref() {
                Transport::Tls(tls) => Some(rule.clone().unwrap_or_else(|| tls.rule.load_full())),
                Transport::Plain => None,
            },
        }
    }

    /// Counts the states of trust of what is asked.
    fn trust(&self) -> u64 {
        match self {
            Self::Server(profile) => profile.trust_revision(),
            Self::Client { transport, .. } => match transport.as_ref() {
                Transport::Tls(tls) => tls.profile.trust_revision(),
                Transport::Plain => 0,
            },
        }
    }

    /// Address of what is shared: connections with the same one and the same chain are verified together.
    fn place(&self) -> (usize, usize) {
        match self {
            Self::Server(profile) => (Arc::as_ptr(profile).addr(), 0),
            Self::Client { transport, rule } => {
                (Arc::as_ptr(transport).addr(), rule.as_ref().map_or(0, |rule| Arc::as_ptr(rule).addr()))
            }
        }
    }

    /// Whether both are the same one.
    pub(crate) fn is(&self, other: &Self) -> bool {
        self.place() == other.place()
    }
}

/// As good as never, for a connection.
pub(crate) const FOREVER: Duration = Duration::from_hours(365 * 24);

/// One chain under one guard, whoever and how many present it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct PresentedKey((usize, usize), Option<ChainHash>);

/// What a sweep verifies: one chain under one guard.
#[derive(Clone, Debug)]
pub(crate) struct Presented {
    /// What would let the connection in if it came now.
    pub(crate) guard: Guard,
    /// The chain; `None`: a client that presented none.
    pub(crate) peer: Option<Arc<PeerId>>,
    /// The guard is another one than the connection came by.
    pub(crate) replaced: bool,
}

impl Presented {
    pub(crate) fn key(&self) -> PresentedKey {
        PresentedKey(self.guard.place(), self.peer.as_ref().map(|peer| peer.hash))
    }

    /// Verifies; gives the verdict and what it rests on.
    pub(crate) fn check(&self) -> (Result<(), Reason>, Checked) {
        // Read before the verdict: what changes meanwhile is looked at again.
        let (trust, rule) = (self.guard.trust(), self.guard.rule());
        let peer = self.peer.as_deref();
        let (verdict, until) = match self.guard.verify(peer) {
            Ok(until) => (self.guard.admits(peer), until),
            Err(broken) => (Err(broken), SystemTime::now() + FOREVER),
        };
        (verdict, Checked { guard: self.guard.clone(), trust, rule, until })
    }
}

/// What a verdict rests on: while it stays, the verdict does.
#[derive(Clone, Debug)]
pub(crate) struct Checked {
    /// Held, so that its address is not given to another.
    guard: Guard,
    trust: u64,
    rule: Option<Arc<PeerRule>>,
    until: SystemTime,
}

impl Checked {
    /// Whether the verdict still holds for a connection that this guard would let in now.
    pub(crate) fn holds(&self, guard: &Guard, now: SystemTime) -> bool {
        let same_rule = match (&self.rule, &guard.rule()) {
            // Whose rule is our own trust domain changes with our own SVID.
            (Some(held), Some(rule)) => {
                Arc::ptr_eq(held, rule) && !matches!(**rule, PeerRule::OwnTrustDomain(_))
            }
            (None, None) => true,
            _ => false,
        };
        same_rule && now < self.until && self.guard.is(guard) && self.trust == guard.trust()
    }
}
