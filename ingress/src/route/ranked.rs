//! The Mappings of one Host in order, indexed so that a decision looks at few of them, however many there are.

use proxy::message::Head;

use super::{
    field_index::FieldIndex,
    order,
    text_index::{Condition, TextIndex},
};
use crate::plan::{HostGlob, HostMatch, MappingPlan, PathMatch};

/// The Mappings of a Host.
#[derive(Debug)]
pub(super) struct Ranked {
    /// Mappings by rank.
    order: Vec<u32>,
    /// Ranks by hostname, then by path, then by fields.
    index: TextIndex<TextIndex<FieldIndex>>,
}

impl Ranked {
    /// Orders the Mappings with these indices and indexes them.
    pub(super) fn new(attached: &[usize], mappings: &[MappingPlan]) -> Self {
        let mut order: Vec<(u32, &MappingPlan)> =
            attached.iter().filter_map(|at| Some((u32::try_from(*at).ok()?, mappings.get(*at)?))).collect();
        order.sort_by(|(_, a), (_, b)| order::compare(a, b));
        // What no face of the dice takes is no candidate: a group of thousands would be tried to its end.
        let taken = (0..).zip(&order).filter(|(_, (_, mapping))| !mapping.share.is_empty());
        let ranks: Vec<u32> = taken.map(|(rank, _)| rank).collect();
        let mapping = |rank: u32| order.get(rank as usize).map(|(_, mapping)| *mapping);
        let index = TextIndex::new(
            &ranks,
            |rank| mapping(rank).map_or(Condition::Any, hostname),
            |ranks| {
                TextIndex::new(
                    ranks,
                    |rank| mapping(rank).map_or(Condition::Any, path),
                    |ranks| FieldIndex::new(ranks, mapping),
                )
            },
        );
        Self { order: order.iter().map(|(index, _)| *index).collect(), index }
    }

    /// Index of each Mapping, by rank.
    pub(super) fn order(&self) -> &[u32] {
        &self.order
    }

    /// Passes the ranks of every Mapping that may meet a request, and of few others, to `found`; in no order, and perhaps
    /// more than once.
    pub(super) fn candidates(&self, head: &Head<'_>, authority: &str, mut found: impl FnMut(&[u32])) {
        self.index.visit(authority, |paths| {
            paths.visit(head.path, |fields| fields.visit(head, &mut found));
        });
    }
}

fn hostname(mapping: &MappingPlan) -> Condition<'_> {
    match &mapping.host {
        HostMatch::Any | HostMatch::Unreadable(_) | HostMatch::Glob(HostGlob::Any) => Condition::Any,
        HostMatch::Glob(HostGlob::Exact(name)) => Condition::Exact(name),
        HostMatch::Glob(HostGlob::Suffix(suffix)) => Condition::Suffix(suffix),
        HostMatch::Glob(HostGlob::Prefix(prefix)) => Condition::Prefix(prefix),
        HostMatch::Regex { text, .. } => Condition::Pattern(text),
    }
}

fn path(mapping: &MappingPlan) -> Condition<'_> {
    match &mapping.path {
        PathMatch::Prefix { text, case_sensitive: true } => Condition::Prefix(text),
        PathMatch::Exact { text, case_sensitive: true } => Condition::Exact(text),
        PathMatch::Prefix { text, .. } | PathMatch::Exact { text, .. } => Condition::FoldedPrefix(text),
        PathMatch::Regex(_) => Condition::Pattern(&mapping.prefix),
    }
}
