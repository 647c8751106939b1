//! Certificates that may break any rule, and profiles that judge them.

use std::{
    collections::BTreeMap,
    sync::Arc,
    time::{Duration, SystemTime},
};

use identity::{
    Bundle, ClientAuth, ClientProfile, ClientSpec, Credential, Material, PeerId, PeerRule, ServerProfile,
    ServerSpec, Source, SourceRef, Trust, TrustDomain, Verify, VerifyFailure, Versions,
};
use rcgen::{
    BasicConstraints, CertificateParams, CustomExtension, DistinguishedName, DnType, ExtendedKeyUsagePurpose,
    IsCa, Issuer, KeyPair, KeyUsagePurpose, SanType, SigningKey,
};
use rustls_pki_types::{CertificateDer, CertificateRevocationListDer, PrivateKeyDer};

pub(crate) const DAY: Duration = Duration::from_hours(24);
pub(crate) const ID: &str = "spiffe://td/web";

pub(crate) type Cert = CertificateDer<'static>;
pub(crate) type Judged = Result<Arc<PeerId>, VerifyFailure>;

/// A CA, root or intermediate.
pub(crate) struct Authority {
    pub(crate) issuer: Issuer<'static, KeyPair>,
    pub(crate) cert: Cert,
}

/// A leaf with its key.
pub(crate) struct Leaf {
    pub(crate) cert: Cert,
    key: KeyPair,
}

impl Authority {
    pub(crate) fn root(name: &str) -> Self {
        Self::root_with(name, |_| {})
    }

    pub(crate) fn root_with(name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = ca_params(name);
        change(&mut params);
        let cert = params.self_signed(&key).expect("root").der().clone();
        Self { issuer: Issuer::new(params, key), cert }
    }

    pub(crate) fn intermediate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> Self {
        let key = KeyPair::generate().expect("key");
        let mut params = ca_params(name);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("intermediate").der().clone();
        Self { issuer: Issuer::new(params, key), cert }
    }

    pub(crate) fn leaf(&self, change: impl FnOnce(&mut CertificateParams)) -> Leaf {
        let key = KeyPair::generate().expect("key");
        let mut params = leaf_params(ID);
        change(&mut params);
        let cert = params.signed_by(&key, &self.issuer).expect("leaf").der().clone();
        Leaf { cert, key }
    }

    pub(crate) fn svid(&self, id: &str) -> Leaf {
        self.leaf(|params| params.subject_alt_names = vec![uri(id)])
    }
}

impl Leaf {
    /// The same as X.509 v1, as `openssl x509 -req` makes it: without version and extensions, signed by its own key.
    pub(crate) fn v1(&self) -> Cert {
        let (certificate, _) = elements(&self.cert).next().expect("a sequence");
        let parts: Vec<_> = elements(certificate).collect();
        let (tbs, algorithm) = (parts[0].0, parts[1].1);
        let fields: Vec<_> = elements(tbs).map(|(_, whole)| whole).collect();
        let tbs = tlv(0x30, &fields[1..7].concat());
        let signature = SigningKey::sign(&self.key, &tbs).expect("signature");
        let signature = tlv(0x03, &[&[0], signature.as_slice()].concat());
        tlv(0x30, &[tbs.as_slice(), algorithm, &signature].concat()).into()
    }

    /// Its key, for a server that presents what we would refuse to present.
    pub(crate) fn key(&self) -> Arc<dyn rustls::sign::SigningKey> {
        let key = PrivateKeyDer::try_from(self.key.serialized_der()).expect("pkcs8");
        rustls::crypto::aws_lc_rs::sign::any_supported_type(&key).expect("key")
    }

    pub(crate) fn credential(&self) -> Credential {
        let key = PrivateKeyDer::try_from(self.key.serialized_der()).expect("pkcs8");
        Credential::new("test", vec![self.cert.clone()], &key, SystemTime::now()).expect("credential")
    }
}

fn ca_params(name: &str) -> CertificateParams {
    let mut params = base(name);
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    params
}

fn leaf_params(id: &str) -> CertificateParams {
    let mut params = base("leaf");
    params.is_ca = IsCa::ExplicitNoCa;
    params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    params.extended_key_usages =
        vec![ExtendedKeyUsagePurpose::ServerAuth, ExtendedKeyUsagePurpose::ClientAuth];
    params.subject_alt_names = vec![uri(id)];
    params
}

fn base(name: &str) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.use_authority_key_identifier_extension = true;
    valid(&mut params, SystemTime::now() - DAY, SystemTime::now() + DAY);
    params
}

pub(crate) fn valid(params: &mut CertificateParams, from: SystemTime, to: SystemTime) {
    params.not_before = from.into();
    params.not_after = to.into();
}

pub(crate) fn uri(text: &str) -> SanType {
    SanType::URI(text.try_into().expect("ascii"))
}

pub(crate) fn dns(text: &str) -> SanType {
    SanType::DnsName(text.try_into().expect("ascii"))
}

