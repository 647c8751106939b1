//! The table: listeners, hosts and their routes in order; decides about connections and requests.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use http::StatusCode;
use identity::ServerProfile;
use proxy::{
    ConnMeta, Reason,
    message::{Answer, Edits, Head},
    route::{
        Accept, Action, Decision, Dice, EditsIx, Hello, HttpPolicy, Route, RouteId, RouteIx, Router, Shadows,
    },
    upstream::Cluster,
};
use smallvec::SmallVec;

use super::{listener::Listener, matching, ranked::Ranked, redirect};
use crate::plan::{HostGlob, InsecureAction, ListenerPlan, MappingPlan, Outcome, Plan, Unavailable};

/// Paths of ACME's HTTP challenge (RFC 8555 8.3), which is answered in cleartext.
const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What a plan needs to become a table, by the plan's indices.
#[derive(Debug)]
pub struct TableParts {
    /// One for each cluster of the plan.
    pub clusters: Vec<Arc<Cluster>>,
    /// One for each Host of the plan; `None`: cleartext only, or unavailable.
    pub profiles: Vec<Option<Arc<ServerProfile>>>,
}

/// The published table.
#[derive(Debug)]
pub struct Table {
    listeners: HashMap<Arc<str>, Listener, RandomState>,
    hosts: Vec<HostEntry>,
    mappings: Vec<MappingPlan>,
    routes: Vec<Route>,
    /// Index into `routes` for each Mapping that forwards.
    route_of: Vec<Option<RouteIx>>,
    edits: Vec<Edits>,
    no_policy: HttpPolicy,
}

/// A virtual host with its routes in order.
#[derive(Debug)]
pub struct HostEntry {
    /// `namespace/name`.
    pub name: Arc<str>,
    /// Its hostname.
    pub hostname: HostGlob,
    /// Its termination.
    pub profile: Option<Arc<ServerProfile>>,
    /// What happens to insecure requests.
    pub insecure: InsecureAction,
    /// It cannot serve, and why.
    pub unavailable: Option<Unavailable>,
    /// Its Mappings in order.
    routes: Ranked,
}

/// Why a better candidate was not taken, for `explain`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Lost {
    /// The Mapping.
    pub mapping: Arc<str>,
    /// The first condition that it misses.
    pub why: String,
}

impl Table {
    /// Builds the table of a plan.
    pub fn build(plan: Plan, parts: TableParts) -> Self {
        let mut routes = Vec::new();
        let mut edits = vec![Edits::default()];
        let mut route_of = Vec::with_capacity(plan.mappings.len());
        let mut mappings = plan.mappings;
        for mapping in &mut mappings {
            edits.push(std::mem::take(&mut mapping.edits));
            let Outcome::Forward { cluster, timeout, idle_timeout, retry } = &mapping.outcome else {
                route_of.push(None);
                continue;
            };
            let Some(cluster) = parts.clusters.get(*cluster).cloned() else {
                route_of.push(None);
                continue;
            };
            route_of.push(Some(RouteIx(u32::try_from(routes.len()).unwrap_or(u32::MAX))));
            routes.push(Route {
                cluster,
                timeout: *timeout,
                idle_timeout: *idle_timeout,
                retry: retry.clone(),
            });
        }
        let mut profiles = parts.profiles.into_iter();
        let hosts: Vec<HostEntry> = plan
            .hosts
            .into_iter()
            .map(|host| {
                let profile = profiles.next().flatten();
                HostEntry {
                    name: host.name,
                    hostname: host.hostname,
                    profile,
                    insecure: host.insecure,
                    unavailable: host.unavailable,
                    routes: Ranked::new(&host.mappings, &mappings),
                }
            })
            .collect();
        let listeners =
            plan.listeners.into_iter().map(|plan| (Arc::clone(&plan.name), Listener::new(plan, &hosts)));
        let listeners = listeners.collect();
        Self { listeners, hosts, mappings, routes, route_of, edits, no_policy: HttpPolicy::default() }
    }

