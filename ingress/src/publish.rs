//! Publishing: from a plan to a table, with clusters and TLS profiles carried over by key so that pools live on.

use std::{
    collections::HashMap,
    sync::{Arc, Weak},
};

use arc_swap::ArcSwap;
use identity::{ClientProfile, ClientSpec, PeerRule, ServerProfile, ServerSpec, Source, SourceRef, Verify};
use proxy::upstream::{Cluster, Clusters, Transport, UpstreamTls};

use crate::{
    keyring::Keyring,
    plan::{ClientPlan, ClusterPlan, Plan, RulePlan, ServerPlan, VerifyPlan},
    route::{Table, TableParts},
};

/// Carries what outlives tables.
#[derive(Debug)]
pub struct Publisher {
    clusters: Clusters,
    clients: HashMap<ClientPlan, Weak<ClientProfile>>,
    servers: HashMap<ServerPlan, Weak<ServerProfile>>,
}

impl Publisher {
    /// A publisher over a registry of clusters.
    pub fn new(clusters: Clusters) -> Self {
        Self { clusters, clients: HashMap::new(), servers: HashMap::new() }
    }

    /// Builds the table of a plan. What is in use by the table before and is still meant is taken over as it is.
    pub fn table(&mut self, plan: Plan, keys: &Keyring) -> (Arc<Table>, Vec<Arc<Cluster>>) {
        self.clients.retain(|_, profile| profile.strong_count() > 0);
        self.servers.retain(|_, profile| profile.strong_count() > 0);
        let clusters: Vec<_> = plan.clusters.iter().map(|cluster| self.cluster(cluster, keys)).collect();
        let mut profiles = |plan: &Plan, http: bool| {
            let tls = plan.hosts.iter().map(|host| host.tls.as_ref());
            tls.map(|tls| tls.and_then(|tls| self.server(tls, http, keys))).collect()
        };
        let tcp_profiles = if plan.tcp_mappings.is_empty() { Vec::new() } else { profiles(&plan, false) };
        let parts = TableParts { clusters: clusters.clone(), profiles: profiles(&plan, true), tcp_profiles };
        (Arc::new(Table::build(plan, parts)), clusters)
    }

    /// Every cluster in use.
    pub fn clusters(&self) -> Vec<Arc<Cluster>> {
        self.clusters.all()
    }

    fn cluster(&mut self, plan: &ClusterPlan, keys: &Keyring) -> Arc<Cluster> {
        let clients = &mut self.clients;
        let cluster = self.clusters.get(&plan.key, &plan.name, &plan.endpoints, || match &plan.tls {
            None => Transport::Plain,
            Some(tls) => Transport::Tls(UpstreamTls {
                profile: client(clients, tls, keys),
                sni: tls.sni.as_deref().and_then(identity::server_name),
                rule: ArcSwap::from_pointee(rule(&tls.rule, keys)),
            }),
        });
        if let (Transport::Tls(tls), Some(plan)) = (&*cluster.transport, &plan.tls) {
            let rule = rule(&plan.rule, keys);
            if **tls.rule.load() != rule {
                tls.rule.store(Arc::new(rule));
            }
        }
        if **cluster.policy.load() != plan.policy {
            cluster.policy.store(Arc::new(plan.policy.clone()));
        }
        cluster
    }

    /// The profile of a plan. Protocols that nobody wrote are those of HTTP where it is inside: a client of another protocol
    /// would be refused for offering its own.
    fn server(&mut self, plan: &ServerPlan, http: bool, keys: &Keyring) -> Option<Arc<ServerProfile>> {
        let mut alpn = plan.alpn.clone();
        if http && alpn.is_empty() {
            alpn = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
        }
        // Hosts that agree in everything and let anyone in share a profile, and so may share connections; a rule belongs to
        // its Host, and is hot.
        let anyone = plan.rule == RulePlan::Anyone;
        let name = if anyone { "".into() } else { Arc::clone(&plan.name) };
        let key = ServerPlan { rule: RulePlan::Anyone, name, alpn: alpn.clone(), ..plan.clone() };
        if let Some(profile) = self.servers.get(&key).and_then(Weak::upgrade) {
            let rule = rule(&plan.rule, keys);
            // The sweep looks at all peers of a rule that was replaced.
            if *profile.rule() != rule {
                profile.set_rule(rule);
            }
            return Some(profile);
        }
        let spec = ServerSpec {
            name: Arc::clone(&plan.name),
            identity: keys.source(&plan.identity)?,
            hint: plan.hint.clone(),
            client_auth: plan.client_auth,
            verify: plan.verify.as_ref().map(|verify| verification(verify, keys)),
            crl: plan.crl.as_ref().and_then(|crl| keys.source(crl)),
            alpn,
            versions: plan.versions,
            cipher_suites: plan.cipher_suites.clone(),
            groups: plan.groups.clone(),
        };
        let profile = ServerProfile::new(spec, rule(&plan.rule, keys));
        self.servers.insert(key, Arc::downgrade(&profile));
        Some(profile)
    }
}

/// The client profile of a plan, shared by all clusters that agree in identity, trust, ALPN, versions and ciphers.
fn client(
    clients: &mut HashMap<ClientPlan, Weak<ClientProfile>>,
    plan: &ClientPlan,
    keys: &Keyring,
) -> Arc<ClientProfile> {
    let key = ClientPlan { context: None, rule: RulePlan::Anyone, sni: None, ..plan.clone() };
    if let Some(profile) = clients.get(&key).and_then(Weak::upgrade) {
        return profile;
    }
    let profile = ClientProfile::new(ClientSpec {
        identity: plan.identity.as_ref().map(|name| source(name, keys)),
        hint: plan.hint.clone(),
        verify: verification(&plan.verify, keys),
        crl: plan.crl.as_ref().map(|name| source(name, keys)),
        alpn: plan.alpn.clone(),
        versions: plan.versions,
        cipher_suites: plan.cipher_suites.clone(),
        groups: plan.groups.clone(),
    });
    clients.insert(key, Arc::downgrade(&profile));
    profile
}

/// A source that compile has found. Should it be gone, an empty one stands in: it never delivers, so the profile fails closed.
fn source(name: &SourceRef, keys: &Keyring) -> Arc<Source> {
    keys.source(name).unwrap_or_else(|| Source::new(name.clone()))
}

fn verification(plan: &VerifyPlan, keys: &Keyring) -> Verify {
    match plan {
        VerifyPlan::Nothing => Verify::Nothing,
        VerifyPlan::Roots(name) => Verify::Roots(source(name, keys)),
        VerifyPlan::System => Verify::System,
        VerifyPlan::Spiffe { trust, trust_domains } => {
            Verify::Spiffe { trust: source(trust, keys), trust_domains: trust_domains.clone() }
        }
    }
}

fn rule(plan: &RulePlan, keys: &Keyring) -> PeerRule {
    match plan {
        RulePlan::Anyone => PeerRule::Anyone,
        RulePlan::Spiffe { ids, trust_domains } => {
            PeerRule::Spiffe { ids: ids.clone(), trust_domains: trust_domains.clone() }
        }
        RulePlan::OwnTrustDomain(name) => PeerRule::OwnTrustDomain(source(name, keys)),
        RulePlan::Names(names) => {
            PeerRule::Names(names.iter().filter_map(|name| identity::server_name(name)).collect())
        }
    }
}
