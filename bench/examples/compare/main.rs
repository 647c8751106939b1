//! The program behind `bench/compare`: measures proxies on the same work, interleaved, and refuses to print numbers of a run
//! in which an answer was wrong or the upstream connections were not reused.

mod args;
mod certs;
mod cpu;
mod load;
mod memory;
mod origin;
mod peers;
mod process;
mod report;

use std::{
    io::{self, Write as _},
    process::ExitCode,
    rc::Rc,
};

use anyhow::Context as _;
use args::{Args, Skip};
use origin::Origin;
use peers::Peer;
use tokio::runtime::{Builder, LocalOptions};

fn main() -> ExitCode {
    let done = Args::parse(std::env::args().skip(1)).and_then(|args| {
        let runtime = Builder::new_current_thread().enable_all().build_local(LocalOptions::default())?;
        runtime.block_on(run(&args))
    });
    match done {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::from(1),
        Err(error) => {
            // With stderr gone there is nobody to tell.
            let _unwritable = writeln!(io::stderr(), "compare: {error:#}");
            ExitCode::from(2)
        }
    }
}

/// Whether every limit was kept.
async fn run(args: &Args) -> anyhow::Result<bool> {
    let dir = std::env::temp_dir().join(format!("selvedge-compare-{}", std::process::id()));
    std::fs::create_dir_all(&dir).with_context(|| format!("{} cannot be made", dir.display()))?;
    let _removed = Folder(dir.clone());
    let certs = certs::mint(&dir)?;
    let origin = Rc::new(Origin::start(&certs).await?);
    let mut peers = Vec::new();
    for name in &args.only {
        match Peer::find(*name) {
            Some(peer) => peers.push(peer),
            None => writeln!(io::stderr(), "compare: {} is not installed: left out", name.text())?,
        }
    }
    let mut out = io::stdout();
    report::machine(&mut out)?;
    if args.skip != Skip::Cpu {
        let measured = cpu::measure(args, &dir, &origin, &peers).await?;
        report::cpu(&mut out, args, &measured)?;
    }
    if args.skip == Skip::Memory {
        return Ok(true);
    }
    let measured = memory::measure(args, &dir, &origin, &peers).await?;
    report::memory(&mut out, &measured)?;
    if !args.check {
        return Ok(true);
    }
    let broken = memory::over_limits(&measured);
    for what in &broken {
        writeln!(io::stderr(), "compare: {what}")?;
    }
    Ok(broken.is_empty())
}

/// A folder that goes away with the run.
struct Folder(std::path::PathBuf);

impl Drop for Folder {
    fn drop(&mut self) {
        // What is left in the system's temporary folder does no harm.
        let _left = std::fs::remove_dir_all(&self.0);
    }
}
