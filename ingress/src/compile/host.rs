//! Hosts: virtual hosts, their termination, and which Mappings belong to them.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    sync::Arc,
};

use identity::{ClientAuth, Versions};
use proxy::Reason;
use resource::{Document, Node};

use super::{
    Compiler,
    attach::Attach,
    context::{Context, TlsSettings, secret_ref},
    mapping::Compiled,
    module::Module,
    of_kind,
};
use crate::{
    keyring::{KeyRef, Usage},
    kind::{Broken, Reader},
    plan::{HostGlob, HostPlan, InsecureAction, RulePlan, ServerPlan, Unavailable, VerifyPlan},
    report::Severity,
};

/// A Host's plan with what binding it to Listeners needs.
pub(crate) struct CompiledHost {
    pub(crate) plan: HostPlan,
    pub(crate) namespace: Arc<str>,
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) additional_port: Option<u16>,
    /// Made up because there is no Host: bound to every listener.
    pub(crate) synthetic: bool,
}

/// A Host as written.
struct HostSpec {
    hostname: HostGlob,
    selector: Option<Vec<(String, String)>>,
    secret: Option<KeyRef>,
    context: Option<String>,
    tls: Option<TlsSettings>,
    insecure: InsecureAction,
    additional_port: Option<u16>,
}

/// Key material that Hosts name.
pub(crate) fn wants(documents: &[&Document], module: &Module) -> BTreeSet<KeyRef> {
    let mut wanted = BTreeSet::new();
    for document in of_kind(documents, "Host") {
        let mut spec = Reader::spec(document);
        let host = HostSpec::read(&mut spec, document, module);
        wanted.extend(host.secret);
        wanted.extend(host.tls.iter().flat_map(TlsSettings::wants));
    }
    wanted
}

/// Compiles every Host; a synthetic `*` when there is none.
pub(crate) fn compile(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    mappings: &[Compiled],
) -> Vec<CompiledHost> {
    let hosts_of = of_kind(documents, "Host");
    let mappings = &Attach::new(mappings);
    let mut hosts: Vec<_> = hosts_of.iter().map(|document| one(compiler, document, mappings)).collect();
    hosts.extend(terminating_contexts(compiler, &hosts_of, &hosts, mappings));
    if hosts_of.is_empty() && !hosts.iter().any(|host: &CompiledHost| host.plan.hostname == HostGlob::Any) {
        hosts.push(synthetic(compiler, mappings));
    }
    hosts
}

fn one(compiler: &mut Compiler<'_>, document: &Document, mappings: &Attach<'_>) -> CompiledHost {
    let mut spec = Reader::spec(document);
    let host = HostSpec::read(&mut spec, document, &compiler.module);
    let object = &document.object;
    let name: Arc<str> = format!("{}/{}", object.namespace, object.name).into();
    let mut unavailable = None;
    let tls = match termination(compiler, &host, &name, &object.namespace) {
        Ok(Some(tls)) => Some(tls),
        Ok(None) => {
            host.without_certificate(&mut spec);
            None
        }
        Err((field, broken)) => {
            let remedy = "mend it; until then handshakes for this Host are refused and nothing is served in cleartext instead";
            spec.broken(field, broken.code, broken.message, remedy);
            None
        }
    };
    let (findings, broken) = spec.finish();
    compiler.findings.extend(findings);
    if let Some(broken) = broken {
        unavailable = Some(Unavailable { reason: Reason::new(broken.code), message: broken.message.into() });
    }
    let attached = mappings.to(&host.hostname, host.selector.as_deref());
    CompiledHost {
        plan: HostPlan {
            name,
            hostname: host.hostname,
            tls,
            insecure: host.insecure,
            mappings: attached,
            unavailable,
        },
        namespace: Arc::clone(&object.namespace),
        labels: document.labels.clone(),
        additional_port: host.additional_port,
        synthetic: false,
    }
}

