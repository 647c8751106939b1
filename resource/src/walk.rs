//! Finding the manifest files below the paths that people name.

use std::{
    collections::{BTreeSet, HashSet},
    fs, io,
    path::{Path, PathBuf},
    sync::Arc,
};

use crate::SourceError;

/// Deepest folder below a given one.
const MAX_DEPTH: usize = 16;

/// What one look at the paths found.
#[derive(Debug, Default)]
pub(crate) struct Walk {
    /// Manifest files, in order of their paths.
    pub(crate) files: BTreeSet<PathBuf>,
    /// Folders whose changes matter.
    pub(crate) folders: BTreeSet<PathBuf>,
    /// Paths that could not be looked into.
    pub(crate) errors: Vec<SourceError>,
    /// Folders already seen, without symbolic links: a link to a parent must not go round.
    seen: HashSet<PathBuf>,
}

impl Walk {
    /// Looks at files as they are, and into folders: `.yaml`, `.yml` and `.json` in them and in their subfolders, names
    /// with a leading dot left out (kubelet's `..data` is reached through its links).
    pub(crate) fn below(paths: &[PathBuf]) -> Self {
        let mut walk = Self::default();
        for path in paths {
            match fs::metadata(path) {
                Ok(meta) if meta.is_dir() => walk.folder(path, 0),
                Ok(_) => walk.file(path.clone()),
                Err(error) => {
                    walk.folders.insert(parent(path));
                    walk.fail(path, &error);
                }
            }
        }
        walk
    }

    /// Whether a file that was not found is below a folder that cannot be looked into.
    pub(crate) fn keeps(&self, file: &Path) -> bool {
        let folders = self.errors.iter().filter_map(|error| error.path.as_deref());
        folders.into_iter().any(|folder| file != folder && file.starts_with(folder))
    }

    fn folder(&mut self, folder: &Path, depth: usize) {
        let fresh = fs::canonicalize(folder).map(|real| self.seen.insert(real));
        if depth > MAX_DEPTH || fresh.is_ok_and(|fresh| !fresh) {
            return;
        }
        self.folders.insert(folder.to_path_buf());
        let entries = match fs::read_dir(folder) {
            Ok(entries) => entries,
            Err(error) => return self.fail(folder, &error),
        };
        for entry in entries.filter_map(Result::ok) {
            if entry.file_name().as_encoded_bytes().starts_with(b".") {
                continue;
            }
            let path = entry.path();
            if path.is_dir() {
                self.folder(&path, depth + 1);
            } else if path.extension().is_some_and(|end| end == "yaml" || end == "yml" || end == "json") {
                self.file(path);
            }
        }
    }

    fn file(&mut self, path: PathBuf) {
        self.folders.insert(parent(&path));
        let is_link = fs::symlink_metadata(&path).is_ok_and(|meta| meta.is_symlink());
        if is_link && let Ok(real) = fs::canonicalize(&path) {
            self.folders.insert(parent(&real));
        }
        self.files.insert(path);
    }

    fn fail(&mut self, path: &Path, error: &io::Error) {
        self.errors.push(SourceError {
            path: Some(Arc::new(path.to_path_buf())),
            line: 0,
            message: format!("cannot be read: {error}"),
            remedy: "bring it back or make it readable; the documents of a folder stay in use until then"
                .to_owned(),
            kept_last_good: false,
        });
    }
}

fn parent(path: &Path) -> PathBuf {
    match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent.to_path_buf(),
        _ => PathBuf::from("."),
    }
}
