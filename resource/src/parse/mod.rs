//! YAML (and JSON) text to located documents, on the events of a YAML parser.

mod objects;
mod tree;

use std::{path::PathBuf, sync::Arc};

use granit_parser::ScanError;

use crate::{Document, Node, SourceError};
use objects::taken;
use tree::Builder;

/// Reads every document of a text; `List` kinds are taken apart. The second part names single documents that are wrong;
/// `Err`: the text is no YAML, and nothing of it counts.
pub fn parse(
    path: &Arc<PathBuf>,
    text: &str,
    default_namespace: &str,
) -> Result<(Vec<Document>, Vec<SourceError>), SourceError> {
    let mut builder = Builder::default();
    builder.read(text).map_err(|broken| {
        broken.at(path, "mend the YAML; until then nothing new is read from this file, and what was read of it before stays in use")
    })?;
    Ok(taken(path, builder.roots, default_namespace, Vec::new()))
}

/// Reads a text that is no YAML as a whole, document by document: those that can be read count, each of the others is named.
pub fn parse_each(
    path: &Arc<PathBuf>,
    text: &str,
    default_namespace: &str,
) -> (Vec<Document>, Vec<SourceError>) {
    // One builder: what a file may hold and copy is limited for all of its documents together.
    let (mut builder, mut errors) = (Builder::default(), Vec::new());
    for piece in pieces(text) {
        let good = builder.roots.len();
        builder.before = piece.before;
        if let Err(broken) = builder.read(piece.text) {
            builder.give_up(good);
            errors.push(broken.at(
                path,
                "mend the YAML; until then this document is left out, and the others of its file serve",
            ));
        }
    }
    taken(path, builder.roots, default_namespace, errors)
}

/// A part of a text that holds one document.
struct Piece<'a> {
    /// Lines of the text before it.
    before: u32,
    text: &'a str,
}

/// Cuts a text at its document markers. One in the first column ends a document wherever it stands, in a block scalar or
/// an open quote as well (YAML 1.2.2, 9.1.2). What holds comments and directives alone is no document.
fn pieces(text: &str) -> Vec<Piece<'_>> {
    let mut pieces = Vec::new();
    let (mut start, mut before, mut at) = (0, 0, 0);
    for (number, written) in text.split_inclusive('\n').enumerate() {
        let end = at + written.len();
        let is_end = is_marker(written, "...");
        if is_end || is_marker(written, "---") {
            pieces.push(Piece { before, text: text.get(start..at).unwrap_or_default() });
            start = if is_end { end } else { at };
            before = line(number + usize::from(is_end));
        }
        at = end;
    }
    pieces.push(Piece { before, text: text.get(start..).unwrap_or_default() });
    let says_something = |written: &str| !written.trim().is_empty() && !written.starts_with(['#', '%']);
    pieces.retain(|piece| piece.text.lines().any(says_something));
    pieces
}

fn is_marker(written: &str, marker: &str) -> bool {
    written
        .strip_prefix(marker)
        .is_some_and(|rest| rest.is_empty() || rest.starts_with([' ', '\t', '\r', '\n']))
}

/// Reads one value: the first document of a text that is no manifest. The error is a line and what is wrong there.
pub fn parse_value(text: &str) -> Result<Node, (u32, String)> {
    let mut builder = Builder::default();
    builder.read(text).map_err(|Broken { line, message }| (line, message))?;
    builder.roots.into_iter().next().ok_or_else(|| (1, "nothing is written here".to_owned()))
}

/// What is wrong with a text, and where.
struct Broken {
    line: u32,
    message: String,
}

impl Broken {
    fn scan(error: &ScanError, before: u32) -> Self {
        let line = line(error.marker().line()).saturating_add(before);
        Self { line, message: format!("not YAML: {}", error.info()) }
    }

    #[expect(clippy::rc_buffer, reason = "documents and errors share it in this form")]
    fn at(self, path: &Arc<PathBuf>, remedy: &str) -> SourceError {
        SourceError {
            path: Some(Arc::clone(path)),
            line: self.line,
            message: self.message,
            remedy: remedy.to_owned(),
            kept_last_good: false,
        }
    }
}

