//! Manifests in files and folders: read, watched, last good state kept.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use parking_lot::Mutex;
use tokio::sync::watch;

use crate::{
    Delivery, Document, FolderWatch, Kind, KindState, Set, SourceError, Wants, parse, parse_each,
    source::Source, walk::Walk,
};

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 64 * 1024 * 1024;
/// A hint is followed by quiet of this length before files are read: editors write in several steps.
const QUIET: Duration = Duration::from_millis(100);
/// Somebody who never stops writing is read after this time all the same.
const LONGEST_WAIT: Duration = Duration::from_millis(500);
/// A file that was changed this short a time before it was read may change again without a new stamp: file systems count
/// time in ticks.
const TICK: Duration = Duration::from_millis(50);
/// Files are looked at this often even without a hint.
const POLL: Duration = Duration::from_secs(2);

/// A path that cannot be read at all.
#[derive(Debug, thiserror::Error)]
#[error("cannot read {}: {source}", path.display())]
pub struct LoadError {
    /// The path as it was given.
    pub path: PathBuf,
    /// The system's error.
    #[source]
    pub source: io::Error,
}

/// Manifests below some paths.
#[derive(Debug)]
pub struct FileSource {
    paths: Vec<PathBuf>,
    namespace: String,
    known: Mutex<Known>,
    wants: Mutex<Wants>,
    delivery: watch::Sender<Delivery>,
    folders: FolderWatch,
}

/// What was read.
#[derive(Debug, Default)]
struct Known {
    files: BTreeMap<PathBuf, FileState>,
    /// Folders that were looked into.
    folders: BTreeSet<PathBuf>,
    /// Paths that cannot be looked into.
    errors: Vec<SourceError>,
}

/// What is known of one file.
#[derive(Debug, Default)]
struct FileState {
    stamp: Option<(SystemTime, u64, u64)>,
    /// Hash of the text that was read last.
    text: Option<u64>,
    /// The documents are those of a text that could be read to its end.
    whole: bool,
    documents: Vec<Arc<Document>>,
    errors: Vec<SourceError>,
}

impl FileSource {
    /// Reads everything once. Documents without a namespace get `namespace`.
    pub fn load(paths: &[PathBuf], namespace: &str) -> Result<Arc<Self>, LoadError> {
        for path in paths {
            let opened = match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => fs::read_dir(path).map(drop),
                Ok(meta) if meta.is_file() => fs::File::open(path).map(drop),
                Ok(_) => Err(io::Error::other("it is no regular file")),
                Err(error) => Err(error),
            };
            opened.map_err(|source| LoadError { path: path.clone(), source })?;
        }
        let source = Arc::new(Self {
            paths: paths.to_vec(),
            namespace: namespace.to_owned(),
            known: Mutex::default(),
            wants: Mutex::default(),
            delivery: watch::channel(Delivery::default()).0,
            folders: FolderWatch::default(),
        });
        source.refresh();
        Ok(source)
    }

    /// The present documents.
    pub fn set(&self) -> Arc<Set> {
        Arc::clone(&self.delivery.borrow().set)
    }

    /// Follows the files until dropped.
    pub async fn run(self: Arc<Self>) {
        loop {
            let folders = self.known.lock().folders.clone();
            self.folders.set(folders);
            tokio::select! {
                () = self.folders.changed() => self.settle().await,
                () = tokio::time::sleep(POLL) => {}
            }
            let source = Arc::clone(&self);
            // Thousands of files must not hold up the control thread.
            if tokio::task::spawn_blocking(move || source.refresh()).await.is_err() {
                tracing::error!("reading manifests failed; the last good ones stay in use");
            }
        }
    }

    /// Waits for quiet.
    async fn settle(&self) {
        let end = Instant::now() + LONGEST_WAIT;
        while Instant::now() < end && tokio::time::timeout(QUIET, self.folders.changed()).await.is_ok() {}
    }

    /// Reads what has changed; delivers if anything did.
    pub fn refresh(&self) {
        let mut known = self.known.lock();
        let walk = Walk::below(&self.paths);
        let mut changed = false;
        known.files.retain(|path, _| {
            let keep = walk.files.contains(path) || walk.keeps(path);
            changed |= !keep;
            keep
        });
        for path in &walk.files {
            changed |= self.read(path, known.files.entry(path.clone()).or_default());
        }
        let mut errors = walk.errors;
        for error in &mut errors {
            let below = error.path.as_deref();
            error.kept_last_good =
                known.files.keys().any(|file| below.is_some_and(|path| file.starts_with(path)));
        }
        changed |= errors != known.errors;
        known.errors = errors;
        known.folders = walk.folders;
        let first = self.delivery.borrow().revision == 0;
        if changed || first {
            let of_files = known.files.values().flat_map(|file| file.errors.iter());
            let set = Set {
                documents: known.files.values().flat_map(|file| file.documents.iter().cloned()).collect(),
                errors: known.errors.iter().chain(of_files).cloned().collect(),
            };
            self.deliver(Arc::new(set));
        }
    }

    fn deliver(&self, set: Arc<Set>) {
        let kinds =
            self.wants.lock().kinds.iter().map(|kind: &Kind| (kind.clone(), KindState::Synced)).collect();
        self.delivery.send_modify(|delivery| {
            *delivery = Delivery { kinds, set, revision: delivery.revision + 1 };
        });
    }

    /// Reads one file if it may have changed; whether its documents or errors did.
    fn read(&self, path: &Path, state: &mut FileState) -> bool {
        use std::hash::{BuildHasher as _, BuildHasherDefault, DefaultHasher};
        let stamp = stamp(path);
        if stamp.is_some() && state.stamp == stamp {
            return false;
        }
        let owned = Arc::new(path.to_path_buf());
        let read = match text(path) {
            Ok(text) => {
                state.stamp = stamp.filter(|(modified, ..)| modified.elapsed().is_ok_and(|age| age > TICK));
                let hash = BuildHasherDefault::<DefaultHasher>::default().hash_one(&text);
                if state.text == Some(hash) {
                    return false;
                }
                state.text = Some(hash);
                let keep = state.whole && !state.documents.is_empty();
                match parse(&owned, &text, &self.namespace) {
                    // There is no good state to keep: what can be read of it serves.
                    Err(_named_again) if !keep => {
                        state.whole = false;
                        Ok(parse_each(&owned, &text, &self.namespace))
                    }
                    read => {
                        state.whole |= read.is_ok();
                        read
                    }
                }
            }
            Err(error) => {
                (state.stamp, state.text) = (None, None);
                Err(SourceError {
                    path: Some(owned),
                    line: 0,
                    message: format!("cannot be read: {error}"),
                    remedy: "make it a readable UTF-8 file; until then its last documents stay in use"
                        .to_owned(),
                    kept_last_good: false,
                })
            }
        };
        match read {
            Ok((documents, errors)) => {
                state.documents = keep_unchanged(&state.documents, documents);
                state.errors = errors;
            }
            Err(mut broken) => {
                broken.kept_last_good = !state.documents.is_empty();
                let broken = vec![broken];
                if state.errors == broken {
                    return false;
                }
                state.errors = broken;
            }
        }
        true
    }
}

