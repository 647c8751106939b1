//! Which Mappings belong to which Host (emissary.md 3.1), through indexes: thousands of each must not be compared pair by pair.

use std::collections::{BTreeMap, HashMap, HashSet};

use resource::Document;

use super::{Compiler, host::CompiledHost, mapping::Compiled, of_kind};
use crate::{kind::Reader, plan::HostGlob, report::Severity};

/// Mappings by hostname and by label.
pub(crate) struct Attach<'a> {
    mappings: &'a [Compiled],
    exact: HashMap<&'a str, Vec<usize>>,
    globs: Vec<usize>,
    labels: HashMap<(&'a str, &'a str), Vec<usize>>,
}

impl<'a> Attach<'a> {
    pub(crate) fn new(mappings: &'a [Compiled]) -> Self {
        let mut index = Self { mappings, exact: HashMap::new(), globs: Vec::new(), labels: HashMap::new() };
        for (at, mapping) in mappings.iter().enumerate() {
            match &mapping.hostname {
                Some(HostGlob::Exact(name)) => index.exact.entry(name).or_default().push(at),
                Some(_) => index.globs.push(at),
                None => {}
            }
            for (name, value) in &mapping.labels {
                index.labels.entry((name, value)).or_default().push(at);
            }
        }
        index
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
        match (selector.and_then(<[_]>::first), hostname) {
            (Some((name, value)), _) => {
                let labelled = self.labels.get(&(&**name, &**value)).map(Vec::as_slice).unwrap_or_default();
                labelled.iter().copied().filter(belongs).collect()
            }
            (None, HostGlob::Exact(name)) if selector.is_none() => {
                let exact = self.exact.get(&**name).map(Vec::as_slice).unwrap_or_default();
                let mut found: Vec<_> = exact.iter().chain(&self.globs).copied().filter(belongs).collect();
                found.sort_unstable();
                found
            }
            _ => (0..self.mappings.len()).filter(belongs).collect(),
        }
    }
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
