//! Tests that a page or a table names as proof, looked up in the sources.

use std::{fs, path::Path};

/// The text of a test from its name on, up to the next test or the end of the file; panics unless there is one.
pub(crate) fn test(file: &str, function: &str) -> String {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("..").join(file);
    let text = fs::read_to_string(path);
    assert!(text.is_ok(), "{file}, which is named, cannot be read");
    let text = text.unwrap();
    let at = text.find(&format!("fn {function}("));
    assert!(at.is_some(), "{file} has no {function}");
    let (before, from) = text.split_at(at.unwrap());
    let mut above = before.lines().rev().skip(usize::from(!before.ends_with('\n'))).take(6);
    let is_target = file.starts_with("fuzz/src/") && function == "target";
    assert!(is_target || above.any(is_mark), "{file}: {function} is no test");
    let body: Vec<_> = from.lines().take_while(|line| !is_mark(line)).collect();
    body.join("\n")
}

fn is_mark(line: &str) -> bool {
    line.trim().starts_with("#[test") || line.trim().starts_with("#[tokio::test")
}
