//! Groups of Mappings that share traffic by weight (emissary.md 3.3): what must agree in one, what its members have in
//! common, and the part of the dice that each takes.

use std::{
    borrow::Cow,
    collections::{HashMap, HashSet},
};

use proxy::{
    message::{Edits, HeaderEdit},
    route::Upgrades,
    upstream::RetryPolicy,
};
use resource::{Document, Node, Value};

use super::{Compiler, mapping::Compiled, of_kind, weight};
use crate::{
    kind::Reader,
    plan::{FieldMatch, HostGlob, HostMatch, MappingPlan, Outcome, PathMatch, TextMatch},
    report::Severity,
};

/// Fields that a later member may leave to the first, but not set to another value.
const AGREED: &[&str] = &[
    "circuit_breakers",
    "cluster_idle_timeout_ms",
    "cluster_max_connection_lifetime_ms",
    "connect_timeout_ms",
    "keepalive",
    "labels",
    "load_balancer",
];

/// A Mapping with its document.
type Member<'a> = (&'a Document, Compiled);

/// Leaves out Mappings that cannot join the group of an earlier one, and settles what the others share.
pub(super) fn settle(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    mut members: Vec<Member<'_>>,
) -> Vec<Compiled> {
    let selected = selected_labels(documents);
    let mut groups: HashMap<Key<'_>, Vec<usize>> = HashMap::with_capacity(members.len());
    for (index, (_, mapping)) in members.iter().enumerate() {
        groups.entry(Key::of(mapping, &selected)).or_default().push(index);
    }
    let groups: Vec<Vec<usize>> = groups.into_values().filter(|group| group.len() > 1).collect();
    let mut left_out = HashSet::new();
    for group in groups {
        let (joined, refused) = agreeing(compiler, &members, &group);
        left_out.extend(refused);
        report_weights(compiler, &members, &joined);
        share(&mut members, &joined);
    }
    let kept = members.into_iter().enumerate().filter(|(index, _)| !left_out.contains(index));
    kept.map(|(_, (_, mapping))| mapping).collect()
}

/// What makes Mappings canaries of each other. Whether a text is a pattern is no part of it: that is a conflict.
#[derive(PartialEq, Eq, Hash)]
struct Key<'a> {
    method: &'a str,
    prefix: &'a str,
    precedence: i64,
    host: Cow<'a, str>,
    headers: Vec<(&'a str, &'a str)>,
    query: Vec<(&'a str, &'a str)>,
    /// Without a hostname: the labels by which Hosts select.
    labels: Vec<(&'a str, &'a str)>,
}

impl<'a> Key<'a> {
    fn of(mapping: &'a Compiled, selected: &HashSet<&str>) -> Self {
        let plan = &mapping.plan;
        let labels = mapping.labels.iter().filter(|(name, _)| selected.contains(name.as_str()));
        Self {
            method: plan.method_text(),
            prefix: &plan.prefix,
            precedence: plan.precedence,
            host: match &plan.host {
                HostMatch::Any => "*".into(),
                HostMatch::Glob(HostGlob::Exact(name)) => (&**name).into(),
                HostMatch::Glob(glob) => glob.text().into(),
                HostMatch::Regex { text, .. } | HostMatch::Unreadable(text) => (&**text).into(),
            },
            headers: plan.headers.iter().map(name_and_text).collect(),
            query: plan.query.iter().map(name_and_text).collect(),
            labels: match mapping.hostname {
                None => labels.map(|(name, value)| (name.as_str(), value.as_str())).collect(),
                Some(_) => Vec::new(),
            },
        }
    }
}

fn name_and_text(field: &FieldMatch) -> (&str, &str) {
    let text = match &field.value {
        TextMatch::Exact(text) | TextMatch::Regex { text, .. } => text,
        TextMatch::Present | TextMatch::Unreadable => ".*",
    };
    (&field.name, text)
}

