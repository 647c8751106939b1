//! Flags about upstreams and their identities.

use super::{
    super::harness::{Authority, Ingress, Upstream, client, replace, until},
    Scene, mapping,
};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn names_are_resolved_as_told() {
    let upstream = Upstream::plain().await;
    let rule = format!("told.invalid:81={}", upstream.addr);
    let named = mapping("told", "told.invalid:81", "");
    let scene = Scene::with(&named, &["--resolve", &rule], &[]).await;
    assert_eq!(scene.get("/told/x").await, 200);
    let scene = Scene::with(&named, &[], &[]).await;
    assert_eq!(scene.get("/told/x").await, 503, "nobody has that name");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn upstreams_that_nobody_verifies_are_refused_if_verification_is_required() {
    let upstream =
        Upstream::tls(&Authority::new("flags").leaf("shop.example").certified(), b"http/1.1").await;
    let unverified = mapping("blind", &format!("https://{}", upstream.addr), "");
    let scene = Scene::with(&unverified, &[], &[]).await;
    assert_eq!(scene.get("/blind/x").await, 200);
    let scene = Scene::with(&unverified, &["--require-verified-upstreams"], &[]).await;
    assert_eq!(scene.get("/blind/x").await, 503);
    assert_eq!(scene.get("/app/x").await, 200, "cleartext is not meant");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_upstream_that_is_ourselves_is_refused_unless_it_is_allowed() {
    for (flags, status) in [(&[][..], 503), (&["--allow-upstream", "127.0.0.0/8"], 200)] {
        let scene = Scene::start(flags).await;
        let own = mapping("live", &scene.ingress.admin().to_string(), "")
            .replace("rewrite: \"\"", "rewrite: /live");
        replace(
            &scene.folder.path().join("own.yaml"),
            &own.replace("prefix: /live/", "prefix: /live, host_rewrite: localhost"),
        );
        until("the new Mapping is there", async || scene.get("/live").await != 404).await;
        assert_eq!(scene.get("/live").await, status, "{flags:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_svid_within_the_identity_timeout_is_said_and_it_serves_on() {
    let flags = ["--spiffe-socket", "unix:///nowhere/flag.sock", "--identity-timeout", "123ms"];
    let scene = Scene::start(&flags).await;
    assert_eq!(scene.get("/app/x").await, 200);
    assert!(awaited(&scene.ingress, "unix:///nowhere/flag.sock").await.contains("no SVID after 123ms"));
    let ready = client::get(scene.ingress.admin(), "localhost", "/ready").await;
    assert_eq!(ready.0, 200);
}

/// The line of the log about a Workload API that has not answered in time.
pub(super) async fn awaited(ingress: &Ingress, socket: &str) -> String {
    let line = || {
        let lines = ingress.lines().1.into_iter();
        lines.into_iter().find(|line| line.contains("no SVID after") && line.contains(socket))
    };
    until("a line about the SVID", async || line().is_some()).await;
    line().expect("awaited")
}
