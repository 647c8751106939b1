//! PEM files on a real file system: kubelet's `..data` swap, plain renames, deletions, and what does not work.

use std::{
    fs,
    os::unix::fs::symlink,
    path::Path,
    time::{Duration, SystemTime},
};

use identity::{
    SourceStatus,
    dev::{Ca, Minted},
    source::{
        files::{FileRules, FileSource, Files},
        secret::Usage,
    },
};
use tempfile::TempDir;

use crate::material::{HOUR, Rebuilds, ca, cert_pem, code, key_pem, serial};

const GRACE: Duration = Duration::from_mins(1);
const RULES: FileRules = FileRules { grace: GRACE, refuse_ca: false };

fn write_pair(folder: &Path, pair: &Minted) {
    fs::write(folder.join("tls.crt"), cert_pem(pair)).expect("write");
    fs::write(folder.join("tls.key"), key_pem(pair)).expect("write");
}

/// As a tool that replaces a file without a moment in which it is half there.
fn rename_over(folder: &Path, name: &str, contents: &str) {
    let new = folder.join(format!(".{name}.new"));
    fs::write(&new, contents).expect("write");
    fs::rename(new, folder.join(name)).expect("rename");
}

/// A volume as kubelet makes it: `tls.crt -> ..data/tls.crt`, `..data -> ..<time>`.
fn project(folder: &Path, version: &str, pair: &Minted) {
    let data = folder.join(format!("..{version}"));
    fs::create_dir(&data).expect("folder");
    write_pair(&data, pair);
    let old = fs::read_link(folder.join("..data")).ok();
    symlink(format!("..{version}"), folder.join("..data_tmp")).expect("link");
    fs::rename(folder.join("..data_tmp"), folder.join("..data")).expect("swap");
    if let Some(old) = old {
        fs::remove_dir_all(folder.join(old)).expect("remove");
    } else {
        symlink("..data/tls.crt", folder.join("tls.crt")).expect("link");
        symlink("..data/tls.key", folder.join("tls.key")).expect("link");
    }
}

fn identity(folder: &Path) -> Files {
    Files { cert: folder.join("tls.crt"), key: Some(folder.join("tls.key")), usage: Usage::Identity }
}

struct Setup {
    folder: TempDir,
    ca: Ca,
    files: FileSource,
    now: SystemTime,
}

impl Setup {
    fn new() -> Self {
        let (folder, ca, now) = (tempfile::tempdir().expect("folder"), ca(), SystemTime::now());
        write_pair(folder.path(), &ca.mint("spiffe://td/a", HOUR).expect("svid"));
        let files = FileSource::open(identity(folder.path()), RULES, now);
        assert_eq!(files.source().state().status, SourceStatus::Ready);
        Self { folder, ca, files, now }
    }

    fn state(&self) -> std::sync::Arc<identity::SourceState> {
        self.files.source().state()
    }

    fn mint(&self) -> Minted {
        self.ca.mint("spiffe://td/a", HOUR).expect("svid")
    }
}

#[test]
fn the_data_swap_gives_whole_pairs() {
    let (folder, ca, now) = (tempfile::tempdir().expect("folder"), ca(), SystemTime::now());
    let mint = || ca.mint("spiffe://td/a", HOUR).expect("svid");
    project(folder.path(), "2026_1", &mint());
    let files = FileSource::open(identity(folder.path()), RULES, now);
    let mut before = serial(&files.source().state());
    for (version, revision) in [("2026_2", 2), ("2026_3", 3), ("2026_4", 4)] {
        project(folder.path(), version, &mint());
        files.refresh(now);
        let state = files.source().state();
        assert_eq!((state.revision, code(&state)), (revision, ""));
        assert_ne!(serial(&state), before);
        before = serial(&state);
    }
    assert_eq!(files.folders(), [folder.path()]);
}

#[test]
fn swaps_while_reading_never_mix_two_pairs_and_never_lose_one() {
    let (folder, ca, now) = (tempfile::tempdir().expect("folder"), ca(), SystemTime::now());
    let pairs: Vec<_> = (0..200).map(|_| ca.mint("spiffe://td/a", HOUR).expect("svid")).collect();
    project(folder.path(), "first", &pairs[0]);
    let files = FileSource::open(identity(folder.path()), RULES, now);
    std::thread::scope(|scope| {
        let swaps = scope.spawn(|| {
            for (version, pair) in pairs.iter().enumerate().skip(1) {
                project(folder.path(), &version.to_string(), pair);
            }
        });
        while !swaps.is_finished() {
            files.refresh(now);
            assert_ne!(code(&files.source().state()), "key_mismatch");
            assert!(files.source().state().material.is_some());
        }
    });
    files.refresh(now);
    let state = files.source().state();
    assert_eq!(code(&state), "");
    assert_eq!(state.material.as_ref().expect("material").own[0].chain[0], pairs[199].certificate);
}

#[test]
fn a_pair_renamed_one_file_at_a_time_keeps_the_old_until_it_is_whole() {
    let setup = Setup::new();
    let (old, new) = (serial(&setup.state()), setup.mint());
    let rebuilds = Rebuilds::of(setup.files.source());
    rename_over(setup.folder.path(), "tls.crt", &cert_pem(&new));
    setup.files.refresh(setup.now);
    let state = setup.state();
    assert_eq!((code(&state), serial(&state), state.status), ("key_mismatch", old, SourceStatus::Ready));
    assert_eq!(rebuilds.count(), 0);
    rename_over(setup.folder.path(), "tls.key", &key_pem(&new));
    setup.files.refresh(setup.now);
    let state = setup.state();
    assert_eq!((code(&state), state.revision), ("", 2));
    assert_eq!(state.material.as_ref().expect("material").own[0].chain[0], new.certificate);
    assert_eq!(rebuilds.count(), 1);
}

