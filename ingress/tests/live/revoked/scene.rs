//! An ingress, its upstreams and its clients, before, during and after a change.

use std::{path::Path, time::Instant};

use futures_util::future::join_all;

use super::{
    super::harness::{Authority, Ingress, Upstream, certs::secret},
    case::Case,
    inbound, outbound,
    tunnels::Tunnels,
};

pub(super) fn mapping(name: &str, prefix: &str, service: &str, context: &str) -> String {
    let tls = if context.is_empty() { String::new() } else { format!(", tls: {context}") };
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
         spec: {{hostname: \"*\", prefix: {prefix}, rewrite: \"\", timeout_ms: 0, allow_upgrade: [websocket], service: \"{service}\"{tls}}}\n"
    )
}

/// Runs the rows of a case: everything is under way, the change comes, everything is checked, and the change is undone.
pub(super) async fn run(case: Case) {
    let plain = Upstream::plain().await;
    let mut upstreams = Vec::new();
    if !case.before.outbound.is_empty() {
        for (name, alpn) in [("h1", &b"http/1.1"[..]), ("h2", b"h2")] {
            upstreams.push(outbound::Row::new(&case, name, alpn).await);
        }
    }
    let (own, tunnels) = (Authority::new("listeners"), Tunnels::new(&case).await);
    let routes = routes(&case, &own, &plain, &upstreams) + &tunnels.mappings(&case);
    let folder = tempfile::tempdir().expect("folder");
    case.apply(folder.path(), &case.before, &routes);
    let ingress = start(&case, folder.path()).await;
    let clients: Vec<_> = if case.before.inbound.is_empty() {
        Vec::new()
    } else {
        ["h1", "h2"].map(|name| inbound::Row::new(&case, &ingress, &own, name)).into()
    };
    let (mut of_clients, mut of_upstreams) = (Vec::new(), Vec::new());
    for row in &clients {
        of_clients.push(row.begin(&plain).await);
    }
    for row in &upstreams {
        of_upstreams.push(row.begin(&ingress).await);
    }
    let open = tunnels.begin(&case, &ingress, &own).await;
    let began = Instant::now();
    case.apply(folder.path(), &case.after, &routes);
    let began = case.known(&ingress, began).await;
    let inbound = clients
        .iter()
        .zip(of_clients)
        .map(|(row, under_way)| row.check((&ingress, &plain), under_way, (began, &case)));
    let outbound = upstreams
        .iter()
        .zip(of_upstreams)
        .map(|(row, under_way)| row.check(&ingress, under_way, (began, &case)));
    let (_, _, tunnels) = tokio::join!(
        join_all(inbound),
        join_all(outbound),
        join_all(open.into_iter().map(|open| open.check(&ingress, (began, &case))))
    );
    let metrics = ingress.metrics().await;
    let cut = format!("selvedge_failures_total{{reason=\"{}\"}}", case.cut.1);
    assert!(metrics.contains(&cut), "{metrics}");
    if case.expires.is_some() {
        return;
    }
    case.apply(folder.path(), &case.before, &routes);
    for row in &clients {
        row.recovers().await;
    }
    for row in &upstreams {
        row.recovers(&ingress).await;
    }
    for row in &tunnels {
        row.recovers().await;
    }
}

/// The ingress, on the Workload API of the case if it has one.
async fn start(case: &Case, manifests: &Path) -> Ingress {
    let socket = case.authority.as_ref().map(|authority| {
        let sockets = authority.dev.sockets();
        format!("unix://{}", sockets.first().expect("an entry").1.display())
    });
    let flags: Vec<&str> = socket.iter().flat_map(|socket| ["--spiffe-socket", socket.as_str()]).collect();
    Ingress::start(manifests, &flags).await
}

/// What is the same before and after.
fn routes(case: &Case, own: &Authority, plain: &Upstream, upstreams: &[outbound::Row]) -> String {
    let mut text = mapping("in", "/in/", &plain.addr.to_string(), "");
    for name in ["shop", "kept"] {
        let pair = own.leaf(&format!("{name}.example"));
        text += &secret(name, &[("tls.crt", &pair.cert), ("tls.key", &pair.key)]);
    }
    text += "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {name: out}\n\
             spec: {hostname: out.example, requestPolicy: {insecure: {action: Route}}}\n";
    let apart = case.apart.is_some();
    text + &upstreams.iter().map(|row| row.mappings(apart)).collect::<String>()
}
