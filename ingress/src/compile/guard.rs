//! What protects requests in Emissary and is not built here yet: Mappings that rely on it answer 503 rather than go unprotected;
//! and kinds that have no effect, each named.

use resource::Document;

use super::of_kind;
use crate::{
    kind::{Broken, Reader},
    plan::Outcome,
    report::{Finding, Severity},
};

/// Group of Emissary's kinds.
pub(super) const GROUP: &str = "getambassador.io";

/// Versions that are read; v1 and v2 alike.
const VERSIONS: [&str; 4] = ["v0", "v1", "v2", "v3alpha1"];

/// Kinds that are compiled.
const COMPILED: [&str; 6] = ["Mapping", "TCPMapping", "TLSContext", "Host", "Listener", "Module"];

/// Why requests are refused.
#[derive(Clone, Debug, Default)]
pub(crate) struct Guards {
    /// An AuthService decides who may pass, except where `bypass_auth` is set.
    auth: Option<Broken>,
    /// Client addresses are limited.
    addresses: Option<Broken>,
}

impl Guards {
    /// Looks at kinds that are not compiled.
    pub(super) fn read(documents: &[&Document], findings: &mut Vec<Finding>) -> Self {
        let mut guards = Self::default();
        for document in of_kind(documents, "AuthService") {
            let name = &document.object;
            let message = "AuthService is not supported yet: every Mapping without `bypass_auth: true` answers 503, \
                           because nobody would check its requests";
            let mut spec = Reader::spec(document);
            spec.find(
                "",
                (Severity::Error, "auth_unsupported"),
                message.to_owned(),
                "remove it to serve without it",
            );
            findings.extend(spec.abandon());
            let message = format!("AuthService {}/{} is not supported yet", name.namespace, name.name);
            guards.auth = Some(Broken { code: "auth_unsupported", message });
        }
        let others = documents.iter().filter(|document| {
            let kind = &*document.object.kind.kind;
            &*document.object.kind.group == GROUP && !COMPILED.contains(&kind) && kind != "AuthService"
        });
        findings.extend(others.flat_map(|document| unsupported(document)));
        guards
    }

    /// Looks at the Module's address rules.
    pub(super) fn module(&mut self, config: &mut Reader<'_>) {
        for field in ["ip_allow", "ip_deny"] {
            if config.node(field).is_some() {
                let message =
                    "is not supported yet: every Mapping answers 503, because no address would be refused";
                let remedy = "remove it to serve all addresses, and limit them in front";
                config.find(
                    field,
                    (Severity::Error, "address_rules_unsupported"),
                    message.to_owned(),
                    remedy,
                );
                let message = format!("the Module's {field} is not supported yet");
                self.addresses = Some(Broken { code: "address_rules_unsupported", message });
            }
        }
    }

    /// Why a Mapping must not serve. A redirect needs no authentication, as in Emissary.
    pub(super) fn refusal(&self, outcome: &Outcome, bypass_auth: bool) -> Option<Broken> {
        let auth = self.auth.as_ref().filter(|_| !bypass_auth && !matches!(outcome, Outcome::Redirect(_)));
        self.addresses.as_ref().or(auth).cloned()
    }
}

/// A kind of Emissary's group that is read by nobody.
fn unsupported(document: &Document) -> Vec<Finding> {
    let kind = &*document.object.kind.kind;
    let (severity, consequence) = match kind {
        "ConsulResolver" => (Severity::Error, "names are looked up in DNS instead"),
        "RateLimitService" => (Severity::Warning, "no request is limited"),
        "KubernetesServiceResolver" | "KubernetesEndpointResolver" => {
            (Severity::Notice, "requests are always spread over endpoints where they are known")
        }
        _ => (Severity::Warning, "it has no effect"),
    };
    let mut spec = Reader::spec(document);
    let message = format!("{kind} is not supported yet: {consequence}");
    spec.find("", (severity, "unsupported_kind"), message, "remove it, or keep it for later");
    spec.abandon()
}

/// Documents whose version cannot be read, or whose kind, namespace and name another one already has: the first stays.
pub(super) fn readable<'a>(documents: Vec<&'a Document>, findings: &mut Vec<Finding>) -> Vec<&'a Document> {
    let mut seen = std::collections::HashMap::with_capacity(documents.len());
    let mut kept = Vec::with_capacity(documents.len());
    for document in documents {
        let mut spec = Reader::spec(document);
        if &*document.object.kind.group == GROUP && !VERSIONS.contains(&&*document.version) {
            let message =
                format!("version `{}` of {GROUP} is not known: the object is left out", document.version);
            spec.find("", (Severity::Error, "unknown_version"), message, "write v3alpha1, v2 or v1");
        } else if let Some(first) = seen.insert(&document.object, document) {
            seen.insert(&first.object, first);
            let place = match &first.origin {
                resource::Origin::File { path, line } => format!("{}:{line}", path.display()),
                resource::Origin::Cluster => "the cluster".to_owned(),
            };
            let message = format!("the same object stands at {place}, which is used; this one is left out");
            spec.find(
                "",
                (Severity::Error, "duplicate_object"),
                message,
                "give it another name or namespace",
            );
        } else {
            kept.push(document);
            continue;
        }
        findings.extend(spec.abandon());
    }
    kept
}
