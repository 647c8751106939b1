//! The program's log on stderr: written by a thread of its own, so that a reader who does not read holds nobody up, and with few
//! lines of a kind in each second, so that a peer cannot fill a disk with it.

mod calm;

use std::{
    io::{self, IsTerminal as _},
    sync::OnceLock,
};

use proxy::observe::{Counter, LogWriter, Observe};
use tracing_subscriber::{
    EnvFilter, Layer as _, fmt::MakeWriter, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use calm::Calm;

/// Lines that may wait for the writer: it is calm, but for its start and its end.
const LINES_WAITING: usize = 2 * 1024;

/// The one log of the process.
static LOG: OnceLock<LogWriter> = OnceLock::new();

/// Starts the log; `json` wins, otherwise text on a terminal and JSON elsewhere. The error names a bad level.
pub fn init(level: &str, json: Option<bool>) -> Result<(), String> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("--log-level `{level}`: {error}; write info, debug or info,proxy=debug"))?;
    let json = json.unwrap_or_else(|| !io::stderr().is_terminal());
    let lines = tracing_subscriber::fmt::layer().with_writer(ToLog);
    let lines = if json {
        lines.json().flatten_event(true).with_target(true).with_filter(Calm).boxed()
    } else {
        lines.with_ansi(io::stderr().is_terminal()).with_target(false).with_filter(Calm).boxed()
    };
    // A second start in one process (tests) keeps the first log.
    let _already = tracing_subscriber::registry().with(filter).with(lines).try_init();
    proxy::observe::watch_panics();
    Ok(())
}

/// Waits until what was said is written, bounded: before the process ends.
pub fn flush() {
    if let Some(log) = LOG.get() {
        log.flush();
    }
}

/// Shows what the log has lost or left out among the metrics, and says from time to time what was left out.
pub(super) async fn watch(observe: &Observe) {
    observe.count_elsewhere(Counter::LogDropped, log().lost());
    observe.count_elsewhere(Counter::LogSuppressed, calm::suppressed());
    calm::say_what_was_left_out().await;
}

fn log() -> &'static LogWriter {
    // Where nobody can read it, it cannot be said that nobody can read it: the metric alone shows it.
    LOG.get_or_init(|| LogWriter::start(("program-log", LINES_WAITING), io::stderr(), |_failing| {}))
}

/// Gives each event's line to the log's thread.
struct ToLog;

impl MakeWriter<'_> for ToLog {
    type Writer = Self;

    fn make_writer(&self) -> Self {
        Self
    }
}

impl io::Write for ToLog {
    /// An event is written at once and whole.
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        log().write(line.to_vec());
        Ok(line.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
