//! Flags about what is written.

use super::{super::harness::until, Scene};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_access_log_has_the_form_that_is_asked_for() {
    for form in ["off", "text", "json"] {
        let mut scene = Scene::start(&["--access-log", form]).await;
        assert_eq!(scene.get("/app/seen").await, 200);
        scene.ingress.signal("TERM");
        assert_eq!(scene.ingress.ended().await.0.code(), Some(0));
        // What was written is read by a thread of its own.
        until("the line", async || form == "off" || !scene.ingress.lines().0.is_empty()).await;
        let (lines, _) = scene.ingress.lines();
        let json = lines.iter().filter(|line| serde_json::from_str::<serde_json::Value>(line).is_ok());
        let wanted = match form {
            "off" => (0, 0),
            "text" => (1, 0),
            _ => (1, 1),
        };
        assert_eq!((lines.len(), json.count()), wanted, "{form}: {lines:?}");
        assert!(lines.iter().all(|line| line.contains("/app/seen")), "{form}: {lines:?}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_says_as_much_as_its_level_and_modules_allow() {
    for (level, says) in [("info", true), ("error", false), ("error,ingress=info", true)] {
        let mut scene = Scene::start(&["--log-level", level]).await;
        scene.ingress.signal("TERM");
        assert_eq!(scene.ingress.ended().await.0.code(), Some(0));
        let has = || scene.ingress.log().iter().any(|line| line["message"] == "listening");
        until("it is in the log", async || has() || !says).await;
        assert_eq!(has(), says, "{level}: {:?}", scene.ingress.log());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_log_has_the_form_that_is_asked_for() {
    for form in ["text", "json"] {
        let scene = Scene::start(&["--log-format", form]).await;
        let listening = || scene.ingress.lines().1.into_iter().find(|line| line.contains("listening"));
        until("a line", async || listening().is_some()).await;
        let line = listening().expect("awaited");
        let is_json = serde_json::from_str::<serde_json::Value>(&line).is_ok();
        assert_eq!(is_json, form == "json", "{line}");
    }
}
