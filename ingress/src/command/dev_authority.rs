//! `dev-authority`: serves the entries of a file, reloaded on save, until SIGTERM.

use std::{
    io::{self, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use identity::dev::{DevAuthority, Entries};
use resource::{FolderWatch, Node, Value};

use crate::{app, cli::DevAuthorityArgs};

/// Runs the command; gives its exit status.
pub async fn run(args: &DevAuthorityArgs, out: &mut dyn Write) -> io::Result<u8> {
    let complain =
        |why: &dyn std::fmt::Display| writeln!(io::stderr(), "selvedge-ingress dev-authority: {why}");
    let entries = match read(&args.entries) {
        Ok(entries) => entries,
        Err(why) => return complain(&why).map(|()| 2),
    };
    let folder = args.state.clone().unwrap_or_else(|| app::fresh_folder("selvedge-dev-authority"));
    let persist = args.state.is_some();
    let authority = match DevAuthority::start(entries, &folder, persist) {
        Ok(authority) => authority,
        Err(error) => return complain(&error).map(|()| 3),
    };
    for (id, socket) in authority.sockets() {
        writeln!(out, "{id}  unix://{}", socket.display())?;
    }
    out.flush()?;
    let watch = FolderWatch::default();
    let mut stop = app::Termination::new()?;
    loop {
        watch.set(authority.bundle_files().iter().chain([&args.entries]).map(|file| folder_of(file)));
        tokio::select! {
            () = stop.requested() => break,
            () = watch.changed() => tokio::time::sleep(Duration::from_millis(60)).await,
            () = tokio::time::sleep(Duration::from_secs(2)) => {}
        }
        let changed = read(&args.entries).and_then(|entries| {
            authority.update_if_changed(entries, persist).map_err(|error| error.to_string())
        });
        match changed {
            Ok(true) => writeln!(io::stderr(), "reloaded {}", args.entries.display())?,
            Ok(false) => {}
            Err(why) => complain(&format!("{why}; the entries before stay in use"))?,
        }
    }
    authority.stop().await;
    if args.state.is_none() {
        let _not_fatal = std::fs::remove_dir(&folder);
    }
    Ok(0)
}

fn folder_of(file: &Path) -> PathBuf {
    file.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new(".")).to_path_buf()
}

fn read(path: &Path) -> Result<Entries, String> {
    let text =
        std::fs::read_to_string(path).map_err(|error| format!("cannot read {}: {error}", path.display()))?;
    parse(path, &text)
}

/// What the file at `path` says: YAML by the manifest parser, shape by serde.
pub fn parse(path: &Path, text: &str) -> Result<Entries, String> {
    let root =
        resource::parse_value(text).map_err(|(line, why)| format!("{}:{line}: {why}", path.display()))?;
    let mut entries: Entries =
        serde_json::from_value(to_json(&root)).map_err(|error| format!("{}: {error}", path.display()))?;
    // As in manifests: relative to the folder of the file that says so, wherever the program was started.
    for file in entries.federated.values_mut() {
        *file = folder_of(path).join(&*file);
    }
    Ok(entries)
}

fn to_json(node: &Node) -> serde_json::Value {
    match &node.value {
        Value::Null => serde_json::Value::Null,
        Value::Bool(flag) => (*flag).into(),
        Value::Number(text) => serde_json::from_str(text).unwrap_or_else(|_not_json| text.to_string().into()),
        Value::Text(text) => text.to_string().into(),
        Value::List(items) => items.iter().map(to_json).collect(),
        Value::Map(fields) => serde_json::Value::Object(
            fields.iter().map(|(name, node)| (name.to_string(), to_json(node))).collect(),
        ),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn foreign_bundles_lie_beside_the_file_that_names_them() {
        let folder = tempfile::tempdir().expect("folder");
        let file = folder.path().join("entries.yaml");
        let text = "trust_domain: td\nfederated: {a.org: a.pem, b.org: /etc/b.pem}\n";
        std::fs::write(&file, text).expect("write");
        let entries = read(&file).expect("valid");
        let files: Vec<_> = entries.federated.into_values().collect();
        assert_eq!(files, [folder.path().join("a.pem"), PathBuf::from("/etc/b.pem")]);
        assert_eq!(folder_of(Path::new("entries.yaml")), Path::new("."));
    }
}
