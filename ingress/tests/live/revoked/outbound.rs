//! Rows of upstreams: HTTP/1.1 and HTTP/2, idle and with requests under way.

use std::time::{Duration, Instant};

use tokio::task::JoinHandle;

use super::{
    super::harness::{Ingress, Upstream, client, until},
    case::Case,
    scene::mapping,
};

/// The upstreams of one protocol.
pub(super) struct Row {
    name: &'static str,
    doomed: Upstream,
    /// One request, then rest.
    idle: Upstream,
    kept: Upstream,
}

/// What a client has got; an error unless it was whole.
type Answer = Result<(u16, String), String>;

/// Requests under way while trust is taken away.
pub(super) struct UnderWay {
    held: JoinHandle<(u16, String)>,
    stuck: JoinHandle<((u16, String), Instant)>,
    drip: JoinHandle<(Answer, Instant)>,
    kept: JoinHandle<(u16, String)>,
}

impl Row {
    pub(super) async fn new(case: &Case, name: &'static str, alpn: &[u8]) -> Self {
        let doomed = case.doomed.as_ref().expect("upstreams present something");
        Self {
            name,
            doomed: Upstream::tls(doomed, alpn).await,
            idle: Upstream::tls(doomed, alpn).await,
            kept: Upstream::tls(&case.kept, alpn).await,
        }
    }

    pub(super) fn mappings(&self, apart: bool) -> String {
        let name = self.name;
        let kept = if apart { format!("kept-{name}") } else { name.to_owned() };
        let to = |who: &str, upstream: &Upstream, context: &str| {
            mapping(
                &format!("{name}-{who}"),
                &format!("/{name}/{who}/"),
                &format!("https://{}", upstream.addr),
                context,
            )
        };
        to("doomed", &self.doomed, name) + &to("idle", &self.idle, name) + &to("kept", &self.kept, &kept)
    }

    async fn ask(&self, ingress: &Ingress, path: &str) -> (u16, String) {
        client::get(ingress.http(), "out.example", &format!("/{}/{path}", self.name)).await
    }

    /// Starts what is to be under way, and returns once it is.
    pub(super) async fn begin(&self, ingress: &Ingress) -> UnderWay {
        for who in ["idle/x", "kept/x"] {
            let (status, body) = self.ask(ingress, who).await;
            assert_eq!(status, 200, "{}: {who}: {body}", self.name);
        }
        let (addr, name) = (ingress.http(), self.name);
        let get = move |path: &'static str| async move {
            client::get(addr, "out.example", &format!("/{name}/{path}")).await
        };
        let under_way = UnderWay {
            held: tokio::spawn(get("doomed/held")),
            stuck: tokio::spawn(async move { (get("doomed/stuck").await, Instant::now()) }),
            drip: tokio::spawn(async move {
                let mut client = client::Http1::new(addr);
                let request =
                    http::Request::get(format!("/{name}/doomed/drip")).header("host", "out.example");
                let answer = client.ask(request.body(client::empty()).expect("request")).await;
                (answer, Instant::now())
            }),
            kept: tokio::spawn(get("kept/held")),
        };
        for path in ["doomed/held", "doomed/stuck", "doomed/drip", "kept/held"] {
            let upstream = if path.starts_with("kept") { &self.kept } else { &self.doomed };
            let path = format!("/{name}/{path}");
            until(&format!("{path} is under way"), async || upstream.holds(&path)).await;
        }
        under_way
    }

    /// Everything that has to hold after the change.
    pub(super) async fn check(
        &self,
        ingress: &Ingress,
        under_way: UnderWay,
        (began, case): (Instant, &Case),
    ) {
        let (name, reason, (when, cut)) = (self.name, case.reasons.1, &case.cut);
        until(&format!("{name}: the idle connection is gone"), async || self.idle.open() == 0).await;
        let idle = began.elapsed();
        until(&format!("{name}: new requests are refused"), async || {
            self.ask(ingress, "doomed/new").await.0 == 503
        })
        .await;
        let refused = self.ask(ingress, "doomed/newer").await;
        assert!(refused.0 == 503 && refused.1.ends_with(&format!("{reason}\n")), "{name}: {refused:?}");
        assert_eq!(ingress.access(&format!("/{name}/doomed/newer")).await["reason"], reason);
        // What takes less than five seconds ends well.
        self.doomed.open_gate();
        self.kept.open_gate();
        let held = under_way.held.await.expect("held");
        assert_eq!(held.0, 200, "{name}: a request under way failed: {held:?}");
        let (stuck, at) = under_way.stuck.await.expect("stuck");
        eprintln!("outbound {name}: idle gone after {idle:?}, cut after {:?}", at - began);
        assert_eq!(stuck, (503, format!("no healthy upstream: {cut}\n")), "{name}");
        assert!(when.contains(&(at - began)), "{name}: stuck: {:?}", at - began);
        let (drip, at) = under_way.drip.await.expect("drip");
        assert!(drip.is_err(), "{name}: {drip:?}");
        assert!(when.contains(&(at - began)), "{name}: drip: {:?}", at - began);
        for path in ["stuck", "drip"] {
            let line = ingress.access(&format!("/{name}/doomed/{path}")).await;
            assert_eq!(line["reason"], *cut, "{line}");
        }
        let kept = under_way.kept.await.expect("kept");
        assert_eq!(kept.0, 200, "{name}: a neighbour's request failed: {kept:?}");
        assert_eq!(self.ask(ingress, "kept/y").await.0, 200, "{name}");
    }

    /// Trust that is given back is used again.
    pub(super) async fn recovers(&self, ingress: &Ingress) {
        until(&format!("{}: trusted again", self.name), async || {
            self.ask(ingress, "doomed/again").await.0 == 200
        })
        .await;
        tokio::time::timeout(Duration::from_mins(1), self.ask(ingress, "kept/z")).await.expect("answered");
    }
}
