//! `check`: one line for each finding, or a JSON array.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use super::offline::Offline;
use crate::{
    cli::{CheckArgs, DecisionSettings, Output},
    report::Severity,
};

/// Runs the command; gives its exit status.
pub fn run(
    args: &CheckArgs,
    paths: &[PathBuf],
    decision: &DecisionSettings,
    out: &mut dyn Write,
) -> io::Result<u8> {
    let offline = match Offline::load(paths, decision) {
        Ok(offline) => offline,
        Err(error) => {
            writeln!(
                io::stderr(),
                "selvedge-ingress check: {error}; name a file or folder that can be read"
            )?;
            return Ok(2);
        }
    };
    let findings = &offline.report.findings;
    match args.output {
        Output::Json => {
            let rows: Vec<_> = findings.iter().map(crate::report::Finding::to_json).collect();
            writeln!(out, "{:#}", serde_json::Value::from(rows))?;
        }
        Output::Text => {
            for finding in findings {
                writeln!(out, "{finding}")?;
            }
            let count = |severity| findings.iter().filter(|finding| finding.severity == severity).count();
            writeln!(
                io::stderr(),
                "{} Mappings, {} Hosts, {} Listeners: {} errors, {} warnings, {} notices",
                offline.plan.mappings.len(),
                offline.plan.hosts.len(),
                offline.plan.listeners.len(),
                count(Severity::Error),
                count(Severity::Warning),
                count(Severity::Notice),
            )?;
        }
    }
    let least = if args.strict { Severity::Warning } else { Severity::Error };
    Ok(u8::from(findings.iter().any(|finding| finding.severity >= least)))
}
