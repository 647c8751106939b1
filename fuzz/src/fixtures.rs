//! Certificates and lists that `examples/make-seeds.rs` made once: a finding has to mean the same bytes tomorrow.

use std::sync::{Arc, LazyLock};

use identity::{
    Bundle, ClientProfile, ClientSpec, Material, Source, SourceRef, Trust, TrustDomain, Verify, Versions,
};
use rustls_pki_types::CertificateDer;

/// The root of trust domain `td`.
pub const ROOT: &[u8] = include_bytes!("../fixtures/root.der");
/// An intermediate below [`ROOT`].
pub const INTERMEDIATE: &[u8] = include_bytes!("../fixtures/intermediate.der");
/// The SVID of `spiffe://td/web`, below [`INTERMEDIATE`].
pub const LEAF: &[u8] = include_bytes!("../fixtures/leaf.der");
/// The SVID of `spiffe://td/direct`, below [`ROOT`].
pub const DIRECT: &[u8] = include_bytes!("../fixtures/direct.der");
/// The key of [`DIRECT`], PKCS #8. It protects nothing.
pub const DIRECT_KEY: &[u8] = include_bytes!("../fixtures/direct.key.der");
/// A root that nobody trusts.
pub const STRANGE_ROOT: &[u8] = include_bytes!("../fixtures/strange-root.der");
/// A certificate for `spiffe://td/web` below [`STRANGE_ROOT`].
pub const STRANGE_LEAF: &[u8] = include_bytes!("../fixtures/strange-leaf.der");
/// A list of [`ROOT`] that revokes nobody of these.
pub const CRL: &[u8] = include_bytes!("../fixtures/good.crl.der");
/// A list of [`ROOT`] that revokes [`DIRECT`].
pub const REVOKING_CRL: &[u8] = include_bytes!("../fixtures/revoking.crl.der");

/// A certificate from its bytes.
pub fn certificate(der: &[u8]) -> CertificateDer<'static> {
    CertificateDer::from(der.to_vec())
}

/// A source that has delivered this trust.
pub fn source(trust: Trust) -> Arc<Source> {
    let source = Source::new(SourceRef::new("fixture"));
    source.publish(Material { own: Vec::new(), trust: Some(Arc::new(trust)) });
    source
}

/// A profile that verifies in this way.
pub fn profile(verify: Verify, crl: Option<Arc<Source>>) -> Arc<ClientProfile> {
    ClientProfile::new(ClientSpec {
        identity: None,
        hint: None,
        verify,
        crl,
        alpn: Vec::new(),
        versions: Versions::ALL,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    })
}

fn roots() -> Bundle {
    Bundle { authorities: vec![certificate(ROOT)], crls: Vec::new() }
}

/// Whom the bundle of `td` vouches for.
pub fn spiffe() -> Verify {
    let bundles = TrustDomain::new("td").map(|domain| (domain, roots())).into_iter().collect();
    Verify::Spiffe { trust: source(Trust::Spiffe(bundles)), trust_domains: Vec::new() }
}

/// Verifies SVIDs of `td`; shared, so that its cache of chains is under test, too.
pub static SVIDS: LazyLock<Arc<ClientProfile>> = LazyLock::new(|| profile(spiffe(), None));

/// Verifies by web PKI under the same root.
pub static WEB: LazyLock<Arc<ClientProfile>> =
    LazyLock::new(|| profile(Verify::Roots(source(Trust::Roots(roots()))), None));
