//! The program's log on stderr.

use std::io::{self, IsTerminal as _};

use tracing_subscriber::EnvFilter;

/// Starts the log; `json` wins, otherwise text on a terminal and JSON elsewhere. The error names a bad level.
pub fn init(level: &str, json: Option<bool>) -> Result<(), String> {
    let filter = EnvFilter::try_new(level)
        .map_err(|error| format!("--log-level `{level}`: {error}; write info, debug or info,proxy=debug"))?;
    let builder = tracing_subscriber::fmt().with_env_filter(filter).with_writer(io::stderr);
    let json = json.unwrap_or_else(|| !io::stderr().is_terminal());
    // A second start in one process (tests) keeps the first log.
    let _already = if json {
        builder.json().flatten_event(true).with_target(true).try_init()
    } else {
        builder.with_ansi(io::stderr().is_terminal()).with_target(false).try_init()
    };
    Ok(())
}
