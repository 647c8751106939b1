//! Files and folders on a real file system: what people, editors, kubelet and accidents do to them.
#![allow(clippy::expect_used, clippy::indexing_slicing, reason = "a test may stop where it fails")]

use std::{
    fs,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant, SystemTime},
};

use resource::{Delivery, FileSource, Source as _};
use tempfile::TempDir;

fn service(name: &str) -> String {
    format!("apiVersion: v1\nkind: Service\nmetadata: {{name: {name}}}\n")
}

fn names(source: &FileSource) -> Vec<String> {
    source.set().documents.iter().map(|document| document.object.name.to_string()).collect()
}

struct Running {
    source: Arc<FileSource>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Running {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Running {
    fn start(paths: &[&Path]) -> Self {
        let paths: Vec<PathBuf> = paths.iter().map(|path| path.to_path_buf()).collect();
        let source = FileSource::load(&paths, "default").expect("load");
        Self { task: tokio::spawn(Arc::clone(&source).run()), source }
    }

    async fn until(&self, what: impl FnMut(&Delivery) -> bool) {
        let mut deliveries = self.source.watch();
        tokio::time::timeout(Duration::from_secs(10), deliveries.wait_for(what))
            .await
            .expect("in time")
            .expect("alive");
    }

    async fn until_names(&self, wanted: &[&str]) {
        self.until(|delivery| {
            delivery.set.documents.iter().map(|document| &*document.object.name).eq(wanted.iter().copied())
        })
        .await;
    }
}

fn folder() -> TempDir {
    tempfile::tempdir().expect("folder")
}

#[tokio::test]
async fn a_saved_file_is_live_within_a_second() {
    let folder = folder();
    let running = Running::start(&[folder.path()]);
    fs::create_dir(folder.path().join("sub")).expect("mkdir");
    // Give the watch of the new subfolder no head start: write at once, then again and again.
    for number in 0..5 {
        let name = format!("s{number}");
        let saved = Instant::now();
        fs::write(folder.path().join("sub/a.yaml"), service(&name)).expect("write");
        running.until_names(&[&name]).await;
        assert!(saved.elapsed() < Duration::from_secs(1), "took {:?}", saved.elapsed());
    }
}

#[tokio::test]
async fn kubelet_swaps_the_data_link() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    for (version, name) in [("..1", "old"), ("..2", "new")] {
        fs::create_dir(at(version)).expect("mkdir");
        fs::write(at(version).join("a.yaml"), service(name)).expect("write");
    }
    symlink("..1", at("..data")).expect("link");
    symlink("..data/a.yaml", at("a.yaml")).expect("link");
    let running = Running::start(&[folder.path()]);
    assert_eq!(names(&running.source), ["old"]);
    symlink("..2", at("..data_tmp")).expect("link");
    let swapped = Instant::now();
    fs::rename(at("..data_tmp"), at("..data")).expect("swap");
    running.until_names(&["new"]).await;
    assert!(swapped.elapsed() < Duration::from_secs(1), "took {:?}", swapped.elapsed());
}

#[tokio::test]
async fn a_single_file_is_followed_through_rename_and_unlink() {
    let folder = folder();
    let file = folder.path().join("routes.conf");
    fs::write(&file, service("a")).expect("write");
    fs::write(folder.path().join("other.yaml"), service("other")).expect("write");
    let running = Running::start(&[&file]);
    assert_eq!(names(&running.source), ["a"]);
    fs::write(folder.path().join("new"), service("b")).expect("write");
    fs::rename(folder.path().join("new"), &file).expect("rename");
    running.until_names(&["b"]).await;
    fs::remove_file(&file).expect("unlink");
    running.until(|delivery| delivery.set.documents.is_empty()).await;
    let set = running.source.set();
    assert_eq!(set.errors.len(), 1);
    assert!(!set.errors[0].kept_last_good);
    fs::write(&file, service("c")).expect("write");
    running.until_names(&["c"]).await;
    assert!(running.source.set().errors.is_empty());
}

#[tokio::test]
async fn a_folder_that_vanishes_keeps_its_documents_and_says_so() {
    let outer = folder();
    let folder = outer.path().join("conf");
    fs::create_dir(&folder).expect("mkdir");
    fs::write(folder.join("a.yaml"), service("a")).expect("write");
    let running = Running::start(&[&folder]);
    fs::rename(&folder, outer.path().join("away")).expect("rename");
    running.until(|delivery| !delivery.set.errors.is_empty()).await;
    let set = running.source.set();
    assert_eq!(names(&running.source), ["a"]);
    assert!(set.errors[0].kept_last_good);
    fs::create_dir(&folder).expect("mkdir");
    fs::write(folder.join("b.yaml"), service("b")).expect("write");
    running.until_names(&["b"]).await;
    fs::write(folder.join("b.yaml"), service("c")).expect("write");
    running.until_names(&["c"]).await;
}

#[test]
fn what_did_not_change_keeps_its_place_in_memory() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::write(at("a.yaml"), format!("{}---\n{}", service("a"), service("b"))).expect("write");
    fs::write(at("z.yaml"), service("z")).expect("write");
    let source = FileSource::load(&[folder.path().to_path_buf()], "default").expect("load");
    let before = source.set();
    let revision = source.watch().borrow().revision;
    source.refresh();
    assert_eq!(source.watch().borrow().revision, revision, "nothing changed, nothing is delivered");
    fs::write(at("a.yaml"), format!("{}---\n{}", service("a"), service("longer"))).expect("write");
    source.refresh();
    let after = source.set();
    assert_eq!(names(&source), ["a", "longer", "z"]);
    assert!(Arc::ptr_eq(&before.documents[0], &after.documents[0]));
    assert!(Arc::ptr_eq(&before.documents[2], &after.documents[2]));
}

