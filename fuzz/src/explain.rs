//! Questions to `explain`.

use std::sync::{Arc, LazyLock};

use ingress::{
    command::explain::{Question, answer},
    route::Table,
};

use crate::manifests::{Compiled, HTTP, documents};

static TABLE: LazyLock<Arc<Table>> = LazyLock::new(|| {
    let text = format!("{HTTP}{}", include_str!("../fixtures/explain.yaml"));
    let (documents, errors) = documents(&text);
    Compiled::new(&documents, &errors).table()
});

/// The first line is `METHOD URL`, the others are header fields, or settings: `=sni NAME`, `=peer ID`, `=listener PORT`,
/// `=dice NUMBER`.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut lines = text.lines();
    let Some((method, url)) = lines.next().and_then(|line| line.split_once(' ')) else { return };
    let mut question = Question { method: method.to_owned(), url: url.to_owned(), ..Question::default() };
    for line in lines {
        match line.strip_prefix('=').and_then(|line| line.split_once(' ')) {
            Some(("sni", name)) => question.sni = Some(name.to_owned()),
            Some(("peer", id)) => question.peer = Some(id.to_owned()),
            Some(("listener", port)) => question.listener = port.parse().ok(),
            Some(("dice", number)) => question.dice = number.parse().unwrap_or(0),
            _ => question.headers.extend(
                line.split_once(':').map(|(name, value)| (name.trim().to_owned(), value.trim().to_owned())),
            ),
        }
    }
    let answered = answer(&TABLE, &question);
    assert_eq!(answered, answer(&TABLE, &question));
    match answered {
        Err(why) => assert!(!why.is_empty()),
        Ok(found) => {
            let text = |name: &str| found.get(name).and_then(serde_json::Value::as_str).unwrap_or("nothing");
            let action = text("action");
            assert!(["forward", "close"].contains(&action) || action.starts_with("respond "), "{found}");
            assert!((action == "forward") == (text("reason") == "ok"), "{found}");
            assert!(action != "forward" || text("upstream_path").starts_with(['/', '*']), "{found}");
        }
    }
}
