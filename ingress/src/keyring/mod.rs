//! The keyring: Secrets, files and the Workload API by name, as sources of key material; last good material and the grace
//! of deletions.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    fmt,
    path::{Path, PathBuf},
    sync::{Arc, Weak},
    time::{Duration, SystemTime},
};

use identity::{
    Problem, Source, SourceRef, SourceStatus,
    source::files::{FileRules, FileSource, Files},
};
use resource::Document;

mod secret;

use self::secret::SecretSource;
pub use identity::source::secret::Usage;

/// A deleted Secret or file stays in use this long: delete-and-create is how many tools rotate.
pub const DELETION_GRACE: Duration = Duration::from_mins(1);

/// The Secret that `AMBASSADOR_ISTIO_SECRET_DIR` stands for, as Emissary calls it.
const ISTIO_CERTS: &str = "istio-certs";

/// The Secret that gives the Host `*`, which stands in where there is no Host, its certificate.
const FALLBACK: &str = "fallback-self-signed-cert";

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
    /// The Secret that is used where it exists, although nobody names it.
    pub fn fallback(namespace: &str) -> Self {
        Self::Secret { namespace: namespace.into(), name: FALLBACK.into(), usage: Usage::Identity }
    }

    fn source_ref(&self) -> SourceRef {
        match self {
            Self::Secret { namespace, name, usage } => {
                SourceRef::new(format!("secret:{namespace}/{name}#{}", usage.as_str()))
            }
            Self::Files(files) => files.source_ref(),
        }
    }
}

impl fmt::Display for KeyRef {
    /// As messages name it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Secret { namespace, name, .. } => write!(f, "Secret {namespace}/{name}"),
            Self::Files(files) => files.cert.display().fmt(f),
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
    /// Every source that was ever made and that somebody still follows. One that is wanted again is the same one: the
    /// clusters of a table that goes may live on in the table that comes.
    made: HashMap<SourceRef, Weak<Source>>,
    spiffe: Option<Arc<Source>>,
    /// Used where it exists; that it does not is no problem.
    optional: Option<KeyRef>,
    istio: Option<IstioFolder>,
    /// `AMBASSADOR_FORCE_SECRET_VALIDATION`: a Secret whose certificate is a CA is refused, too.
    force_validation: bool,
}

/// A folder that Istio's agent writes `key.pem`, `cert-chain.pem` and `root-cert.pem` to (its `OUTPUT_CERTS`).
struct IstioFolder {
    folder: PathBuf,
    /// The proxy's own namespace: nobody else's contexts may use the proxy's certificate.
    namespace: String,
}

impl IstioFolder {
    /// The files that stand for a Secret, if it is the one.
    fn files(&self, namespace: &str, name: &str, usage: Usage) -> Option<Files> {
        if name != ISTIO_CERTS || namespace != self.namespace {
            return None;
        }
        let at = |file: &str| self.folder.join(file);
        match usage {
            Usage::Identity => Some(Files { cert: at("cert-chain.pem"), key: Some(at("key.pem")), usage }),
            Usage::Trust => Some(Files { cert: at("root-cert.pem"), key: None, usage }),
            Usage::Crl => None,
        }
    }
}

enum Held {
    Secret(SecretSource),
    Files(FileSource),
}

impl Held {
    fn source(&self) -> &Arc<Source> {
        match self {
            Self::Secret(secret) => secret.source(),
            Self::Files(files) => files.source(),
        }
    }
}

impl fmt::Debug for Keyring {
    /// Names only: what is held are keys.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
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

    /// Lets Secret `istio-certs` of this namespace, the proxy's own, be the files of a folder
    /// (`AMBASSADOR_ISTIO_SECRET_DIR`).
    #[must_use]
    pub fn with_istio_folder(mut self, folder: Option<&Path>, namespace: &str) -> Self {
        let namespace = namespace.to_owned();
        self.istio = folder.map(|folder| IstioFolder { folder: folder.to_path_buf(), namespace });
        self
    }

    /// Lets this reference be used where it exists, whether it is wanted or not.
    #[must_use]
    pub fn with_optional(mut self, key: KeyRef) -> Self {
        self.optional = Some(key);
        self
    }

    /// The optional reference, while there is something to it: its document, or what is left of one in its grace.
    fn present_optional(&self, secrets: &Secrets<'_>) -> Option<KeyRef> {
        let key = self.optional.clone()?;
        let KeyRef::Secret { namespace, name, .. } = &key else { return Some(key) };
        let in_grace = self.held.get(&key).is_some_and(|held| held.source().state().material.is_some());
        (in_grace || secrets.contains_key(&(&**namespace, &**name))).then_some(key)
    }

    /// Brings every wanted reference up to date with the present Secrets and files, and lets go of the others.
    pub fn update(&mut self, wanted: &BTreeSet<KeyRef>, documents: &[Arc<Document>], now: SystemTime) {
        let secrets: Secrets<'_> = documents
            .iter()
            .filter(|document| {
                &*document.object.kind.kind == "Secret" && document.object.kind.group.is_empty()
            })
            .map(|document| ((&*document.object.namespace, &*document.object.name), document))
            .collect();
        let optional = self.present_optional(&secrets).filter(|key| !wanted.contains(key));
        self.held.retain(|key, _| wanted.contains(key) || optional.as_ref() == Some(key));
        self.made.retain(|_, source| source.strong_count() > 0);
        let Self { held, made, istio, force_validation, .. } = self;
        for key in wanted.iter().chain(&optional) {
            let held = held.entry(key.clone()).or_insert_with(|| {
                hold(key, source(made, key.source_ref()), (istio.as_ref(), *force_validation), now)
            });
            match (key, held) {
                (KeyRef::Secret { namespace, name, .. }, Held::Secret(secret)) => {
                    let document = secrets.get(&(&**namespace, &**name));
                    secret.update(document.map(|document| &***document), now);
                }
                (_, Held::Files(files)) => files.refresh(now),
                (KeyRef::Files(_), Held::Secret(_)) => {}
            }
        }
        self.by_name = self.sources().into_iter().map(|source| (source.name().clone(), source)).collect();
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
            Held::Secret(_) => None,
        });
        files.flatten().collect()
    }
}

/// Secrets by namespace and name.
type Secrets<'a> = HashMap<(&'a str, &'a str), &'a Arc<Document>>;

/// The source of a name: the one that somebody still follows, or a new one.
fn source(made: &mut HashMap<SourceRef, Weak<Source>>, name: SourceRef) -> Arc<Source> {
    if let Some(source) = made.get(&name).and_then(Weak::upgrade) {
        return source;
    }
    let source = Source::new(name.clone());
    made.insert(name, Arc::downgrade(&source));
    source
}

fn hold(
    key: &KeyRef,
    source: Arc<Source>,
    (istio, force): (Option<&IstioFolder>, bool),
    now: SystemTime,
) -> Held {
    let (files, refuse_ca) = match key {
        KeyRef::Files(files) => (files.clone(), false),
        KeyRef::Secret { namespace, name, usage } => {
            match istio.and_then(|istio| istio.files(namespace, name, *usage)) {
                // It counts as a Secret, so it is validated as one.
                Some(files) => (files, force),
                None => return Held::Secret(SecretSource::new(key.to_string(), *usage, force, source)),
            }
        }
    };
    Held::Files(FileSource::feed(source, files, FileRules { grace: DELETION_GRACE, refuse_ca }, now))
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
