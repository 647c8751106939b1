//! The dev authority: an in-process CA served as a real SPIFFE Workload API on unix sockets.
//!
//! For a laptop, the demo and the tests. Its certificates are marked, and a listener that is not on loopback refuses them.

mod ca;
mod entries;
mod jwt;
mod serve;

use std::{
    collections::{BTreeMap, btree_map},
    fs, io,
    os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::Arc,
};

use parking_lot::Mutex;
use tokio::{net::UnixListener, sync::watch, task::JoinSet};
use tokio_util::sync::CancellationToken;

pub use ca::{Ca, Minted};
pub use entries::{Entries, Entry};

use crate::Error;
use serve::Workload;

/// A running dev authority. Dropping it ends its servers; [`DevAuthority::stop`] also waits for them.
#[derive(Debug)]
pub struct DevAuthority {
    folder: PathBuf,
    state: watch::Sender<Arc<Authority>>,
    served: Mutex<BTreeMap<PathBuf, Served>>,
    servers: Mutex<JoinSet<()>>,
}

/// A socket that is served.
#[derive(Debug)]
struct Served {
    cancel: CancellationToken,
    /// Device and inode of the socket that we bound.
    inode: (u64, u64),
}

impl Served {
    /// Ends the server and removes its socket, unless the path is somebody else's by now.
    fn end(&self, path: &Path) {
        self.cancel.cancel();
        let ours = fs::symlink_metadata(path).is_ok_and(|found| (found.dev(), found.ino()) == self.inode);
        if ours && let Err(error) = fs::remove_file(path) {
            tracing::debug!(socket = %path.display(), %error, "dev authority: a socket stays behind");
        }
    }
}

/// What the authority issues from: replaced as a whole when the entries change.
#[derive(Debug)]
pub(crate) struct Authority {
    pub(crate) entries: Entries,
    /// By number; kept over reloads.
    pub(crate) cas: BTreeMap<u32, Arc<Ca>>,
    pub(crate) federated: BTreeMap<String, Vec<u8>>,
    pub(crate) jwt: Arc<jwt::JwtKey>,
}

impl Authority {
    /// The CA that signs now.
    pub(crate) fn signer(&self) -> Option<&Arc<Ca>> {
        self.cas.get(&self.entries.ca)
    }

    /// The bundle: concatenated DER of the trusted CAs.
    pub(crate) fn bundle(&self) -> Vec<u8> {
        let trusted = self.entries.trusted();
        let der =
            trusted.iter().filter_map(|number| self.cas.get(number)).map(|ca| ca.certificate().as_ref());
        der.collect::<Vec<_>>().concat()
    }
}

impl DevAuthority {
    /// Makes the folder (mode 0700), the CAs, and a socket for each entry. With `persist` the CAs are kept in the folder
    /// (mode 0600), otherwise in memory only. Must be called on a tokio runtime, which then serves.
    pub fn start(entries: Entries, folder: &Path, persist: bool) -> Result<Self, Error> {
        entries.check().map_err(Error::Setting)?;
        make_folder(folder)?;
        let authority = Authority {
            cas: cas(&entries, &BTreeMap::new(), persist.then_some(folder))?,
            federated: federated(&entries)?,
            jwt: Arc::new(jwt::JwtKey::generate()?),
            entries,
        };
        let started = Self {
            folder: folder.to_path_buf(),
            state: watch::channel(Arc::new(authority)).0,
            served: Mutex::default(),
            servers: Mutex::default(),
        };
        started.serve_entries()?;
        Ok(started)
    }

    /// Replaces the entries: open streams get what changed at once. The socket of a removed entry stays and answers
    /// `PermissionDenied`: to its clients that is a revocation, where a socket that is gone would be an agent that restarts.
    pub fn update(&self, entries: Entries, persist: bool) -> Result<(), Error> {
        entries.check().map_err(Error::Setting)?;
        let old = self.state.borrow().clone();
        let next = Authority {
            cas: cas(&entries, &old.cas, persist.then_some(&self.folder))?,
            federated: federated(&entries)?,
            jwt: Arc::clone(&old.jwt),
            entries,
        };
        self.state.send_replace(Arc::new(next));
        self.serve_entries()
    }

    /// As [`DevAuthority::update`], if the entries or the foreign bundles that they name say anything new.
    pub fn update_if_changed(&self, entries: Entries, persist: bool) -> Result<bool, Error> {
        let old = self.state.borrow().clone();
        if old.entries == entries && old.federated == federated(&entries)? {
            return Ok(false);
        }
        self.update(entries, persist).map(|()| true)
    }

    /// The files of foreign bundles: a change in one is a change of the entries.
    pub fn bundle_files(&self) -> Vec<PathBuf> {
        self.state.borrow().entries.federated.values().cloned().collect()
    }

