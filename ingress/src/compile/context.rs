//! TLSContexts: settings for both directions, looked up by namespace and name; and the TLS of an upstream made from one.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    path::PathBuf,
    sync::Arc,
};

use identity::{IdPattern, TrustDomain, Versions, source::files::Files};
use resource::{Document, Node, Origin};

use super::{CompileSettings, module::Module, of_kind};
use crate::{
    keyring::{KeyRef, Usage, resolve_path},
    kind::{Broken, Reader},
    report::{Finding, Severity},
};

/// TLS settings as a TLSContext or a Host's `tls` block says them, valid in themselves.
#[derive(Clone, Debug)]
pub(crate) struct TlsSettings {
    pub(crate) identity: Option<KeyRef>,
    pub(crate) ca: Option<KeyRef>,
    pub(crate) crl: Option<KeyRef>,
    pub(crate) sni: Option<String>,
    pub(crate) server_names: Vec<String>,
    pub(crate) verify: Option<VerifyMode>,
    pub(crate) spiffe: Option<SpiffeBlock>,
    pub(crate) alpn: Vec<Vec<u8>>,
    pub(crate) versions: Versions,
    pub(crate) cipher_suites: Vec<String>,
    pub(crate) groups: Vec<String>,
    pub(crate) cert_required: bool,
}

/// The `verify` field.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum VerifyMode {
    Full,
    ChainOnly,
    None,
}

/// The `spiffe` block.
#[derive(Clone, Debug, Default)]
pub(crate) struct SpiffeBlock {
    pub(crate) ids: Vec<IdPattern>,
    pub(crate) trust_domains: Vec<TrustDomain>,
    pub(crate) hint: Option<String>,
}

/// A TLSContext.
pub(crate) struct Context<'a> {
    pub(crate) document: &'a Document,
    pub(crate) name: Arc<str>,
    pub(crate) hosts: Vec<String>,
    pub(crate) settings: Result<TlsSettings, Broken>,
}

/// All TLSContexts.
pub(crate) struct Contexts<'a> {
    by_key: HashMap<(&'a str, &'a str), Arc<Context<'a>>>,
    namespaces: HashMap<&'a str, Vec<&'a str>>,
}

impl<'a> Contexts<'a> {
    pub(crate) fn read(documents: &[&'a Document], module: &Module, findings: &mut Vec<Finding>) -> Self {
        let mut contexts = Self { by_key: HashMap::new(), namespaces: HashMap::new() };
        let terminating: HashSet<&str> = of_kind(documents, "Host")
            .iter()
            .filter_map(|host| host.root.at("spec.tlsContext.name").and_then(Node::as_text))
            .collect();
        for document in of_kind(documents, "TLSContext") {
            let mut spec = Reader::spec(document).strict();
            spec.instance();
            if spec.int("redirect_cleartext_from").is_some() {
                let remedy = "use requestPolicy.insecure of the Host";
                spec.find(
                    "redirect_cleartext_from",
                    (Severity::Notice, "no_effect"),
                    "has no effect".to_owned(),
                    remedy,
                );
            }
            let hosts: Vec<_> =
                spec.texts("hosts").unwrap_or_default().into_iter().map(str::to_owned).collect();
            let read = TlsSettings::read(&mut spec, document, module);
            let object = &document.object;
            let by_host = [&*object.name, &*format!("{}.{}", object.name, object.namespace)];
            if read.cert_required
                && hosts.is_empty()
                && !by_host.iter().any(|name| terminating.contains(name))
            {
                let message = "has no effect: the context only originates TLS".to_owned();
                spec.find(
                    "cert_required",
                    (Severity::Notice, "no_effect"),
                    message,
                    "set it where TLS is terminated",
                );
            }
            let (found, broken) = spec.finish();
            findings.extend(found);
            let context = Context {
                document,
                name: format!("{}/{}", object.namespace, object.name).into(),
                hosts,
                settings: broken.map_or(Ok(read), Err),
            };
            contexts.namespaces.entry(&object.name).or_default().push(&object.namespace);
            contexts.by_key.insert((&object.namespace, &object.name), Arc::new(context));
        }
        contexts
    }

    /// Contexts that terminate.
    pub(crate) fn all(&self) -> Vec<Arc<Context<'a>>> {
        let mut all: Vec<_> = self.by_key.values().cloned().collect();
        all.sort_by(|a, b| a.name.cmp(&b.name));
        all
    }

    pub(crate) fn wants(&self) -> BTreeSet<KeyRef> {
        self.by_key
            .values()
            .filter_map(|context| context.settings.as_ref().ok())
            .flat_map(TlsSettings::wants)
            .collect()
    }