fn line(line: usize) -> u32 {
    u32::try_from(line).unwrap_or(u32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::Origin;

    fn read(text: &str) -> (Vec<Document>, Vec<SourceError>) {
        parse(&Arc::new(PathBuf::from("x.yaml")), text, "default").expect("YAML")
    }

    #[test]
    fn documents_know_their_lines() {
        let (documents, errors) = read(
            "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata:\n  name: a\n  labels: {x: y}\nspec:\n  prefix: /a/\n  weight: 10\n---\napiVersion: v1\nkind: Secret\nmetadata: {name: b, namespace: n}\n",
        );
        assert!(errors.is_empty());
        let [mapping, secret] = documents.as_slice() else { panic!("two documents") };
        assert_eq!(mapping.object.to_string(), "Mapping default/a");
        assert_eq!((&*mapping.version, &*mapping.object.kind.group), ("v3alpha1", "getambassador.io"));
        assert_eq!(mapping.root.at("spec.prefix").map(|node| node.line), Some(8));
        assert_eq!(mapping.root.at("spec.weight").and_then(Node::as_int), Some(10));
        assert_eq!(mapping.labels["x"], "y");
        assert_eq!(secret.object.to_string(), "Secret n/b");
        assert_eq!(secret.origin, Origin::File { path: Arc::new(PathBuf::from("x.yaml")), line: 11 });
    }

    #[test]
    fn text_stays_text() {
        let (documents, _) = read(
            "apiVersion: v1\nkind: X\nmetadata: {name: a}\nv: [yes, on, y, 1.10, \"1\", true, -5, 0x1f, ~]\n",
        );
        let values = documents[0].root.get("v").expect("v").items();
        let texts: Vec<_> = values.iter().map(|node| (node.kind(), node.as_text().unwrap_or("-"))).collect();
        assert_eq!(
            texts,
            [
                ("text", "yes"),
                ("text", "on"),
                ("text", "y"),
                ("a number", "1.10"),
                ("text", "1"),
                ("a boolean", "true"),
                ("a number", "-5"),
                ("text", "0x1f"),
                ("nothing", "-")
            ]
        );
    }

    #[test]
    fn lists_are_taken_apart_and_one_bad_item_is_alone() {
        let (documents, errors) = read(
            "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Service, metadata: {name: a}}\n- {kind: Service}\n- {apiVersion: v1, kind: Service, metadata: {name: b}}\n",
        );
        assert_eq!(documents.len(), 2);
        assert_eq!(errors.iter().map(|error| error.line).collect::<Vec<_>>(), [5]);
    }

    #[test]
    fn what_is_no_yaml_says_where() {
        for (text, line) in [("a: [1\nb: 2\n", 2), ("a: 1\na: 2\n", 2)] {
            let error = parse(&Arc::new(PathBuf::from("x.yaml")), text, "default").expect_err("no YAML");
            assert_eq!(error.line, line, "{}", error.message);
        }
    }

    #[test]
    fn anchors_merge_and_bombs_end() {
        let (documents, _) =
            read("apiVersion: v1\nkind: X\nmetadata: {name: a}\nbase: &b {x: 1, y: 2}\nv: {<<: *b, y: 3}\n");
        assert_eq!(documents[0].root.at("v.x").and_then(Node::as_int), Some(1));
        assert_eq!(documents[0].root.at("v.y").and_then(Node::as_int), Some(3));
        let level = |level: u32| {
            let before = format!("*a{},", level - 1).repeat(10);
            format!("a{level}: &a{level} [{}]\n", before.trim_end_matches(','))
        };
        let bomb = format!("a0: &a0 [x,x,x,x,x,x,x,x,x,x]\n{}", (1..9).map(level).collect::<String>());
        assert!(parse(&Arc::new(PathBuf::from("x.yaml")), &bomb, "default").is_err());
    }
}
