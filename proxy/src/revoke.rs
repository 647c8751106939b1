//! The revocation sweep: when trust, a revocation list, a peer rule or what guards a listener or a cluster changes, each
//! distinct chain is verified once, and the connections whose chain no longer holds are drained, then cut.

use std::{collections::BTreeMap, sync::Arc, time::Duration, time::SystemTime};

use foldhash::{HashMap, HashMapExt as _};
use tokio::time::Instant;

use crate::{
    Reason,
    guard::{Checked, FOREVER, Guard, Presented, PresentedKey},
    observe::{Counter, Observe},
    registry::{Facts, Order, Registry},
    route::{Accept, Hello, Router},
    upstream::{Cluster, Transport},
};

/// What still runs this long after its trust was taken away is cut.
const CUT_AFTER: Duration = Duration::from_secs(5);
/// What still runs this long after the peer's certificate has ended is cut: nobody took trust away, the peer is only late
/// to come back with a newer one (spiffe.md 4.5).
const CUT_AFTER_EXPIRY: Duration = Duration::from_secs(30);
/// Peers that one sweep names in the log; the others are counted.
const MAX_NAMED: usize = 16;

/// What a sweep has done.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Swept {
    /// Distinct chains that were verified.
    pub verified: usize,
    /// Connections that were told to end because their peer may not be here any longer.
    pub drained: usize,
}

/// What would guard connections if they came now.
pub(crate) struct Present<'a, R> {
    table: &'a R,
    clusters: HashMap<&'a str, &'a Arc<Cluster>>,
}

impl<'a, R: Router> Present<'a, R> {
    pub(crate) fn new(table: &'a R, clusters: &'a [Arc<Cluster>]) -> Self {
        Self { table, clusters: clusters.iter().map(|cluster| (&*cluster.name, cluster)).collect() }
    }

    /// The guard of a connection: the one it came by, unless its Host or its cluster has another one now.
    fn guard(&self, facts: &Facts) -> Option<Guard> {
        let held = facts.guard.as_ref()?;
        let now = match held {
            Guard::Server(_) => facts.meta.as_deref().and_then(|meta| {
                let hello = Hello { sni: meta.sni.as_deref(), alpn: &[] };
                match self.table.accept(meta, Some(&hello)) {
                    Accept::Terminate(profile) | Accept::TerminateTcp(profile) => {
                        Some(Guard::Server(profile))
                    }
                    Accept::Passthrough | Accept::Plain | Accept::Refuse(_) => None,
                }
            }),
            Guard::Client { rule: None, .. } => {
                let cluster = self.clusters.get(&*facts.name);
                cluster.map(|cluster| Guard::Client { transport: Arc::clone(&cluster.transport), rule: None })
            }
            Guard::Client { rule: Some(_), .. } => None,
        };
        // What nobody verifies any longer takes nothing away.
        let now = now.filter(|now| match now {
            Guard::Client { transport, .. } => matches!(**transport, Transport::Tls(_)),
            Guard::Server(_) => true,
        });
        Some(now.unwrap_or_else(|| held.clone()))
    }

    /// What has to be verified of a connection, unless that was done and still holds.
    pub(crate) fn stale(
        &self,
        facts: &Facts,
        checked: Option<&Checked>,
        now: SystemTime,
    ) -> Option<Presented> {
        let guard = self.guard(facts)?;
        if checked.is_some_and(|checked| checked.holds(&guard, now)) {
            return None;
        }
        let replaced = facts.guard.as_ref().is_some_and(|held| !held.is(&guard));
        Some(Presented { guard, peer: facts.peer.clone(), replaced })
    }
}

/// Verifies every distinct chain of open connections again that something has changed for. `known`: since when the change is.
pub(crate) fn sweep<R: Router>(
    registry: &Registry,
    present: &Present<'_, R>,
    observe: &Observe,
    known: Instant,
) -> Swept {
    let stale = registry.stale(present, SystemTime::now());
    let mut verdicts: HashMap<PresentedKey, (Option<Order>, Checked)> = HashMap::new();
    let mut said = Said::default();
    let mut drained = 0;
    for (slot, presented) in &stale {
        let key = presented.key();
        let (order, checked) = verdicts.entry(key).or_insert_with(|| {
            let (verdict, checked) = presented.check();
            let order = order(verdict, presented.replaced, known);
            if let Some((order, Some(broken))) = &order {
                said.name(presented, order, broken);
            }
            (order.map(|(order, _)| order), checked)
        });
        slot.checked(checked.clone());
        let Some(order) = order else { continue };
        slot.order(order);
        if order.reason() != Some(&Reason::MISDIRECTED) {
            observe.count_on_control(Counter::TrustRemoved);
            drained += 1;
        }
    }
    said.rest();
    Swept { verified: verdicts.len(), drained }
}

/// What a verdict means for a connection, with the code of what is broken.
fn order(verdict: Result<(), Reason>, replaced: bool, known: Instant) -> Option<(Order, Option<Reason>)> {
    let within = |limit: Duration| limit.saturating_sub(known.elapsed());
    match verdict {
        Err(broken) if broken.code() == "peer_expired" => {
            Some((Order::Drain { reason: broken.clone(), deadline: within(CUT_AFTER_EXPIRY) }, Some(broken)))
        }
        Err(broken) => {
            let order = Order::Drain { reason: Reason::TRUST_REMOVED, deadline: within(CUT_AFTER) };
            Some((order, Some(broken)))
        }
        // Its requests would all be misdirected: the client comes back by the profile that holds now. What runs goes on.
        Ok(()) if replaced => Some((Order::Drain { reason: Reason::MISDIRECTED, deadline: FOREVER }, None)),
        Ok(()) => None,
    }
}

/// What a sweep says: a line for each peer, but never thousands.
#[derive(Default)]
struct Said {
    named: usize,
    more: BTreeMap<Reason, usize>,
}

impl Said {
    fn name(&mut self, presented: &Presented, order: &Order, broken: &Reason) {
        if self.named == MAX_NAMED {
            *self.more.entry(broken.clone()).or_default() += 1;
            return;
        }
        self.named += 1;
        let peer = presented.peer.as_ref();
        let id = peer.and_then(|peer| peer.spiffe_id.as_ref()).map(ToString::to_string);
        let serial = peer.map(|peer| peer.serial.as_str());
        let side = match presented.guard {
            Guard::Server(_) => "downstream",
            Guard::Client { .. } => "upstream",
        };
        let ends = order.reason().map(Reason::code);
        tracing::warn!(
            reason = broken.code(),
            ends,
            side,
            peer = id,
            serial,
            "a peer may not be here any longer: its connections drain"
        );
    }

    fn rest(&self) {
        for (broken, count) in &self.more {
            tracing::warn!(reason = broken.code(), peers = count, "more peers of the same kind");
        }
    }
}