impl HostSpec {
    fn read(spec: &mut Reader<'_>, document: &Document, module: &Module) -> Self {
        spec.instance();
        spec.ignore(&["acmeProvider", "previewUrl", "status"]);
        let hostname = HostGlob::parse(spec.text("hostname").unwrap_or("*"));
        let selector = labels(spec, "mappingSelector").or_else(|| labels(spec, "selector"));
        let namespace = &document.object.namespace;
        let secret = spec.child("tlsSecret").map(Reader::strict).and_then(|mut child| {
            let other = child.text("namespace").unwrap_or(namespace);
            let key = child.text("name").map(|name| secret_ref(name, other, false, Usage::Identity));
            spec.merge(child);
            key
        });
        let context = spec.child("tlsContext").map(Reader::strict).and_then(|mut child| {
            let name = child.text("name").map(str::to_owned);
            spec.merge(child);
            name
        });
        let tls = spec.child("tls").map(Reader::strict).map(|mut child| {
            child.ignore(&["redirect_cleartext_from"]);
            let tls = TlsSettings::read(&mut child, document, module);
            spec.merge(child);
            tls
        });
        if tls.is_some() && context.is_some() {
            spec.broken("tlsContext", "tls_settings", "stands beside `tls`".to_owned(), "give one of them");
        }
        let (mut insecure, mut additional_port) = (InsecureAction::Redirect, None);
        if let Some(mut policy) = spec.child("requestPolicy") {
            if let Some(mut child) = policy.child("insecure") {
                insecure = match child.text("action") {
                    None | Some("Redirect") => InsecureAction::Redirect,
                    Some("Route") => InsecureAction::Route,
                    Some("Reject") => InsecureAction::Reject,
                    Some(other) => {
                        child.broken(
                            "action",
                            "unknown_value",
                            format!("`{other}` cannot be meant"),
                            "write Redirect, Route or Reject",
                        );
                        InsecureAction::Reject
                    }
                };
                additional_port = child.int("additionalPort").filter(|port| *port != -1).and_then(|port| {
                    let number = u16::try_from(port).ok();
                    if number.is_none() {
                        let message = format!("{port} is no port");
                        child.broken(
                            "additionalPort",
                            "unknown_value",
                            message,
                            "write a port, or -1 for none",
                        );
                    }
                    number
                });
                policy.merge(child);
            }
            spec.merge(policy);
        }
        Self { hostname, selector, secret, context, tls, insecure, additional_port }
    }

    /// What a Host means that terminates no TLS.
    fn without_certificate(&self, spec: &mut Reader<'_>) {
        if self.tls.is_some() || self.context.is_some() {
            let field = if self.tls.is_some() { "tls" } else { "tlsContext" };
            let message = "has no effect: the Host has no certificate".to_owned();
            let remedy = "give it a tlsSecret, or a `spiffe` block to serve the SVID";
            spec.find(field, (Severity::Warning, "host_no_certificate"), message, remedy);
        } else if self.insecure == InsecureAction::Redirect {
            let message = "redirects cleartext to https://, but the Host has no certificate".to_owned();
            let remedy = "give it a tlsSecret, or write requestPolicy.insecure.action: Route";
            spec.find("requestPolicy", (Severity::Notice, "host_no_certificate"), message, remedy);
        }
    }
}

/// `matchLabels` of a selector; other forms are reported.
pub(super) fn labels(spec: &mut Reader<'_>, field: &'static str) -> Option<Vec<(String, String)>> {
    let mut child = spec.child(field)?;
    let wanted = child.map("matchLabels").iter();
    let wanted = wanted
        .filter_map(|(name, node): &(Box<str>, Node)| Some((name.to_string(), node.as_text()?.to_owned())))
        .collect();
    child.unsupported(&["matchExpressions"]);
    spec.merge(child);
    Some(wanted)
}

