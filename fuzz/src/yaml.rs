//! Manifests as text: YAML, and what is left of a file that is none.

use std::{path::PathBuf, sync::Arc};

use resource::{Document, Node, SourceError, parse, parse_each, parse_value, secret_data};

/// One file.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let path = Arc::new(PathBuf::from("it.yaml"));
    if let Ok((documents, errors)) = parse(&path, text, "default") {
        whole(text, &documents, &errors);
    }
    let (documents, errors) = parse_each(&path, text, "default");
    whole(text, &documents, &errors);
    if let Err((line, why)) = parse_value(text) {
        assert!(line >= 1 && !why.is_empty());
    }
}

/// Every document has a name, and every value and error a line of the text.
fn whole(text: &str, documents: &[Document], errors: &[SourceError]) {
    // A parser may count more ends of lines than the least: lone carriage returns are some to it.
    let ends = text.bytes().filter(|byte| matches!(byte, b'\n' | b'\r')).count();
    let last = u32::try_from(ends + 2).unwrap_or(u32::MAX);
    for error in errors {
        assert!((1..=last).contains(&error.line), "line {} of {last}", error.line);
        assert!(!error.message.is_empty() && !error.remedy.is_empty());
    }
    for document in documents {
        assert!(!document.object.name.is_empty() && !document.object.namespace.is_empty());
        lines(&document.root, last);
        let _data_or_not = secret_data(document);
        assert!(format!("{document:?}").len() < 1024 + 4 * format!("{:?}", document.object).len());
    }
}

fn lines(node: &Node, last: u32) {
    assert!((1..=last).contains(&node.line), "line {} of {last}", node.line);
    node.items().iter().chain(node.fields().iter().map(|(_, node)| node)).for_each(|node| lines(node, last));
}
