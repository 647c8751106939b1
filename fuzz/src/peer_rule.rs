//! Patterns of SPIFFE IDs, against a matcher that tries every way.

use identity::{IdPattern, id::parse_peer_id};

/// The first line is a pattern, the second an ID.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let text = String::from_utf8_lossy(bytes);
    let (written, id) = text.split_once('\n').unwrap_or((&text, ""));
    let Ok(pattern) = written.parse::<IdPattern>() else { return };
    let printed = pattern.to_string();
    assert_eq!(printed.parse().as_ref(), Ok(&pattern), "{printed}");
    let Ok(id) = parse_peer_id(id) else { return };
    let wanted: Vec<&str> = printed.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
    let text = id.to_string();
    let given: Vec<&str> = text.strip_prefix("spiffe://").unwrap_or_default().split('/').collect();
    let literal = !printed.contains('*');
    let reserved = given.get(1) == Some(&"spire") && !literal;
    assert_eq!(pattern.matches(&id), !reserved && meets(&wanted, &given), "{printed} and {id}");
    assert!(!pattern.matches(&id) || pattern.trust_domain() == id.trust_domain());
}

fn meets(wanted: &[&str], given: &[&str]) -> bool {
    match (wanted.split_first(), given.split_first()) {
        (None, None) | (Some((&"**", [])), Some(_)) => true,
        (Some((want, wanted)), Some((have, given))) => (*want == "*" || want == have) && meets(wanted, given),
        _ => false,
    }
}
