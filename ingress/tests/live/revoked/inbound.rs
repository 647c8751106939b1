//! Rows of clients: HTTP/1.1 and HTTP/2, idle and with requests under way.

use std::{sync::Arc, time::Instant};

use http::Request;
use rustls::sign::CertifiedKey;
use tokio::task::JoinHandle;

use super::{
    super::harness::{
        Authority, Ingress, Upstream,
        client::{Body, Http1, Http2, Target, empty, whole},
        until,
    },
    case::Case,
};

/// A client of either protocol.
enum Client {
    H1(Http1),
    H2(Http2),
}

type Answer = Result<(u16, String), String>;

impl Client {
    async fn ask(&mut self, host: &str, path: &str) -> Answer {
        match self {
            Self::H1(client) => {
                let request = Request::get(path).header("host", host).body(empty()).expect("request");
                client.ask(request).await
            }
            Self::H2(client) => client.try_ask(|| get(host, path)).await?.ok_or_else(|| "refused".to_owned()),
        }
    }

    fn is_closed(&self) -> bool {
        match self {
            Self::H1(client) => client.is_closed(),
            Self::H2(client) => client.is_closed(),
        }
    }
}

fn get(host: &str, path: &str) -> Request<Body> {
    Request::get(format!("https://{host}{path}")).body(empty()).expect("request")
}

/// The clients of one protocol.
pub(super) struct Row {
    name: &'static str,
    doomed: Target,
    kept: Target,
    kept_host: &'static str,
    /// The change leaves the profile of the neighbours as it is, so that their connections live on.
    same_profile: bool,
}

/// Connections and requests under way while trust is taken away.
pub(super) struct UnderWay {
    idle: Client,
    kept_idle: Client,
    held: JoinHandle<Answer>,
    /// Never answered, and answered without an end.
    cut: Vec<JoinHandle<(Answer, Instant)>>,
    kept: JoinHandle<Answer>,
}

impl Row {
    pub(super) fn new(case: &Case, ingress: &Ingress, own: &Authority, name: &'static str) -> Self {
        let alpn: &[u8] = if name == "h1" { b"http/1.1" } else { b"h2" };
        let target =
            |key: Option<&Arc<CertifiedKey>>| Target::presenting(ingress.listener("https"), own, alpn, key);
        let kept_host = if case.apart.is_some() { "kept.example" } else { "shop.example" };
        Self {
            name,
            doomed: target(case.doomed.as_ref()),
            kept: target(Some(&case.kept)).named(kept_host),
            kept_host,
            same_profile: case.same_profile,
        }
    }

    fn client(&self, target: &Target) -> Client {
        match self.name {
            "h1" => Client::H1(Http1::new(target.clone())),
            _ => Client::H2(Http2::new(target.clone())),
        }
    }

    fn path(&self, rest: &str) -> String {
        format!("/in/{}/{rest}", self.name)
    }

    pub(super) async fn begin(&self, upstream: &Upstream) -> UnderWay {
        let (mut idle, mut kept_idle) = (self.client(&self.doomed), self.client(&self.kept));
        let x = self.path("x");
        assert_eq!(idle.ask("shop.example", &x).await.map(|answer| answer.0), Ok(200), "{}", self.name);
        assert_eq!(kept_idle.ask(self.kept_host, &x).await.map(|answer| answer.0), Ok(200), "{}", self.name);
        let (mut held, mut kept) = (self.client(&self.doomed), self.client(&self.kept));
        let (path, kept_path, kept_host) = (self.path("held"), self.path("kept/held"), self.kept_host);
        let under_way = UnderWay {
            idle,
            kept_idle,
            held: tokio::spawn(async move { held.ask("shop.example", &path).await }),
            cut: self.endless().await,
            kept: tokio::spawn(async move { kept.ask(kept_host, &kept_path).await }),
        };
        for path in ["held", "stuck", "drip", "kept/held"] {
            let path = self.path(path);
            until(&format!("{path} is under way"), async || upstream.holds(&path)).await;
        }
        under_way
    }

    /// Over HTTP/2 they share a connection.
    async fn endless(&self) -> Vec<JoinHandle<(Answer, Instant)>> {
        let paths = [self.path("stuck"), self.path("drip")];
        if self.name == "h1" {
            let each = paths.map(|path| {
                let mut client = self.client(&self.doomed);
                tokio::spawn(async move { (client.ask("shop.example", &path).await, Instant::now()) })
            });
            return each.into();
        }
        let mut client = Http2::new(self.doomed.clone());
        let [stuck, drip] = paths;
        let answer = client.send(|| get("shop.example", &drip)).await.expect("sent").expect("accepted");
        vec![
            tokio::spawn(async move {
                let answer = client.try_ask(|| get("shop.example", &stuck)).await;
                (answer.and_then(|answer| answer.ok_or_else(|| "refused".to_owned())), Instant::now())
            }),
            tokio::spawn(async move { (whole(answer).await, Instant::now()) }),
        ]
    }

    pub(super) async fn check(
        &self,
        (ingress, upstream): (&Ingress, &Upstream),
        mut under_way: UnderWay,
        (began, case): (Instant, &Case),
    ) {
        let (name, reason, (when, cut)) = (self.name, case.reasons.0, &case.cut);
        until(&format!("{name}: the idle connection is gone"), async || under_way.idle.is_closed()).await;
        let idle = began.elapsed();
        let refused = self.client(&self.doomed).ask("shop.example", &self.path("new")).await;
        assert!(refused.is_err(), "{name}: a new connection is served: {refused:?}");
        until(&format!("{name}: the log says {reason}"), async || {
            ingress
                .log()
                .iter()
                .any(|line| line["reason"] == reason && line.to_string().contains("handshake"))
        })
        .await;
        assert!(!upstream.holds(&self.path("new")));
        upstream.open_gate();
        let held = under_way.held.await.expect("held");
        assert_eq!(
            held.as_ref().map(|answer| answer.0),
            Ok(200),
            "{name}: a request under way failed: {held:?}"
        );
        for ended in under_way.cut {
            let (answer, at) = ended.await.expect("cut");
            assert!(answer.is_err(), "{name}: {answer:?}");
            assert!(when.contains(&(at - began)), "{name}: {:?}", at - began);
            eprintln!("inbound {name}: idle gone after {idle:?}, cut after {:?}", at - began);
        }
        for path in ["stuck", "drip"] {
            let line = ingress.access(&self.path(path)).await;
            assert_eq!(line["reason"], *cut, "{line}");
        }
        let kept = under_way.kept.await.expect("kept");
        assert_eq!(
            kept.as_ref().map(|answer| answer.0),
            Ok(200),
            "{name}: a neighbour's request failed: {kept:?}"
        );
        if self.same_profile {
            assert!(!under_way.kept_idle.is_closed(), "{name}: a neighbour's connection is gone");
        } else {
            // What was asked on it would be misdirected: it has gone as an idle connection may.
            until(&format!("{name}: the old profile's connection is gone"), async || {
                under_way.kept_idle.is_closed()
            })
            .await;
            under_way.kept_idle = self.client(&self.kept);
        }
        let y = under_way.kept_idle.ask(self.kept_host, &self.path("y")).await;
        assert_eq!(y.as_ref().map(|answer| answer.0), Ok(200), "{name}: {y:?}");
    }

    /// Trust that is given back is used again.
    pub(super) async fn recovers(&self) {
        let path = self.path("again");
        until(&format!("{}: trusted again", self.name), async || {
            self.client(&self.doomed).ask("shop.example", &path).await.is_ok_and(|answer| answer.0 == 200)
        })
        .await;
    }
}
