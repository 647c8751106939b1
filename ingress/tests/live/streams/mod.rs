//! Streams that last, or carry much: tunnels, gRPC, events, large bodies. TLS from the client, mTLS to the upstream.

mod events;
mod grpc;
mod upstream;
mod volume;
mod websocket;

use std::{
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering::Relaxed},
    },
};

use super::harness::{
    Authority, Ingress,
    certs::secret,
    client::{Http1, Http2, Target},
    replace,
};
use upstream::App;

/// An upstream behind mTLS, and an ingress in front of it.
struct Rig {
    app: App,
    ingress: Ingress,
    authority: Authority,
    _folder: tempfile::TempDir,
}

impl Rig {
    /// `mappings`: name, and further fields of its Mapping.
    async fn start(mappings: &[(&str, &str)], flags: &[&str]) -> Self {
        let authority = Authority::new("streams");
        let app = App::start(&authority.leaf("app.internal"), &authority).await;
        let (own, shop) = (authority.leaf("ingress"), authority.leaf("shop.example"));
        let all = secret("shop", &[("tls.crt", &shop.cert), ("tls.key", &shop.key)])
            + &secret("own", &[("tls.crt", &own.cert), ("tls.key", &own.key)])
            + &secret("roots", &[("ca.crt", &authority.pem())])
            + "---\napiVersion: getambassador.io/v3alpha1\nkind: Host\nmetadata: {name: shop}\n\
               spec: {hostname: shop.example, tlsSecret: {name: shop}}\n\
               ---\napiVersion: getambassador.io/v3alpha1\nkind: TLSContext\nmetadata: {name: mesh}\n\
               spec: {hosts: [], secret: own, ca_secret: roots, sni: app.internal}\n";
        let mapping = |(name, fields): &(&str, &str)| {
            format!(
                "---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: {name}}}\n\
                 spec: {{hostname: \"*\", prefix: /{name}/, rewrite: /, service: \"https://{}\", tls: mesh{fields}}}\n",
                app.addr
            )
        };
        let all = all + &mappings.iter().map(mapping).collect::<Vec<_>>().concat();
        let folder = tempfile::tempdir().expect("folder");
        replace(&folder.path().join("all.yaml"), &all);
        let ingress = Ingress::start(folder.path(), flags).await;
        Self { app, ingress, authority, _folder: folder }
    }

    fn target(&self, alpn: &[u8]) -> Target {
        Target::tls(self.ingress.listener("https"), &self.authority, alpn)
    }

    fn http1(&self) -> Http1 {
        Http1::new(self.target(b"http/1.1"))
    }

    fn http2(&self) -> Http2 {
        Http2::new(self.target(b"h2"))
    }

    /// Looks at the ingress' memory until it is told to stop, and gives how far it rose above what it was, in KiB.
    fn watch_memory(&self) -> Watch {
        let stop = Arc::new(AtomicBool::new(false));
        let peak = Arc::new(AtomicU64::new(0));
        Watch { before: self.ingress.memory(), stop, peak }
    }
}

/// What memory has done since.
struct Watch {
    before: u64,
    stop: Arc<AtomicBool>,
    peak: Arc<AtomicU64>,
}

impl Watch {
    /// Runs something and watches meanwhile; gives its outcome and the rise.
    async fn during<T>(self, ingress: &Ingress, what: Pin<Box<impl Future<Output = T>>>) -> (T, u64) {
        let watching = async {
            while !self.stop.load(Relaxed) {
                self.peak.fetch_max(ingress.memory(), Relaxed);
                tokio::time::sleep(std::time::Duration::from_millis(20)).await;
            }
        };
        let running = async {
            let outcome = what.await;
            self.stop.store(true, Relaxed);
            outcome
        };
        let (outcome, ()) = tokio::join!(running, watching);
        (outcome, self.peak.load(Relaxed).saturating_sub(self.before))
    }
}
