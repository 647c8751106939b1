//! TLS towards an upstream: the decision table of emissary.md 1.2 and the cluster that comes out of it.

use std::sync::Arc;

use identity::{Problem, SourceRef, Versions};
use proxy::upstream::{ClusterPolicy, Protocol, RuleRef, ServiceRef, Tag, TlsKey, TransportKey};

use super::{
    Compiler,
    context::{Context, SpiffeBlock, VerifyMode, is_name},
    service::{Scheme, ServiceText},
};
use crate::{
    keyring::KeyRef,
    kind::{Broken, Reader},
    plan::{ClientPlan, ClusterPlan, RulePlan, VerifyPlan},
    report::Severity,
};

/// The decision table of emissary.md 1.2, recommended column: an unusable context never becomes cleartext or weaker TLS.
pub(super) fn tls(
    compiler: &mut Compiler<'_>,
    spec: &mut Reader<'_>,
    service: &ServiceText,
    namespace: &str,
    host: &str,
) -> Result<Option<ClientPlan>, ()> {
    let named = match spec.node("tls") {
        None => Named::Nothing,
        Some(node) => match (node.as_bool(), node.as_text()) {
            (Some(true), _) => Named::Plain,
            (None, Some(text)) if !text.is_empty() => Named::Context(text),
            (Some(false), _) | (None, Some(_)) => Named::Nothing,
            (None, None) => {
                let message = format!("is {}, not the name of a TLSContext", node.kind());
                spec.broken("tls", "wrong_type", message, "write its name");
                return Err(());
            }
        },
    };
    if service.scheme == Some(Scheme::Http) && !matches!(named, Named::Nothing) {
        let message = "says http://, but `tls` makes it TLS".to_owned();
        spec.find(
            "service",
            (Severity::Warning, "tls_over_http"),
            message,
            "write https://, or remove `tls`",
        );
    }
    let name = match named {
        Named::Nothing if service.scheme != Some(Scheme::Https) => return Ok(None),
        Named::Nothing | Named::Plain => return checked(compiler, spec, None, host).map(Some),
        Named::Context(name) => name,
    };
    let (context, notice) = compiler.contexts.find(name, namespace, compiler.settings).map_err(|why| {
        let remedy = match name {
            "true" => "for TLS without a context write `service: https://...`",
            _ => "name a TLSContext that exists; nothing is sent in cleartext instead",
        };
        spec.broken("tls", "tls_context_missing", why, remedy);
    })?;
    if let Some(notice) = notice {
        let remedy = "put it into the namespace of what names it for Kubernetes";
        spec.find("tls", (Severity::Notice, "tls_context_elsewhere"), notice, remedy);
    }
    checked(compiler, spec, Some(&context), host).map(Some)
}

/// What the `tls` field says.
enum Named<'a> {
    Nothing,
    /// v1 and v2 `true`: TLS without a context.
    Plain,
    Context(&'a str),
}

/// The TLS of a context, with a word about an upstream that nobody verifies.
fn checked(
    compiler: &Compiler<'_>,
    spec: &mut Reader<'_>,
    context: Option<&Context<'_>>,
    host: &str,
) -> Result<ClientPlan, ()> {
    let origination = compiler.originate(context, host).map_err(|broken| {
        spec.broken(
            "tls",
            broken.code,
            broken.message,
            "mend the TLSContext; until then nothing is sent to this upstream",
        );
    })?;
    if origination.unverified {
        let message =
            "the upstream is encrypted but not verified (no CA, no `spiffe`, no `verify`)".to_owned();
        let remedy = "give the TLSContext a ca_secret or a spiffe block, or `verify: full` for public names";
        let field = if context.is_some() { "tls" } else { "service" };
        if compiler.settings.require_verified_upstreams {
            spec.broken(field, "upstream_not_verified", message, remedy);
            return Err(());
        }
        spec.find(field, (Severity::Warning, "upstream_not_verified"), message, remedy);
    }
    Ok(origination.plan)
}