/// Names of the labels by which some Host selects Mappings.
fn selected_labels<'a>(documents: &[&'a Document]) -> HashSet<&'a str> {
    let selectors = of_kind(documents, "Host").into_iter().flat_map(|host| {
        ["spec.mappingSelector.matchLabels", "spec.selector.matchLabels"].map(|path| host.root.at(path))
    });
    selectors.flatten().flat_map(Node::fields).map(|(name, _)| &**name).collect()
}

/// Those that agree with the first one, and those that do not, which are reported.
fn agreeing(
    compiler: &mut Compiler<'_>,
    members: &[Member<'_>],
    group: &[usize],
) -> (Vec<usize>, Vec<usize>) {
    let mut of_group = group.iter().filter_map(|index| Some((*index, members.get(*index)?)));
    let Some((first_index, first)) = of_group.next() else { return (Vec::new(), Vec::new()) };
    let (mut joined, mut refused) = (vec![first_index], Vec::new());
    for (index, later) in of_group {
        let Some((field, why)) = conflict(first, later) else {
            joined.push(index);
            continue;
        };
        let mut spec = Reader::spec(later.0);
        let first = &first.1.plan.object;
        let message = format!("{why}, unlike {first} with the same conditions; this Mapping is left out");
        let remedy = "make them agree, or give one another precedence";
        spec.find(field, (Severity::Error, "group_conflict"), message, remedy);
        compiler.findings.extend(spec.abandon());
        refused.push(index);
    }
    (joined, refused)
}

/// The first field in which a later member differs from the first where it must not.
fn conflict(first: &Member<'_>, later: &Member<'_>) -> Option<(&'static str, &'static str)> {
    let ((first_document, Compiled { plan: first, .. }), (document, Compiled { plan: later, .. })) =
        (first, later);
    if std::mem::discriminant(&first.path) != std::mem::discriminant(&later.path) {
        let field = match (&first.path, &later.path) {
            (PathMatch::Exact { .. }, _) | (_, PathMatch::Exact { .. }) => "prefix_exact",
            _ => "prefix_regex",
        };
        return Some((field, "reads `prefix` as another kind (start, whole, pattern)"));
    }
    for (field, first, later) in [
        ("regex_headers", &first.headers, &later.headers),
        ("regex_query_parameters", &first.query, &later.query),
    ] {
        if !first.iter().map(is_pattern).eq(later.iter().map(is_pattern)) {
            return Some((field, "has a pattern where the other has a text"));
        }
    }
    if first.method.as_ref().is_some_and(TextMatch::is_pattern)
        != later.method.as_ref().is_some_and(TextMatch::is_pattern)
    {
        return Some(("method_regex", "reads `method` in another way"));
    }
    if matches!(first.host, HostMatch::Regex { .. }) != matches!(later.host, HostMatch::Regex { .. }) {
        return Some(("host_regex", "reads `host` in another way"));
    }
    redirect_conflict(first, later).or_else(|| {
        let field = |document: &Document, name: &str| {
            document.root.get("spec").and_then(|spec| spec.get(name)).cloned()
        };
        let differs = |name: &str| {
            field(document, name)
                .is_some_and(|later| !field(first_document, name).is_some_and(|first| same(&first, &later)))
        };
        AGREED.iter().find(|name| differs(name)).map(|name| (*name, "has another value"))
    })
}

fn redirect_conflict(first: &MappingPlan, later: &MappingPlan) -> Option<(&'static str, &'static str)> {
    match (&first.outcome, &later.outcome) {
        (Outcome::Redirect(_), Outcome::Redirect(_)) => Some(("host_redirect", "is a second redirect")),
        (Outcome::Redirect(_), Outcome::Forward { .. }) => Some(("host_redirect", "is no redirect")),
        (Outcome::Forward { .. }, Outcome::Redirect(_)) => Some(("host_redirect", "is a redirect")),
        (Outcome::Forward { .. }, Outcome::Forward { .. })
        | (Outcome::Unavailable(_), _)
        | (_, Outcome::Unavailable(_)) => None,
    }
}

fn is_pattern(field: &FieldMatch) -> bool {
    field.value.is_pattern()
}

/// Whether two values are the same, wherever they stand.
fn same(a: &Node, b: &Node) -> bool {
    match (&a.value, &b.value) {
        (Value::List(a), Value::List(b)) => a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(a, b)),
        (Value::Map(a), Value::Map(b)) => {
            let has = |(name, value): &(Box<str>, Node)| {
                b.iter().any(|(other, found)| other == name && same(value, found))
            };
            a.len() == b.len() && a.iter().all(has)
        }
        (a, b) => a == b,
    }
}