/// The DER values in some bytes: content, and whole.
fn elements(mut der: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
    std::iter::from_fn(move || {
        let (header, length) = match *der.get(1..)? {
            [length, ..] if length < 0x80 => (2, usize::from(length)),
            [0x81, length, ..] => (3, usize::from(length)),
            [0x82, high, low, ..] => (4, usize::from(u16::from_be_bytes([high, low]))),
            _ => return None,
        };
        let (whole, rest) = der.split_at(header + length);
        der = rest;
        Some((&whole[header..], whole))
    })
}

/// One DER value.
pub(crate) fn tlv(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = u16::try_from(content.len()).expect("short enough").to_be_bytes();
    let mut der = vec![tag];
    match length {
        [0, low] if low < 128 => der.push(low),
        [high, low] => der.extend([0x82, high, low]),
    }
    der.extend_from_slice(content);
    der
}

/// A subject alternative name extension of these URIs, whatever their bytes.
pub(crate) fn raw_uris(uris: &[&[u8]]) -> CustomExtension {
    let names: Vec<u8> = uris.iter().flat_map(|uri| tlv(0x86, uri)).collect();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(0x30, &names))
}

/// Name constraints over raw general names: 0xa0 permitted, 0xa1 excluded.
pub(crate) fn constraints(list: u8, names: &[(u8, &str)]) -> CustomExtension {
    let subtrees: Vec<u8> =
        names.iter().flat_map(|(tag, name)| tlv(0x30, &tlv(*tag, name.as_bytes()))).collect();
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], tlv(0x30, &tlv(list, &subtrees)));
    extension.set_criticality(true);
    extension
}

pub(crate) fn source(material: Material) -> Arc<Source> {
    let source = Source::new(SourceRef::new("test"));
    source.publish(material);
    source
}

pub(crate) fn spiffe(bundles: &[(&str, &[&Cert])]) -> Trust {
    let bundle =
        |certs: &[&Cert]| Bundle { authorities: certs.iter().copied().cloned().collect(), crls: Vec::new() };
    let domain = |name: &str| TrustDomain::new(name).expect("trust domain");
    Trust::Spiffe(
        bundles.iter().map(|(name, certs)| (domain(name), bundle(certs))).collect::<BTreeMap<_, _>>(),
    )
}

pub(crate) fn trust(trust: Trust) -> Arc<Source> {
    source(Material { own: Vec::new(), trust: Some(Arc::new(trust)) })
}

pub(crate) fn crls(lists: Vec<CertificateRevocationListDer<'static>>) -> Arc<Source> {
    trust(Trust::Crls(lists))
}

pub(crate) fn client(
    verify: Verify,
    identity: Option<Arc<Source>>,
    crl: Option<Arc<Source>>,
) -> Arc<ClientProfile> {
    client_of(verify, identity, crl, Versions::ALL)
}

pub(crate) fn client_of(
    verify: Verify,
    identity: Option<Arc<Source>>,
    crl: Option<Arc<Source>>,
    versions: Versions,
) -> Arc<ClientProfile> {
    ClientProfile::new(ClientSpec {
        identity,
        hint: None,
        verify,
        crl,
        alpn: Vec::new(),
        versions,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    })
}

pub(crate) fn server(verify: Verify, identity: Arc<Source>) -> Arc<ServerProfile> {
    server_with(verify, identity, ClientAuth::Required)
}

pub(crate) fn server_with(
    verify: Verify,
    identity: Arc<Source>,
    client_auth: ClientAuth,
) -> Arc<ServerProfile> {
    let spec = ServerSpec {
        name: "test".into(),
        identity,
        hint: None,
        client_auth,
        verify: Some(verify),
        crl: None,
        alpn: Vec::new(),
        versions: Versions::ALL,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    ServerProfile::new(spec, PeerRule::Anyone)
}

pub(crate) fn by_spiffe(trust: Arc<Source>) -> Verify {
    Verify::Spiffe { trust, trust_domains: Vec::new() }
}

/// Judges a server's chain under the bundle of `td`.
pub(crate) fn judge(root: &Authority, chain: &[Cert]) -> Judged {
    judge_under(spiffe(&[("td", &[&root.cert])]), chain)
}

pub(crate) fn judge_under(given: Trust, chain: &[Cert]) -> Judged {
    client(by_spiffe(trust(given)), None, None).peer(chain)
}

/// Judges a client's chain under the bundle of `td`.
pub(crate) fn judge_client(root: &Authority, chain: &[Cert]) -> Judged {
    let identity = Source::new(SourceRef::new("pending"));
    let profile = server(by_spiffe(trust(spiffe(&[("td", &[&root.cert])]))), identity);
    profile.peer(Some(chain)).map(|peer| peer.expect("a certificate was presented"))
}

/// Judges a chain by web PKI.
pub(crate) fn judge_web(root: &Authority, chain: &[Cert]) -> Judged {
    let bundle = Bundle { authorities: vec![root.cert.clone()], crls: Vec::new() };
    client(Verify::Roots(trust(Trust::Roots(bundle))), None, None).peer(chain)
}

/// The failure of a chain; its acceptance fails the test.
pub(crate) fn refused(judged: Judged) -> VerifyFailure {
    judged.expect_err("the chain must be refused")
}
