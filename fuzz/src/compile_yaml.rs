//! Compiling manifests that are any text.

use std::sync::Arc;

use ingress::command::explain::{Question, answer};

use crate::manifests::{Ask, Compiled, ask, connect, documents};

/// Files that are larger only cost time here.
const MAX_BYTES: usize = 16 * 1024;

/// Comment lines `#? METHOD authority path` are the requests; everything is the manifests.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    if text.len() > MAX_BYTES {
        return;
    }
    let (documents, errors) = documents(text);
    let compiled = Compiled::new(&documents, &errors);
    for error in &errors {
        let named =
            compiled.report.findings.iter().any(|finding| finding.message.starts_with(&*error.message));
        assert!(named, "{} is not in the report", error.message);
    }
    let table = compiled.table();
    connect(&table, &["a.example.com"]);
    let fields = http::HeaderMap::new();
    let usual = ["GET * /", "GET a.example.com /a/b", "POST 10.0.0.1 /a"];
    let written = text.lines().filter_map(|line| line.strip_prefix("#? ")).take(8);
    for line in usual.into_iter().chain(written) {
        let mut parts = line.splitn(3, ' ');
        let (Some(method), Some(authority), Some(path)) = (parts.next(), parts.next(), parts.next()) else {
            continue;
        };
        ask(&table, &Ask { method, authority, path, query: None, fields: &fields, dice: 7 });
        let question = Question {
            method: method.to_owned(),
            url: format!("http://{authority}{path}"),
            ..Question::default()
        };
        assert_eq!(answer(&table, &question), answer(&Arc::clone(&table), &question));
    }
}
