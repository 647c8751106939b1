//! Conditions of resources, made from a plan and a report: what `/config` shows from files and the status holds in a cluster.

use std::collections::BTreeMap;

use resource::{Condition, ObjectRef};

use super::CODES;
use crate::{
    plan::{Outcome, Plan},
    report::{Finding, Report, Severity},
};

/// Codes of this crate that say a reference leads nowhere; all codes of key material do.
const REFERENCES: [&str; 3] = ["no_spiffe_socket", "secret_no_certificate", "tls_context_missing"];

/// Conditions of every Mapping, and of every other object that has a finding.
pub fn conditions(plan: &Plan, report: &Report) -> Vec<(ObjectRef, Vec<Condition>)> {
    let mut findings: BTreeMap<&ObjectRef, Vec<&Finding>> = BTreeMap::new();
    for finding in &report.findings {
        if let Some(object) = &finding.object {
            findings.entry(object).or_default().push(finding);
        }
    }
    let mappings = plan.mappings.iter().map(|mapping| (&mapping.object, &mapping.outcome));
    let tcp = plan.tcp_mappings.iter().map(|mapping| (&mapping.object, &mapping.outcome));
    let outcomes: BTreeMap<&ObjectRef, &Outcome> = mappings.chain(tcp).collect();
    for object in outcomes.keys() {
        findings.entry(object).or_default();
    }
    let all = findings.into_iter();
    all.map(|(object, findings)| (object.clone(), of(object, &findings, outcomes.get(object).copied())))
        .collect()
}

fn of(object: &ObjectRef, findings: &[&Finding], outcome: Option<&Outcome>) -> Vec<Condition> {
    let error = findings.iter().find(|finding| finding.severity == Severity::Error);
    let reference =
        findings.iter().find(|finding| finding.severity == Severity::Error && is_reference(finding.code));
    let unverified = findings.iter().find(|finding| finding.code == "upstream_not_verified");
    let mut conditions = vec![absent("Accepted", error.copied()), absent("ResolvedRefs", reference.copied())];
    match outcome {
        Some(Outcome::Unavailable(why)) => conditions.push(Condition {
            kind: "Programmed",
            holds: false,
            reason: why.reason.code().into(),
            message: match &*object.kind.kind {
                "TCPMapping" => format!("closes its connections: {}", why.message),
                _ => format!("answers 503: {}", why.message),
            },
        }),
        Some(_) => conditions.push(absent("Programmed", None)),
        None => {}
    }
    if let Some(finding) = unverified {
        conditions.push(Condition {
            kind: "UpstreamNotVerified",
            holds: true,
            reason: finding.code.into(),
            message: finding.message.clone(),
        });
    }
    conditions
}

fn is_reference(code: &str) -> bool {
    REFERENCES.contains(&code) || !CODES.contains(&code)
}

/// A condition that holds where nothing speaks against it.
fn absent(kind: &'static str, finding: Option<&Finding>) -> Condition {
    Condition {
        kind,
        holds: finding.is_none(),
        reason: finding.map_or("ok", |finding| finding.code).into(),
        message: finding.map(|finding| format!("{}: {}", finding.field, finding.message)).unwrap_or_default(),
    }
}
