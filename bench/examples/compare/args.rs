//! The command line.

use std::{str::FromStr as _, time::Duration};

use anyhow::{Context as _, bail, ensure};

use crate::peers::Name;

const USAGE: &str = "usage: compare [--only NAME,NAME] [--windows N] [--seconds S] [--connections N] [--idle N] \
                     [--access-log] [--skip cpu|memory] [--check]; names: selvedge, envoy, haproxy, nginx";

/// What to measure.
#[derive(Debug)]
pub(crate) struct Args {
    /// In this order, again and again.
    pub(crate) only: Vec<Name>,
    /// Measured windows of each proxy.
    pub(crate) windows: usize,
    /// Length of a window.
    pub(crate) seconds: Duration,
    /// Client connections that ask all the time.
    pub(crate) connections: usize,
    /// Client connections that rest, for memory.
    pub(crate) idle: usize,
    /// Every proxy writes an access log, to /dev/null.
    pub(crate) access_log: bool,
    /// What is left out.
    pub(crate) skip: Skip,
    /// Fail where Selvedge needs more memory than its limits.
    pub(crate) check: bool,
}

/// A half of the comparison that is left out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Skip {
    /// Both are measured.
    Nothing,
    /// CPU time.
    Cpu,
    /// Memory.
    Memory,
}

impl Args {
    pub(crate) fn parse(mut args: impl Iterator<Item = String>) -> anyhow::Result<Self> {
        let mut parsed = Self {
            only: Name::ALL.to_vec(),
            windows: 7,
            seconds: Duration::from_secs(2),
            connections: 64,
            idle: 10_000,
            access_log: false,
            skip: Skip::Nothing,
            check: false,
        };
        while let Some(flag) = args.next() {
            let mut value = || args.next().with_context(|| format!("{flag} wants a value; {USAGE}"));
            match flag.as_str() {
                "--only" => {
                    parsed.only = value()?.split(',').map(Name::from_str).collect::<Result<_, _>>()?;
                }
                "--windows" => parsed.windows = number(&value()?)?,
                "--seconds" => {
                    let seconds: f64 = value()?.parse().context("--seconds is a number")?;
                    parsed.seconds = Duration::try_from_secs_f64(seconds).context("--seconds")?;
                }
                "--connections" => parsed.connections = number(&value()?)?,
                "--idle" => parsed.idle = number(&value()?)?,
                "--access-log" => parsed.access_log = true,
                "--check" => parsed.check = true,
                "--skip" => match value()?.as_str() {
                    "cpu" => parsed.skip = Skip::Cpu,
                    "memory" => parsed.skip = Skip::Memory,
                    other => bail!("--skip {other}: cpu or memory; {USAGE}"),
                },
                other => bail!("unknown argument {other}; {USAGE}"),
            }
        }
        ensure!(
            parsed.windows > 0 && parsed.connections > 0 && parsed.idle > 0,
            "numbers are at least 1; {USAGE}"
        );
        ensure!(!parsed.seconds.is_zero(), "--seconds is more than 0; {USAGE}");
        Ok(parsed)
    }
}

fn number(text: &str) -> anyhow::Result<usize> {
    text.parse().with_context(|| format!("`{text}` is no number; {USAGE}"))
}
