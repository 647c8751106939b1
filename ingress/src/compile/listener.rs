//! Listeners: what to listen on, and which Hosts each has. Without any, the default ones.

use std::{
    collections::{HashMap, hash_map::Entry},
    net::SocketAddr,
    sync::Arc,
};

use proxy::{net::Layer, route::HttpPolicy};
use resource::Document;

use super::{
    Compiler,
    attach::selected,
    host::{CompiledHost, labels},
    of_kind,
};
use crate::{
    kind::Reader,
    plan::{Cleartext, HostGlob, ListenerPlan, SecurityModel},
    report::Severity,
};

/// Compiles every Listener.
pub(crate) fn compile(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    hosts: &[CompiledHost],
) -> Vec<ListenerPlan> {
    let written = of_kind(documents, "Listener");
    if written.is_empty() {
        let all: Vec<usize> = (0..hosts.len()).collect();
        duplicates(compiler, documents, hosts, ("the default listeners", &all));
        return defaults(compiler, hosts);
    }
    let mut ports: HashMap<u16, Arc<str>> = HashMap::new();
    let mut listeners = Vec::new();
    for document in written {
        if let Some(listener) = one(compiler, document, hosts, &mut ports) {
            duplicates(compiler, documents, hosts, (&format!("Listener {}", listener.name), &listener.hosts));
            listeners.push(listener);
        }
    }
    unserved_ports(compiler, documents, hosts, &ports);
    listeners
}

/// A Host's additional port is served by the Listener on it; without one it is not.
fn unserved_ports(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    hosts: &[CompiledHost],
    ports: &HashMap<u16, Arc<str>>,
) {
    let unserved = |host: &&CompiledHost| host.additional_port.is_some_and(|port| !ports.contains_key(&port));
    if !hosts.iter().any(|host| unserved(&host)) {
        return;
    }
    for document in of_kind(documents, "Host") {
        let port =
            document.root.at("spec.requestPolicy.insecure.additionalPort").and_then(resource::Node::as_int);
        let port = port.and_then(|port| u16::try_from(port).ok()).filter(|port| !ports.contains_key(port));
        let Some(port) = port else { continue };
        let mut spec = Reader::spec(document);
        let message = format!("additionalPort {port} has no Listener and is not served");
        spec.find("requestPolicy", (Severity::Warning, "no_effect"), message, "add a Listener on this port");
        compiler.findings.extend(spec.abandon());
    }
}

fn one(
    compiler: &mut Compiler<'_>,
    document: &Document,
    hosts: &[CompiledHost],
    ports: &mut HashMap<u16, Arc<str>>,
) -> Option<ListenerPlan> {
    let mut spec = Reader::spec(document);
    spec.instance();
    spec.ignore(&["statsPrefix"]);
    spec.unsupported(&["http2MaxConcurrentStreams"]);
    let name: Arc<str> = format!("{}/{}", document.object.namespace, document.object.name).into();
    let port = port(&mut spec);
    let Stack { tls, proxy_protocol, layer } = protocol(&mut spec);
    let security = security(&mut spec);
    let depth = depth(&mut spec);
    let bound = binding(&mut spec, document, hosts);
    if let Some(taken) = port.filter(|port| *port != 0).and_then(|port| ports.insert(port, Arc::clone(&name)))
    {
        let message = format!("is taken by Listener {taken}");
        spec.broken("port", "duplicate_listener", message, "choose another port");
    }
    let mut http = compiler.module.http.clone();
    if depth > 0 {
        http.trusted_hops = depth;
        http.trust_forwarded_proto = true;
    }
    let (findings, broken) = spec.finish();
    compiler.findings.extend(findings);
    let port = port?;
    if broken.is_some() {
        return None;
    }
    Some(ListenerPlan {
        name,
        bind: SocketAddr::new(compiler.settings.bind, port),
        tls,
        proxy_protocol,
        layer,
        cleartext: if tls && layer == Layer::Tcp { Cleartext::Refused } else { Cleartext::Served },
        tcp: Vec::new(),
        security,
        http,
        hosts: bound,
        strip_port: compiler.module.strip_matching_host_port,
    })
}

fn port(spec: &mut Reader<'_>) -> Option<u16> {
    let port = spec.int("port").and_then(|port| u16::try_from(port).ok());
    if port.is_none() {
        let message = "is missing or no port".to_owned();
        spec.broken("port", "unknown_value", message, "write a number from 0 to 65535");
    }
    port
}

