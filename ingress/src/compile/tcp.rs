//! TCPMappings: what becomes of their connections, on which listener they are, and how those on one port and name share.

use std::{
    collections::{BTreeMap, HashSet},
    net::{IpAddr, SocketAddr},
    time::Duration,
};

use proxy::{
    Reason,
    net::Layer,
    route::{HttpPolicy, Upgrades},
    upstream::{Protocol, RetryPolicy},
};
use resource::Document;

use super::{
    Compiler,
    context::is_name,
    host::CompiledHost,
    mapping::{nothing, service, unavailable, weight},
    of_kind,
    origination::{cluster, tls},
    weight::tcp_shares,
};
use crate::{
    kind::Reader,
    plan::{Cleartext, HostGlob, ListenerPlan, Outcome, SecurityModel, TcpMappingPlan, Unavailable},
    report::Severity,
};

/// Fields without a meaning here.
const IGNORED: &[&str] = &["docs", "v2ExplicitTLS", "status"];

/// Fields of Emissary without which a TCPMapping is as safe as with them.
const UNSUPPORTED: &[&str] =
    &["resolver", "circuit_breakers", "stats_name", "v3StatsName", "enable_ipv4", "enable_ipv6"];

/// Compiles every TCPMapping and binds it to the Listener on its port, or to a bare one where there is none.
pub(super) fn compile(
    compiler: &mut Compiler<'_>,
    documents: &[&Document],
    (listeners, hosts): (&mut Vec<ListenerPlan>, &[CompiledHost]),
) -> Vec<TcpMappingPlan> {
    let found = of_kind(documents, "TCPMapping");
    let mut members: Vec<_> =
        found.into_iter().filter_map(|document| Some((document, one(compiler, document)?))).collect();
    let mut bare = HashSet::new();
    for (index, (document, plan)) in members.iter_mut().enumerate() {
        let bound = place(compiler, listeners, &mut bare, (plan, hosts.len()));
        match bound.and_then(|at| fits(listeners, at, plan)) {
            Ok(listener) => {
                listener.tcp.push(index);
                listener.tls |= plan.host.is_some();
                overruled(compiler, document, (plan, listener), hosts);
            }
            Err((field, why, remedy)) => {
                let mut spec = Reader::spec(document);
                let reason = Reason::new("tcp_conflict");
                plan.outcome = Outcome::Unavailable(Unavailable { reason, message: why.as_str().into() });
                let message = format!("{why}: this TCPMapping takes no connection");
                spec.find(field, (Severity::Error, "tcp_conflict"), message, remedy);
                compiler.findings.extend(spec.abandon());
            }
        }
    }
    for listener in listeners.iter() {
        share(compiler, &mut members, &listener.tcp);
    }
    idle_listeners(compiler, documents, listeners);
    members.into_iter().map(|(_, plan)| plan).collect()
}

fn one(compiler: &mut Compiler<'_>, document: &Document) -> Option<TcpMappingPlan> {
    let mut spec = Reader::spec(document);
    let port = port(&mut spec);
    let host = host(&mut spec);
    let address = address(&mut spec);
    // Without knowing which connections are meant there is no place to keep.
    let (Some(port), Ok(host), Ok(address)) = (port, host, address) else {
        compiler.findings.extend(spec.abandon());
        return None;
    };
    let weight = weight(&mut spec);
    let idle_timeout = idle_timeout(&mut spec);
    let outcome = outcome(compiler, &mut spec, document, idle_timeout);
    spec.instance();
    spec.ignore(IGNORED);
    spec.unsupported(UNSUPPORTED);
    let (findings, broken) = spec.finish();
    compiler.findings.extend(findings);
    let object = &document.object;
    Some(TcpMappingPlan {
        object: object.clone(),
        name: format!("{}/{}", object.namespace, object.name).into(),
        port,
        address,
        host,
        weight,
        share: 0..100,
        outcome: broken.map_or(outcome, |broken| Outcome::Unavailable(unavailable(broken))),
    })
}

fn port(spec: &mut Reader<'_>) -> Option<u16> {
    let port = spec.int("port").and_then(|port| u16::try_from(port).ok());
    if port.is_none() {
        let message = "is missing or no port: the TCPMapping is left out".to_owned();
        spec.broken("port", "unknown_value", message, "write a number from 0 to 65535");
    }
    port
}

/// The server names; `Err` when they cannot be read.
fn host(spec: &mut Reader<'_>) -> Result<Option<HostGlob>, ()> {
    if spec.node("host").is_none() {
        return Ok(None);
    }
    let text = spec.text("host").ok_or(())?;
    let glob = HostGlob::parse(text);
    let plain = match &glob {
        HostGlob::Exact(name) if name.is_empty() => return Ok(None),
        HostGlob::Exact(name) => Some(name),
        HostGlob::Any | HostGlob::Suffix(_) | HostGlob::Prefix(_) => None,
    };
    if plain.is_some_and(|name| !is_name(name)) {
        let message = format!("`{text}` is no name that a client's TLS can ask for (SNI)");
        let remedy = "write one DNS name without port, or one that starts or ends in *";
        spec.broken("host", "unknown_value", message, remedy);
    }
    Ok(Some(glob))
}

