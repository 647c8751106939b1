//! Runs a command to its end and writes its CPU milliseconds, its peak memory in KiB and its exit status to stderr's last line:
//! `measure COMMAND [ARGUMENT...]`. For systems without GNU time.

use std::{
    io::{self, Write as _},
    process::{Command, ExitCode},
};

use anyhow::Context as _;
use nix::sys::{
    resource::{UsageWho, getrusage},
    time::TimeValLike as _,
};

fn main() -> ExitCode {
    match run() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            // With stderr gone there is nobody to tell.
            let _unwritable = writeln!(io::stderr(), "measure: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run() -> anyhow::Result<()> {
    let mut args = std::env::args_os().skip(1);
    let program = args.next().context("usage: measure COMMAND [ARGUMENT...]")?;
    let status = Command::new(&program).args(args).status();
    let status = status.with_context(|| format!("{} does not start", program.display()))?;
    // The only child, and it has ended: what is counted for children is its own.
    let usage = getrusage(UsageWho::RUSAGE_CHILDREN)?;
    let cpu = usage.user_time() + usage.system_time();
    let code = status.code().context("the command was ended by a signal")?;
    writeln!(io::stderr(), "{} {} {code}", cpu.num_milliseconds(), usage.max_rss())?;
    Ok(())
}