fn security(spec: &mut Reader<'_>) -> SecurityModel {
    let remedy = "write XFP, SECURE or INSECURE";
    match spec.text("securityModel") {
        Some("XFP") => SecurityModel::Xfp,
        Some("SECURE") => SecurityModel::Secure,
        Some("INSECURE") => SecurityModel::Insecure,
        None => {
            let message = "is missing; XFP is taken".to_owned();
            spec.find("securityModel", (Severity::Notice, "no_effect"), message, remedy);
            SecurityModel::Xfp
        }
        Some(other) => {
            spec.broken("securityModel", "unknown_value", format!("`{other}` cannot be meant"), remedy);
            SecurityModel::Insecure
        }
    }
}

/// Trusted proxies in front.
fn depth(spec: &mut Reader<'_>) -> u32 {
    let depth = spec.int("l7Depth").unwrap_or(0);
    u32::try_from(depth).unwrap_or_else(|_out_of_range| {
        spec.broken("l7Depth", "unknown_value", format!("{depth} cannot be meant"), "write 0 or more");
        0
    })
}

/// What is spoken on a Listener.
#[derive(Clone, Copy)]
struct Stack {
    tls: bool,
    proxy_protocol: bool,
    layer: Layer,
}

impl Stack {
    const fn new(tls: bool, proxy_protocol: bool, layer: Layer) -> Self {
        Self { tls, proxy_protocol, layer }
    }
}

/// `protocol` or `protocolStack`. One that cannot be read makes the Listener unusable: nothing is served in a weaker form than
/// was meant.
fn protocol(spec: &mut Reader<'_>) -> Stack {
    let single = spec.text("protocol");
    if spec.node("protocolStack").is_some() {
        if single.is_some() {
            let message = "has no effect beside `protocolStack`".to_owned();
            spec.find("protocol", (Severity::Warning, "no_effect"), message, "give one of them");
        }
        return stack(spec);
    }
    let (code, message) = match single {
        Some("HTTP") => return Stack::new(false, false, Layer::Http),
        Some("HTTPS") => return Stack::new(true, false, Layer::Http),
        Some("HTTPPROXY") => return Stack::new(false, true, Layer::Http),
        Some("HTTPSPROXY") => return Stack::new(true, true, Layer::Http),
        Some("TCP") => return Stack::new(false, false, Layer::Tcp),
        Some("TLS") => return Stack::new(true, false, Layer::Tcp),
        Some("UDP") => ("unsupported_field", "UDP is not supported yet".to_owned()),
        Some(other) => ("unknown_value", format!("`{other}` cannot be meant")),
        None => ("unknown_value", "is missing, and so is `protocolStack`".to_owned()),
    };
    spec.broken("protocol", code, message, "write HTTP, HTTPS, HTTPPROXY, HTTPSPROXY, TCP or TLS");
    Stack::new(false, false, Layer::Http)
}

/// `protocolStack`, outermost first: PROXY and TLS where wanted, then HTTP, and TCP below it where somebody writes it; or TCP
/// alone.
fn stack(spec: &mut Reader<'_>) -> Stack {
    let stack = spec.texts("protocolStack").unwrap_or_default();
    let split = match stack.as_slice() {
        [above @ .., "HTTP", "TCP"] | [above @ .., "HTTP"] => Some((above, Layer::Http)),
        [above @ .., "TCP"] => Some((above, Layer::Tcp)),
        _ => None,
    };
    match split {
        Some(([], layer)) => return Stack::new(false, false, layer),
        Some((["TLS"], layer)) => return Stack::new(true, false, layer),
        Some((["PROXY"], layer)) => return Stack::new(false, true, layer),
        Some((["PROXY", "TLS"] | ["TLS", "PROXY"], layer)) => return Stack::new(true, true, layer),
        _ => {}
    }
    let known = ["HTTP", "PROXY", "TCP", "TLS", "UDP"];
    let (code, message) = match stack.iter().find(|layer| !known.contains(layer)) {
        Some(unknown) => ("unknown_value", format!("`{unknown}` is no protocol")),
        None if stack.is_empty() => ("unknown_value", "is empty".to_owned()),
        None if stack.contains(&"UDP") => {
            ("unsupported_field", "HTTP/3 (UDP) is not supported yet".to_owned())
        }
        None if !stack.contains(&"HTTP") && !stack.contains(&"TCP") => {
            ("unknown_value", "ends neither in HTTP nor in TCP".to_owned())
        }
        None => ("unknown_value", format!("[{}] is no order that can be meant", stack.join(", "))),
    };
    let remedy = "write [HTTP] or [TCP], with TLS, PROXY or both before it: [PROXY, TLS, HTTP]";
    spec.broken("protocolStack", code, message, remedy);
    Stack::new(false, false, Layer::Http)
}

