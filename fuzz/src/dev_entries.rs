//! The file of the dev authority.

use std::{path::Path, time::Duration};

use identity::id::parse_peer_id;
use ingress::command::dev_authority::parse;

/// One file. What passes its checks can be issued.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let Ok(entries) = parse(Path::new("/run/entries.yaml"), text) else { return };
    assert!(!entries.trusted().is_empty());
    if entries.check().is_err() {
        return;
    }
    for entry in &entries.entries {
        let id = parse_peer_id(&entry.spiffe_id);
        assert!(id.is_ok_and(|id| id.trust_domain_name() == entries.trust_domain), "{}", entry.spiffe_id);
        assert!(entry.lifetime().is_some_and(|ttl| ttl >= Duration::from_secs(1)), "{}", entry.ttl);
        let folder = Path::new("/state");
        assert_eq!(folder.join(&entry.socket).parent(), Some(folder), "a socket outside its folder");
    }
    assert!(entries.federated.values().all(|file| file.is_absolute()));
}
