//! The order of routes in a Host (emissary.md 3.2): precedence, then length of the prefix, then weight of the conditions,
//! then texts, so that there is always one fixed order.

use std::cmp::Ordering;

use crate::plan::{FieldMatch, HostMatch, MappingPlan, TextMatch};

/// Compares two Mappings: `Less` is tried first.
pub(super) fn compare(a: &MappingPlan, b: &MappingPlan) -> Ordering {
    b.precedence
        .cmp(&a.precedence)
        .then_with(|| b.prefix.len().cmp(&a.prefix.len()))
        .then_with(|| header_weight(b).cmp(&header_weight(a)))
        .then_with(|| fields_weight(&b.query).cmp(&fields_weight(&a.query)))
        .then_with(|| b.prefix.cmp(&a.prefix))
        .then_with(|| b.method_text().cmp(a.method_text()))
        .then_with(|| names(&b.headers).cmp(names(&a.headers)))
        .then_with(|| names(&b.query).cmp(names(&a.query)))
        .then_with(|| a.name.cmp(&b.name))
}

/// Host and method count as header conditions.
fn header_weight(mapping: &MappingPlan) -> usize {
    let host = match &mapping.host {
        HostMatch::Any => 0,
        HostMatch::Glob(glob) => ":authority".len() + glob.text().len(),
        HostMatch::Regex { text, .. } | HostMatch::Unreadable(text) => ":authority".len() + text.len() + 1,
    };
    let method = mapping.method.as_ref().map_or(0, |method| ":method".len() + value_weight(method));
    host + method + fields_weight(&mapping.headers)
}

fn fields_weight(fields: &[FieldMatch]) -> usize {
    fields.iter().map(|field| field.name.len() + value_weight(&field.value)).sum()
}

fn value_weight(value: &TextMatch) -> usize {
    match value {
        TextMatch::Exact(text) => text.len(),
        TextMatch::Regex { text, .. } => text.len() + 1,
        // `.*`, as the conversion of v2 writes it.
        TextMatch::Present | TextMatch::Unreadable => 3,
    }
}

fn names(fields: &[FieldMatch]) -> impl Iterator<Item = &str> {
    fields.iter().map(|field| &*field.name)
}
