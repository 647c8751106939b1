//! The table: listeners, hosts and their routes in order; decides about connections and requests.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use http::StatusCode;
use identity::ServerProfile;
use proxy::{
    ConnMeta, Reason,
    message::{Answer, Edits, Head},
    net::Layer,
    route::{
        Accept, Action, Decision, Dice, EditsIx, Hello, HttpPolicy, Route, RouteId, RouteIx, Router, Shadows,
    },
    upstream::Cluster,
};
use smallvec::SmallVec;

use super::{listener::Listener, matching, ranked::Ranked, redirect};
use crate::plan::{
    Cleartext, HostGlob, InsecureAction, ListenerPlan, MappingPlan, Outcome, Plan, TcpMappingPlan,
    Unavailable,
};

/// Paths of ACME's HTTP challenge (RFC 8555 8.3), which is answered in cleartext.
const CHALLENGE: &str = "/.well-known/acme-challenge/";

/// What a plan needs to become a table, by the plan's indices.
#[derive(Debug)]
pub struct TableParts {
    /// One for each cluster of the plan.
    pub clusters: Vec<Arc<Cluster>>,
    /// One for each Host of the plan; `None`: cleartext only, or unavailable.
    pub profiles: Vec<Option<Arc<ServerProfile>>>,
    /// The same for what is relayed as bytes; empty where nothing is.
    pub tcp_profiles: Vec<Option<Arc<ServerProfile>>>,
}

/// The published table.
#[derive(Debug)]
pub struct Table {
    listeners: HashMap<Arc<str>, Listener, RandomState>,
    hosts: Vec<HostEntry>,
    mappings: Vec<MappingPlan>,
    tcp_mappings: Vec<TcpMappingPlan>,
    routes: Vec<Route>,
    /// Index into `routes` for each Mapping, and then for each TCPMapping, that forwards.
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
    /// Its termination where bytes are inside.
    pub tcp_profile: Option<Arc<ServerProfile>>,
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
        let mut route_of = Vec::with_capacity(plan.mappings.len() + plan.tcp_mappings.len());
        let mut mappings = plan.mappings;
        for mapping in &mut mappings {
            edits.push(std::mem::take(&mut mapping.edits));
        }
        let tcp_mappings = plan.tcp_mappings;
        let outcomes = mappings.iter().map(|mapping| &mapping.outcome);
        for outcome in outcomes.chain(tcp_mappings.iter().map(|mapping| &mapping.outcome)) {
            let route = route(outcome, &parts.clusters);
            let index = RouteIx(u32::try_from(routes.len()).unwrap_or(u32::MAX));
            route_of.push(route.is_some().then_some(index));
            routes.extend(route);
        }
        let mut profiles = parts.profiles.into_iter();
        let mut tcp_profiles = parts.tcp_profiles.into_iter();
        let hosts: Vec<HostEntry> = plan
            .hosts
            .into_iter()
            .map(|host| {
                let profile = profiles.next().flatten();
                let tcp_profile = tcp_profiles.next().flatten();
                HostEntry {
                    name: host.name,
                    hostname: host.hostname,
                    profile,
                    tcp_profile,
                    insecure: host.insecure,
                    unavailable: host.unavailable,
                    routes: Ranked::new(&host.mappings, &mappings),
                }
            })
            .collect();
        let listener =
            |plan: ListenerPlan| (Arc::clone(&plan.name), Listener::new(plan, &hosts, &tcp_mappings));
        let listeners = plan.listeners.into_iter().map(listener).collect();
        let no_policy = HttpPolicy::default();
        Self { listeners, hosts, mappings, tcp_mappings, routes, route_of, edits, no_policy }
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

    /// TCPMappings, in the plan's order.
    pub fn tcp_mappings(&self) -> &[TcpMappingPlan] {
        &self.tcp_mappings
    }

    /// The Host that terminates a connection for TCPMappings; `None`: it is passed on as it is.
    pub fn tcp_host(&self, listener: &str, sni: Option<&str>) -> Option<&HostEntry> {
        let listener = self.listeners.get(listener)?;
        listener.tcp.named(sni)?;
        listener.terminates(sni).and_then(|index| self.hosts.get(index))
    }