#[test]
fn a_second_save_in_the_same_tick_and_of_the_same_length_is_seen() {
    let folder = folder();
    let file = folder.path().join("a.yaml");
    let tick = SystemTime::now() + Duration::from_hours(1);
    fs::write(&file, service("a")).expect("write");
    let source = FileSource::load(&[folder.path().to_path_buf()], "default").expect("load");
    for name in ["b", "c", "d", "e", "f", "g", "h"] {
        fs::write(&file, service(name)).expect("write");
        // As a file system with coarse time would have it: the tick is not over yet.
        fs::File::options()
            .write(true)
            .open(&file)
            .and_then(|file| file.set_modified(tick))
            .expect("set time");
        source.refresh();
        assert_eq!(names(&source), [name]);
    }
}

#[test]
fn bytes_that_are_no_text_keep_the_last_documents_and_heal() {
    let folder = folder();
    let file = folder.path().join("a.yaml");
    fs::write(&file, service("a")).expect("write");
    let source = FileSource::load(&[folder.path().to_path_buf()], "default").expect("load");
    fs::write(&file, [0xff, 0xfe, 0x00]).expect("write");
    source.refresh();
    let set = source.set();
    assert_eq!(names(&source), ["a"]);
    assert!(
        set.errors[0].kept_last_good && set.errors[0].message.contains("cannot be read"),
        "{:?}",
        set.errors
    );
    let revision = source.watch().borrow().revision;
    source.refresh();
    assert_eq!(source.watch().borrow().revision, revision, "the same error is delivered once");
    fs::write(&file, service("a")).expect("write");
    source.refresh();
    assert!(source.set().errors.is_empty(), "healed by the same text as before");
}

