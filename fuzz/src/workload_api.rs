//! Messages of the Workload API, from their bytes on the wire.

use std::time::SystemTime;

use identity::{Trust, source::delivery};
use prost::Message as _;
use proto::workload::X509svidResponse;

/// One message. What comes out of it is named in it.
///
/// # Panics
///
/// When what must hold does not.
pub fn target(bytes: &[u8]) {
    let Ok(message) = X509svidResponse::decode(bytes) else { return };
    let Ok((material, _)) = delivery::read(&message, SystemTime::now()) else { return };
    assert!(!material.own.is_empty() && material.own.len() <= message.svids.len());
    for own in &material.own {
        let id = own.spiffe_id.as_ref().map(ToString::to_string).unwrap_or_default();
        assert!(message.svids.iter().any(|svid| svid.spiffe_id == id), "{id} is not in the message");
    }
    let Some(Trust::Spiffe(bundles)) = material.trust.as_deref() else {
        return assert!(material.trust.is_none(), "an SVID comes with its bundle");
    };
    for own in material.own.iter().filter_map(|own| own.spiffe_id.as_ref()) {
        assert!(
            bundles.get(own.trust_domain()).is_some_and(|bundle| !bundle.authorities.is_empty()),
            "{own}"
        );
    }
}
