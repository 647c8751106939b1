//! One message of the Workload API to material: everything checked, one bad foreign bundle isolated.

use std::{
    collections::{BTreeMap, btree_map},
    sync::Arc,
    time::SystemTime,
};

use proto::workload::{X509svid, X509svidResponse};
use rustls_pki_types::{CertificateRevocationListDer, PrivateKeyDer, PrivatePkcs8KeyDer};

use crate::{Bundle, Credential, Material, Problem, Trust, TrustDomain, material::split_der};

/// Most SVIDs and bundles of one message.
const MAX_ITEMS: usize = 200;
/// Longest hint (W-16).
const MAX_HINT_BYTES: usize = 1024;

/// Reads a message. The second part names what was left out: foreign bundles that cannot be used, authorities of a bundle, and
/// SVIDs behind the first. Without a first one there is no identity; a mandatory field without a value discards the whole
/// message (W-13).
pub fn read(message: &X509svidResponse, now: SystemTime) -> Result<(Material, Vec<Problem>), Problem> {
    let malformed = |why: String| {
        Problem::new("svid_malformed", format!("the Workload API's message was discarded: {why}"))
    };
    if message.svids.is_empty() {
        return Err(malformed("it holds no SVID".to_owned()));
    }
    if message.svids.len().max(message.federated_bundles.len()).max(message.crl.len()) > MAX_ITEMS {
        return Err(malformed(format!("it holds more than {MAX_ITEMS} SVIDs, bundles or revocation lists")));
    }
    let mut own: Vec<Arc<Credential>> = Vec::new();
    let mut bundles = BTreeMap::new();
    let mut warnings = Vec::new();
    let unusable = |why: String| Problem::new("bundle_unusable", why);
    if let Some(svid) = message.svids.iter().find(|svid| is_incomplete(svid)) {
        return Err(malformed(format!("SVID `{}` lacks its ID, certificate, key or bundle", svid.spiffe_id)));
    }
    let crls = read_crls(message).ok_or_else(|| malformed("a revocation list is malformed".to_owned()))?;
    for svid in &message.svids {
        let read = read_svid(svid, now).and_then(|(credential, domain)| {
            if let btree_map::Entry::Vacant(vacant) = bundles.entry(domain) {
                let (bundle, left_out) = read_bundle(vacant.key(), &svid.bundle, &crls, now)?;
                warnings.extend(left_out.into_iter().map(unusable));
                vacant.insert(bundle);
            }
            Ok(credential)
        });
        let credential = match read {
            Ok(credential) => credential,
            // Each message is the whole state: of one that is bad here, no earlier one is left.
            Err(problem) if !own.is_empty() => {
                warnings.push(Problem::new(problem.code, format!("left out: {problem}")));
                continue;
            }
            Err(problem) => {
                let message = format!("the Workload API's message was discarded: {problem}");
                return Err(Problem::new(problem.code, message));
            }
        };
        // Of two SVIDs with one hint the first wins (W-15).
        if !own.iter().any(|known| known.hint.is_some() && known.hint == credential.hint) {
            own.push(Arc::new(credential));
        }
    }
    for (name, der) in &message.federated_bundles {
        let read = foreign_domain(name).and_then(|domain| {
            let bundle = read_bundle(&domain, der, &crls, now).map_err(|problem| problem.to_string())?;
            Ok((domain, bundle))
        });
        match read {
            Ok((domain, (bundle, left_out))) => {
                warnings.extend(left_out.into_iter().map(unusable));
                bundles.entry(domain).or_insert(bundle);
            }
            Err(why) => warnings.push(unusable(why)),
        }
    }
    Ok((Material { own, trust: Some(Arc::new(Trust::Spiffe(bundles))) }, warnings))
}

/// The key of a foreign bundle: the SPIFFE ID of a trust domain, which has no path.
fn foreign_domain(name: &str) -> Result<TrustDomain, String> {
    let wrong = |why: &dyn std::fmt::Display| format!("federated bundle `{name}`: {why}");
    let domain = TrustDomain::new(name).map_err(|error| wrong(&error))?;
    if domain.id_string() == name {
        Ok(domain)
    } else {
        Err(wrong(&"its key is not the ID of a trust domain"))
    }
}

/// A mandatory field has its default value.
fn is_incomplete(svid: &X509svid) -> bool {
    svid.spiffe_id.is_empty()
        || svid.x509_svid.is_empty()
        || svid.x509_svid_key.is_empty()
        || svid.bundle.is_empty()
}