#[test]
fn links_do_not_go_round_and_dots_are_left_out() {
    let folder = folder();
    let at = |name: &str| folder.path().join(name);
    fs::create_dir_all(at("sub/.git")).expect("mkdir");
    symlink("..", at("sub/round")).expect("link");
    for (file, name) in
        [("sub/a.yml", "a"), ("sub/.git/b.yaml", "b"), ("sub/.c.yaml", "c"), ("d.txt", "d"), ("e.json", "e")]
    {
        fs::write(at(file), service(name)).expect("write");
    }
    let source = FileSource::load(&[folder.path().to_path_buf()], "shop").expect("load");
    assert_eq!(names(&source), ["e", "a"]);
    assert_eq!(source.set().documents[0].object.to_string(), "Service shop/e");
}

#[tokio::test]
async fn an_idle_source_rests() {
    let folder = folder();
    fs::write(folder.path().join("a.yaml"), service("a")).expect("write");
    let running = Running::start(&[folder.path()]);
    // A link without a target is looked at, fails in the same way each time, and is reported once.
    symlink("nowhere", folder.path().join("b.yaml")).expect("link");
    running.until(|delivery| !delivery.set.errors.is_empty()).await;
    let mut deliveries = running.source.watch();
    deliveries.mark_unchanged();
    let next = tokio::time::timeout(Duration::from_secs(3), deliveries.changed()).await;
    assert!(next.is_err(), "delivered again without a change");
}

/// A file that could never be read whole gives what can be read of it; one that could keeps all of its last good state.
#[test]
fn documents_of_a_broken_file_serve_until_it_is_whole_once() {
    let folder = folder();
    let path = folder.path().join("a.yaml");
    let text = |names: &[&str]| names.iter().map(|name| service(name)).collect::<Vec<_>>().join("---\n");
    fs::write(&path, format!("{}---\nkind: [\n", text(&["a"]))).expect("write");
    let source = FileSource::load(&[folder.path().to_path_buf()], "default").expect("load");
    assert_eq!(names(&source), ["a"]);
    let lines = || source.set().errors.iter().map(|error| error.line).collect::<Vec<_>>();
    assert_eq!((lines(), source.set().errors[0].kept_last_good), (vec![5], false));
    fs::write(&path, format!("{}---\nkind: [\n", text(&["a", "longer"]))).expect("write");
    source.refresh();
    assert_eq!((names(&source), lines()), (vec!["a".to_owned(), "longer".to_owned()], vec![9]));
    fs::write(&path, text(&["a", "b", "c"])).expect("write");
    source.refresh();
    assert_eq!((names(&source), lines().len()), (["a", "b", "c"].map(str::to_owned).to_vec(), 0));
    // Caught half-written.
    fs::write(&path, format!("{}---\napiVersion: v1\nkind: [", text(&["a"]))).expect("write");
    source.refresh();
    assert_eq!(names(&source), ["a", "b", "c"]);
    assert!(source.set().errors[0].kept_last_good);
}

/// Opening a pipe waits for somebody who writes: one in the folder must not stop everything else.
#[tokio::test]
async fn a_pipe_is_named_and_never_opened() {
    let folder = folder();
    let (pipe, good) = (folder.path().join("a.yaml"), folder.path().join("b.yaml"));
    assert!(std::process::Command::new("mkfifo").arg(&pipe).status().expect("mkfifo").success());
    fs::write(&good, service("b")).expect("write");
    let (done, loaded) = tokio::sync::oneshot::channel();
    let below = folder.path().to_path_buf();
    std::thread::spawn(move || done.send(FileSource::load(&[below], "default")));
    let loaded = tokio::time::timeout(Duration::from_secs(5), loaded).await.expect("does not wait");
    let source = loaded.expect("loads").expect("loads");
    assert_eq!(names(&source), ["b"]);
    let [error] = source.set().errors.clone().try_into().expect("one error");
    assert!(error.path.expect("path").ends_with("a.yaml") && error.message.contains("regular file"));
    assert!(FileSource::load(std::slice::from_ref(&pipe), "default").is_err());
    fs::remove_file(&pipe).expect("unlink");
    fs::write(&good, service("later")).expect("write");
    source.refresh();
    assert_eq!((names(&source), source.set().errors.len()), (vec!["later".to_owned()], 0));
}
