//! The keyring: Secrets, files and the Workload API by name, as sources of key material; last good material and the grace
//! of deletions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{
    Problem, Source, SourceRef, SourceStatus,
    source::{
        files::{FileSource, Files},
        secret,
    },
};
use resource::{Document, secret_data};

pub use identity::source::secret::Usage;

/// A deleted Secret or file stays in use this long: delete-and-create is how many tools rotate.
pub const DELETION_GRACE: Duration = Duration::from_secs(60);

/// A reference to key material as a resource writes it, resolved to a full name.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum KeyRef {
    /// A Kubernetes Secret.
    Secret {
        /// Namespace.
        namespace: Arc<str>,
        /// Name.
        name: Arc<str>,
        /// What for.
        usage: Usage,
    },
    /// PEM files: certificate chain and key, or CA, or CRL alone.
    Files(Files),
}

impl KeyRef {
    fn source_ref(&self) -> SourceRef {
        match self {
            Self::Secret { namespace, name, usage } => {
                SourceRef::new(format!("secret:{namespace}/{name}#{}", usage.as_str()))
            }
            Self::Files(files) => files.source_ref(),
        }
    }
}

/// What compile may ask. Implemented by the keyring, and by tables in tests.
pub trait Keys {
    /// The source of a reference, if it is usable now: it has good material, or an earlier good one is still in use.
    /// Otherwise why not, under its code: `secret_missing`, `secret_no_key`, `key_mismatch`, `certificate_expired`...
    fn find(&self, key: &KeyRef) -> Result<SourceRef, Problem>;
    /// The source of the Workload API, if one is configured.
    fn spiffe(&self) -> Option<SourceRef>;
}

/// The keyring.
#[derive(Default)]
pub struct Keyring {
    held: BTreeMap<KeyRef, Held>,
    by_name: HashMap<SourceRef, Arc<Source>>,
    spiffe: Option<Arc<Source>>,
    /// `AMBASSADOR_FORCE_SECRET_VALIDATION`: a Secret whose certificate is a CA is refused, too.
    force_validation: bool,
}

enum Held {
    Secret { source: Arc<Source>, data: Option<BTreeMap<String, Vec<u8>>>, gone_since: Option<SystemTime> },
    Files(FileSource),
}

impl Held {
    fn source(&self) -> &Arc<Source> {
        match self {
            Self::Secret { source, .. } => source,
            Self::Files(files) => files.source(),
        }
    }
}

impl std::fmt::Debug for Keyring {
    /// Names only: what is held are keys.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_list().entries(self.held.keys()).finish()
    }
}

impl Keyring {
    /// A keyring with the Workload API's source, if there is one.
    pub fn new(spiffe: Option<Arc<Source>>, force_validation: bool) -> Self {
        let mut ring = Self { spiffe, force_validation, ..Self::default() };
        if let Some(source) = &ring.spiffe {
            ring.by_name.insert(source.name().clone(), Arc::clone(source));
        }
        ring
    }

    /// Brings every wanted reference up to date with the present Secrets and files, and lets go of the others.
    pub fn update(&mut self, wanted: &BTreeSet<KeyRef>, documents: &[Arc<Document>], now: SystemTime) {
        self.held.retain(|key, _| wanted.contains(key));
        let secrets: HashMap<(&str, &str), &Arc<Document>> = documents
            .iter()
            .filter(|document| {
                &*document.object.kind.kind == "Secret" && document.object.kind.group.is_empty()
            })
            .map(|document| ((&*document.object.namespace, &*document.object.name), document))
            .collect();
        for key in wanted {
            let held = self.held.entry(key.clone()).or_insert_with(|| match key {
                KeyRef::Secret { .. } => {
                    Held::Secret { source: Source::new(key.source_ref()), data: None, gone_since: None }
                }
                KeyRef::Files(files) => Held::Files(FileSource::open(files.clone(), DELETION_GRACE, now)),
            });
            self.by_name.insert(key.source_ref(), Arc::clone(held.source()));
            match (key, held) {
                (KeyRef::Secret { namespace, name, usage }, Held::Secret { source, data, gone_since }) => {
                    let document = secrets.get(&(&**namespace, &**name)).copied();
                    let what = format!("Secret {namespace}/{name}");
                    update_secret(
                        &what,
                        (*usage, self.force_validation),
                        document,
                        (source, data, gone_since),
                        now,
                    );
                }
                (_, Held::Files(files)) => files.refresh(now),
                (KeyRef::Files(_), Held::Secret { .. }) => {}
            }
        }
    }