/// The cluster of a host, a port and the namespace its bare name is meant in.
pub(super) fn cluster(
    compiler: &Compiler<'_>,
    spec: &mut Reader<'_>,
    (host, port, namespace): (&str, u16, &str),
    tls: Option<ClientPlan>,
    (protocol, tag): (Protocol, &str),
) -> ClusterPlan {
    let tls = tls.map(|mut tls| {
        if protocol == Protocol::Http2 && !tls.alpn.contains(&b"h2".to_vec()) {
            tls.alpn = vec![b"h2".to_vec()];
        }
        tls
    });
    let (endpoints, wrong) = compiler.addresses.origin(host, port, namespace);
    if let Some(message) = wrong {
        spec.find(
            "service",
            (Severity::Warning, "service_port_missing"),
            message,
            "name a port that the Service has",
        );
    }
    ClusterPlan {
        name: cluster_name(host, port, tls.as_ref(), (protocol, tag)).into(),
        key: TransportKey {
            service: ServiceRef { host: host.into(), port },
            protocol,
            tls: tls.as_ref().map(tls_key),
            tag: Tag(tag.into()),
        },
        endpoints,
        tls,
        policy: ClusterPolicy::default(),
    }
}

fn cluster_name(
    host: &str,
    port: u16,
    tls: Option<&ClientPlan>,
    (protocol, tag): (Protocol, &str),
) -> String {
    let tls = tls.map(|tls| tls.context.as_deref().map_or("tls".to_owned(), |name| format!("tls={name}")));
    let spoken = match protocol {
        Protocol::Http2 => Some("grpc".to_owned()),
        Protocol::Tcp => Some("tcp".to_owned()),
        Protocol::Auto | Protocol::Http1 => None,
    };
    let marks = [tls, spoken, (!tag.is_empty()).then(|| tag.to_owned())];
    let marks: Vec<String> = marks.into_iter().flatten().collect();
    let host = if host.contains(':') { format!("[{host}]") } else { host.to_owned() };
    if marks.is_empty() { format!("{host}:{port}") } else { format!("{host}:{port} ({})", marks.join(", ")) }
}

/// Names of sources, never contents.
fn tls_key(tls: &ClientPlan) -> TlsKey {
    let (verify, trust) = match &tls.verify {
        VerifyPlan::Nothing => ("none", None),
        VerifyPlan::Roots(source) => ("roots", Some(source.clone())),
        VerifyPlan::System => ("system", None),
        VerifyPlan::Spiffe { trust, .. } => ("spiffe", Some(trust.clone())),
    };
    TlsKey {
        identity: tls.identity.clone(),
        hint: tls.hint.clone(),
        trust,
        verify,
        peer: RuleRef(rule_name(tls).into()),
        sni: tls.sni.clone(),
        alpn: tls.alpn.clone(),
        versions: tls.versions,
        ciphers: tls.cipher_suites.iter().chain(&tls.groups).cloned().collect(),
        crl: tls.crl.clone(),
    }
}

/// The rule's name; the trust domains that a plain CA vouches for are part of the verifier, so they are part of the name.
fn rule_name(tls: &ClientPlan) -> String {
    let context = tls.context.as_deref().unwrap_or_default();
    match &tls.verify {
        VerifyPlan::Spiffe { trust_domains, .. } if !trust_domains.is_empty() => {
            let domains: Vec<String> = trust_domains.iter().map(ToString::to_string).collect();
            format!("{context} in {}", domains.join(","))
        }
        _ => context.to_owned(),
    }
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
        let sni =
            settings.sni.clone().or_else(|| is_name(host).then(|| host.trim_end_matches('.').to_owned()));
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
            self.spiffe(&mut plan.verify, &mut plan.rule, ca, block)
                .map_err(|broken| named(context, broken))?;
            if plan.identity.is_none() {
                plan.identity = Some(self.spiffe_source().map_err(|broken| named(context, broken))?);
                plan.hint.clone_from(&block.hint);
            }
            return Ok(Origination { plan, unverified: false });
        }
        let names = || {
            let given = &settings.server_names;
            if given.is_empty() {
                vec![settings.sni.clone().unwrap_or_else(|| host.trim_end_matches('.').to_owned())]
            } else {
                given.clone()
            }
        };
        let mode = settings
            .verify
            .or_else(|| (ca.is_some() || !settings.server_names.is_empty()).then_some(VerifyMode::Full));
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
                let message =
                    "a plain CA has no trust domain of its own; name `spiffe.trust_domains` or `spiffe.ids`"
                        .to_owned();
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

fn named(context: &Context<'_>, Broken { code, message }: Broken) -> Broken {
    Broken { code, message: format!("TLSContext {} {message}", context.name) }
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
