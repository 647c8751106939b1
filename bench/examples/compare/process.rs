//! A proxy's processes: started pinned, read from /proc, ended with us.

use std::{
    fs::{self, File},
    path::Path,
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, bail, ensure};

/// The core of the proxies.
const CORE: &str = "0";
/// A proxy that takes longer to start or to settle is broken.
const PATIENCE: Duration = Duration::from_mins(1);

/// A running proxy.
#[derive(Debug)]
pub(crate) struct Process {
    child: Child,
    what: String,
}

impl Process {
    /// Starts a program on the proxies' core; what it says goes to a file beside its configuration.
    pub(crate) fn start(program: &Path, args: &[String], log: &Path) -> anyhow::Result<Self> {
        let what = program.display().to_string();
        let errors = File::create(log).with_context(|| log.display().to_string())?;
        let child = Command::new("taskset")
            .args(["-c", CORE])
            .arg(program)
            .args(args)
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(errors)
            .spawn()
            .with_context(|| format!("{what} does not start"))?;
        Ok(Self { child, what })
    }

    /// Fails with the end of the log if the proxy has ended.
    pub(crate) fn alive(&mut self, log: &Path) -> anyhow::Result<()> {
        if let Some(status) = self.child.try_wait()? {
            let said = fs::read_to_string(log).unwrap_or_default();
            bail!("{} ended: {status}; it said: {said}", self.what);
        }
        Ok(())
    }

    /// The process and the ones it has started.
    fn pids(&self) -> Vec<u32> {
        let mut pids = vec![self.child.id()];
        let mut at = 0;
        while let Some(pid) = pids.get(at).copied() {
            at += 1;
            let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
            pids.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
        pids
    }

    /// CPU time of all threads of all its processes: the clock of utime and stime, in nanoseconds.
    pub(crate) fn cpu(&self) -> anyhow::Result<Duration> {
        let mut total = 0;
        for pid in self.pids() {
            for thread in fs::read_dir(format!("/proc/{pid}/task")).with_context(|| self.what.clone())? {
                let stat = fs::read_to_string(thread?.path().join("schedstat"))?;
                let ran: u64 = stat.split_whitespace().next().context("schedstat")?.parse()?;
                total += ran;
            }
        }
        Ok(Duration::from_nanos(total))
    }

    /// Proportional set size of all its processes, in bytes.
    pub(crate) fn pss(&self) -> anyhow::Result<u64> {
        let mut total = 0;
        for pid in self.pids() {
            let rollup = fs::read_to_string(format!("/proc/{pid}/smaps_rollup"))?;
            let line = rollup.lines().find_map(|line| line.strip_prefix("Pss:")).context("no Pss")?;
            let kib: u64 = line.trim().trim_end_matches("kB").trim().parse()?;
            total += kib * 1024;
        }
        Ok(total)
    }

    /// Memory once it has not moved for three seconds.
    pub(crate) async fn settled_pss(&self) -> anyhow::Result<u64> {
        const STEP: Duration = Duration::from_millis(500);
        const STILL: usize = 6;
        let begun = Instant::now();
        let (mut last, mut same) = (self.pss()?, 0);
        while same < STILL {
            ensure!(begun.elapsed() < PATIENCE, "{}: its memory does not settle", self.what);
            tokio::time::sleep(STEP).await;
            let now = self.pss()?;
            same = if now.abs_diff(last) <= last / 200 { same + 1 } else { 0 };
            last = now;
        }
        Ok(last)
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // Its own children end with it: nginx's worker sees its master's end.
        let pids = self.pids();
        for pid in pids.iter().rev() {
            let _gone = Command::new("kill").arg("-TERM").arg(pid.to_string()).stderr(Stdio::null()).status();
        }
        let begun = Instant::now();
        while matches!(self.child.try_wait(), Ok(None)) && begun.elapsed() < Duration::from_secs(5) {
            std::thread::sleep(Duration::from_millis(20));
        }
        let _gone = self.child.kill();
        let _reaped = self.child.wait();
    }
}
