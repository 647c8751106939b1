//! The admin and health listeners: plain HTTP/1.1 on the control thread.

use std::{net::SocketAddr, sync::Arc};

/// What the program shows. Called on the control thread; must not block.
pub trait AdminSource: Send + Sync + 'static {
    /// Ready to take traffic.
    fn ready(&self) -> Result<(), String>;
    /// `/config`: listeners, hosts, routes, clusters, endpoints, identities, problems; never a secret.
    fn config(&self) -> serde_json::Value;
    /// `/explain?method=&url=`: the decision for a request, or what is wrong with the question.
    fn explain(&self, method: &str, url: &str) -> Result<serde_json::Value, String>;
    /// `/metrics` in the Prometheus text format.
    fn metrics(&self) -> String;
    /// `POST /drain`: start draining, stay up.
    fn drain(&self);
    /// `POST /shutdown`: drain and exit.
    fn shutdown(&self);
}

/// What a listener of this module serves.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Surface {
    /// Everything for loopback peers, health and metrics for others.
    Admin,
    /// Health and metrics only.
    Health,
}

/// Binds and serves until the process ends. Gives the bound address.
pub async fn serve(
    addr: SocketAddr,
    surface: Surface,
    source: Arc<dyn AdminSource>,
) -> std::io::Result<SocketAddr> {
    let _ = (addr, surface, source);
    todo!()
}
