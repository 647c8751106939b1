//! CPU time per request: windows of the proxies in turn, so that a machine that is slow for a while is slow for all.

use std::{
    path::Path,
    rc::Rc,
    time::{Duration, Instant},
};

use anyhow::{Context as _, ensure};

use crate::{
    args::Args,
    load::Load,
    origin::Origin,
    peers::{Name, Peer, Role, Running},
};

/// Before a window: connections open, caches fill.
const WARM_UP: Duration = Duration::from_millis(400);
/// With pooling, windows have hardly any handshake: one for so many requests is too many.
const REQUESTS_PER_HANDSHAKE: u64 = 200;

/// One proxy's windows.
#[derive(Debug)]
pub(crate) struct Measured {
    pub(crate) name: Name,
    pub(crate) windows: Vec<Window>,
}

/// What one window showed.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Window {
    /// CPU microseconds of the proxy per request.
    pub(crate) per_request: f64,
    /// Requests per second.
    pub(crate) rate: f64,
    /// How much of its core the proxy had.
    pub(crate) share: f64,
}

/// Starts all proxies and measures them in turn.
pub(crate) async fn measure(
    args: &Args,
    dir: &Path,
    origin: &Rc<Origin>,
    peers: &[Peer],
) -> anyhow::Result<Vec<Measured>> {
    let role = Role { origin: Some(origin.addr), access_log: args.access_log };
    let mut all = Vec::new();
    for peer in peers {
        let running = peer.start(dir, role).await?;
        all.push((running, Measured { name: peer.name, windows: Vec::new() }));
    }
    for _ in 0..args.windows {
        for (running, measured) in &mut all {
            let window = window(args, origin, running).await;
            measured.windows.push(window.with_context(|| measured.name.text().to_owned())?);
        }
    }
    Ok(all.into_iter().map(|(_, measured)| measured).collect())
}

async fn window(args: &Args, origin: &Origin, running: &Running) -> anyhow::Result<Window> {
    let load = Load::start(running.addr, args.connections);
    tokio::time::sleep(WARM_UP).await;
    let (begun, cpu, done) = (Instant::now(), running.process.cpu()?, load.done());
    let (requests, handshakes) = (origin.requests(), origin.handshakes());
    tokio::time::sleep(args.seconds).await;
    let (took, cpu) = (begun.elapsed(), running.process.cpu()?.saturating_sub(cpu));
    let done = load.done() - done;
    let (requests, handshakes) = (origin.requests() - requests, origin.handshakes() - handshakes);
    load.stop().await?;
    ensure!(done > 0 && requests > 0, "no answer in a window");
    // The two are not read within an answer's way, but no proxy may answer by itself.
    ensure!(
        requests.abs_diff(done) <= args.connections as u64,
        "{done} answers, but the origin saw {requests} requests"
    );
    ensure!(
        handshakes * REQUESTS_PER_HANDSHAKE <= requests,
        "{handshakes} handshakes for {requests} requests: upstream connections are not reused"
    );
    let count = f64::from(u32::try_from(done)?);
    let seconds = took.as_secs_f64();
    Ok(Window {
        per_request: cpu.as_secs_f64() * 1e6 / count,
        rate: count / seconds,
        share: cpu.as_secs_f64() / seconds,
    })
}
