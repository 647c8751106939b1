//! A listener: which of its Hosts a name means, and which requests are secure.

use std::{collections::HashMap, sync::Arc};

use foldhash::fast::RandomState;
use proxy::{
    ConnMeta,
    message::{Head, Scheme},
};

use super::{HostEntry, tcp::TcpRoutes, text_index::reversed, trie::Trie};
use crate::plan::{HostGlob, ListenerPlan, SecurityModel, TcpMappingPlan};

/// A listener of the plan with its Hosts.
#[derive(Debug)]
pub(super) struct Listener {
    pub(super) plan: ListenerPlan,
    /// All its Hosts.
    clear: Names,
    /// Those that terminate TLS, or would if they could: a connection over TLS reaches no other.
    tls: Names,
    /// Of those, the one that a client without a server name gets.
    nameless: Option<usize>,
    pub(super) tcp: TcpRoutes,
}

/// Indices by hostname.
#[derive(Debug, Default)]
pub(super) struct Names {
    exact: HashMap<Arc<str>, usize, RandomState>,
    /// Length of the text and index; the texts are reversed.
    suffixes: Trie<(usize, usize)>,
    prefixes: Trie<(usize, usize)>,
    any: Option<usize>,
}

impl Listener {
    pub(super) fn new(plan: ListenerPlan, hosts: &[HostEntry], tcp: &[TcpMappingPlan]) -> Self {
        let of_plan = || plan.hosts.iter().filter_map(|index| Some((*index, hosts.get(*index)?)));
        let terminating =
            || of_plan().filter(|(_, host)| host.profile.is_some() || host.unavailable.is_some());
        let clear = Names::new(of_plan().map(|(index, host)| (index, &host.hostname)));
        let tls = Names::new(terminating().map(|(index, host)| (index, &host.hostname)));
        let mut all = terminating();
        let only = all.next().map(|(index, _)| index).filter(|_| all.next().is_none());
        let nameless = tls.any.or(only);
        let tcp = TcpRoutes::new(&plan.tcp, tcp);
        Self { plan, clear, tls, nameless, tcp }
    }

    /// The Host that a request belongs to.
    pub(super) fn host(&self, conn: &ConnMeta, authority: &str) -> Option<usize> {
        if conn.tls.is_some() { self.tls.find(authority) } else { self.clear.find(authority) }
    }

    /// The Host that terminates for a server name. Without one: the Host `*`, or the only one.
    pub(super) fn terminates(&self, sni: Option<&str>) -> Option<usize> {
        sni.map_or(self.nameless, |name| self.tls.find(name))
    }

    /// The authority that Hosts are compared with.
    pub(super) fn authority<'a>(&self, conn: &ConnMeta, authority: &'a str) -> &'a str {
        if !self.plan.strip_port {
            return authority;
        }
        // A port that was left to the system is known from the connection alone.
        let own = Some(self.plan.bind.port()).filter(|port| *port != 0).unwrap_or(conn.local.port());
        match authority.rsplit_once(':') {
            Some((host, port)) if port.parse() == Ok(own) => host,
            _ => authority,
        }
    }

    pub(super) fn is_secure(&self, head: &Head<'_>) -> bool {
        match self.plan.security {
            SecurityModel::Secure => true,
            SecurityModel::Insecure => false,
            SecurityModel::Xfp => {
                let trusted = self.plan.http.trust_forwarded_proto;
                match head.fields.get("x-forwarded-proto").filter(|_| trusted) {
                    Some(proto) => proto.eq_ignore_ascii_case(b"https"),
                    None => head.scheme == Scheme::Https,
                }
            }
        }
    }
}

impl Names {
    /// Of two with one hostname the first decides; compile has said so.
    pub(super) fn new<'a>(hosts: impl Iterator<Item = (usize, &'a HostGlob)>) -> Self {
        let mut names = Self::default();
        let mut seen: std::collections::HashSet<&'a HostGlob, RandomState> =
            std::collections::HashSet::default();
        for (index, hostname) in hosts.filter(|(_, hostname)| seen.insert(hostname)) {
            match hostname {
                HostGlob::Any => names.any = Some(index),
                HostGlob::Exact(name) => {
                    names.exact.insert(Arc::clone(name), index);
                }
                HostGlob::Suffix(suffix) => {
                    names.suffixes.insert(&reversed(suffix), (suffix.len(), index));
                }
                HostGlob::Prefix(prefix) => {
                    names.prefixes.insert(prefix.as_bytes(), (prefix.len(), index));
                }
            }
        }
        names
    }

    /// The one of `*`.
    pub(super) fn any(&self) -> Option<usize> {
        self.any
    }

    /// Exact, then longest `*suffix`, then longest `prefix*`, then `*`.
    pub(super) fn find(&self, name: &str) -> Option<usize> {
        if let Some(index) = self.exact.get(name) {
            return Some(*index);
        }
        // A star stands for at least one character.
        let longest = |globs: &Trie<(usize, usize)>, text: &[u8]| {
            let mut longest = None;
            globs.walk(text, |(len, index)| {
                if *len < text.len() {
                    longest = Some(*index);
                }
            });
            longest
        };
        let suffix =
            || if self.suffixes.is_empty() { None } else { longest(&self.suffixes, &reversed(name)) };
        suffix().or_else(|| longest(&self.prefixes, name.as_bytes())).or(self.any)
    }
}