    /// Listeners of the plan.
    pub fn listeners(&self) -> impl Iterator<Item = &ListenerPlan> {
        self.listeners.values().map(|listener| &listener.plan)
    }

    /// Hosts, in the plan's order.
    pub fn hosts(&self) -> &[HostEntry] {
        &self.hosts
    }

    /// Mappings of a Host in the order in which they are tried.
    pub fn mappings_of<'a>(&'a self, host: &'a HostEntry) -> impl Iterator<Item = &'a MappingPlan> {
        host.routes.order().iter().filter_map(|index| self.mappings.get(*index as usize))
    }

    /// The Host that a request belongs to.
    pub fn host_of(&self, conn: &ConnMeta, authority: &str) -> Option<&HostEntry> {
        let listener = self.listeners.get(&conn.listener)?;
        let host = listener.host(conn, listener.authority(conn, authority));
        host.and_then(|index| self.hosts.get(index))
    }

    /// The candidates that stand before the winner, and why each lost; at most `most` of them.
    pub fn lost(&self, head: &Head<'_>, dice: Dice, most: usize) -> Vec<Lost> {
        let Some(listener) = self.listeners.get(&head.conn.listener) else { return Vec::new() };
        let authority = listener.authority(head.conn, head.authority);
        let host = listener.host(head.conn, authority).and_then(|index| self.hosts.get(index));
        let mut lost = Vec::new();
        for index in host.map(|host| host.routes.order()).unwrap_or_default() {
            let Some(mapping) = self.mappings.get(*index as usize) else { continue };
            let why = match matching::missed(mapping, head, authority) {
                Some(why) => why.to_owned(),
                None if mapping.share.contains(&dice.value()) => return lost,
                None => {
                    format!(
                        "the dice shows {}, its share is {}..{}",
                        dice.value(),
                        mapping.share.start,
                        mapping.share.end
                    )
                }
            };
            if lost.len() < most {
                lost.push(Lost { mapping: Arc::clone(&mapping.name), why });
            }
        }
        lost
    }

    /// The first Mapping in order that meets the request.
    fn find(&self, host: &HostEntry, head: &Head<'_>, authority: &str, dice: Dice) -> Option<u32> {
        let mut ranks: SmallVec<[u32; 16]> = SmallVec::new();
        host.routes.candidates(head, authority, |found| ranks.extend_from_slice(found));
        ranks.sort_unstable();
        ranks.dedup();
        for rank in ranks {
            let index = host.routes.order().get(rank as usize)?;
            let mapping = self.mappings.get(*index as usize)?;
            if mapping.share.contains(&dice.value()) && matching::missed(mapping, head, authority).is_none() {
                return Some(*index);
            }
        }
        None
    }

    fn decide(&self, listener: &Listener, head: &Head<'_>, dice: Dice) -> Decision {
        let authority = listener.authority(head.conn, head.authority);
        let host = listener.host(head.conn, authority).and_then(|index| self.hosts.get(index));
        let Some(host) = host else {
            return respond(StatusCode::NOT_FOUND, Reason::NO_HOST, RouteId::None);
        };
        if let Some(tls) = &head.conn.tls {
            let same = host.profile.as_ref().is_some_and(|profile| Arc::ptr_eq(profile, &tls.profile));
            if !same {
                return respond(StatusCode::MISDIRECTED_REQUEST, Reason::MISDIRECTED, RouteId::None);
            }
        }
        if let Some(unavailable) = &host.unavailable {
            return respond(StatusCode::SERVICE_UNAVAILABLE, unavailable.reason.clone(), RouteId::None);
        }
        let secure = listener.is_secure(head);
        let insecure = if secure { InsecureAction::Route } else { host.insecure };
        let mapping = self.find(host, head, authority, dice);
        // Emissary routes the challenge of a Mapping that is there for it, whatever the Host does with insecure requests.
        let meant = mapping.and_then(|index| self.mappings.get(index as usize));
        if insecure == InsecureAction::Reject && meant.is_none_or(|mapping| &*mapping.prefix != CHALLENGE) {
            return respond(StatusCode::NOT_FOUND, Reason::INSECURE_REJECTED, RouteId::None);
        }
        let Some(index) = mapping else {
            return respond(StatusCode::NOT_FOUND, Reason::NO_ROUTE, RouteId::None);
        };
        if insecure == InsecureAction::Redirect && !head.path.starts_with(CHALLENGE) {
            return decision(
                Action::Respond(Box::new(redirect::to_https(head))),
                EditsIx::default(),
                RouteId::Rule(index),
            );
        }
        self.take(index, head, secure)
    }

