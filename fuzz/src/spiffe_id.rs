//! SPIFFE IDs of peers, against the `spiffe` crate.

use identity::id::parse_peer_id;
use spiffe::SpiffeId;

/// One text.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let theirs = SpiffeId::new(text);
    match parse_peer_id(text) {
        Ok(id) => {
            assert_eq!(id.to_string(), text);
            assert_eq!(theirs.as_ref().ok(), Some(&id));
            assert_eq!(format!("spiffe://{}{}", id.trust_domain_name(), id.path()), text);
            assert!(id.path().len() > 1 && text.len() <= 2048, "{text}");
        }
        // Where we are stricter: upper case is another name (ID-6), a workload has a path (ID-8), and lengths end.
        Err(why) => {
            let stricter = theirs.ok().is_none_or(|id| {
                id.to_string() != text
                    || id.path().is_empty()
                    || text.len() > 2048
                    || id.trust_domain_name().len() > 255
            });
            assert!(stricter, "{text}: {why}");
        }
    }
}
