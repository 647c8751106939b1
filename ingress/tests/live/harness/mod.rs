//! What every live test stands on: the process, certificates, upstreams, clients.

pub(crate) mod bytes;
pub(crate) mod certs;
pub(crate) mod client;
pub(crate) mod process;
pub(crate) mod upstream;

use std::{
    path::Path,
    time::{Duration, Instant},
};

pub(crate) use bytes::Echo;
pub(crate) use certs::{Authority, Pair};
pub(crate) use process::Ingress;
pub(crate) use upstream::Upstream;

/// How long a condition may take on a machine that is busy with other things.
const PATIENCE: Duration = Duration::from_mins(1);

/// Waits for a condition; gives how long it took. Says what was awaited if it never comes.
pub(crate) async fn until(what: &str, mut holds: impl AsyncFnMut() -> bool) -> Duration {
    let began = Instant::now();
    while !holds().await {
        assert!(began.elapsed() < PATIENCE, "never came: {what}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
    began.elapsed()
}

/// Writes a file as editors and tools do: beside it, then renamed over it.
pub(crate) fn replace(path: &Path, text: &str) {
    let beside = path.with_extension("new");
    std::fs::write(&beside, text).expect("write");
    std::fs::rename(&beside, path).expect("rename");
}

/// A folder as kubelet mounts it: each name leads through `..data`, and one rename changes all of them at once.
pub(crate) fn kubelet(folder: &Path, generation: u32, files: &[(&str, &str)]) {
    let name = format!("..generation_{generation}");
    let real = folder.join(&name);
    std::fs::create_dir_all(&real).expect("mkdir");
    for (file, text) in files {
        std::fs::write(real.join(file), text).expect("write");
    }
    let (fresh, data) = (folder.join("..data_tmp"), folder.join("..data"));
    let before = std::fs::read_link(&data).ok();
    std::os::unix::fs::symlink(&name, &fresh).expect("symlink");
    std::fs::rename(&fresh, &data).expect("rename");
    for (file, _) in files {
        let link = folder.join(file);
        if std::fs::symlink_metadata(&link).is_err() {
            std::os::unix::fs::symlink(Path::new("..data").join(file), link).expect("symlink");
        }
    }
    if let Some(before) = before {
        std::fs::remove_dir_all(folder.join(before)).expect("remove the old generation");
    }
}
