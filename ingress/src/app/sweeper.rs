//! When open connections are looked at again: after each change, off the control thread.

use std::{sync::Arc, time::Duration};

use identity::Source;
use parking_lot::Mutex;
use proxy::net::Server;
use tokio::{
    sync::{Notify, watch},
    time::Instant,
};
use tokio_util::sync::CancellationToken;

use crate::route::Table;

/// Without a change: connections that came just beside one, and certificates that end, are found within this.
const TICK: Duration = Duration::from_millis(500);

/// Orders sweeps. Many changes at once are one sweep; the control loop never waits for one.
#[derive(Debug, Default)]
pub(super) struct Sweeper {
    wanted: Notify,
    /// When the first change came that no sweep has begun for.
    since: Mutex<Option<Instant>>,
}

impl Sweeper {
    /// Something has changed that peers rest on.
    pub(super) fn ask(&self) {
        self.since.lock().get_or_insert_with(Instant::now);
        self.wanted.notify_one();
    }

    /// Sweeps until cancelled. Each delivery of the Workload API may take trust away.
    pub(super) async fn run(
        self: Arc<Self>,
        server: Arc<Server<Table>>,
        spiffe: Option<Arc<Source>>,
        cancel: CancellationToken,
    ) {
        let mut svids = spiffe.map(|source| source.watch());
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                () = self.wanted.notified() => {}
                () = delivered(&mut svids) => self.ask(),
                () = tokio::time::sleep(TICK) => {}
            }
            let known = self.since.lock().take().unwrap_or_else(Instant::now);
            let server = Arc::clone(&server);
            // Verifying thousands of chains takes a while, in which deliveries and probes must not wait.
            if tokio::task::spawn_blocking(move || server.recheck(known)).await.is_err() {
                tracing::error!("a sweep of the connections failed; the next one comes at once");
            }
        }
    }
}

/// Wakes with the next delivery; never without a source, or when it is gone.
async fn delivered(svids: &mut Option<watch::Receiver<u64>>) {
    if let Some(watch) = svids
        && watch.changed().await.is_ok()
    {
        return;
    }
    std::future::pending::<()>().await;
}