    fn take(&self, index: u32, head: &Head<'_>, secure: bool) -> Decision {
        let why = RouteId::Rule(index);
        let Some(mapping) = self.mappings.get(index as usize) else {
            return respond(StatusCode::NOT_FOUND, Reason::NO_ROUTE, RouteId::None);
        };
        match &mapping.outcome {
            Outcome::Unavailable(unavailable) => {
                respond(StatusCode::SERVICE_UNAVAILABLE, unavailable.reason.clone(), why)
            }
            Outcome::Redirect(plan) => {
                let scheme = if secure { "https" } else { head.scheme.as_str() };
                let answer = redirect::answer(plan, mapping.prefix.len(), head, scheme);
                decision(Action::Respond(Box::new(answer)), EditsIx::default(), why)
            }
            Outcome::Forward { .. } => match self.route_of.get(index as usize).copied().flatten() {
                Some(route) => decision(Action::Forward(route), EditsIx(index + 1), why),
                None => respond(StatusCode::SERVICE_UNAVAILABLE, Reason::INTERNAL, why),
            },
        }
    }
}

impl Router for Table {
    fn accept(&self, conn: &ConnMeta, hello: Option<&Hello<'_>>) -> Accept {
        let Some(listener) = self.listeners.get(&conn.listener) else {
            return Accept::Refuse(Reason::NO_SNI_PROFILE);
        };
        let Some(hello) = hello else { return Accept::Plain };
        match listener.terminates(hello.sni).and_then(|index| self.hosts.get(index)) {
            Some(HostEntry { unavailable: Some(unavailable), .. }) => {
                Accept::Refuse(unavailable.reason.clone())
            }
            Some(HostEntry { profile: Some(profile), .. }) => Accept::Terminate(Arc::clone(profile)),
            _ => Accept::Refuse(Reason::NO_SNI_PROFILE),
        }
    }

    fn connection(&self, _conn: &ConnMeta, _dice: Dice) -> Decision {
        decision(Action::Close(Reason::NO_ROUTE), EditsIx::default(), RouteId::None)
    }

    fn request(&self, head: &Head<'_>, dice: Dice) -> Decision {
        match self.listeners.get(&head.conn.listener) {
            Some(listener) => self.decide(listener, head, dice),
            None => respond(StatusCode::NOT_FOUND, Reason::NO_HOST, RouteId::None),
        }
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a decision's indices come from the table that made it, and travel with its view"
    )]
    fn route(&self, ix: RouteIx) -> &Route {
        &self.routes[ix.0 as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a decision's indices come from the table that made it, and travel with its view"
    )]
    fn edits(&self, ix: EditsIx) -> &Edits {
        &self.edits[ix.0 as usize]
    }

    fn name(&self, id: RouteId) -> &str {
        match id {
            RouteId::Rule(index) => self.mappings.get(index as usize).map_or("", |mapping| &mapping.name),
            RouteId::None => "",
        }
    }

    fn http(&self, conn: &ConnMeta) -> &HttpPolicy {
        self.listeners.get(&conn.listener).map_or(&self.no_policy, |listener| &listener.plan.http)
    }
}

fn decision(action: Action, edits: EditsIx, why: RouteId) -> Decision {
    Decision { action, edits, shadows: Shadows::new(), why }
}

fn respond(status: StatusCode, reason: Reason, why: RouteId) -> Decision {
    decision(Action::Respond(Box::new(Answer::new(status, reason))), EditsIx::default(), why)
}
