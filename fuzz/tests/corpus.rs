//! Every target over its corpus: the seeds, and what was found.
#![allow(clippy::unwrap_used, reason = "a test may stop where it fails")]

use std::{collections::BTreeSet, fs, panic, path::Path};

use fuzz::TARGETS;

fn here(path: &str) -> std::path::PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join(path)
}

fn names(folder: &Path) -> BTreeSet<String> {
    fs::read_dir(folder).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

#[test]
fn every_input_of_the_corpora_passes_its_target() {
    let mut failed = Vec::new();
    for (name, target) in TARGETS {
        let folder = here("corpus").join(name);
        for input in names(&folder) {
            let bytes = fs::read(folder.join(&input)).unwrap();
            if panic::catch_unwind(|| target(&bytes)).is_err() {
                failed.push(format!("{name}/{input}"));
            }
        }
    }
    assert_eq!(failed, Vec::<String>::new(), "their panics are above");
}

#[test]
fn every_target_has_seeds_and_a_binary() {
    let targets: BTreeSet<String> = TARGETS.iter().map(|(name, _)| (*name).to_owned()).collect();
    assert_eq!(targets.len(), TARGETS.len());
    assert_eq!(names(&here("corpus")), targets);
    let binaries: BTreeSet<_> = targets.iter().map(|name| format!("{name}.rs")).collect();
    assert_eq!(names(&here("fuzz_targets")), binaries);
    let manifest = fs::read_to_string(here("Cargo.toml")).unwrap();
    for name in &targets {
        assert!(names(&here("corpus").join(name)).len() >= 3, "{name} needs seeds that mean something");
        let call = format!("|bytes: &[u8]| fuzz::{name}::target(bytes)");
        assert!(fs::read_to_string(here("fuzz_targets").join(format!("{name}.rs"))).unwrap().contains(&call));
        assert!(
            manifest.contains(&format!("name = \"{name}\"\npath = \"fuzz_targets/{name}.rs\"")),
            "{name}"
        );
    }
}