/// Termination of a Host; the error names the field.
fn termination(
    compiler: &Compiler<'_>,
    host: &HostSpec,
    name: &Arc<str>,
    namespace: &str,
) -> Result<Option<ServerPlan>, (&'static str, Broken)> {
    let context = match &host.context {
        None => None,
        Some(text) => Some(
            compiler
                .contexts
                .find(text, namespace, compiler.settings)
                .map_err(|message| ("tlsContext", Broken { code: "tls_context_missing", message }))?
                .0,
        ),
    };
    let from_context = match &context {
        None => None,
        Some(context) => Some(context.settings.as_ref().map_err(|broken| ("tlsContext", broken.clone()))?),
    };
    let settings = host.tls.as_ref().or(from_context);
    let secret = host.secret.as_ref().or(settings.and_then(|settings| settings.identity.as_ref()));
    let wants_svid = settings.is_some_and(|settings| settings.spiffe.is_some());
    let identity = match (secret, wants_svid) {
        (Some(key), _) => {
            let problem =
                |problem: identity::Problem| Broken { code: problem.code, message: problem.to_string() };
            compiler.keys.find(key).map_err(|found| ("tlsSecret", problem(found)))?
        }
        (None, true) => compiler.spiffe_source().map_err(|broken| ("tls", broken))?,
        (None, false) if settings.is_some_and(|settings| settings.cert_required) => {
            let message = "asks for client certificates but has no certificate of its own".to_owned();
            return Err(("tls", Broken { code: "tls_settings", message }));
        }
        (None, false) => return Ok(None),
    };
    server_plan(compiler, settings, identity, name).map(Some).map_err(|broken| ("tls", broken))
}

fn server_plan(
    compiler: &Compiler<'_>,
    settings: Option<&TlsSettings>,
    identity: identity::SourceRef,
    name: &Arc<str>,
) -> Result<ServerPlan, Broken> {
    let mut plan = ServerPlan {
        name: Arc::clone(name),
        identity,
        hint: None,
        client_auth: ClientAuth::Off,
        verify: None,
        rule: RulePlan::Anyone,
        crl: None,
        alpn: Vec::new(),
        versions: Versions::ALL,
        cipher_suites: Vec::new(),
        groups: Vec::new(),
    };
    let Some(settings) = settings else { return Ok(plan) };
    let find = |key: &Option<KeyRef>| {
        let found = key.as_ref().map(|key| compiler.keys.find(key)).transpose();
        found.map_err(|problem| Broken { code: problem.code, message: problem.to_string() })
    };
    let ca = find(&settings.ca)?;
    plan.crl = find(&settings.crl)?;
    plan.versions = settings.versions;
    plan.cipher_suites.clone_from(&settings.cipher_suites);
    plan.groups.clone_from(&settings.groups);
    plan.alpn.clone_from(&settings.alpn);
    if let Some(block) = &settings.spiffe {
        let mut verify = VerifyPlan::Nothing;
        compiler.spiffe(&mut verify, &mut plan.rule, ca, block)?;
        plan.verify = Some(verify);
        plan.client_auth = ClientAuth::Required;
        if settings.identity.is_none() {
            plan.hint.clone_from(&block.hint);
        }
        return Ok(plan);
    }
    match (ca, settings.cert_required) {
        (Some(ca), required) => {
            plan.client_auth = if required { ClientAuth::Required } else { ClientAuth::Optional };
            plan.verify = Some(VerifyPlan::Roots(ca));
        }
        (None, true) => {
            let message =
                "cert_required needs a ca_secret or cacert_chain_file to verify client certificates"
                    .to_owned();
            return Err(Broken { code: "ca_missing", message });
        }
        (None, false) => {}
    }
    Ok(plan)
}

/// TLSContexts with `hosts` terminate for names that no Host has. Where a Host has the name it decides, as in Emissary
/// (emissary.md 4.2): what the context asks for is then not done, and must not go unsaid.
fn terminating_contexts(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    hosts: &[CompiledHost],
    mappings: &Attach<'_>,
) -> Vec<CompiledHost> {
    let mut made = Vec::new();
    let taken: HashMap<_, _> = hosts.iter().map(|host| &host.plan.hostname).zip(documents).collect();
    for context in compiler.contexts.all() {
        for name in &context.hosts {
            let hostname = HostGlob::parse(name);
            match taken.get(&hostname) {
                None => made.push(context_host(compiler, &context, hostname, mappings)),
                Some(host) if uses(compiler, host, &context) => {}
                Some(host) => overruled(compiler, &context, name, host),
            }
        }
    }
    made
}

