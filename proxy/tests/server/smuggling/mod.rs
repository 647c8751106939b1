//! Request smuggling in every published form: whatever comes in, the upstream never sees two readings. It sees nothing of a
//! request, or exactly the one that was routed, and what stands behind an ambiguous request is nobody's.

mod http1;
mod http2;
mod paths;
mod responses;
mod strict;

use std::{net::SocketAddr, sync::Arc};

use parking_lot::Mutex;
use proxy::upstream::Protocol;

use super::support::*;
use strict::{Record, Seen};

/// A request as it was routed: method, target, host.
type Routed = (String, String, String);

/// A server in front of an upstream that writes everything down, with what was routed.
struct Bench {
    rig: Rig,
    record: Record,
    routed: Arc<Mutex<Vec<Routed>>>,
}

/// The protocols that an upstream may speak.
const BOTH: [Protocol; 2] = [Protocol::Http1, Protocol::Http2];

impl Bench {
    async fn start(protocol: Protocol) -> Self {
        let (addr, record) = strict::recorder(protocol == Protocol::Http2).await;
        Self::before(addr, record, protocol)
    }

    fn before(addr: SocketAddr, record: Record, protocol: Protocol) -> Self {
        let routed = Arc::new(Mutex::new(Vec::new()));
        let kept = Arc::clone(&routed);
        let mut table = Table::new(addr);
        table.routes[0] = route(addr, protocol);
        table.decide = Box::new(move |head| {
            let target = match head.query {
                Some(query) => format!("{}?{query}", head.path),
                None => head.path.to_owned(),
            };
            kept.lock().push((head.method.to_owned(), target, head.authority.to_owned()));
            None
        });
        Self { rig: Rig::start(table), record, routed }
    }

    /// What the upstream has seen; fails unless each of it is what was routed, in the same order and once.
    fn seen(&self, name: &str) -> Vec<Seen> {
        let seen = self.record.seen();
        let routed = self.routed.lock();
        let mut rest = routed.iter();
        for seen in &seen {
            let this = (seen.method.clone(), seen.target.clone(), seen.host.clone());
            let found = rest.any(|routed| *routed == this);
            assert!(found, "{name}: the upstream saw {this:?}, but what was routed is {routed:?}");
            for (field, value) in &seen.fields {
                let dashed = field.replace('_', "-");
                assert!(!value.contains("forged"), "{name}: {field}: {value}");
                assert!(dashed == *field || !dashed.starts_with("x-forwarded"), "{name}: {field}");
            }
        }
        assert!(seen.iter().all(|seen| !seen.target.contains("smuggled")), "{name}: {seen:?}");
        seen
    }
}