    /// Socket of each entry, by SPIFFE ID, in the order of the entries.
    pub fn sockets(&self) -> Vec<(String, PathBuf)> {
        let state = self.state.borrow();
        state
            .entries
            .entries
            .iter()
            .map(|entry| (entry.spiffe_id.clone(), self.folder.join(&entry.socket)))
            .collect()
    }

    /// Makes a certificate by the CA that signs now, for peers that speak no Workload API.
    pub fn mint(&self, spiffe_id: &str, ttl: std::time::Duration) -> Result<Minted, Error> {
        let state = self.state.borrow().clone();
        let ca = state.signer().ok_or_else(|| Error::Setting("no CA signs".to_owned()))?;
        ca.mint(spiffe_id, ttl)
    }

    /// Ends the servers, waits for them and removes the sockets.
    pub async fn stop(&self) {
        let served = std::mem::take(&mut *self.served.lock());
        for (path, socket) in &served {
            socket.end(path);
        }
        let mut servers = std::mem::take(&mut *self.servers.lock());
        while servers.join_next().await.is_some() {}
    }

    fn serve_entries(&self) -> Result<(), Error> {
        let wanted: Vec<String> = {
            let state = self.state.borrow();
            state.entries.entries.iter().map(|entry| entry.socket.clone()).collect()
        };
        let mut served = self.served.lock();
        for socket in wanted {
            let path = self.folder.join(&socket);
            if served.contains_key(&path) {
                continue;
            }
            let (listener, inode) = bind(&path)?;
            let cancel = CancellationToken::new();
            let workload = Workload { socket, state: self.state.subscribe(), stop: cancel.clone() };
            self.servers.lock().spawn(serve::serve(listener, workload));
            served.insert(path, Served { cancel, inode });
        }
        Ok(())
    }
}

impl Drop for DevAuthority {
    fn drop(&mut self) {
        for (path, socket) in self.served.lock().iter() {
            socket.end(path);
        }
    }
}

/// A socket of our own, with its device and inode: a dead one of an earlier run is replaced; a live one of somebody else
/// or a file that is no socket (a kept CA) is not.
fn bind(path: &Path) -> Result<(UnixListener, (u64, u64)), Error> {
    let io = |source: io::Error| Error::Io { what: format!("listen on {}", path.display()), source };
    if let Ok(found) = fs::symlink_metadata(path) {
        if !found.file_type().is_socket() {
            let message =
                format!("{} is there and is not a socket; choose another `socket` name", path.display());
            return Err(Error::Setting(message));
        }
        match std::os::unix::net::UnixStream::connect(path) {
            Ok(_somebody_listens) => return Err(io(io::Error::from(io::ErrorKind::AddrInUse))),
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => {
                fs::remove_file(path).map_err(io)?;
            }
            Err(error) => return Err(io(error)),
        }
    }
    let listener = UnixListener::bind(path).map_err(io)?;
    fs::set_permissions(path, fs::Permissions::from_mode(0o600)).map_err(io)?;
    let bound = fs::symlink_metadata(path).map_err(io)?;
    Ok((listener, (bound.dev(), bound.ino())))
}

fn make_folder(folder: &Path) -> Result<(), Error> {
    let io = |source: io::Error| Error::Io { what: format!("make folder {}", folder.display()), source };
    if !folder.exists() {
        return fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io);
    }
    let mode = fs::metadata(folder).map_err(io)?.permissions().mode();
    if mode & 0o077 != 0 {
        return Err(Error::Setting(format!(
            "folder {} can be opened by others (mode {:o}); keys are handed out there: chmod 700 it",
            folder.display(),
            mode & 0o777
        )));
    }
    Ok(())
}

fn cas(
    entries: &Entries,
    held: &BTreeMap<u32, Arc<Ca>>,
    folder: Option<&Path>,
) -> Result<BTreeMap<u32, Arc<Ca>>, Error> {
    let mut cas = held.clone();
    for number in entries.trusted().into_iter().chain([entries.ca]) {
        if let btree_map::Entry::Vacant(vacant) = cas.entry(number) {
            vacant.insert(Arc::new(Ca::open(&entries.trust_domain, number, folder)?));
        }
    }
    Ok(cas)
}

fn federated(entries: &Entries) -> Result<BTreeMap<String, Vec<u8>>, Error> {
    let read = |(domain, path): (&String, &PathBuf)| {
        let io = |source| Error::Io { what: format!("read bundle {}", path.display()), source };
        let pem = fs::read(path).map_err(io)?;
        let now = std::time::SystemTime::now();
        let (bundle, _left_out) = crate::Bundle::from_pem(&path.display().to_string(), &pem, now)?;
        let der: Vec<&[u8]> = bundle.authorities.iter().map(AsRef::as_ref).collect();
        Ok((format!("spiffe://{domain}"), der.concat()))
    };
    entries.federated.iter().map(read).collect()
}
