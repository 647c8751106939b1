//! Hints that something in a folder has changed. Events differ by filesystem, so a hint only says: look again.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::PathBuf,
};

use notify::{
    Event, EventKind, RecommendedWatcher, RecursiveMode, Watcher as _,
    event::{AccessKind, AccessMode},
};
use parking_lot::Mutex;
use tokio::sync::Notify;

/// Watches folders and wakes whoever waits.
#[derive(Debug)]
pub struct FolderWatch {
    watcher: Mutex<Option<RecommendedWatcher>>,
    /// With the folder's inode: a folder that was made anew under the same path has to be watched anew.
    watched: Mutex<BTreeMap<PathBuf, u64>>,
    changed: std::sync::Arc<Notify>,
}

impl Default for FolderWatch {
    fn default() -> Self {
        let changed = std::sync::Arc::new(Notify::new());
        let wake = std::sync::Arc::clone(&changed);
        let watcher = notify::recommended_watcher(move |event| {
            if is_hint(&event) {
                wake.notify_one();
            }
        });
        if let Err(error) = &watcher {
            tracing::warn!(%error, "folders cannot be watched; they are read every few seconds instead");
        }
        Self { watcher: Mutex::new(watcher.ok()), watched: Mutex::default(), changed }
    }
}

impl FolderWatch {
    /// Watches these folders from now on, and no others. A watch that begins is a hint itself: what changed between the last
    /// reading and its begin was missed. Folders that cannot be watched are left to polling.
    pub fn set(&self, folders: impl IntoIterator<Item = PathBuf>) {
        let wanted: BTreeSet<PathBuf> = folders.into_iter().collect();
        let mut watcher = self.watcher.lock();
        let Some(watcher) = watcher.as_mut() else { return };
        let mut now = self.watched.lock();
        let before = std::mem::take(&mut *now);
        let mut began = false;
        for folder in wanted {
            let Ok(inode) = inode(&folder) else { continue };
            let known = before.get(&folder) == Some(&inode);
            if !known && before.contains_key(&folder) {
                let _already_ended = watcher.unwatch(&folder);
            }
            if known || watcher.watch(&folder, RecursiveMode::NonRecursive).is_ok() {
                began |= !known;
                now.insert(folder, inode);
            }
        }
        for gone in before.keys().filter(|folder| !now.contains_key(*folder)) {
            // The system has ended the watch of a folder that was removed.
            let _already_ended = watcher.unwatch(gone);
        }
        if began {
            self.changed.notify_one();
        }
    }

    /// Waits for the next hint. Cancel-safe.
    pub async fn changed(&self) {
        self.changed.notified().await;
    }
}

fn inode(folder: &PathBuf) -> io::Result<u64> {
    Ok(fs::metadata(folder)?.ino())
}

/// Reading is an event too: a reader that looked again after each of its own reads would never rest.
fn is_hint(event: &notify::Result<Event>) -> bool {
    match event.as_ref().map(|event| event.kind) {
        Ok(EventKind::Access(kind)) => kind == AccessKind::Close(AccessMode::Write),
        Ok(_) | Err(_) => true,
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test]
    async fn reading_is_no_hint_and_a_folder_made_anew_is_watched_anew() {
        let outer = tempfile::tempdir().expect("folder");
        let folder = outer.path().join("conf");
        fs::create_dir(&folder).expect("mkdir");
        fs::write(folder.join("a"), "1").expect("write");
        let watch = FolderWatch::default();
        let hint =
            async || tokio::time::timeout(Duration::from_secs(10), watch.changed()).await.expect("a hint");
        watch.set([folder.clone()]);
        hint().await;
        // Known already: no hint.
        watch.set([folder.clone()]);
        fs::read_to_string(folder.join("a")).expect("read");
        assert_eq!(fs::read_dir(&folder).expect("list").count(), 1);
        let quiet = tokio::time::timeout(Duration::from_millis(300), watch.changed()).await;
        assert!(quiet.is_err(), "woken by a read");
        fs::write(folder.join("a"), "2").expect("write");
        hint().await;
        // The old folder stays under another name, so that its inode is not given out again.
        fs::rename(&folder, outer.path().join("old")).expect("rename");
        fs::create_dir(&folder).expect("mkdir");
        while tokio::time::timeout(Duration::from_millis(100), watch.changed()).await.is_ok() {}
        watch.set([folder.clone()]);
        hint().await;
        while tokio::time::timeout(Duration::from_millis(100), watch.changed()).await.is_ok() {}
        fs::write(folder.join("b"), "1").expect("write");
        hint().await;
    }
}
