//! Tables over the rules of compiling, each with documents as people write them.

mod groups;
mod isolation;
mod matching;
mod routing;
mod tcp;
mod tls;

use std::{
    collections::BTreeMap,
    net::{IpAddr, Ipv4Addr},
    path::PathBuf,
    sync::Arc,
};

use identity::{Problem, SourceRef, source::secret::Usage};
use resource::Document;

use super::{CompileSettings, Input, compile};
use crate::{
    keyring::{KeyRef, Keys},
    plan::{ClientPlan, MappingPlan, Outcome, Plan},
    report::{Finding, Report, Severity},
};

/// Key material by a table: everything not named here is missing.
#[derive(Default)]
pub(super) struct Table {
    good: Vec<&'static str>,
    bad: BTreeMap<&'static str, &'static str>,
    spiffe: bool,
}

impl Keys for Table {
    fn find(&self, key: &KeyRef) -> Result<SourceRef, Problem> {
        let name = match key {
            KeyRef::Secret { namespace, name, usage } => format!("{namespace}/{name}#{}", mark(*usage)),
            KeyRef::Files(files) => format!("{}#{}", files.cert.display(), mark(files.usage)),
        };
        if let Some(code) = self.bad.get(&*name) {
            return Err(Problem::new(code, format!("{name} is bad")));
        }
        let missing = || Problem::new("secret_missing", format!("{name} does not exist"));
        if self.good.contains(&&*name) { Ok(SourceRef::new(&*name)) } else { Err(missing()) }
    }

    fn spiffe(&self) -> Option<SourceRef> {
        self.spiffe.then(|| SourceRef::new("spiffe"))
    }
}

fn mark(usage: Usage) -> &'static str {
    match usage {
        Usage::Identity => "identity",
        Usage::Trust => "trust",
        Usage::Crl => "crl",
    }
}

pub(super) fn settings() -> CompileSettings {
    CompileSettings {
        ambassador_id: "default".to_owned(),
        namespace: "default".to_owned(),
        single_namespace: false,
        require_verified_upstreams: false,
        one_tenant: true,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        http_port: 8080,
        https_port: 8443,
        resolve: Vec::new(),
    }
}

pub(super) fn documents(yaml: &str) -> Vec<Arc<Document>> {
    let path = Arc::new(PathBuf::from("all.yaml"));
    let (documents, errors) = resource::parse(&path, yaml, "default").expect("YAML");
    assert_eq!(errors, []);
    documents.into_iter().map(Arc::new).collect()
}

pub(super) fn compiled(yaml: &str, keys: &Table, settings: &CompileSettings) -> (Plan, Report) {
    compile(&Input { documents: &documents(yaml), errors: &[], keys, settings })
}

/// Compiles with the usual settings and the Secrets that the tables speak of.
pub(super) fn usual(yaml: &str) -> (Plan, Report) {
    compiled(yaml, &keys(), &settings())
}

pub(super) fn keys() -> Table {
    Table {
        good: vec!["default/own#identity", "default/roots#trust", "default/revoked#crl"],
        ..Table::default()
    }
}

/// A v3alpha1 Mapping for every host.
pub(super) fn mapping(name: &str, fields: &str) -> String {
    document("v3alpha1", "Mapping", name, &format!("hostname: \"*\"\n{fields}"))
}

pub(super) fn document(version: &str, kind: &str, name: &str, fields: &str) -> String {
    let (namespace, name) = name.split_once('/').unwrap_or(("default", name));
    let spec = fields.lines().fold(String::new(), |spec, line| spec + "  " + line + "\n");
    format!(
        "---\napiVersion: getambassador.io/{version}\nkind: {kind}\nmetadata: {{name: {name}, namespace: {namespace}}}\nspec:\n{spec}"
    )
}

pub(super) fn find<'a>(plan: &'a Plan, name: &str) -> &'a MappingPlan {
    plan.mappings.iter().find(|mapping| &*mapping.name == name).expect(name)
}

/// What became of a Mapping: its cluster's name, `redirect ...`, or the code it answers 503 with.
pub(super) fn outcome(plan: &Plan, name: &str) -> String {
    match &find(plan, name).outcome {
        Outcome::Forward { cluster, .. } => plan.clusters[*cluster].name.to_string(),
        Outcome::Redirect(redirect) => format!("redirect {} {}", redirect.code, redirect.host),
        Outcome::Unavailable(why) => format!("503 {}", why.reason.code()),
    }
}

pub(super) fn client<'a>(plan: &'a Plan, name: &str) -> &'a ClientPlan {
    let Outcome::Forward { cluster, .. } = &find(plan, name).outcome else {
        panic!("{name}: {}", outcome(plan, name))
    };
    plan.clusters[*cluster].tls.as_ref().expect("TLS")
}

/// Findings as `line severity code field`.
pub(super) fn rows(report: &Report) -> Vec<String> {
    report.findings.iter().map(row).collect()
}

fn row(finding: &Finding) -> String {
    let severity = match finding.severity {
        Severity::Error => "error",
        Severity::Warning => "warning",
        Severity::Notice => "notice",
    };
    format!("{} {severity} {} {}", finding.line, finding.code, finding.field)
}

pub(super) fn has(report: &Report, row: &str) -> bool {
    row.is_empty() || rows(report).iter().any(|found| found.ends_with(row))
}
