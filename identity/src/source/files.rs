//! PEM files as a source: read only while no link on their way moves, so that kubelet's `..data` swap never mixes two pairs.

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
pub struct FileSource {
    files: Files,
    source: Arc<Source>,
    rules: FileRules,
    last: Mutex<Last>,
}

/// What is done about files that are gone, or hold what not everybody accepts.
#[derive(Clone, Copy, Debug)]
pub struct FileRules {
    /// Deleted files stay in use this long.
    pub grace: Duration,
    /// An own certificate that is a CA is refused.
    pub refuse_ca: bool,
}

/// Bytes by the key that a Secret would have them under.
type Contents = BTreeMap<String, Vec<u8>>;

#[derive(Default)]
struct Last {
    /// What the published material was read from.
    good: Option<Contents>,
    gone_since: Option<SystemTime>,
}

impl std::fmt::Debug for FileSource {
    /// Without the bytes that were read: there is a key among them.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("FileSource").field("files", &self.files).finish_non_exhaustive()
    }
}

impl FileSource {
    /// Reads the files for the first time, for a source of their own name. It is pending, with its problem, if they cannot
    /// be used.
    pub fn open(files: Files, rules: FileRules, now: SystemTime) -> Self {
        let source = Source::new(files.source_ref());
        Self::feed(source, files, rules, now)
    }

    /// As [`FileSource::open`], for a source that is there already: what it holds from before is withdrawn if the files
    /// cannot be used.
    pub fn feed(source: Arc<Source>, files: Files, rules: FileRules, now: SystemTime) -> Self {
        let opened = Self { files, source, rules, last: Mutex::default() };
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
        let folder = |path: &PathBuf| match path.parent() {
            Some(folder) if folder.as_os_str().is_empty() => Some(PathBuf::from(".")),
            folder => folder.map(Path::to_path_buf),
        };
        let mut folders: Vec<_> = paths.filter_map(folder).collect();
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
                if last.good.as_ref() == Some(&contents) && self.source.state().material.is_some() {
                    self.source.recover();
                } else {
                    match self.accept(contents, now) {
                        Ok(good) => last.good = Some(good),
                        Err(problem) => self.report(&last, problem),
                    }
                }
            }
            Err(problem) if problem.code == GONE => {
                let since = *last.gone_since.get_or_insert(now);
                let over = now.duration_since(since).unwrap_or_default() >= self.rules.grace;
                if over && self.source.state().material.is_some() {
                    self.source.withdraw(problem);
                    last.good = None;
                } else {
                    self.report(&last, problem);
                }
            }
            Err(problem) => self.report(&last, problem),
        }
    }

    /// Publishes; gives back the contents if they were good. A pair that does not match is read once more: its two files
    /// may have been replaced one after the other.
    fn accept(&self, contents: Contents, now: SystemTime) -> Result<Contents, Problem> {
        let what = self.files.cert.display().to_string();
        let attempt = |contents: Contents| -> Result<_, Problem> {
            let (material, left_out) = read(&what, self.files.usage, &contents, now)?;
            if self.rules.refuse_ca {
                material.refuse_ca(&what)?;
            }
            Ok((material, left_out, contents))
        };
        let outcome = match attempt(contents) {
            Err(problem) if problem.code == "key_mismatch" => self.contents().and_then(attempt),
            outcome => outcome,
        };
        let (material, left_out, contents) = outcome?;
        for why in left_out {
            tracing::warn!(source = %self.source.name(), "{why}");
        }
        self.source.publish(material);
        Ok(contents)
    }

    /// Says a problem once.
    fn report(&self, last: &Last, problem: Problem) {
        let state = self.source.state();
        if last.good.is_none() && state.material.is_some() {
            // Held since a time when nobody looked after the files: it may be long out of date.
            return self.source.withdraw(problem);
        }
        if state.problem.as_ref() != Some(&problem) {
            tracing::warn!(source = %self.source.name(), code = problem.code, "{problem}");
            self.source.reject(problem);
        }
    }

    /// The contents at one moment; tried again while the files are just being replaced.
    fn contents(&self) -> Result<Contents, Problem> {
        let mut read = self.read_once();
        for _ in 1..READ_ATTEMPTS {
            if read.is_ok() {
                break;
            }
            read = self.read_once();
        }
        read
    }

    /// All files, unless a link on their way (`..data`) moved meanwhile: then some would be of the old pair and some of
    /// the new.
    fn read_once(&self) -> Result<Contents, Problem> {
        let paths = self.resolved()?;
        let read = paths.iter().map(|(name, path)| Ok((name.clone(), bounded(path)?)));
        let contents = read.collect::<Result<Contents, Problem>>()?;
        if self.resolved()? == paths {
            Ok(contents)
        } else {
            let message = format!("{} was replaced while it was read", self.files.cert.display());
            Err(Problem::new("file_unreadable", message))
        }
    }

    /// Where the links lead now, by the key that a Secret would have the file under.
    fn resolved(&self) -> Result<BTreeMap<String, PathBuf>, Problem> {
        let cert_key = match self.files.usage {
            Usage::Identity => "tls.crt",
            Usage::Trust => "ca.crt",
            Usage::Crl => "crl.pem",
        };
        let mut paths = BTreeMap::from([(cert_key.to_owned(), resolve(&self.files.cert)?)]);
        if let Some(key) = &self.files.key {
            paths.insert("tls.key".to_owned(), resolve(key)?);
        }
        Ok(paths)
    }
}

/// How often files that move under the reader are read again.
const READ_ATTEMPTS: usize = 5;

/// Code of a file that is not there.
const GONE: &str = "file_missing";

fn resolve(path: &Path) -> Result<PathBuf, Problem> {
    fs::canonicalize(path).map_err(|error| unreadable(path, &error))
}

fn bounded(path: &Path) -> Result<Vec<u8>, Problem> {
    // Opening a pipe would wait for its writer.
    if !fs::metadata(path).map_err(|error| unreadable(path, &error))?.is_file() {
        return Err(Problem::new("file_unreadable", format!("{} is not a regular file", path.display())));
    }
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
