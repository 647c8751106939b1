//! TLSContexts: settings for both directions, looked up by namespace and name; and the TLS of an upstream made from one.

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use identity::{IdPattern, Problem, SourceRef, TrustDomain, Versions, source::files::Files};
use resource::{Document, Origin};

use super::{CompileSettings, Compiler, module::Module, of_kind};
use crate::{
    keyring::{KeyRef, Usage, resolve_path},
    kind::{Broken, Reader},
    plan::{ClientPlan, RulePlan, VerifyPlan},
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
    pub(crate) fn read(
        documents: &[&'a Document],
        settings: &CompileSettings,
        module: &Module,
        findings: &mut Vec<Finding>,
    ) -> Self {
        let mut contexts = Self { by_key: HashMap::new(), namespaces: HashMap::new() };
        let _ = settings;
        for document in of_kind(documents, "TLSContext") {
            let mut spec = Reader::spec(document);
            spec.ignore(&["ambassador_id", "ambassadorId", "redirect_cleartext_from"]);
            let hosts = spec.texts("hosts").unwrap_or_default().into_iter().map(str::to_owned).collect();
            let read = TlsSettings::read(&mut spec, document, module);
            let (found, broken) = spec.finish();
            findings.extend(found);
            let object = &document.object;
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
        self.by_key.values().filter_map(|context| context.settings.as_ref().ok()).flat_map(TlsSettings::wants).collect()
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
            return Ok((Arc::clone(found), None));
        }
        let elsewhere = self.namespaces.get(text).map(Vec::as_slice).unwrap_or_default();
        match elsewhere {
            [only] if settings.one_tenant => {
                let found = self.by_key.get(&(*only, text)).cloned();
                let notice = format!("TLSContext {text} was found in namespace {only}");
                found.map(|found| (found, Some(notice))).ok_or_else(|| format!("no TLSContext is named `{text}`"))
            }
            [] => Err(format!("no TLSContext is named `{text}`")),
            _ => Err(format!("TLSContext `{text}` exists in other namespaces ({}), not in this one", elsewhere.join(", "))),
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
        let identity = match (own_secret, chain, key) {
            (Some(_), Some(_), _) => {
                spec.broken("cert_chain_file", "tls_settings", "stands beside `secret`".to_owned(), "give exactly one of them");
                None
            }
            (secret, None, None) => secret,
            (None, Some(cert), Some(key)) => Some(KeyRef::Files(Files { cert, key: Some(key), usage: Usage::Identity })),
            (_, None, Some(_)) => {
                spec.broken("private_key_file", "tls_settings", "has no `cert_chain_file` beside it".to_owned(), "give both");
                None
            }
            (_, Some(_), None) => {
                spec.broken("cert_chain_file", "tls_settings", "has no `private_key_file` beside it".to_owned(), "give both");
                None
            }
        };
        let file = |path: Option<&str>, usage| {
            path.map(|text| KeyRef::Files(Files { cert: resolve_path(&manifest, text), key: None, usage }))
        };
        let ca = spec.text("ca_secret").map(|text| secret(text, Usage::Trust));
        let ca = ca.or_else(|| file(spec.text("cacert_chain_file"), Usage::Trust));
        let crl = spec.text("crl_secret").or_else(|| spec.text("v3CRLSecret")).map(|text| secret(text, Usage::Crl));
        let crl = crl.or_else(|| file(spec.text("crl_file"), Usage::Crl));
        let alpn = spec.texts("alpn_protocols").unwrap_or_default();
        Self {
            identity,
            ca,
            crl,
            sni: spec.text("sni").map(str::to_ascii_lowercase),
            server_names: names(spec),
            verify: verify(spec),
            spiffe: spiffe(spec),
            alpn: alpn.iter().flat_map(|text| text.split(',')).map(|name| name.trim().as_bytes().to_vec()).collect(),
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

/// A Secret by its text: `name`, or `name.namespace` where the dot counts.
pub(crate) fn secret_ref(text: &str, namespace: &str, namespacing: bool, usage: Usage) -> KeyRef {
    let (name, namespace) = match text.rsplit_once('.') {
        Some((name, other)) if namespacing => (name, other),
        _ => (text, namespace),
    };
    KeyRef::Secret { namespace: namespace.into(), name: name.into(), usage }
}

fn names(spec: &mut Reader<'_>) -> Vec<String> {
    let names: Vec<String> = spec.texts("server_names").unwrap_or_default().into_iter().map(str::to_owned).collect();
    for name in &names {
        if rustls_name(name).is_none() {
            spec.broken("server_names", "unknown_value", format!("`{name}` is not a DNS name or an address"), "write names without scheme and port");
        }
    }
    names
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
            spec.broken("verify", "unknown_value", format!("`{other}` cannot be meant"), "write full, chain_only or none");
            None
        }
    }
}

fn spiffe(spec: &mut Reader<'_>) -> Option<SpiffeBlock> {
    let mut block = spec.child("spiffe")?;
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
            Err(why) => block.broken("trust_domains", "bad_spiffe_id", format!("`{text}`: {why}"), "as in example.org"),
        }
    }
    read.hint = block.text("hint").map(str::to_owned);
    spec.merge(block);
    Some(read)
}

fn versions(spec: &mut Reader<'_>) -> Versions {
    let mut bound = |field: &'static str, default: u8| match spec.text(field) {
        None => default,
        Some("v1.0") => 10,
        Some("v1.1") => 11,
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
        spec.broken("max_tls_version", "tls_settings", message, "TLS 1.2 and 1.3 are spoken; min must not be above max");
    }
    versions
}