/// The address to listen on; `Err` when it cannot be read.
fn address(spec: &mut Reader<'_>) -> Result<Option<IpAddr>, ()> {
    if spec.node("address").is_none() {
        return Ok(None);
    }
    let text = spec.text("address").ok_or(())?;
    match text.parse() {
        Ok(ip) => Ok(Some(ip)),
        Err(_no_address) => {
            let message = format!("`{text}` is no IP address: the TCPMapping is left out");
            spec.broken("address", "unknown_value", message, "write an address of this machine");
            Err(())
        }
    }
}

/// Emissary writes it as text.
fn idle_timeout(spec: &mut Reader<'_>) -> Option<Duration> {
    let node = spec.node("idle_timeout_ms")?;
    let millis = node.as_int().or_else(|| node.as_text()?.trim().parse().ok());
    let millis = millis.and_then(|millis| u64::try_from(millis).ok());
    if millis.is_none() {
        let message = "is no number of milliseconds".to_owned();
        spec.broken("idle_timeout_ms", "unknown_value", message, "write \"3600000\"; 0 means never");
    }
    millis.map(Duration::from_millis)
}

fn outcome(
    compiler: &mut Compiler<'_>,
    spec: &mut Reader<'_>,
    document: &Document,
    idle_timeout: Option<Duration>,
) -> Outcome {
    let tag = spec.text("cluster_tag").unwrap_or_default();
    let Some(service) = service(spec) else {
        spec.ignore(&["tls"]);
        return nothing();
    };
    let namespace = &document.object.namespace;
    let host = service.qualified(namespace, &compiler.settings.namespace);
    let Ok(tls) = tls(compiler, spec, &service, namespace, &host) else { return nothing() };
    let port = service.port.unwrap_or(if tls.is_some() { 443 } else { 80 });
    let cluster = cluster(compiler, spec, (&host, port, namespace), tls, (Protocol::Tcp, tag));
    Outcome::Forward {
        cluster: compiler.cluster(cluster),
        timeout: None,
        idle_timeout,
        retry: RetryPolicy::default(),
        upgrades: Upgrades::default(),
    }
}

/// Why a TCPMapping has no place: field, reason, remedy.
type Misplaced = (&'static str, String, &'static str);

/// The index of the listener on the port of a TCPMapping; a bare one is made where there is none.
fn place(
    compiler: &Compiler<'_>,
    listeners: &mut Vec<ListenerPlan>,
    bare: &mut HashSet<usize>,
    (plan, hosts): (&TcpMappingPlan, usize),
) -> Result<usize, Misplaced> {
    let settings = compiler.settings;
    let ip = plan.address.filter(|ip| !(ip.is_unspecified() && settings.bind.is_unspecified()));
    let bind = SocketAddr::new(ip.unwrap_or(settings.bind), plan.port);
    // Port 0 asks the system for one: no Listener has that.
    let mut known = listeners.iter().enumerate().filter(|(at, _)| plan.port != 0 || bare.contains(at));
    if let Some((at, _)) = known.clone().find(|(_, listener)| listener.bind == bind) {
        return Ok(at);
    }
    let overlaps = |listener: &ListenerPlan| {
        let both = [listener.bind.ip(), bind.ip()];
        listener.bind.port() == bind.port() && both.iter().any(IpAddr::is_unspecified)
    };
    if let Some((_, other)) = known.find(|(_, listener)| overlaps(listener)) {
        let why = format!("listener {} has this port on {} already", other.name, other.bind.ip());
        return Err(("address", why, "remove `address`, or choose another port"));
    }
    let name = match ip {
        Some(ip) => format!("tcp-{ip}-{}", plan.port),
        None => format!("tcp-{}", plan.port),
    };
    bare.insert(listeners.len());
    listeners.push(ListenerPlan {
        name: name.into(),
        bind,
        tls: false,
        proxy_protocol: false,
        layer: Layer::Tcp,
        cleartext: Cleartext::Served,
        tcp: Vec::new(),
        security: SecurityModel::Xfp,
        http: HttpPolicy::default(),
        hosts: (0..hosts).collect(),
        strip_port: false,
    });
    Ok(listeners.len() - 1)
}

/// The listener, if connections on it can be told apart from those of HTTP.
fn fits<'a>(
    listeners: &'a mut [ListenerPlan],
    at: usize,
    plan: &TcpMappingPlan,
) -> Result<&'a mut ListenerPlan, Misplaced> {
    let listener = listeners.get_mut(at).ok_or(("port", "has no listener".to_owned(), "choose another"))?;
    let name = &listener.name;
    match (listener.layer, listener.tls, &plan.host) {
        (Layer::Http, _, None) => {
            let why =
                format!("listener {name} serves HTTP on port {}, and every connection is meant", plan.port);
            Err(("port", why, "write the `host` (SNI) that is meant, or choose another port"))
        }
        (Layer::Http, false, Some(_)) => {
            let why =
                format!("listener {name} serves HTTP on port {} without TLS, which names no host", plan.port);
            Err(("port", why, "write `protocol: HTTPS` on the Listener, or choose another port"))
        }
        (Layer::Http, true, Some(_)) | (Layer::Tcp, ..) => Ok(listener),
    }
}

