//! The environment: a flag wins over its `SELVEDGE_*`, that over Emissary's or Envoy's variable, that over the default.

use super::{Scene, mapping, places::has_workers, upstreams::awaited};
use crate::harness::client::Http1;
use http_body_util::BodyExt as _;

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flag_wins_over_its_variable_and_that_over_envoys() {
    let both = [("ENVOY_CONCURRENCY", "1"), ("SELVEDGE_WORKERS", "3")];
    for (flags, env, count) in
        [(&["--workers", "4"][..], &both[..], 4), (&[], &both, 3), (&[], &both[..1], 1)]
    {
        let scene = Scene::with("", flags, env).await;
        has_workers(&scene.ingress, count).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_address_to_bind_comes_from_flag_variable_and_emissary() {
    let both = [("AMBASSADOR_ENVOY_BIND_ADDRESS", "127.0.0.2"), ("SELVEDGE_BIND", "127.0.0.3")];
    for (flags, env, bound) in [
        (&["--bind", "127.0.0.4"][..], &both[..], "127.0.0.4"),
        (&[], &both, "127.0.0.3"),
        (&[], &both[..1], "127.0.0.2"),
    ] {
        let scene = Scene::with("", flags, env).await;
        assert_eq!(scene.ingress.http().ip().to_string(), bound, "{flags:?} {env:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_workload_api_comes_from_flag_variable_and_spiffe() {
    let both = [
        ("SPIFFE_ENDPOINT_SOCKET", "unix:///nowhere/spiffe.sock"),
        ("SELVEDGE_SPIFFE_SOCKET", "unix:///nowhere/own.sock"),
    ];
    for (flags, env, asked) in [
        (&["--spiffe-socket", "unix:///nowhere/flag.sock"][..], &both[..], "/nowhere/flag.sock"),
        (&[], &both, "/nowhere/own.sock"),
        (&[], &both[..1], "/nowhere/spiffe.sock"),
    ] {
        let flags = [flags, &["--identity-timeout", "100ms"]].concat();
        awaited(&Scene::with("", &flags, env).await.ingress, asked).await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_to_drain_comes_from_variable_and_emissary() {
    let both = [("AMBASSADOR_DRAIN_TIME", "0"), ("SELVEDGE_DRAIN_TIMEOUT", "200ms")];
    for env in [&both[..], &both[..1]] {
        let mut scene = Scene::with("", &[], env).await;
        let request = http::Request::get("/app/drip").header("host", "a");
        let request = request.body(crate::harness::client::empty()).expect("request");
        let response = Http1::new(scene.ingress.http()).send(request).await.expect("a head");
        scene.ingress.signal("TERM");
        // The default would outlast what an upstream may take.
        assert_eq!(scene.ingress.ended().await.0.code(), Some(4), "{env:?}");
        assert!(response.into_body().collect().await.is_err(), "cut");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn resources_of_other_ambassadors_are_left_alone() {
    let theirs = mapping("theirs", "127.0.0.1:9", ", ambassador_id: [edge]");
    for (env, theirs_status, ours) in [(&[][..], 404, 200), (&[("AMBASSADOR_ID", "edge")], 503, 404)] {
        let scene = Scene::with(&theirs, &[], env).await;
        assert_eq!(
            (scene.get("/theirs/x").await, scene.get("/app/x").await),
            (theirs_status, ours),
            "{env:?}"
        );
    }
}