#[test]
fn files_that_did_not_change_publish_nothing() {
    let setup = Setup::new();
    let changes = setup.files.source().watch();
    setup.files.refresh(setup.now);
    rename_over(
        setup.folder.path(),
        "tls.key",
        &fs::read_to_string(setup.folder.path().join("tls.key")).expect("read"),
    );
    setup.files.refresh(setup.now);
    assert!(!changes.has_changed().expect("lives"));
}

#[test]
fn an_update_that_does_not_work_keeps_the_last_good_and_the_way_back_clears_it() {
    let setup = Setup::new();
    let (crt, key) = (setup.folder.path().join("tls.crt"), setup.folder.path().join("tls.key"));
    let good = (fs::read_to_string(&crt).expect("read"), fs::read_to_string(&key).expect("read"));
    let old = serial(&setup.state());
    let short = setup.ca.mint("spiffe://td/a", Duration::from_secs(30)).expect("svid");
    let later = setup.now + Duration::from_secs(31);
    let updates = [
        ("garbage".to_owned(), good.1.clone(), "bad_certificate"),
        (good.0.clone(), "garbage".to_owned(), "bad_key"),
        (String::new(), good.1.clone(), "secret_no_certificate"),
        ("x".repeat(1024 * 1024 + 1), good.1.clone(), "file_unreadable"),
        (cert_pem(&short), key_pem(&short), "certificate_expired"),
    ];
    for (new_crt, new_key, expected) in updates {
        rename_over(setup.folder.path(), "tls.crt", &new_crt);
        rename_over(setup.folder.path(), "tls.key", &new_key);
        setup.files.refresh(later);
        let state = setup.state();
        assert_eq!((code(&state), serial(&state), state.revision), (expected, old.clone(), 1));
        rename_over(setup.folder.path(), "tls.crt", &good.0);
        rename_over(setup.folder.path(), "tls.key", &good.1);
        setup.files.refresh(later);
        let state = setup.state();
        assert_eq!((code(&state), state.revision), ("", 1), "after {expected}");
    }
}

#[test]
fn what_is_no_file_is_refused_without_waiting_for_it() {
    let setup = Setup::new();
    let crt = setup.folder.path().join("tls.crt");
    fs::remove_file(&crt).expect("remove");
    let made = std::process::Command::new("mkfifo").arg(&crt).status().expect("mkfifo");
    assert!(made.success());
    setup.files.refresh(setup.now);
    assert_eq!(code(&setup.state()), "file_unreadable");
    assert!(setup.state().material.is_some());
}

#[test]
fn a_deletion_is_withdrawn_after_the_grace_and_not_before() {
    let setup = Setup::new();
    fs::remove_file(setup.folder.path().join("tls.key")).expect("remove");
    setup.files.refresh(setup.now);
    setup.files.refresh(setup.now + Duration::from_secs(59));
    let state = setup.state();
    assert_eq!((code(&state), state.status), ("file_missing", SourceStatus::Ready));
    setup.files.refresh(setup.now + GRACE);
    let state = setup.state();
    assert_eq!((code(&state), state.status), ("file_missing", SourceStatus::Withdrawn));
    assert!(state.material.is_none());
    // Back, with the same bytes as before.
    write_pair(setup.folder.path(), &setup.mint());
    setup.files.refresh(setup.now + 2 * GRACE);
    let state = setup.state();
    assert_eq!((code(&state), state.status), ("", SourceStatus::Ready));
}

#[test]
fn delete_and_create_within_the_grace_starts_a_new_grace() {
    let setup = Setup::new();
    let key = setup.folder.path().join("tls.key");
    let bytes = fs::read(&key).expect("read");
    fs::remove_file(&key).expect("remove");
    setup.files.refresh(setup.now);
    fs::write(&key, &bytes).expect("write");
    setup.files.refresh(setup.now + Duration::from_secs(30));
    let state = setup.state();
    assert_eq!((code(&state), state.status, state.revision), ("", SourceStatus::Ready, 1));
    fs::remove_file(&key).expect("remove");
    setup.files.refresh(setup.now + Duration::from_secs(61));
    assert_eq!(setup.state().status, SourceStatus::Ready);
}

#[test]
fn the_first_load_says_at_once_what_is_wrong() {
    let folder = tempfile::tempdir().expect("folder");
    let files = FileSource::open(identity(folder.path()), RULES, SystemTime::now());
    let state = files.source().state();
    assert_eq!((code(&state), state.status), ("file_missing", SourceStatus::Pending));
    let problem = state.problem.clone().expect("problem");
    assert!(problem.message.contains("tls.crt"), "{problem}");
    assert_eq!(files.source().name().as_str(), format!("file:{}/tls.crt#identity", folder.path().display()));
    write_pair(folder.path(), &ca().mint("spiffe://td/a", HOUR).expect("svid"));
    files.refresh(SystemTime::now());
    assert_eq!(files.source().state().status, SourceStatus::Ready);
}

#[test]
fn the_folder_of_a_bare_name_can_be_watched() {
    let bare = Files { cert: "ca.crt".into(), key: None, usage: Usage::Trust };
    let files = FileSource::open(bare, RULES, SystemTime::now());
    assert_eq!(files.folders(), [Path::new(".")]);
}

#[test]
fn debug_output_shows_no_file_contents() {
    let setup = Setup::new();
    let key = fs::read(setup.folder.path().join("tls.key")).expect("read");
    let shown = format!("{:?}", setup.files);
    assert!(shown.contains("tls.key"));
    let bytes: Vec<_> = key.iter().take(20).map(u8::to_string).collect();
    assert!(!shown.contains(&bytes.join(", ")));
}
