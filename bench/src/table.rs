//! From manifests to the table that decides: through parse, compile and publish, as in the program.

use std::{
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::PathBuf,
    sync::Arc,
    time::SystemTime,
};

use anyhow::{Context as _, ensure};
use ingress::{
    compile::{CompileSettings, Input, compile, wants},
    keyring::Keyring,
    plan::Plan,
    publish::Publisher,
    route::Table,
};
use proxy::{ConnMeta, upstream::Clusters};
use resource::Document;

use crate::Shape;

/// Manifests as they are compiled.
#[derive(Debug)]
pub struct Parsed {
    documents: Vec<Arc<Document>>,
    keys: Keyring,
    settings: CompileSettings,
}

impl Parsed {
    /// Reads manifests, which must be without fault.
    pub fn new(manifests: &str) -> anyhow::Result<Self> {
        let settings = settings();
        let path = Arc::new(PathBuf::from("bench.yaml"));
        let (documents, errors) = resource::parse(&path, manifests, &settings.namespace)
            .map_err(|error| anyhow::anyhow!("the generated manifests do not parse: {}", error.message))?;
        ensure!(errors.is_empty(), "the generated manifests do not parse: {errors:?}");
        let documents: Vec<_> = documents.into_iter().map(Arc::new).collect();
        let mut keys = Keyring::new(None, false);
        keys.update(&wants(&documents, &settings), &documents, SystemTime::UNIX_EPOCH);
        Ok(Self { documents, keys, settings })
    }

    /// Compiles them.
    pub fn compile(&self) -> Plan {
        let Self { documents, keys, settings } = self;
        compile(&Input { documents, errors: &[], keys, settings }).0
    }

    /// The table of a plan, as it is published.
    pub fn table(&self, plan: Plan) -> Arc<Table> {
        Publisher::new(Clusters::new(None)).table(plan, &self.keys).0
    }
}

/// The table of a shape.
pub fn table(shape: Shape, count: usize) -> anyhow::Result<Arc<Table>> {
    table_of(&shape.manifests(count), count)
}

/// The table of manifests with so many Mappings.
pub fn table_of(manifests: &str, count: usize) -> anyhow::Result<Arc<Table>> {
    let parsed = Parsed::new(manifests)?;
    let plan = parsed.compile();
    ensure!(plan.mappings.len() == count, "{} Mappings of {count} were compiled", plan.mappings.len());
    Ok(parsed.table(plan))
}

fn settings() -> CompileSettings {
    CompileSettings {
        ambassador_id: "default".to_owned(),
        namespace: "default".to_owned(),
        single_namespace: false,
        require_verified_upstreams: false,
        one_tenant: true,
        bind: IpAddr::V4(Ipv4Addr::LOCALHOST),
        http_port: 8080,
        https_port: 8443,
        resolve: Vec::new(),
    }
}

/// A client's cleartext connection to the table's first such listener.
pub fn connection(table: &Table) -> anyhow::Result<ConnMeta> {
    let listener = table.listeners().find(|listener| !listener.tls).context("no cleartext listener")?;
    let here = SocketAddr::from((Ipv4Addr::LOCALHOST, listener.bind.port()));
    Ok(ConnMeta {
        listener: Arc::clone(&listener.name),
        listener_port: here.port(),
        peer: here,
        local: here,
        original_dst: None,
        proxy_protocol_source: None,
        sni: None,
        alpn: None,
        tls: None,
        peer_id: None,
    })
}