/// Reports the first member whose weight brings the sum above 100.
fn report_weights(compiler: &mut Compiler<'_>, members: &[Member<'_>], group: &[usize]) {
    let mut sum: i64 = 0;
    for (document, mapping) in group.iter().filter_map(|index| members.get(*index)) {
        let Some(weight) = mapping.plan.weight else { continue };
        sum = sum.saturating_add(weight);
        if sum > 100 && weight <= 100 {
            let mut spec = Reader::spec(document);
            let message = format!("brings its group to {sum}, which exceeds 100; what is above is cut");
            let remedy = "lower a weight of the group";
            spec.find("weight", (Severity::Error, "weights_exceed_100"), message, remedy);
            compiler.findings.extend(spec.abandon());
            return;
        }
    }
}

/// Gives each member its part of the dice and what is one for the whole group: added headers of all members, and removed
/// headers, retries and upgrades of the last one that has any, as in Emissary.
fn share(members: &mut [Member<'_>], group: &[usize]) {
    let plans: Vec<&MappingPlan> =
        group.iter().filter_map(|index| members.get(*index)).map(|(_, mapping)| &mapping.plan).collect();
    let shares = weight::shares(&plans.iter().map(|plan| plan.weight).collect::<Vec<_>>());
    let edits = common_edits(&plans);
    let retries =
        plans.iter().rev().filter_map(|plan| plan.retry()).find(|retry| **retry != RetryPolicy::default());
    let retries = retries.cloned();
    let mut upgrades = plans.iter().rev().filter_map(|plan| plan.upgrades());
    let upgrades = upgrades.find(|upgrades| **upgrades != Upgrades::default()).cloned();
    for (index, share) in group.iter().zip(shares) {
        let Some((_, Compiled { plan, .. })) = members.get_mut(*index) else { continue };
        plan.share = share;
        let own = std::mem::take(&mut plan.edits);
        plan.edits = Edits { path: own.path, authority: own.authority, ..edits.clone() };
        if let (Outcome::Forward { retry, .. }, Some(common)) = (&mut plan.outcome, &retries) {
            retry.clone_from(common);
        }
        if let (Outcome::Forward { upgrades, .. }, Some(common)) = (&mut plan.outcome, &upgrades) {
            upgrades.clone_from(common);
        }
    }
}

fn common_edits(plans: &[&MappingPlan]) -> Edits {
    let mut common = Edits::default();
    for Edits { remove_request, add_request, remove_response, add_response, .. } in
        plans.iter().map(|plan| &plan.edits)
    {
        for (all, own) in
            [(&mut common.remove_request, remove_request), (&mut common.remove_response, remove_response)]
        {
            if !own.is_empty() {
                all.clone_from(own);
            }
        }
        add(&mut common.add_request, add_request);
        add(&mut common.add_response, add_response);
    }
    common
}

/// A name that two members add has the later one's value.
fn add(all: &mut Vec<HeaderEdit>, own: &[HeaderEdit]) {
    for edit in own {
        match all.iter_mut().find(|known| known.name == edit.name) {
            Some(known) => known.clone_from(edit),
            None => all.push(edit.clone()),
        }
    }
}
