//! Every flag of `run` on the real program: what it changes is seen from outside. `ingress/tests/flags.rs` has the list.

mod limits;
mod logs;
mod places;
mod upstreams;
mod variables;

use std::{io, net::SocketAddr};

use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::TcpStream,
};

use super::harness::{Authority, Ingress, Upstream, certs::secret, client, replace, until};

/// A resource.
fn object(kind: &str, name: &str, fields: &str) -> String {
    format!(
        "---\napiVersion: getambassador.io/v3alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\nspec: {{{fields}}}\n"
    )
}

/// A Mapping of a prefix to a service.
fn mapping(name: &str, service: &str, more: &str) -> String {
    let fields = format!("hostname: \"*\", prefix: /{name}/, rewrite: \"\", service: \"{service}\"{more}");
    object("Mapping", name, &fields)
}

/// A Host that has a certificate.
fn host(authority: &Authority) -> String {
    let pair = authority.leaf("shop.example");
    let host = "hostname: shop.example, tlsSecret: {name: shop}, requestPolicy: {insecure: {action: Route}}";
    secret("shop", &[("tls.crt", &pair.cert), ("tls.key", &pair.key)]) + &object("Host", "shop", host)
}

/// An ingress with a Mapping `/app/` to an upstream in cleartext.
struct Scene {
    upstream: Upstream,
    folder: tempfile::TempDir,
    ingress: Ingress,
}

impl Scene {
    async fn start(flags: &[&str]) -> Self {
        Self::with("", flags, &[]).await
    }

    /// With more manifests, and with variables.
    async fn with(more: &str, flags: &[&str], env: &[(&str, &str)]) -> Self {
        let upstream = Upstream::plain().await;
        let folder = tempfile::tempdir().expect("folder");
        let routes = mapping("app", &upstream.addr.to_string(), "") + more;
        replace(&folder.path().join("routes.yaml"), &routes);
        let manifests = folder.path().to_str().expect("UTF-8");
        let ingress = Ingress::launch(&[&["--manifests", manifests], flags].concat(), env).await;
        Self { upstream, folder, ingress }
    }

    async fn get(&self, path: &str) -> u16 {
        client::get(self.ingress.http(), "shop.example", path).await.0
    }

    /// Waits until a counter stands at a value.
    async fn counts(&self, name: &str, value: f64) {
        until(&format!("{name} {value}"), async || self.ingress.metric(name).await >= value).await;
        assert!((self.ingress.metric(name).await - value).abs() < 0.5, "{name} counts more than there was");
    }
}

/// Sends bytes, and gives all that comes until the other side ends.
async fn raw(addr: SocketAddr, bytes: &[u8]) -> String {
    let mut stream = TcpStream::connect(addr).await.expect("connect");
    // The other side may end before it has read all.
    let _sent = stream.write_all(bytes).await;
    to_end(&mut stream).await
}

async fn to_end(stream: &mut TcpStream) -> String {
    let mut answer = Vec::new();
    // A reset is an end, too.
    let _end: io::Result<_> = stream.read_to_end(&mut answer).await;
    String::from_utf8_lossy(&answer).into_owned()
}