/// Hosts bound by `hostBinding`.
fn binding(spec: &mut Reader<'_>, document: &Document, hosts: &[CompiledHost]) -> Vec<usize> {
    let (mut everywhere, mut selector) = (false, None);
    if let Some(mut binding) = spec.child("hostBinding") {
        if let Some(mut namespace) = binding.child("namespace") {
            everywhere = match namespace.text("from") {
                Some("ALL") => true,
                Some("SELF") | None => false,
                Some(other) => {
                    namespace.broken(
                        "from",
                        "unknown_value",
                        format!("`{other}` cannot be meant"),
                        "write SELF or ALL",
                    );
                    false
                }
            };
            binding.merge(namespace);
        }
        selector = labels(&mut binding, "selector");
        spec.merge(binding);
    }
    let is_bound = |host: &CompiledHost| {
        let near = everywhere || host.namespace == document.object.namespace;
        host.synthetic || (near && selector.as_ref().is_none_or(|wanted| selected(&host.labels, wanted)))
    };
    hosts.iter().enumerate().filter(|(_, host)| is_bound(host)).map(|(index, _)| index).collect()
}

/// Two Hosts with one hostname on one Listener: one of them would decide the policy. Named at the second one.
fn duplicates(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    hosts: &[CompiledHost],
    (listener, bound): (&str, &[usize]),
) {
    let mut first: HashMap<&HostGlob, &CompiledHost> = HashMap::new();
    let mut second: HashMap<&str, &CompiledHost> = HashMap::new();
    for host in bound.iter().filter_map(|index| hosts.get(*index)) {
        match first.entry(&host.plan.hostname) {
            Entry::Occupied(first) => drop(second.insert(&host.plan.name, first.get())),
            Entry::Vacant(free) => drop(free.insert(host)),
        }
    }
    if second.is_empty() {
        return;
    }
    for document in of_kind(documents, "Host") {
        let object = &document.object;
        let name = format!("{}/{}", object.namespace, object.name);
        let Some(first) = second.get(&*name) else { continue };
        let hostname = first.plan.hostname.text();
        let message =
            format!("Host {} has the hostname {hostname} on {listener} too; it decides", first.plan.name);
        let mut spec = Reader::spec(document);
        let remedy = "bind them to different Listeners by hostBinding, or remove one";
        spec.find("hostname", (Severity::Warning, "duplicate_host"), message, remedy);
        compiler.findings.extend(spec.abandon());
    }
}

/// The default ports: cleartext, and TLS where a Host has a certificate.
fn defaults(compiler: &Compiler<'_>, hosts: &[CompiledHost]) -> Vec<ListenerPlan> {
    let settings = compiler.settings;
    let listener = |name: &str, port, tls| ListenerPlan {
        name: name.into(),
        bind: SocketAddr::new(settings.bind, port),
        tls,
        proxy_protocol: false,
        layer: Layer::Http,
        cleartext: Cleartext::Served,
        tcp: Vec::new(),
        security: SecurityModel::Xfp,
        http: HttpPolicy::clone(&compiler.module.http),
        hosts: (0..hosts.len()).collect(),
        strip_port: compiler.module.strip_matching_host_port,
    };
    let mut listeners = vec![listener("http", settings.http_port, false)];
    if hosts.iter().any(|host| host.plan.tls.is_some() || host.plan.unavailable.is_some()) {
        listeners.push(listener("https", settings.https_port, true));
    }
    let extra = hosts.iter().filter_map(|host| host.additional_port);
    for port in extra.filter(|port| *port != settings.http_port && *port != settings.https_port) {
        let name = format!("http-{port}");
        if !listeners.iter().any(|listener| *listener.name == *name) {
            listeners.push(listener(&name, port, false));
        }
    }
    listeners
}
