//! The connection registry: every open connection with its identity, so that drain, revocation and policy changes are one mechanism.
//!
//! A connection's own task registers it, keeps the [`Entry`] as long as the connection lives, and listens for orders. The
//! control side sees the [`Facts`] of all connections and orders by predicate. Touched once for each connection, never for
//! each request: what a request asks ([`Entry::draining`]) is one relaxed load.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::{Duration, SystemTime},
};

use foldhash::{HashMap, HashMapExt as _};
use identity::PeerId;
use parking_lot::Mutex;
use tokio::{sync::Notify, time::Instant};

pub use crate::guard::Guard;
use crate::{
    ConnMeta, Reason,
    guard::{Checked, Presented},
    revoke::Present,
    route::Router,
};

/// Which side of us a connection is on.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Role {
    /// A client's connection to one of our listeners.
    Downstream,
    /// A pooled connection or a tunnel to an upstream.
    Upstream,
}

/// What the control side can order of a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Order {
    /// Finish what runs, then close; cut after the deadline.
    Drain {
        /// Why.
        reason: Reason,
        /// When what still runs is cut, from now.
        deadline: Duration,
    },
    /// Decide again: `connection`, and `request` on open heads.
    Recheck,
}

impl Order {
    /// Why, if it is a drain.
    pub fn reason(&self) -> Option<&Reason> {
        match self {
            Self::Drain { reason, .. } => Some(reason),
            Self::Recheck => None,
        }
    }
}

/// A drain as a connection receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Drain {
    /// Why.
    pub reason: Reason,
    /// When what still runs is cut.
    pub deadline: Instant,
}

impl Drain {
    /// Whether an idle connection goes at once instead of carrying one more request: nothing more may be asked on it.
    pub fn at_once(&self) -> bool {
        self.reason == Reason::TRUST_REMOVED || self.reason == Reason::MISDIRECTED
    }
}

/// What the control side sees of a connection.
#[derive(Clone, Debug)]
pub struct Facts {
    /// Which side.
    pub role: Role,
    /// Listener or cluster.
    pub name: Arc<str>,
    /// The connection, for downstream ones whose preface and handshake are done.
    pub meta: Option<Arc<ConnMeta>>,
    /// The peer, if it has an identity.
    pub peer: Option<Arc<PeerId>>,
    /// What it rests on; `None` for cleartext.
    pub guard: Option<Guard>,
}

impl Facts {
    /// A connection of which nothing more is known yet.
    pub fn new(role: Role, name: Arc<str>) -> Self {
        Self { role, name, meta: None, peer: None, guard: None }
    }
}

/// Orders that a connection has not taken yet.
#[derive(Debug, Default)]
struct Inbox {
    drain: Option<Drain>,
    /// The drain was handed to the connection.
    drain_taken: bool,
    recheck: bool,
}

/// The shared part of an entry.
pub(crate) struct Slot {
    facts: Mutex<Facts>,
    /// The last verdict about its peer.
    checked: Mutex<Option<Checked>>,
    inbox: Mutex<Inbox>,
    draining: AtomicBool,
    notify: Notify,
}

impl Slot {
    /// Notes what the last verdict about the peer rests on.
    pub(crate) fn checked(&self, checked: Checked) {
        *self.checked.lock() = Some(checked);
    }

    pub(crate) fn order(&self, order: &Order) {
        match order {
            Order::Recheck => {
                self.inbox.lock().recheck = true;
                self.notify.notify_one();
            }
            Order::Drain { reason, deadline } => {
                self.drain(Drain { reason: reason.clone(), deadline: Instant::now() + *deadline });
            }
        }
    }

    /// Of two drains, the sooner deadline and its reason win.
    fn drain(&self, drain: Drain) {
        let mut inbox = self.inbox.lock();
        if inbox.drain.as_ref().is_some_and(|present| present.deadline <= drain.deadline) {
            return;
        }
        inbox.drain = Some(drain);
        inbox.drain_taken = false;
        self.draining.store(true, Ordering::Relaxed);
        drop(inbox);
        self.notify.notify_one();
    }
}

/// Locks are taken by connections once at each end; sixteen of them keep workers out of each other's way.
const SHARDS: usize = 16;

type Shard = Mutex<HashMap<u64, Arc<Slot>>>;

