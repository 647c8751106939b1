//! PEM files as a source: read through one resolved folder, so that kubelet's `..data` swap never mixes two pairs.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind, Read as _},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use parking_lot::Mutex;

use super::{
    Source, SourceRef,
    secret::{Usage, read},
};
use crate::Problem;

/// Largest file that is read.
const MAX_FILE_BYTES: u64 = 1024 * 1024;

/// The files of one source.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Files {
    /// Certificate chain, CA or revocation list.
    pub cert: PathBuf,
    /// Private key, with [`Usage::Identity`].
    pub key: Option<PathBuf>,
    /// What for.
    pub usage: Usage,
}

impl Files {
    /// The source's name: `file:/etc/tls/tls.crt#identity`.
    pub fn source_ref(&self) -> SourceRef {
        SourceRef::new(format!("file:{}#{}", self.cert.display(), self.usage.as_str()))
    }
}

/// A source fed from files. Whoever owns it calls [`FileSource::refresh`] on a hint from the folder, and every few seconds.
#[derive(Debug)]
pub struct FileSource {
    files: Files,
    source: Arc<Source>,
    grace: Duration,
    last: Mutex<Last>,
}

#[derive(Debug, Default)]
struct Last {
    contents: Option<BTreeMap<String, Vec<u8>>>,
    gone_since: Option<SystemTime>,
}

impl FileSource {
    /// Reads the files for the first time. The source is pending, with its problem, if they cannot be used.
    pub fn open(files: Files, grace: Duration, now: SystemTime) -> Self {
        let source = Source::new(files.source_ref());
        let opened = Self { files, source, grace, last: Mutex::default() };
        opened.refresh(now);
        opened
    }

    /// The source that is fed.
    pub fn source(&self) -> &Arc<Source> {
        &self.source
    }

    /// The folders to watch: those that hold the files, as written.
    pub fn folders(&self) -> Vec<PathBuf> {
        let paths = std::iter::once(&self.files.cert).chain(self.files.key.as_ref());
        let mut folders: Vec<_> = paths.filter_map(|path| path.parent().map(Path::to_path_buf)).collect();
        folders.dedup();
        folders
    }

    /// Reads again; publishes what changed, keeps the last good of what does not work, withdraws what was deleted when
    /// its grace is over.
    pub fn refresh(&self, now: SystemTime) {
        let mut last = self.last.lock();
        match self.contents() {
            Ok(contents) => {
                last.gone_since = None;
                if last.contents.as_ref() != Some(&contents) || self.source.state().material.is_none() {
                    self.accept(&contents, now);
                    last.contents = Some(contents);
                }
            }
            Err(problem) if problem.code == GONE => {
                let since = *last.gone_since.get_or_insert(now);
                let over = now.duration_since(since).unwrap_or_default() >= self.grace;
                if over && self.source.state().material.is_some() {
                    self.source.withdraw(problem);
                    last.contents = None;
                } else {
                    self.report(problem);
                }
            }
            Err(problem) => self.report(problem),
        }
    }

    fn accept(&self, contents: &BTreeMap<String, Vec<u8>>, now: SystemTime) {
        let what = self.files.cert.display().to_string();
        match read(&what, self.files.usage, contents, now) {
            Ok((material, _left_out)) => self.source.publish(material),
            Err(problem) => self.report(problem),
        }
    }

    /// Says a problem once.
    fn report(&self, problem: Problem) {
        if self.source.state().problem.as_ref() != Some(&problem) {
            tracing::warn!(source = %self.source.name(), code = problem.code, "{problem}");
            self.source.reject(problem);
        }
    }

    /// Both files through one resolved folder: between two reads of `..data/x` the link may have moved.
    fn contents(&self) -> Result<BTreeMap<String, Vec<u8>>, Problem> {
        let resolved = resolve(&self.files.cert)?;
        let cert_key = match self.files.usage {
            Usage::Identity => "tls.crt",
            Usage::Trust => "ca.crt",
            Usage::Crl => "crl.pem",
        };
        let mut contents = BTreeMap::from([(cert_key.to_owned(), bounded(&resolved)?)]);
        if let Some(key) = &self.files.key {
            let key = match (key.file_name(), key.parent() == self.files.cert.parent(), resolved.parent()) {
                (Some(name), true, Some(folder)) if folder.join(name).exists() => folder.join(name),
                _ => resolve(key)?,
            };
            contents.insert("tls.key".to_owned(), bounded(&key)?);
        }
        Ok(contents)
    }
}

/// Code of a file that is not there.
const GONE: &str = "file_missing";

fn resolve(path: &Path) -> Result<PathBuf, Problem> {
    fs::canonicalize(path).map_err(|error| unreadable(path, &error))
}

fn bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    let file = fs::File::open(path).map_err(|error| unreadable(path, &error))?;
    let mut bytes = Vec::new();
    file.take(MAX_FILE_BYTES + 1).read_to_end(&mut bytes).map_err(|error| unreadable(path, &error))?;
    if bytes.len() as u64 > MAX_FILE_BYTES {
        return Err(Problem::new("file_unreadable", format!("{} is larger than 1 MiB", path.display())));
    }
    Ok(bytes)
}

fn unreadable(path: &Path, error: &std::io::Error) -> Problem {
    let code = if error.kind() == ErrorKind::NotFound { GONE } else { "file_unreadable" };
    Problem::new(code, format!("cannot read {}: {error}", path.display()))
}
