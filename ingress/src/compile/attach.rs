//! Which Mappings belong to which Host (emissary.md 3.1), through indexes: thousands of each must not be compared pair by pair.

use std::collections::{BTreeMap, HashMap, HashSet};

use resource::Document;

use super::{Compiler, host::CompiledHost, mapping::Compiled, of_kind};
use crate::{kind::Reader, plan::HostGlob, report::Severity};

/// Mappings by hostname and by label.
pub(crate) struct Attach<'a> {
    mappings: &'a [Compiled],
    /// Those with `*`.
    any: Vec<usize>,
    exact: HashMap<&'a str, Vec<usize>>,
    suffixes: HashMap<&'a str, Vec<usize>>,
    prefixes: HashMap<&'a str, Vec<usize>>,
    /// Whole names and prefixes in order, and whole names and suffixes in order of their ends: what a glob covers stands
    /// together.
    starts: BTreeMap<&'a str, Vec<usize>>,
    ends: BTreeMap<Vec<u8>, Vec<usize>>,
    labels: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Attach<'a> {
    pub(crate) fn new(mappings: &'a [Compiled]) -> Self {
        let mut index = Self {
            mappings,
            any: Vec::new(),
            exact: HashMap::new(),
            suffixes: HashMap::new(),
            prefixes: HashMap::new(),
            starts: BTreeMap::new(),
            ends: BTreeMap::new(),
            labels: HashMap::new(),
        };
        for (at, mapping) in mappings.iter().enumerate() {
            if let Some(hostname) = &mapping.hostname {
                index.push(hostname, at);
            }
            for (name, value) in &mapping.labels {
                index.labels.entry((name, value)).or_default().push(at);
            }
        }
        index
    }

    fn push(&mut self, hostname: &'a HostGlob, at: usize) {
        match hostname {
            HostGlob::Any => self.any.push(at),
            HostGlob::Exact(name) => {
                self.exact.entry(name).or_default().push(at);
                self.starts.entry(name).or_default().push(at);
                self.ends.entry(reversed(name)).or_default().push(at);
            }
            HostGlob::Suffix(suffix) => {
                self.suffixes.entry(suffix).or_default().push(at);
                self.ends.entry(reversed(suffix)).or_default().push(at);
            }
            HostGlob::Prefix(prefix) => {
                self.prefixes.entry(prefix).or_default().push(at);
                self.starts.entry(prefix).or_default().push(at);
            }
        }
    }

    /// Indices of the Mappings that belong to a Host, in order.
    pub(crate) fn to(&self, hostname: &HostGlob, selector: Option<&[(String, String)]>) -> Vec<usize> {
        let belongs = |at: &usize| {
            let Some(mapping) = self.mappings.get(*at) else { return false };
            let overlap = mapping.hostname.as_ref().map(|glob| glob.overlaps(hostname));
            match selector {
                Some(wanted) => selected(&mapping.labels, wanted) && overlap != Some(false),
                None => overlap == Some(true),
            }
        };
        let mut found = match selector.map(<[_]>::first) {
            Some(Some((name, value))) => self.labels.get(&(&**name, &**value)).cloned().unwrap_or_default(),
            // An empty selector selects all, also those without a hostname.
            Some(None) => (0..self.mappings.len()).collect(),
            None => self.near(hostname),
        };
        found.retain(belongs);
        found.sort_unstable();
        found.dedup();
        found
    }

    /// The Mappings whose hostname may overlap with a Host's, and few others.
    fn near(&self, hostname: &HostGlob) -> Vec<usize> {
        let mut found = self.any.clone();
        let mut shorter = |name: &str, from_end: bool| {
            for (at, _) in name.char_indices().chain([(name.len(), ' ')]) {
                let part = if from_end { name.get(at..) } else { name.get(..at) };
                let globs = if from_end { &self.suffixes } else { &self.prefixes };
                found.extend(part.and_then(|part| globs.get(part)).into_iter().flatten());
            }
        };
        match hostname {
            HostGlob::Any => return (0..self.mappings.len()).collect(),
            HostGlob::Exact(name) => {
                shorter(name, true);
                shorter(name, false);
                found.extend(self.exact.get(&**name).into_iter().flatten());
            }
            HostGlob::Suffix(suffix) => {
                shorter(suffix, true);
                let end = reversed(suffix);
                let longer = self.ends.range(end.clone()..).take_while(|(name, _)| name.starts_with(&end));
                found.extend(longer.flat_map(|(_, at)| at));
                found.extend(self.prefixes.values().flatten());
            }
            HostGlob::Prefix(prefix) => {
                shorter(prefix, false);
                let longer =
                    self.starts.range(&**prefix..).take_while(|(name, _)| name.starts_with(&**prefix));
                found.extend(longer.flat_map(|(_, at)| at));
                found.extend(self.suffixes.values().flatten());
            }
        }
        found
    }
}

fn reversed(name: &str) -> Vec<u8> {
    name.bytes().rev().collect()
}

/// Whether labels hold everything that a selector wants.
pub(super) fn selected(labels: &BTreeMap<String, String>, wanted: &[(String, String)]) -> bool {
    wanted.iter().all(|(name, value)| labels.get(name) == Some(value))
}

/// Names every Mapping that no Host has: it is served nowhere, and a 404 alone would not say why.
pub(super) fn unattached(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    mappings: &[Compiled],
    hosts: &[CompiledHost],
) {
    let attached: HashSet<usize> = hosts.iter().flat_map(|host| &host.plan.mappings).copied().collect();
    let lost = mappings.iter().enumerate().filter(|(at, _)| !attached.contains(at));
    let lost: HashMap<_, _> = lost.map(|(_, mapping)| (&mapping.plan.object, &mapping.hostname)).collect();
    if lost.is_empty() {
        return;
    }
    for document in of_kind(documents, "Mapping") {
        let Some(hostname) = lost.get(&document.object) else { continue };
        let mut spec = Reader::spec(document);
        let (message, remedy) = match hostname {
            Some(glob) => (
                format!(
                    "no Host has a hostname that fits `{}` and selects this Mapping: it is served nowhere",
                    glob.text()
                ),
                "write the hostname of a Host, or add a Host",
            ),
            None => (
                "is missing, and no Host selects this Mapping by its labels: it is served nowhere".to_owned(),
                "write hostname: \"*\" or the hostname of a Host",
            ),
        };
        spec.find("hostname", (Severity::Warning, "mapping_unattached"), message, remedy);
        compiler.findings.extend(spec.abandon());
    }
}