/// All open connections of the process.
pub struct Registry {
    next: AtomicU64,
    /// The process drains: downstream connections that register later get this order too.
    standing: Mutex<Option<Drain>>,
    shards: [Shard; SHARDS],
}

impl Default for Registry {
    fn default() -> Self {
        Self {
            next: AtomicU64::new(0),
            standing: Mutex::default(),
            shards: std::array::from_fn(|_| Mutex::new(HashMap::new())),
        }
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Registry").field("len", &self.len()).finish_non_exhaustive()
    }
}

impl Registry {
    /// An empty registry.
    pub fn new() -> Arc<Self> {
        Arc::default()
    }

    /// Takes a connection in. It is out again when the entry is dropped.
    pub fn register(self: &Arc<Self>, facts: Facts) -> Entry {
        let id = self.next.fetch_add(1, Ordering::Relaxed);
        let slot = Arc::new(Slot {
            facts: Mutex::new(facts),
            checked: Mutex::default(),
            inbox: Mutex::default(),
            draining: AtomicBool::new(false),
            notify: Notify::new(),
        });
        let downstream = slot.facts.lock().role == Role::Downstream;
        self.shard(id).lock().insert(id, Arc::clone(&slot));
        // Looked at after the entry is in: `drain` either sees the entry, or left the order here before.
        if downstream && let Some(drain) = self.standing.lock().clone() {
            slot.drain(drain);
        }
        Entry { registry: Arc::clone(self), id, slot }
    }

    /// Open connections of both sides.
    pub fn len(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// No connection is open.
    pub fn is_empty(&self) -> bool {
        self.shards.iter().all(|shard| shard.lock().is_empty())
    }

    /// Open connections of one side.
    pub fn count(&self, role: Role) -> usize {
        let mut count = 0;
        self.each(|facts, _| count += usize::from(facts.role == role));
        count
    }

    /// Open connections of one side by the name of their listener or cluster.
    pub fn count_by_name(&self, role: Role) -> BTreeMap<Arc<str>, usize> {
        let mut counts = BTreeMap::new();
        self.each(|facts, _| {
            if facts.role == role {
                *counts.entry(Arc::clone(&facts.name)).or_default() += 1;
            }
        });
        counts
    }

    /// The facts of every open connection.
    pub fn facts(&self) -> Vec<Facts> {
        let mut all = Vec::new();
        self.each(|facts, _| all.push(facts.clone()));
        all
    }

    /// Every connection whose peer has to be looked at again, with what has to be verified.
    pub(crate) fn stale<R: Router>(
        &self,
        present: &Present<'_, R>,
        now: SystemTime,
    ) -> Vec<(Arc<Slot>, Presented)> {
        let mut stale = Vec::new();
        for shard in &self.shards {
            for slot in shard.lock().values() {
                let presented = present.stale(&slot.facts.lock(), slot.checked.lock().as_ref(), now);
                stale.extend(presented.map(|presented| (Arc::clone(slot), presented)));
            }
        }
        stale
    }

    /// Gives an order to every connection that `pick` chooses, and says how many those were.
    pub fn order(&self, order: &Order, pick: impl Fn(&Facts) -> bool) -> usize {
        let mut count = 0;
        self.each(|facts, slot| {
            if pick(facts) {
                slot.order(order);
                count += 1;
            }
        });
        count
    }

    /// The process drains: every downstream connection gets the order, also one that was accepted and is not registered yet.
    pub fn drain(&self, reason: &Reason, deadline: Duration) {
        let drain = Drain { reason: reason.clone(), deadline: Instant::now() + deadline };
        *self.standing.lock() = Some(drain.clone());
        self.each(|facts, slot| {
            if facts.role == Role::Downstream {
                slot.drain(drain.clone());
            }
        });
    }

    /// The process drains, and every connection has its order.
    pub fn is_draining(&self) -> bool {
        self.standing.lock().is_some()
    }

    fn each(&self, mut visit: impl FnMut(&Facts, &Slot)) {
        for shard in &self.shards {
            for slot in shard.lock().values() {
                visit(&slot.facts.lock(), slot);
            }
        }
    }

    fn shard(&self, id: u64) -> &Shard {
        let [first, ..] = &self.shards;
        let index = usize::try_from(id % SHARDS as u64).unwrap_or_default();
        self.shards.get(index).unwrap_or(first)
    }
}

/// One open connection, held by its task. Dropping it takes it out of the registry.
pub struct Entry {
    registry: Arc<Registry>,
    id: u64,
    slot: Arc<Slot>,
}

impl fmt::Debug for Entry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Entry").field("id", &self.id).finish_non_exhaustive()
    }
}

