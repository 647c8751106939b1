//! Mappings that agree in hostname and path, indexed by the header or parameter that each of them asks for.

use std::collections::HashMap;

use foldhash::fast::RandomState;
use smallvec::SmallVec;

use proxy::message::{Fields, Head};

use super::matching;
use crate::plan::{FieldMatch, MappingPlan, TextMatch};

/// So many are tried one by one: less work than looking at what the request brings.
const FEW: usize = 8;

/// Ranks of Mappings.
#[derive(Debug)]
pub(super) struct FieldIndex {
    /// Those that ask for no field, or are few.
    always: Box<[u32]>,
    filed: Option<Box<Filed>>,
}

/// Each rank is filed under one condition of its Mapping: the one that fewest others share.
#[derive(Debug, Default)]
struct Filed {
    headers: Names,
    query: Names,
    lists: Vec<Vec<u32>>,
}

/// Numbers of lists by name of the field.
type Names = HashMap<Box<str>, Values, RandomState>;

#[derive(Debug, Default)]
struct Values {
    /// For conditions that are not one text.
    present: Option<u32>,
    exact: HashMap<Box<str>, u32, RandomState>,
}

/// What a rank is filed under: whether in the query, name, value.
type Condition<'a> = (bool, &'a str, Option<&'a str>);

impl FieldIndex {
    /// Files ranks; `mapping` gives the Mapping of one.
    pub(super) fn new<'a>(ranks: &[u32], mapping: impl Fn(u32) -> Option<&'a MappingPlan>) -> Self {
        if ranks.len() <= FEW {
            return Self { always: ranks.into(), filed: None };
        }
        let mut uses: HashMap<Condition<'_>, usize, RandomState> = HashMap::default();
        for condition in ranks.iter().filter_map(|rank| mapping(*rank)).flat_map(conditions) {
            *uses.entry(condition).or_default() += 1;
        }
        let (mut always, mut filed) = (Vec::new(), Filed::default());
        for rank in ranks {
            let rarest = mapping(*rank).and_then(|mapping| {
                conditions(mapping).min_by_key(|condition| uses.get(condition).copied().unwrap_or_default())
            });
            match rarest {
                Some(condition) => filed.push(condition, *rank),
                None => always.push(*rank),
            }
        }
        Self { always: always.into(), filed: (!filed.lists.is_empty()).then(|| Box::new(filed)) }
    }

    /// Passes the ranks of every Mapping whose fields the request may have to `found`.
    pub(super) fn visit(&self, head: &Head<'_>, mut found: impl FnMut(&[u32])) {
        found(&self.always);
        let Some(filed) = &self.filed else { return };
        let mut numbers: SmallVec<[u32; 16]> = SmallVec::new();
        filed.by_headers(head.fields, &mut numbers);
        filed.by_query(head.query.unwrap_or_default(), &mut numbers);
        // A parameter that is sent a thousand times still counts once.
        numbers.sort_unstable();
        numbers.dedup();
        for number in numbers {
            found(filed.lists.get(number as usize).map(Vec::as_slice).unwrap_or_default());
        }
    }
}

impl Filed {
    fn push(&mut self, (in_query, name, value): Condition<'_>, rank: u32) {
        let names = if in_query { &mut self.query } else { &mut self.headers };
        let values = names.entry(name.into()).or_default();
        let number = match value {
            Some(value) => values.exact.entry(value.into()).or_insert(u32::MAX),
            None => values.present.get_or_insert(u32::MAX),
        };
        if let Some(list) = self.lists.get_mut(*number as usize) {
            list.push(rank);
            return;
        }
        *number = u32::try_from(self.lists.len()).unwrap_or(u32::MAX);
        self.lists.push(vec![rank]);
    }

    fn by_headers(&self, fields: Fields<'_>, numbers: &mut SmallVec<[u32; 16]>) {
        let mut look = |name: &str, values: &Values| {
            let Some(value) = matching::joined(fields, name) else { return };
            numbers.extend(values.present);
            let text = std::str::from_utf8(&value).ok();
            numbers.extend(text.and_then(|text| values.exact.get(text)).copied());
        };
        if self.headers.len() <= FEW {
            self.headers.iter().for_each(|(name, values)| look(name, values));
            return;
        }
        let mut last: &[u8] = &[];
        fields.each(|name, _| {
            // Fields of one name follow one another in a typed map: their values are joined once.
            if std::mem::replace(&mut last, name) == name {
                return;
            }
            let found = std::str::from_utf8(name).ok().and_then(|name| self.headers.get_key_value(name));
            if let Some((name, values)) = found {
                look(name, values);
            }
        });
    }

    fn by_query(&self, query: &str, numbers: &mut SmallVec<[u32; 16]>) {
        if self.query.is_empty() {
            return;
        }
        for (name, value) in matching::parameters(query) {
            if let Some(values) = self.query.get(name) {
                numbers.extend(values.present);
                numbers.extend(values.exact.get(value).copied());
            }
        }
    }
}

fn conditions(mapping: &MappingPlan) -> impl Iterator<Item = Condition<'_>> {
    let headers = mapping.headers.iter().map(|field| condition(false, field));
    headers.chain(mapping.query.iter().map(|field| condition(true, field))).flatten()
}

/// What a request must have; `None` where it need not have anything.
fn condition(in_query: bool, field: &FieldMatch) -> Option<Condition<'_>> {
    let value = match &field.value {
        TextMatch::Exact(text) => Some(&**text),
        TextMatch::Regex { .. } | TextMatch::Present => None,
        TextMatch::Unreadable => return None,
    };
    Some((in_query, &field.name, value))
}
