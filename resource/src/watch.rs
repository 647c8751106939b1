//! Hints that something in a folder has changed. Events differ by filesystem, so their kind means nothing: look again.

use std::{collections::BTreeSet, path::PathBuf};

use notify::{RecommendedWatcher, RecursiveMode, Watcher as _};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Watches folders and wakes whoever waits.
#[derive(Debug)]
pub struct FolderWatch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    watched: Mutex<BTreeSet<PathBuf>>,
    changed: std::sync::Arc<Notify>,
}

impl Default for FolderWatch {
    fn default() -> Self {
        let changed = std::sync::Arc::new(Notify::new());
        let wake = std::sync::Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |_event| wake.notify_one());
        if let Err(error) = &watcher {
            tracing::warn!(%error, "folders cannot be watched; they are read every few seconds instead");
        }
        Self { watcher: Mutex::new(watcher.ok()), watched: Mutex::default(), changed }
    }
}

impl FolderWatch {
    /// Watches these folders from now on, and no others. Folders that cannot be watched are left to polling.
    pub fn set(&self, folders: impl IntoIterator<Item = PathBuf>) {
        let wanted: BTreeSet<PathBuf> = folders.into_iter().collect();
        let mut watched = self.watched.lock();
        let mut watcher = self.watcher.lock();
        let Some(watcher) = watcher.as_mut() else { return };
        for gone in watched.difference(&wanted) {
            let _already_gone = watcher.unwatch(gone);
        }
        let mut now = BTreeSet::new();
        for folder in wanted {
            if watched.contains(&folder) || watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
                now.insert(folder);
            }
        }
        *watched = now;
    }

    /// Waits for the next hint. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}