    /// A context by the text of a `tls` field (1.6): same namespace, the proxy's own, `name.namespace`; from files a
    /// single match anywhere, with a notice.
    pub(crate) fn find(
        &self,
        text: &str,
        namespace: &str,
        settings: &CompileSettings,
    ) -> Result<(Arc<Context<'a>>, Option<String>), String> {
        for namespace in [namespace, &settings.namespace] {
            if let Some(found) = self.by_key.get(&(namespace, text)) {
                return Ok((Arc::clone(found), None));
            }
        }
        if let Some((name, other)) = text.rsplit_once('.')
            && let Some(found) = self.by_key.get(&(other, name))
        {
            if !settings.one_tenant && other != namespace && other != settings.namespace {
                return Err(format!("TLSContext `{name}` is in namespace {other}, which lends it to nobody"));
            }
            return Ok((Arc::clone(found), None));
        }
        let elsewhere = self.namespaces.get(text).map(Vec::as_slice).unwrap_or_default();
        match elsewhere {
            [only] if settings.one_tenant => {
                let found = self.by_key.get(&(*only, text)).cloned();
                let notice = format!("TLSContext {text} was found in namespace {only}");
                found
                    .map(|found| (found, Some(notice)))
                    .ok_or_else(|| format!("no TLSContext is named `{text}`"))
            }
            [] => Err(format!("no TLSContext is named `{text}`")),
            _ => Err(format!(
                "TLSContext `{text}` exists in other namespaces ({}), not in this one",
                elsewhere.join(", ")
            )),
        }
    }
}

impl TlsSettings {
    /// Reads the TLS fields of a TLSContext's spec or of a Host's `tls` block.
    pub(crate) fn read(spec: &mut Reader<'_>, document: &Document, module: &Module) -> Self {
        let no_namespacing = spec.bool("secret_namespacing").map_or(module.no_secret_namespacing, |on| !on);
        let secret = |text: &str, usage| secret_ref(text, &document.object.namespace, !no_namespacing, usage);
        let manifest = match &document.origin {
            Origin::File { path, .. } => Arc::clone(path),
            Origin::Cluster => Arc::default(),
        };
        let own_secret = spec.text("secret").map(|text| secret(text, Usage::Identity));
        let chain = spec.text("cert_chain_file").map(|text| resolve_path(&manifest, text));
        let key = spec.text("private_key_file").map(|text| resolve_path(&manifest, text));
        let identity = own_certificate(spec, own_secret, chain, key);
        let (ca_secret, ca_file) = (spec.text("ca_secret"), spec.text("cacert_chain_file"));
        if ca_secret.is_some() && ca_file.is_some() {
            let message = "stands beside `ca_secret`".to_owned();
            spec.broken("cacert_chain_file", "tls_settings", message, "give exactly one of them");
        }
        let (crl_secret, old_crl_secret) = (spec.text("crl_secret"), spec.text("v3CRLSecret"));
        let (crl_secret, crl_file) = (crl_secret.or(old_crl_secret), spec.text("crl_file"));
        let file = |path: Option<&str>, usage| {
            path.map(|text| KeyRef::Files(Files { cert: resolve_path(&manifest, text), key: None, usage }))
        };
        let ca = ca_secret.map(|text| secret(text, Usage::Trust)).or_else(|| file(ca_file, Usage::Trust));
        let crl = crl_secret.map(|text| secret(text, Usage::Crl)).or_else(|| file(crl_file, Usage::Crl));
        let alpn = spec.texts("alpn_protocols").unwrap_or_default();
        let spiffe = spiffe(spec);
        for field in ["server_names", "verify"] {
            if spiffe.is_some() && spec.node(field).is_some() {
                let message = "has no effect beside `spiffe`, which is checked instead".to_owned();
                spec.find(field, (Severity::Warning, "no_effect"), message, "remove one of them");
            }
        }
        Self {
            identity,
            ca,
            crl,
            sni: sni(spec),
            server_names: names(spec),
            verify: verify(spec),
            spiffe,
            alpn: alpn
                .iter()
                .flat_map(|text| text.split(','))
                .map(|name| name.trim().as_bytes().to_vec())
                .collect(),
            versions: versions(spec),
            cipher_suites: checked(spec, "cipher_suites", identity::provider::check_suite),
            groups: checked(spec, "ecdh_curves", identity::provider::check_group),
            cert_required: spec.bool("cert_required").unwrap_or(false),
        }
    }

    pub(crate) fn wants(&self) -> Vec<KeyRef> {
        [&self.identity, &self.ca, &self.crl].into_iter().flatten().cloned().collect()
    }
}

/// The own certificate: a Secret, or a chain and its key from files.
fn own_certificate(
    spec: &mut Reader<'_>,
    secret: Option<KeyRef>,
    chain: Option<PathBuf>,
    key: Option<PathBuf>,
) -> Option<KeyRef> {
    let (field, message, remedy) = match (secret, chain, key) {
        (secret, None, None) => return secret,
        (None, Some(cert), Some(key)) => {
            return Some(KeyRef::Files(Files { cert, key: Some(key), usage: Usage::Identity }));
        }
        (Some(_), Some(_), _) => ("cert_chain_file", "stands beside `secret`", "give exactly one of them"),
        (Some(_), None, Some(_)) => {
            ("private_key_file", "stands beside `secret`", "give exactly one of them")
        }
        (None, None, Some(_)) => ("private_key_file", "has no `cert_chain_file` beside it", "give both"),
        (None, Some(_), None) => ("cert_chain_file", "has no `private_key_file` beside it", "give both"),
    };
    spec.broken(field, "tls_settings", message.to_owned(), remedy);
    None
}