    /// The TCPMappings that share a connection by weight.
    pub fn tcp_group<'a>(&'a self, conn: &ConnMeta) -> impl Iterator<Item = &'a TcpMappingPlan> {
        let group = self.listeners.get(&conn.listener).and_then(|listener| group(listener, conn));
        group.unwrap_or_default().iter().filter_map(|index| self.tcp_mappings.get(*index))
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
        let Some(hello) = hello else {
            let refused = listener.plan.cleartext == Cleartext::Refused;
            return if refused { Accept::Refuse(Reason::TLS_REQUIRED) } else { Accept::Plain };
        };
        let host = listener.terminates(hello.sni).and_then(|index| self.hosts.get(index));
        // Of a client that names nobody it is only known what it means where a Host ends its TLS.
        let named = listener.tcp.named(hello.sni).filter(|_| hello.sni.is_some() || host.is_some());
        match (named, host) {
            (Some(_), None) => return Accept::Passthrough,
            // Without a `host` nobody asks for TLS to end here.
            (None, _) if listener.tcp.rest().is_some() => return Accept::Passthrough,
            (None, _) if listener.plan.layer == Layer::Tcp => return Accept::Refuse(Reason::NO_SNI_PROFILE),
            _ => {}
        }
        match host {
            Some(HostEntry { unavailable: Some(unavailable), .. }) => {
                Accept::Refuse(unavailable.reason.clone())
            }
            Some(HostEntry { tcp_profile: Some(profile), .. }) if named.is_some() => {
                Accept::TerminateTcp(Arc::clone(profile))
            }
            Some(HostEntry { profile: Some(profile), .. }) if named.is_none() => {
                Accept::Terminate(Arc::clone(profile))
            }
            _ => Accept::Refuse(Reason::NO_SNI_PROFILE),
        }
    }

    fn connection(&self, conn: &ConnMeta, dice: Dice) -> Decision {
        let close = |reason, why| decision(Action::Close(reason), EditsIx::default(), why);
        let group = self.listeners.get(&conn.listener).and_then(|listener| group(listener, conn));
        let mapping = group.unwrap_or_default().iter().find_map(|index| {
            let mapping = self.tcp_mappings.get(*index)?;
            mapping.share.contains(&dice.value()).then_some((*index, mapping))
        });
        let Some((index, mapping)) = mapping else { return close(Reason::NO_ROUTE, RouteId::None) };
        let index = self.mappings.len() + index;
        let why = RouteId::Rule(u32::try_from(index).unwrap_or(u32::MAX));
        if let Outcome::Unavailable(unavailable) = &mapping.outcome {
            return close(unavailable.reason.clone(), why);
        }
        match self.route_of.get(index).copied().flatten() {
            Some(route) => decision(Action::Tunnel(route), EditsIx::default(), why),
            None => close(Reason::INTERNAL, why),
        }
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
            RouteId::Rule(index) => {
                let tcp = || self.tcp_mappings.get((index as usize).checked_sub(self.mappings.len())?);
                let mapping = self.mappings.get(index as usize).map(|mapping| &*mapping.name);
                mapping.or_else(|| tcp().map(|mapping| &*mapping.name)).unwrap_or_default()
            }
            RouteId::None => "",
        }
    }

    fn http(&self, conn: &ConnMeta) -> &HttpPolicy {
        self.listeners.get(&conn.listener).map_or(&self.no_policy, |listener| &listener.plan.http)
    }
}

/// The TCPMappings that share a connection: those for its server name, else those without `host`.
fn group<'a>(listener: &'a Listener, conn: &ConnMeta) -> Option<&'a [usize]> {
    // Of a name that was not asked for, only a session that was terminated here knows.
    let sni = conn.sni.as_deref();
    let named = listener.tcp.named(sni).filter(|_| sni.is_some() || conn.tls.is_some());
    named.or_else(|| listener.tcp.rest())
}

fn route(outcome: &Outcome, clusters: &[Arc<Cluster>]) -> Option<Route> {
    let Outcome::Forward { cluster, timeout, idle_timeout, retry, upgrades } = outcome else { return None };
    let cluster = clusters.get(*cluster).cloned()?;
    Some(Route {
        cluster,
        timeout: *timeout,
        idle_timeout: *idle_timeout,
        retry: retry.clone(),
        upgrades: upgrades.clone(),
    })
}

fn decision(action: Action, edits: EditsIx, why: RouteId) -> Decision {
    Decision { action, edits, shadows: Shadows::new(), why }
}

fn respond(status: StatusCode, reason: Reason, why: RouteId) -> Decision {
    decision(Action::Respond(Box::new(Answer::new(status, reason))), EditsIx::default(), why)
}