impl Source for FileSource {
    /// Files deliver everything they hold; the list only says which kinds are reported as synced.
    fn want(&self, wants: Wants) {
        *self.wants.lock() = wants;
        let set = self.set();
        self.deliver(set);
    }

    fn watch(&self) -> watch::Receiver<Delivery> {
        self.delivery.subscribe()
    }
}

/// Changes whenever the file does: time, length, inode.
fn stamp(path: &Path) -> Option<(SystemTime, u64, u64)> {
    use std::os::unix::fs::MetadataExt as _;
    let meta = fs::metadata(path).ok()?;
    Some((meta.modified().ok()?, meta.len(), meta.ino()))
}

/// The text of a file. Anything else is not opened: a pipe would hold up whoever reads it, for ever.
fn text(path: &Path) -> io::Result<String> {
    let meta = fs::metadata(path)?;
    if !meta.is_file() {
        return Err(io::Error::other("it is no regular file"));
    }
    if meta.len() > MAX_FILE_BYTES {
        return Err(io::Error::other("it is larger than 64 MiB"));
    }
    fs::read_to_string(path)
}

/// Documents that say the same keep their place in memory, so that later steps can skip them.
fn keep_unchanged(old: &[Arc<Document>], new: Vec<Document>) -> Vec<Arc<Document>> {
    let known: BTreeMap<_, _> = old.iter().map(|document| (&document.object, document)).collect();
    let keep = |document: Document| match known.get(&document.object) {
        Some(old) if ***old == document => Arc::clone(old),
        _ => Arc::new(document),
    };
    new.into_iter().map(keep).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SERVICE: &str = "apiVersion: v1\nkind: Service\nmetadata: {name: NAME}\n";

    fn names(source: &FileSource) -> Vec<String> {
        source.set().documents.iter().map(|document| document.object.name.to_string()).collect()
    }

    async fn until(source: &FileSource, wanted: &[&str]) {
        let mut deliveries = source.watch();
        let arrived = deliveries.wait_for(|_| names(source) == wanted);
        tokio::time::timeout(Duration::from_secs(10), arrived).await.expect("in time").expect("alive");
    }

    #[tokio::test]
    async fn saved_renamed_broken_and_removed_files() {
        let folder = tempfile::tempdir().expect("folder");
        let at = |name: &str| folder.path().join(name);
        fs::write(at("a.yaml"), SERVICE.replace("NAME", "a")).expect("write");
        fs::write(at(".hidden.yaml"), SERVICE.replace("NAME", "hidden")).expect("write");
        let source = FileSource::load(&[folder.path().to_path_buf()], "default").expect("load");
        assert_eq!(names(&source), ["a"]);
        let running = tokio::spawn(Arc::clone(&source).run());
        fs::write(at("b.yaml"), SERVICE.replace("NAME", "b")).expect("write");
        until(&source, &["a", "b"]).await;
        fs::write(at("new"), SERVICE.replace("NAME", "c")).expect("write");
        fs::rename(at("new"), at("b.yaml")).expect("rename over");
        until(&source, &["a", "c"]).await;
        fs::write(at("a.yaml"), "a: [").expect("break");
        let mut deliveries = source.watch();
        let broken = deliveries.wait_for(|delivery| !delivery.set.errors.is_empty());
        let broken =
            tokio::time::timeout(Duration::from_secs(10), broken).await.expect("in time").expect("alive");
        assert!(broken.set.errors[0].kept_last_good);
        drop(broken);
        assert_eq!(names(&source), ["a", "c"]);
        fs::remove_file(at("a.yaml")).expect("remove");
        until(&source, &["c"]).await;
        assert!(source.set().errors.is_empty());
        running.abort();
    }

    #[test]
    fn a_missing_path_is_an_error_at_once() {
        let error = FileSource::load(&[PathBuf::from("/nonexistent/x")], "default").expect_err("missing");
        assert!(error.to_string().contains("/nonexistent/x"));
    }
}
