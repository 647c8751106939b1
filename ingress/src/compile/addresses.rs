//! Names to addresses without DNS: `--resolve`, then Service and EndpointSlice manifests.

use std::{
    collections::HashMap,
    net::{IpAddr, SocketAddr},
};

use proxy::upstream::EndpointOrigin;
use resource::{Document, Node};

type Resolve = [(String, Option<u16>, Vec<SocketAddr>)];

/// What resolves names as the cluster would.
pub(crate) struct Addresses<'a> {
    resolve: &'a Resolve,
    /// By namespace and name.
    services: HashMap<(&'a str, &'a str), &'a Document>,
    /// By namespace and service.
    slices: HashMap<(&'a str, &'a str), Vec<&'a Document>>,
}

impl<'a> Addresses<'a> {
    pub(crate) fn read(documents: &[&'a Document], resolve: &'a Resolve) -> Self {
        let mut found = Self { resolve, services: HashMap::new(), slices: HashMap::new() };
        for document in documents {
            let object = &document.object;
            match (&*object.kind.group, &*object.kind.kind) {
                ("", "Service") => {
                    found.services.insert((&object.namespace, &object.name), document);
                }
                ("discovery.k8s.io", "EndpointSlice") => {
                    if let Some(service) = document.labels.get("kubernetes.io/service-name") {
                        found.slices.entry((&object.namespace, service)).or_default().push(document);
                    }
                }
                _ => {}
            }
        }
        found
    }

    /// Where a host's addresses come from, and what is wrong with it. `namespace` is the one a bare name is meant in.
    pub(crate) fn origin(&self, host: &str, port: u16, namespace: &str) -> (EndpointOrigin, Option<String>) {
        let names = |rule: &&(String, Option<u16>, Vec<SocketAddr>)| {
            let same = rule.0 == host || format!("{}.{namespace}", rule.0) == host;
            same && rule.1.is_none_or(|only| only == port)
        };
        let exact = self.resolve.iter().filter(names).max_by_key(|rule| (rule.0 == host, rule.1.is_some()));
        if let Some((_, _, addresses)) = exact {
            return (EndpointOrigin::Static(addresses.clone()), None);
        }
        let mut parts = host.trim_end_matches('.').split('.');
        let (name, written) = (parts.next().unwrap_or_default(), parts.next());
        let tail: Vec<_> = parts.collect();
        if !matches!(tail.as_slice(), [] | ["svc"] | ["svc", "cluster", "local"]) || host == "localhost" {
            return (EndpointOrigin::Dns, None);
        }
        let namespace = written.unwrap_or(namespace);
        match self.services.get(&(namespace, name)) {
            Some(service) if service.root.at("spec.type").and_then(Node::as_text) == Some("ExternalName") => {
                let message =
                    format!("Service {namespace}/{name} is an ExternalName, which only DNS can follow");
                (EndpointOrigin::Dns, Some(message))
            }
            Some(service) => {
                let (addresses, wrong) = self.endpoints(service, port);
                (EndpointOrigin::Static(addresses), wrong)
            }
            None => (EndpointOrigin::Dns, None),
        }
    }

    /// Ready endpoints behind a port of a Service; its cluster IP where no slice is given.
    fn endpoints(&self, service: &Document, port: u16) -> (Vec<SocketAddr>, Option<String>) {
        let object = &service.object;
        let Some(wanted) = service_port(service, port) else {
            let message = format!("Service {}/{} has no port {port}", object.namespace, object.name);
            return (Vec::new(), Some(message));
        };
        let name = wanted.get("name").and_then(Node::as_text).unwrap_or_default();
        let Some(slices) = self.slices.get(&(&object.namespace, &object.name)) else {
            let ip = service.root.at("spec.clusterIP").and_then(Node::as_text);
            let ip = ip.and_then(|ip| ip.parse::<IpAddr>().ok());
            let port = wanted.get("port").and_then(Node::as_int).and_then(|port| u16::try_from(port).ok());
            return (ip.zip(port).map(SocketAddr::from).into_iter().collect(), None);
        };
        let mut addresses: Vec<SocketAddr> = slices.iter().flat_map(|slice| ready(slice, name)).collect();
        addresses.sort_unstable();
        addresses.dedup();
        (addresses, None)
    }
}

/// The port of a Service by its number, else by its target, else the only one it has.
fn service_port(service: &Document, port: u16) -> Option<&Node> {
    let ports = service.root.at("spec.ports").map(Node::items).unwrap_or_default();
    let by = |field: &str| {
        ports.iter().find(|entry| entry.get(field).and_then(Node::as_int) == Some(i64::from(port)))
    };
    by("port").or_else(|| by("targetPort")).or(match ports {
        [only] => Some(only),
        _ => None,
    })
}

/// Ready addresses of a slice under the port of this name.
fn ready<'a>(slice: &'a Document, name: &str) -> Vec<SocketAddr> {
    let items = |field| slice.root.get(field).map(Node::items).unwrap_or_default();
    let named = |entry: &&'a Node| entry.get("name").and_then(Node::as_text).unwrap_or_default() == name;
    let target = items("ports").iter().find(named).and_then(|entry| entry.get("port")).and_then(Node::as_int);
    let Some(target) = target.and_then(|target| u16::try_from(target).ok()) else { return Vec::new() };
    let endpoints = items("endpoints").iter();
    // A missing condition means ready (EndpointSlice API).
    let endpoints = endpoints.filter(|one| one.at("conditions.ready").and_then(Node::as_bool) != Some(false));
    endpoints
        .flat_map(|endpoint| endpoint.get("addresses").map(Node::items).unwrap_or_default())
        .filter_map(|address| address.as_text()?.parse::<IpAddr>().ok())
        .map(|ip| SocketAddr::new(ip, target))
        .collect()
}