fn read_svid(svid: &X509svid, now: SystemTime) -> Result<(Credential, TrustDomain), Problem> {
    let what = format!("SVID `{}`", svid.spiffe_id);
    let malformed = |why: &str| Problem::new("svid_malformed", format!("{what} {why}"));
    if svid.hint.len() > MAX_HINT_BYTES {
        return Err(malformed("has a hint longer than 1024 bytes"));
    }
    let chain = split_der(&svid.x509_svid).ok_or_else(|| malformed("has a certificate that is not DER"))?;
    let key = PrivateKeyDer::Pkcs8(PrivatePkcs8KeyDer::from(svid.x509_svid_key.to_vec()));
    let mut credential = Credential::new(&what, chain, &key, now)?;
    credential.refuse_ca(&what)?;
    let id = credential
        .spiffe_id
        .clone()
        .ok_or_else(|| malformed("has a certificate without exactly one SPIFFE ID"))?;
    if id.to_string() != svid.spiffe_id {
        return Err(malformed(&format!("has a certificate for {id}")));
    }
    credential.hint = (!svid.hint.is_empty()).then(|| svid.hint.clone());
    Ok((credential, id.trust_domain().clone()))
}

fn read_bundle(
    domain: &TrustDomain,
    der: &[u8],
    crls: &[CertificateRevocationListDer<'static>],
    now: SystemTime,
) -> Result<(Bundle, Vec<String>), Problem> {
    let what = format!("the bundle of {domain}");
    let certificates = split_der(der)
        .ok_or_else(|| Problem::new("svid_malformed", format!("{what} is not a list of DER certificates")))?;
    let (mut bundle, warnings) = Bundle::new(&what, certificates, now)?;
    bundle.crls = crls.to_vec();
    Ok((bundle, warnings))
}

fn read_crls(message: &X509svidResponse) -> Option<Vec<CertificateRevocationListDer<'static>>> {
    let read = |der: &bytes::Bytes| {
        webpki::OwnedCertRevocationList::from_der(der).ok()?;
        Some(CertificateRevocationListDer::from(der.to_vec()))
    };
    message.crl.iter().map(read).collect()
}

#[cfg(test)]
mod tests {
    use std::{sync::LazyLock, time::Duration};

    use proptest::{collection::vec, prelude::*, sample::Index};

    use super::*;
    use crate::dev::Ca;

    const ID: &str = "spiffe://td/a";

    static VALID: LazyLock<X509svidResponse> = LazyLock::new(|| {
        let ca = Ca::new("td").expect("ca");
        let minted = ca.mint(ID, Duration::from_hours(1)).expect("svid");
        let svid = X509svid {
            spiffe_id: ID.to_owned(),
            x509_svid: minted.certificate.to_vec().into(),
            x509_svid_key: minted.key_der().to_vec().into(),
            bundle: ca.certificate().to_vec().into(),
            hint: "internal".to_owned(),
        };
        let other = Ca::new("other").expect("ca").certificate().to_vec();
        X509svidResponse {
            svids: vec![svid],
            federated_bundles: [("spiffe://other".to_owned(), other.into())].into(),
            ..X509svidResponse::default()
        }
    });

    #[test]
    fn a_valid_message_is_read_whole() {
        let (material, left_out) = read(&VALID, SystemTime::now()).expect("valid");
        assert_eq!((material.own.len(), left_out), (1, Vec::new()));
        let Some(Trust::Spiffe(bundles)) = material.trust.as_deref() else { panic!("bundles") };
        let domains: Vec<_> = bundles.keys().map(TrustDomain::as_str).collect();
        assert_eq!(domains, ["other", "td"]);
    }

    proptest! {
        /// Whatever became of the bytes of one field: no panic, and never an identity that the message does not name.
        #[test]
        fn any_message_is_read_or_discarded(
            field in 0..6_usize,
            changes in vec((any::<Index>(), any::<u8>()), 0..4),
            rest in vec(any::<u8>(), 0..20),
        ) {
            let mut message = VALID.clone();
            let svid = &mut message.svids[0];
            let change = |bytes: &bytes::Bytes| {
                let mut bytes = bytes.to_vec();
                let len = bytes.len();
                for (at, byte) in &changes {
                    bytes[at.index(len)] = *byte;
                }
                bytes.extend(&rest);
                bytes::Bytes::from(bytes)
            };
            match field {
                0 => svid.x509_svid = change(&svid.x509_svid),
                1 => svid.x509_svid_key = change(&svid.x509_svid_key),
                2 => svid.bundle = change(&svid.bundle),
                3 => svid.spiffe_id = String::from_utf8_lossy(&change(&ID.into())).into_owned(),
                4 => message.crl = vec![change(&svid.bundle)],
                _ => {
                    let bundles = message.federated_bundles.values_mut();
                    bundles.for_each(|bundle| *bundle = change(bundle));
                }
            }
            let named = message.svids[0].spiffe_id.clone();
            if let Ok((material, _)) = read(&message, SystemTime::now()) {
                let ids: Vec<_> = material.own.iter().map(|own| own.spiffe_id.as_ref().map(ToString::to_string)).collect();
                prop_assert_eq!(ids, [Some(named)]);
            }
        }
    }
}