/// A Secret by its text: `name`, or `name.namespace` where the dot counts.
pub(crate) fn secret_ref(text: &str, namespace: &str, namespacing: bool, usage: Usage) -> KeyRef {
    let (name, namespace) = match text.rsplit_once('.') {
        Some((name, other)) if namespacing => (name, other),
        _ => (text, namespace),
    };
    KeyRef::Secret { namespace: namespace.into(), name: name.into(), usage }
}

fn names(spec: &mut Reader<'_>) -> Vec<String> {
    let names: Vec<String> =
        spec.texts("server_names").unwrap_or_default().into_iter().map(str::to_owned).collect();
    for name in &names {
        if rustls_name(name).is_none() {
            let message = format!("`{name}` is not a DNS name or an address");
            spec.broken("server_names", "unknown_value", message, "write names without scheme and port");
        }
    }
    names
}

/// `sni`: a DNS name. Anything else would silently not be sent.
fn sni(spec: &mut Reader<'_>) -> Option<String> {
    let text = spec.text("sni")?;
    if text.parse::<std::net::IpAddr>().is_ok() {
        let message = format!("`{text}` is an address, which SNI cannot carry (RFC 6066)");
        spec.broken(
            "sni",
            "unknown_value",
            message,
            "write a DNS name; to verify an address use server_names",
        );
    } else if !is_name(text) {
        let message = format!("`{text}` is not a DNS name");
        spec.broken(
            "sni",
            "unknown_value",
            message,
            "write one name without scheme, port and *, or remove it",
        );
    }
    Some(text.to_ascii_lowercase())
}

/// A DNS name, which SNI may carry; not an address.
pub(super) fn is_name(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err() && rustls_name(host).is_some()
}

/// Whether a text can be verified as a server's name.
pub(crate) fn rustls_name(name: &str) -> Option<()> {
    identity::server_name(name).map(drop)
}

fn verify(spec: &mut Reader<'_>) -> Option<VerifyMode> {
    match spec.text("verify")? {
        "full" => Some(VerifyMode::Full),
        "chain_only" => Some(VerifyMode::ChainOnly),
        "none" => Some(VerifyMode::None),
        other => {
            spec.broken(
                "verify",
                "unknown_value",
                format!("`{other}` cannot be meant"),
                "write full, chain_only or none",
            );
            None
        }
    }
}

fn spiffe(spec: &mut Reader<'_>) -> Option<SpiffeBlock> {
    let mut block = spec.child("spiffe")?.strict();
    let mut read = SpiffeBlock::default();
    for text in block.texts("ids").unwrap_or_default() {
        match text.parse() {
            Ok(id) => read.ids.push(id),
            Err(why) => block.broken("ids", "bad_spiffe_id", why, "as in spiffe://example.org/ns/shop/**"),
        }
    }
    for text in block.texts("trust_domains").unwrap_or_default() {
        match TrustDomain::new(text) {
            Ok(domain) => read.trust_domains.push(domain),
            Err(why) => block.broken(
                "trust_domains",
                "bad_spiffe_id",
                format!("`{text}`: {why}"),
                "as in example.org",
            ),
        }
    }
    read.hint = block.text("hint").map(str::to_owned);
    spec.merge(block);
    Some(read)
}

fn versions(spec: &mut Reader<'_>) -> Versions {
    let mut bound = |field: &'static str, default: u8| match spec.text(field) {
        None => default,
        Some(old @ ("v1.0" | "v1.1")) => {
            let message = format!("{old} is never spoken; the least is v1.2");
            spec.find(field, (Severity::Notice, "no_effect"), message, "write v1.2 or v1.3");
            10
        }
        Some("v1.2") => 12,
        Some("v1.3") => 13,
        Some(other) => {
            spec.broken(field, "unknown_value", format!("`{other}` is no TLS version"), "write v1.2 or v1.3");
            default
        }
    };
    let (min, max) = (bound("min_tls_version", 12), bound("max_tls_version", 13));
    let versions = Versions { tls12: min <= 12 && max >= 12, tls13: min <= 13 && max >= 13 };
    if !versions.tls12 && !versions.tls13 {
        let message = "leaves no TLS version that is spoken here".to_owned();
        spec.broken(
            "max_tls_version",
            "tls_settings",
            message,
            "TLS 1.2 and 1.3 are spoken; min must not be above max",
        );
    }
    versions
}

fn checked(spec: &mut Reader<'_>, field: &'static str, check: fn(&str) -> Result<(), String>) -> Vec<String> {
    let mut known = Vec::new();
    let given = spec.texts(field).unwrap_or_default();
    for name in &given {
        match check(name) {
            Ok(()) => known.push((*name).to_owned()),
            Err(why) => spec.find(field, (Severity::Warning, "unknown_cipher"), why, "remove it"),
        }
    }
    if known.is_empty() && !given.is_empty() {
        spec.broken(
            field,
            "tls_settings",
            "leaves nothing that is spoken here".to_owned(),
            "name one that is known",
        );
    }
    known
}