impl Entry {
    /// Adds what was learned by preface and handshake. The caller must then ask the guard once more if its material changed
    /// since the handshake, because a sweep may have passed in between.
    pub fn learn(&self, add: impl FnOnce(&mut Facts)) {
        add(&mut self.slot.facts.lock());
    }

    /// Whether a drain was ordered: the next answer says goodbye. One relaxed load.
    pub fn draining(&self) -> bool {
        self.slot.draining.load(Ordering::Relaxed)
    }

    /// The drain that was ordered, if any.
    pub fn drain(&self) -> Option<Drain> {
        self.slot.inbox.lock().drain.clone()
    }

    /// The next order. A second drain with a sooner deadline is handed out again. Cancel-safe.
    pub async fn ordered(&self) -> Received {
        loop {
            if let Some(received) = self.take() {
                return received;
            }
            self.slot.notify.notified().await;
        }
    }

    fn take(&self) -> Option<Received> {
        let mut inbox = self.slot.inbox.lock();
        if !inbox.drain_taken
            && let Some(drain) = inbox.drain.clone()
        {
            inbox.drain_taken = true;
            return Some(Received::Drain(drain));
        }
        std::mem::take(&mut inbox.recheck).then_some(Received::Recheck)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let _gone = self.registry.shard(self.id).lock().remove(&self.id);
    }
}

/// An order as a connection receives it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Received {
    /// Finish what runs, close, cut at the deadline.
    Drain(Drain),
    /// Decide again.
    Recheck,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn drain(reason: Reason, secs: u64) -> Order {
        Order::Drain { reason, deadline: Duration::from_secs(secs) }
    }

    #[tokio::test(start_paused = true)]
    async fn an_order_reaches_the_picked_connections_alone_and_once() {
        let registry = Registry::new();
        let a = registry.register(Facts::new(Role::Downstream, "a".into()));
        let b = registry.register(Facts::new(Role::Upstream, "b".into()));
        let order = drain(Reason::TRUST_REMOVED, 5);
        assert_eq!(registry.order(&order, |facts| facts.role == Role::Upstream), 1);
        assert!(!a.draining());
        assert!(b.draining());
        let Received::Drain(received) = b.ordered().await else { panic!("not a drain") };
        assert_eq!(received.reason, Reason::TRUST_REMOVED);
        assert_eq!(received.deadline, Instant::now() + Duration::from_secs(5));
        let again = tokio::time::timeout(Duration::from_mins(1), b.ordered()).await;
        assert!(again.is_err(), "the same drain was handed out twice");
    }

    #[tokio::test(start_paused = true)]
    async fn the_sooner_of_two_drains_wins_in_either_order() {
        let registry = Registry::new();
        let entry = registry.register(Facts::new(Role::Downstream, "a".into()));
        registry.order(&drain(Reason::DRAIN_TIMEOUT, 30), |_| true);
        assert!(matches!(entry.ordered().await, Received::Drain(_)));
        registry.order(&drain(Reason::TRUST_REMOVED, 5), |_| true);
        let Received::Drain(second) = entry.ordered().await else { panic!("not a drain") };
        assert_eq!(second.reason, Reason::TRUST_REMOVED);
        registry.order(&drain(Reason::DRAIN_TIMEOUT, 30), |_| true);
        assert_eq!(entry.drain().map(|drain| drain.reason), Some(Reason::TRUST_REMOVED));
    }

    #[tokio::test]
    async fn a_recheck_wakes_a_waiting_connection() {
        let registry = Registry::new();
        let entry = registry.register(Facts::new(Role::Downstream, "a".into()));
        let (received, _) =
            tokio::join!(entry.ordered(), async { registry.order(&Order::Recheck, |_| true) });
        assert_eq!(received, Received::Recheck);
    }

    #[test]
    fn dropping_an_entry_takes_it_out() {
        let registry = Registry::new();
        let entries: Vec<_> =
            (0..40).map(|_| registry.register(Facts::new(Role::Downstream, "a".into()))).collect();
        assert_eq!((registry.len(), registry.count(Role::Upstream)), (40, 0));
        drop(entries);
        assert!(registry.is_empty());
    }
}