/// A name that a Host serves over HTTP on the same port is then reached by TCP alone.
fn overruled(
    compiler: &mut Compiler<'_>,
    document: &Document,
    (plan, listener): (&TcpMappingPlan, &ListenerPlan),
    hosts: &[CompiledHost],
) {
    if listener.layer == Layer::Tcp {
        return;
    }
    let bound = listener.hosts.iter().filter_map(|index| hosts.get(*index));
    let mut same = bound.filter(|host| Some(&host.plan.hostname) == plan.host.as_ref());
    if let Some(host) = same.find(|host| host.plan.tls.is_some() && !host.plan.mappings.is_empty()) {
        let mut spec = Reader::spec(document);
        let message = format!(
            "takes the TLS connections of Host {} on listener {}: its Mappings are served in cleartext only",
            host.plan.name, listener.name
        );
        let remedy = "choose another port for one of them, if both are meant";
        spec.find("host", (Severity::Notice, "tcp_conflict"), message, remedy);
        compiler.findings.extend(spec.abandon());
    }
}

/// Gives the members of each group on a listener their part of the dice.
fn share(compiler: &mut Compiler<'_>, members: &mut [(&Document, TcpMappingPlan)], bound: &[usize]) {
    let mut groups: BTreeMap<Option<HostGlob>, Vec<usize>> = BTreeMap::new();
    for index in bound {
        if let Some((_, plan)) = members.get(*index) {
            groups.entry(plan.host.clone()).or_default().push(*index);
        }
    }
    for group in groups.into_values().filter(|group| group.len() > 1) {
        let weights: Vec<_> =
            group.iter().filter_map(|index| members.get(*index)).map(|(_, plan)| plan.weight).collect();
        let shares = tcp_shares(&weights);
        report(compiler, members, &group);
        for (index, share) in group.iter().zip(shares) {
            if let Some((_, plan)) = members.get_mut(*index) {
                plan.share = share;
            }
        }
    }
}

/// Says what is odd about a group: shared without a word, or weights that do not make 100.
fn report(compiler: &mut Compiler<'_>, members: &[(&Document, TcpMappingPlan)], group: &[usize]) {
    let mut of_group = group.iter().filter_map(|index| members.get(*index));
    let Some((first_document, first)) = of_group.clone().next() else { return };
    let unweighted = of_group.clone().all(|(_, plan)| plan.weight.is_none());
    let given: i64 = of_group.clone().filter_map(|(_, plan)| plan.weight).sum();
    let mut say = |document: &Document, severity, code, message: String, remedy| {
        let mut spec = Reader::spec(document);
        spec.find("weight", (severity, code), message, remedy);
        compiler.findings.extend(spec.abandon());
    };
    if unweighted {
        for (document, _) in of_group.skip(1) {
            let message = format!(
                "is missing: {} TCPMappings, {} the first, have this port and host and share its connections alike",
                group.len(),
                first.name
            );
            let remedy = "give them weights, or another host or port";
            say(document, Severity::Warning, "tcp_conflict", message, remedy);
        }
        return;
    }
    if given > 100 {
        let mut sum = 0;
        let over = of_group.find(|(_, plan)| {
            sum += plan.weight.unwrap_or_default();
            sum > 100
        });
        if let Some((document, _)) = over {
            let message = format!("brings its group to {given}, which exceeds 100; what is above is cut");
            say(document, Severity::Error, "weights_exceed_100", message, "lower a weight of the group");
        }
    } else if given < 100 && of_group.all(|(_, plan)| plan.weight.is_some()) {
        let message = format!("and those of its group make {given}, and are taken as parts of {given}");
        say(first_document, Severity::Notice, "no_effect", message, "let the weights of the group make 100");
    }
}

/// Names every Listener for TCP that nothing is bound to: it accepts and closes.
fn idle_listeners(compiler: &mut Compiler<'_>, documents: &[&Document], listeners: &[ListenerPlan]) {
    let idle = |listener: &&ListenerPlan| listener.layer == Layer::Tcp && listener.tcp.is_empty();
    if !listeners.iter().any(|listener| idle(&listener)) {
        return;
    }
    for document in of_kind(documents, "Listener") {
        let name = format!("{}/{}", document.object.namespace, document.object.name);
        if let Some(listener) = listeners.iter().filter(idle).find(|listener| *listener.name == *name) {
            let mut spec = Reader::spec(document);
            let port = listener.bind.port();
            let message = format!("no TCPMapping has port {port}: every connection is closed");
            spec.find("port", (Severity::Warning, "no_effect"), message, "add a TCPMapping with this port");
            compiler.findings.extend(spec.abandon());
        }
    }
}
