//! The tables, in Markdown.

use std::{fs, io::Write};

use crate::{args::Args, cpu, memory, peers::Name};

/// When and where, and how busy the machine was.
pub(crate) fn machine(out: &mut impl Write) -> anyhow::Result<()> {
    let info = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model = info.lines().find_map(|line| line.strip_prefix("model name")).unwrap_or_default();
    let load = fs::read_to_string("/proc/loadavg").unwrap_or_default();
    let load: Vec<_> = load.split_whitespace().take(3).collect();
    writeln!(
        out,
        "{}; load average before: {}\n",
        model.trim_start_matches([' ', '\t', ':']),
        load.join(" ")
    )?;
    Ok(())
}

/// CPU per request, with ratios to each rival of the same run.
pub(crate) fn cpu(out: &mut impl Write, args: &Args, all: &[cpu::Measured]) -> anyhow::Result<()> {
    let log = if args.access_log { "access logs on" } else { "access logs off" };
    writeln!(
        out,
        "{} windows of {:.1} s each, interleaved; {} connections; {log}\n",
        args.windows,
        args.seconds.as_secs_f64(),
        args.connections
    )?;
    writeln!(out, "| Proxy | CPU us/request | x HAProxy | x nginx | requests/s | share of its core |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: | ---: |")?;
    for one in all {
        let mine = Spread::of(one.windows.iter().map(|window| window.per_request));
        let rate = Spread::of(one.windows.iter().map(|window| window.rate));
        let share = Spread::of(one.windows.iter().map(|window| window.share));
        writeln!(
            out,
            "| {} | {:.1} [{:.1}-{:.1}] | {} | {} | {:.0} | {:.0}% |",
            one.name.text(),
            mine.median,
            mine.least,
            mine.most,
            ratio(all, mine.median, Name::Haproxy),
            ratio(all, mine.median, Name::Nginx),
            rate.median,
            share.median * 100.0
        )?;
    }
    writeln!(out)?;
    Ok(())
}

/// Memory of each.
pub(crate) fn memory(out: &mut impl Write, all: &[memory::Measured]) -> anyhow::Result<()> {
    writeln!(out, "| Proxy | Empty, MiB | At work, MiB | Connection at rest, KiB | After close, MiB |")?;
    writeln!(out, "| --- | ---: | ---: | ---: | ---: |")?;
    for one in all {
        writeln!(
            out,
            "| {} | {} | {} | {} | {} |",
            one.name.text(),
            hundredths(one.empty, 1024 * 1024),
            hundredths(one.warm, 1024 * 1024),
            hundredths(one.per_connection, 1024),
            hundredths(one.after, 1024 * 1024)
        )?;
    }
    Ok(())
}

fn hundredths(bytes: u64, unit: u64) -> String {
    let value = bytes * 100 / unit;
    format!("{}.{:02}", value / 100, value % 100)
}

fn ratio(all: &[cpu::Measured], mine: f64, rival: Name) -> String {
    let rival = all.iter().find(|one| one.name == rival);
    rival.map_or_else(
        || "-".to_owned(),
        |rival| {
            let median = Spread::of(rival.windows.iter().map(|window| window.per_request)).median;
            format!("{:.2}", mine / median)
        },
    )
}

/// Median and extremes.
struct Spread {
    median: f64,
    least: f64,
    most: f64,
}

impl Spread {
    fn of(values: impl Iterator<Item = f64>) -> Self {
        let mut values: Vec<_> = values.collect();
        values.sort_by(f64::total_cmp);
        let at = |index: usize| values.get(index).copied().unwrap_or(f64::NAN);
        let middle = values.len() / 2;
        let median = if values.len() % 2 == 1 {
            at(middle)
        } else {
            f64::midpoint(at(middle.wrapping_sub(1)), at(middle))
        };
        Self { median, least: at(0), most: at(values.len().wrapping_sub(1)) }
    }
}
