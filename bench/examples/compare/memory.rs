//! Memory (proportional set size): without configuration, with connections at rest, and after they have closed.

use std::{path::Path, rc::Rc};

use anyhow::Context as _;

use crate::{
    args::Args,
    load,
    origin::Origin,
    peers::{Name, Peer, Role},
};

/// Selvedge's own limits, which `--check` holds.
const MOST_EMPTY: u64 = 12 * 1024 * 1024;
const MOST_PER_CONNECTION: u64 = 4 * 1024;
/// What may stay of a burst when its connections have closed.
const MOST_KEPT: u64 = 8 * 1024 * 1024;

/// One proxy's memory, in bytes.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: Name,
    /// Without configuration.
    pub(crate) empty: u64,
    /// In the role of the CPU windows, after a first burst of requests.
    pub(crate) warm: u64,
    /// For each connection at rest.
    pub(crate) per_connection: u64,
    /// When they have closed.
    pub(crate) after: u64,
}

/// Measures each proxy alone.
pub(crate) async fn measure(
    args: &Args,
    dir: &Path,
    origin: &Rc<Origin>,
    peers: &[Peer],
) -> anyhow::Result<Vec<Measured>> {
    let mut all = Vec::new();
    for peer in peers {
        let one = one(args, dir, origin, peer).await;
        all.push(one.with_context(|| peer.name.text().to_owned())?);
    }
    Ok(all)
}

async fn one(args: &Args, dir: &Path, origin: &Origin, peer: &Peer) -> anyhow::Result<Measured> {
    let nothing = peer.start(dir, Role { origin: None, access_log: args.access_log }).await?;
    let empty = nothing.process.settled_pss().await?;
    drop(nothing);
    let running = peer.start(dir, Role { origin: Some(origin.addr), access_log: args.access_log }).await?;
    // The upstream pool is as full as the burst makes it, and code that runs is in memory.
    drop(load::idle(running.addr, 64).await?);
    let warm = running.process.settled_pss().await?;
    let mut clients = load::idle(running.addr, args.idle).await?;
    let full = running.process.settled_pss().await?;
    load::ask_again(&mut clients).await?;
    drop(clients);
    let after = running.process.settled_pss().await?;
    let per_connection = full.saturating_sub(warm) / args.idle as u64;
    Ok(Measured { name: peer.name, empty, warm, per_connection, after })
}

/// What of Selvedge's is over its limits.
pub(crate) fn over_limits(measured: &[Measured]) -> Vec<String> {
    let mut broken = Vec::new();
    for one in measured.iter().filter(|one| one.name == Name::Selvedge) {
        let mut hold = |what: &str, is: u64, most: u64| {
            if is > most {
                broken.push(format!("selvedge: {what}: {is} bytes, at most {most}"));
            }
        };
        hold("empty configuration", one.empty, MOST_EMPTY);
        hold("connection at rest", one.per_connection, MOST_PER_CONNECTION);
        hold("kept after a burst", one.after.saturating_sub(one.warm), MOST_KEPT);
    }
    broken
}