/// Whether a Host names a context as its own.
fn uses(compiler: &Compiler<'_>, host: &Document, context: &Context<'_>) -> bool {
    let named = host.root.at("spec.tlsContext.name").and_then(Node::as_text);
    named
        .and_then(|text| compiler.contexts.find(text, &host.object.namespace, compiler.settings).ok())
        .is_some_and(|(found, _)| found.name == context.name)
}

/// Says that a Host terminates for a name of a context.
fn overruled(compiler: &mut Compiler<'_>, context: &Context<'_>, name: &str, host: &Document) {
    let lost = context.settings.as_ref().ok().filter(|settings| settings.cert_required);
    let lost = lost.map_or("", |_| ": no client certificate is asked for by this context");
    let message = format!(
        "has no effect for `{name}`: {} terminates TLS there, not TLSContext {}{lost}",
        host.object, context.name
    );
    let mut spec = Reader::spec(context.document);
    let remedy = "name the context in the Host's tlsContext, or take the name out of `hosts`";
    spec.find("hosts", (Severity::Warning, "no_effect"), message, remedy);
    compiler.findings.extend(spec.abandon());
}

fn context_host(
    compiler: &mut Compiler<'_>,
    context: &Context<'_>,
    hostname: HostGlob,
    mappings: &Attach<'_>,
) -> CompiledHost {
    let made =
        context.settings.as_ref().map_err(Clone::clone).and_then(|settings| match &settings.identity {
            Some(key) => {
                let found = compiler.keys.find(key);
                let identity =
                    found.map_err(|problem| Broken { code: problem.code, message: problem.to_string() })?;
                server_plan(compiler, Some(settings), identity, &context.name)
            }
            None => Err(Broken {
                code: "secret_no_certificate",
                message: "has `hosts` but no certificate".to_owned(),
            }),
        });
    let (tls, unavailable) = match made {
        Ok(plan) => (Some(plan), None),
        Err(broken) => {
            let mut spec = Reader::spec(context.document);
            let remedy = "give it a `secret`, or write `hosts: []` for origination alone";
            spec.find("hosts", (Severity::Error, broken.code), broken.message.clone(), remedy);
            compiler.findings.extend(spec.abandon());
            (None, Some(Unavailable { reason: Reason::new(broken.code), message: broken.message.into() }))
        }
    };
    CompiledHost {
        plan: HostPlan {
            name: Arc::clone(&context.name),
            mappings: mappings.to(&hostname, None),
            hostname,
            tls,
            insecure: InsecureAction::Route,
            unavailable,
        },
        namespace: Arc::clone(&context.document.object.namespace),
        labels: context.document.labels.clone(),
        additional_port: None,
        synthetic: false,
    }
}

/// Without any Host everything is served under `*`; with TLS where the fallback Secret exists.
fn synthetic(compiler: &Compiler<'_>, mappings: &Attach<'_>) -> CompiledHost {
    let name: Arc<str> = "*".into();
    let identity = compiler.keys.find(&KeyRef::fallback(&compiler.settings.namespace)).ok();
    let tls = identity.and_then(|identity| server_plan(compiler, None, identity, &name).ok());
    CompiledHost {
        plan: HostPlan {
            name,
            hostname: HostGlob::Any,
            tls,
            insecure: InsecureAction::Route,
            mappings: mappings.to(&HostGlob::Any, None),
            unavailable: None,
        },
        namespace: compiler.settings.namespace.as_str().into(),
        labels: BTreeMap::new(),
        additional_port: None,
        synthetic: true,
    }
}
