//! TCP routes of a listener: by server name, and the one for all the rest.

use super::listener::Names;
use crate::plan::{HostGlob, TcpMappingPlan};

/// The TCPMappings of a listener in their groups.
#[derive(Debug, Default)]
pub(super) struct TcpRoutes {
    groups: Vec<Vec<usize>>,
    /// Groups with a `host`.
    names: Names,
    /// The group without one.
    rest: Option<usize>,
}

impl TcpRoutes {
    /// Of the TCPMappings with these indices.
    pub(super) fn new(bound: &[usize], mappings: &[TcpMappingPlan]) -> Self {
        let mut hosts: Vec<Option<&HostGlob>> = Vec::new();
        let mut groups: Vec<Vec<usize>> = Vec::new();
        for index in bound {
            let Some(mapping) = mappings.get(*index) else { continue };
            let host = mapping.host.as_ref();
            let known = hosts.iter().position(|known| *known == host);
            if let Some(group) = known.and_then(|at| groups.get_mut(at)) {
                group.push(*index);
            } else {
                hosts.push(host);
                groups.push(vec![*index]);
            }
        }
        let rest = hosts.iter().position(Option::is_none);
        let named = hosts.iter().enumerate().filter_map(|(at, host)| Some((at, (*host)?)));
        Self { names: Names::new(named), rest, groups }
    }

    /// The group that takes connections for a server name by `host`.
    pub(super) fn named(&self, sni: Option<&str>) -> Option<&[usize]> {
        let at = sni.map_or_else(|| self.names.any(), |name| self.names.find(name));
        at.and_then(|at| self.groups.get(at)).map(Vec::as_slice)
    }

    /// The group without `host`.
    pub(super) fn rest(&self) -> Option<&[usize]> {
        self.rest.and_then(|at| self.groups.get(at)).map(Vec::as_slice)
    }
}