fn checked(spec: &mut Reader<'_>, field: &'static str, check: fn(&str) -> Result<(), String>) -> Vec<String> {
    let mut known = Vec::new();
    let given = spec.texts(field).unwrap_or_default();
    for name in &given {
        match check(name) {
            Ok(()) => known.push((*name).to_owned()),
            Err(why) => spec.find(field, Severity::Warning, "unknown_cipher", why, "remove it"),
        }
    }
    if known.is_empty() && !given.is_empty() {
        spec.broken(field, "tls_settings", "leaves nothing that is spoken here".to_owned(), "name one that is known");
    }
    known
}

/// TLS towards one upstream, and what is to be said about it.
pub(crate) struct Origination {
    pub(crate) plan: ClientPlan,
    /// Nobody is verified.
    pub(crate) unverified: bool,
}

impl Compiler<'_> {
    /// The TLS of an upstream host under a context (or without one: plain `https://`).
    pub(crate) fn originate(&self, context: Option<&Context<'_>>, host: &str) -> Result<Origination, Broken> {
        let Some(context) = context else {
            return Ok(Origination { plan: plain(host), unverified: true });
        };
        let settings = context.settings.as_ref().map_err(|broken| Broken {
            code: broken.code,
            message: format!("TLSContext {} cannot be used: {}", context.name, broken.message),
        })?;
        let find = |key: &Option<KeyRef>| key.as_ref().map(|key| self.keys.find(key)).transpose();
        let broken = |problem: Problem| Broken {
            code: problem.code,
            message: format!("TLSContext {}: {problem}", context.name),
        };
        let (own, ca, crl) = (find(&settings.identity), find(&settings.ca), find(&settings.crl));
        let (own, ca, crl) = (own.map_err(broken)?, ca.map_err(broken)?, crl.map_err(broken)?);
        let sni = settings.sni.clone().or_else(|| is_name(host).then(|| host.trim_end_matches('.').to_owned()));
        let mut plan = ClientPlan {
            context: Some(Arc::clone(&context.name)),
            identity: own,
            hint: None,
            verify: VerifyPlan::Nothing,
            rule: RulePlan::Anyone,
            crl,
            sni: sni.as_deref().map(Into::into),
            alpn: settings.alpn.clone(),
            versions: settings.versions,
            cipher_suites: settings.cipher_suites.clone(),
            groups: settings.groups.clone(),
        };
        if let Some(block) = &settings.spiffe {
            self.spiffe(&mut plan.verify, &mut plan.rule, ca, block).map_err(|broken| named(context, broken))?;
            if plan.identity.is_none() {
                plan.identity = Some(self.spiffe_source().map_err(|broken| named(context, broken))?);
                plan.hint.clone_from(&block.hint);
            }
            return Ok(Origination { plan, unverified: false });
        }
        let names = || {
            let given = &settings.server_names;
            if given.is_empty() { vec![settings.sni.clone().unwrap_or_else(|| host.to_owned())] } else { given.clone() }
        };
        let mode = settings.verify.or_else(|| {
            (ca.is_some() || !settings.server_names.is_empty()).then_some(VerifyMode::Full)
        });
        plan.verify = match (mode, ca) {
            (None | Some(VerifyMode::None), _) => VerifyPlan::Nothing,
            (Some(_), Some(ca)) => VerifyPlan::Roots(ca),
            (Some(_), None) => VerifyPlan::System,
        };
        if mode == Some(VerifyMode::Full) {
            plan.rule = RulePlan::Names(names());
        }
        let unverified = plan.verify == VerifyPlan::Nothing;
        Ok(Origination { plan, unverified })
    }

    /// The verification of a `spiffe` block.
    pub(crate) fn spiffe(
        &self,
        verify: &mut VerifyPlan,
        rule: &mut RulePlan,
        ca: Option<SourceRef>,
        block: &SpiffeBlock,
    ) -> Result<(), Broken> {
        let mut domains = block.trust_domains.clone();
        if ca.is_some() {
            domains.extend(block.ids.iter().map(|id| id.trust_domain().clone()));
            domains.sort();
            domains.dedup();
            if domains.is_empty() {
                let message = "a plain CA has no trust domain of its own; name `spiffe.trust_domains` or `spiffe.ids`".to_owned();
                return Err(Broken { code: "tls_settings", message });
            }
        }
        *rule = if block.ids.is_empty() && block.trust_domains.is_empty() {
            RulePlan::OwnTrustDomain(self.spiffe_source()?)
        } else {
            RulePlan::Spiffe { ids: block.ids.clone(), trust_domains: block.trust_domains.clone() }
        };
        *verify = match ca {
            Some(trust) => VerifyPlan::Spiffe { trust, trust_domains: domains },
            None => VerifyPlan::Spiffe { trust: self.spiffe_source()?, trust_domains: Vec::new() },
        };
        Ok(())
    }

    pub(crate) fn spiffe_source(&self) -> Result<SourceRef, Broken> {
        self.keys.spiffe().ok_or_else(|| Broken {
            code: "no_spiffe_socket",
            message: "needs an SVID, but no Workload API is configured; give --spiffe-socket (or `--spiffe-socket dev`)".to_owned(),
        })
    }
}

fn named(context: &Context<'_>, broken: Broken) -> Broken {
    Broken { code: broken.code, message: format!("TLSContext {} {}", context.name, broken.message) }
}

/// `https://` without a context: encrypted, nobody verified, as in Emissary, but with SNI and TLS 1.3.
fn plain(host: &str) -> ClientPlan {
    ClientPlan {
        context: None,
        identity: None,
        hint: None,
        verify: VerifyPlan::Nothing,
        rule: RulePlan::Anyone,
        crl: None,
        sni: is_name(host).then(|| host.trim_end_matches('.').into()),
        alpn: Vec::new(),
        versions: Versions::ALL,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    }
}

/// A DNS name, which SNI may carry; not an address.
fn is_name(host: &str) -> bool {
    host.parse::<std::net::IpAddr>().is_err() && identity::server_name(host).is_some()
}
