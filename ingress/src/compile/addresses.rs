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

    /// Where a host's addresses come from. `namespace` is the one a bare name is meant in.
    pub(crate) fn origin(&self, host: &str, port: u16, namespace: &str) -> EndpointOrigin {
        let names = |rule: &&(String, Option<u16>, Vec<SocketAddr>)| {
            let same = rule.0 == host || format!("{}.{namespace}", rule.0) == host;
            same && rule.1.is_none_or(|only| only == port)
        };
        let exact = self.resolve.iter().filter(names).max_by_key(|rule| (rule.0 == host, rule.1.is_some()));
        if let Some((_, _, addresses)) = exact {
            return EndpointOrigin::Static(addresses.clone());
        }
        let mut parts = host.trim_end_matches('.').split('.');
        let (name, written) = (parts.next().unwrap_or_default(), parts.next());
        let tail: Vec<_> = parts.collect();
        if !matches!(tail.as_slice(), [] | ["svc"] | ["svc", "cluster", "local"]) {
            return EndpointOrigin::Dns;
        }
        let namespace = written.unwrap_or(namespace);
        match self.services.get(&(namespace, name)) {
            Some(service) => EndpointOrigin::Static(self.endpoints(service, namespace, name, port)),
            None => EndpointOrigin::Dns,
        }
    }

    /// Ready endpoints behind a port of a Service; its cluster IP where no slice is given.
    fn endpoints(&self, service: &Document, namespace: &str, name: &str, port: u16) -> Vec<SocketAddr> {
        let ports = service.root.at("spec.ports").map(Node::items).unwrap_or_default();
        let wanted = ports.iter().find(|entry| entry.get("port").and_then(Node::as_int) == Some(i64::from(port)));
        let port_name = wanted.and_then(|entry| entry.get("name")).and_then(Node::as_text).unwrap_or_default();
        let Some(slices) = self.slices.get(&(namespace, name)) else {
            let ip = service.root.at("spec.clusterIP").and_then(Node::as_text).and_then(|ip| ip.parse::<IpAddr>().ok());
            return ip.map(|ip| SocketAddr::new(ip, port)).into_iter().collect();
        };
        let mut addresses = Vec::new();
        for slice in slices {
            let ports = slice.root.get("ports").map(Node::items).unwrap_or_default();
            let named = |entry: &&Node| entry.get("name").and_then(Node::as_text).unwrap_or_default() == port_name;
            let Some(target) = ports.iter().find(named).and_then(|entry| entry.get("port")).and_then(Node::as_int) else {
                continue;
            };
            let Ok(target) = u16::try_from(target) else { continue };
            for endpoint in slice.root.get("endpoints").map(Node::items).unwrap_or_default() {
                if endpoint.at("conditions.ready").and_then(Node::as_bool) == Some(false) {
                    continue;
                }
                let ips = endpoint.get("addresses").map(Node::items).unwrap_or_default();
                let ips = ips.iter().filter_map(Node::as_text).filter_map(|ip| ip.parse::<IpAddr>().ok());
                addresses.extend(ips.map(|ip| SocketAddr::new(ip, target)));
            }
        }
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }
}