    /// A source by its name.
    pub fn source(&self, name: &SourceRef) -> Option<Arc<Source>> {
        self.by_name.get(name).cloned()
    }

    /// Every source that is in use.
    pub fn sources(&self) -> Vec<Arc<Source>> {
        self.spiffe.iter().chain(self.held.values().map(Held::source)).cloned().collect()
    }

    /// Folders of files in use, to watch.
    pub fn folders(&self) -> Vec<PathBuf> {
        let files = self.held.values().filter_map(|held| match held {
            Held::Files(files) => Some(files.folders()),
            Held::Secret { .. } => None,
        });
        files.flatten().collect()
    }

    /// A deletion's grace is running: the program must look again soon.
    pub fn in_grace(&self) -> bool {
        self.held.values().any(|held| match held {
            Held::Secret { gone_since, source, .. } => {
                gone_since.is_some() && source.state().material.is_some()
            }
            Held::Files(files) => files.source().state().problem.is_some(),
        })
    }
}

fn update_secret(
    what: &str,
    (usage, force): (Usage, bool),
    document: Option<&Arc<Document>>,
    (source, held, gone_since): (
        &Arc<Source>,
        &mut Option<BTreeMap<String, Vec<u8>>>,
        &mut Option<SystemTime>,
    ),
    now: SystemTime,
) {
    let report = |problem: Problem| {
        if source.state().problem.as_ref() != Some(&problem) {
            // A reference that never worked is a finding of compile; one that did and no longer does is said here.
            if source.state().material.is_some() {
                tracing::warn!(source = %source.name(), code = problem.code, "{problem}; the last good one stays in use");
            }
            source.reject(problem);
        }
    };
    let Some(document) = document else {
        let problem = Problem::new("secret_missing", format!("{what} does not exist"));
        let since = *gone_since.get_or_insert(now);
        let over = now.duration_since(since).unwrap_or_default() >= DELETION_GRACE;
        if source.state().material.is_some() && over {
            source.withdraw(problem);
            *held = None;
        } else {
            report(problem);
        }
        return;
    };
    let was_gone = gone_since.take().is_some();
    let data = match secret_data(document) {
        Ok(data) => data,
        Err((_, message)) => return report(Problem::new("secret_malformed", format!("{what}: {message}"))),
    };
    if held.as_ref() == Some(&data) {
        if was_gone || source.state().problem.is_some() {
            source.recover();
        }
        return;
    }
    let read = secret::read(what, usage, &data, now).and_then(|(material, left_out)| {
        if force {
            material.own.iter().try_for_each(|own| own.refuse_ca(what))?;
        }
        Ok((material, left_out))
    });
    match read {
        Ok((material, _left_out)) => source.publish(material),
        Err(problem) => report(problem),
    }
    *held = Some(data);
}

impl Keys for Keyring {
    fn find(&self, key: &KeyRef) -> Result<SourceRef, Problem> {
        let Some(held) = self.held.get(key) else {
            return Err(Problem::new("internal", format!("{} was not asked for", key.source_ref())));
        };
        let state = held.source().state();
        match (&state.material, state.status, &state.problem) {
            (Some(_), _, _) => Ok(key.source_ref()),
            (None, SourceStatus::Pending, None) => {
                Err(Problem::new("identity_pending", format!("{} was not read yet", key.source_ref())))
            }
            (None, _, Some(problem)) => Err(problem.clone()),
            (None, _, None) => {
                Err(Problem::new("identity_unavailable", format!("{} is empty", key.source_ref())))
            }
        }
    }

    fn spiffe(&self) -> Option<SourceRef> {
        self.spiffe.as_ref().map(|source| source.name().clone())
    }
}

/// A path as a resource writes it, relative to the folder of its manifest.
pub fn resolve_path(manifest: &Path, written: &str) -> PathBuf {
    let written = Path::new(written);
    if written.is_absolute() {
        return written.to_path_buf();
    }
    let folder = manifest.parent().filter(|folder| !folder.as_os_str().is_empty()).unwrap_or(Path::new("."));
    folder.join(written)
}
