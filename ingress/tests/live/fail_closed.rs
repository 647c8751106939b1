//! What is broken answers 503 under one reason that is the same everywhere, never in cleartext, and its neighbours serve.

mod cases;

use std::{collections::BTreeSet, path::Path};

use http::Request;
use serde_json::Value;

use self::cases::{After, Case, Place, World, all, good};
use super::harness::{
    Ingress, Upstream,
    client::{Http1, empty},
    process::{Said, run},
    replace, until,
};

/// A folder of manifests with a neighbour in it that nothing may disturb.
struct Scene {
    folder: tempfile::TempDir,
    world: World,
    /// Where every broken Mapping points: with TLS, and without.
    mutual: Upstream,
    plain: Upstream,
    neighbour: Upstream,
    complaints: Vec<String>,
}

impl Scene {
    async fn new() -> Self {
        let world = World::new();
        let server = world.authority.leaf("app.internal");
        let mutual = Upstream::mutual(&server, &world.authority).await;
        let (plain, neighbour) = (Upstream::plain().await, Upstream::plain().await);
        let folder = tempfile::tempdir().expect("folder");
        let beside = format!(
            "{}---\napiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: neighbour}}\n\
             spec: {{hostname: \"*\", prefix: /neighbour/, service: \"{}\"}}\n",
            world.shared(),
            neighbour.addr
        );
        replace(&folder.path().join("neighbour.yaml"), &beside);
        Self { folder, world, mutual, plain, neighbour, complaints: Vec::new() }
    }

    /// The file of a case.
    fn write(&self, case: &Case, text: &str) {
        let text =
            text.replace("{T}", &self.mutual.addr.to_string()).replace("{P}", &self.plain.addr.to_string());
        replace(&self.folder.path().join(format!("{}.yaml", case.name)), &text);
    }

    fn expect(&mut self, holds: bool, complaint: impl FnOnce() -> String) {
        if !holds {
            self.complaints.push(complaint());
        }
    }

    async fn expect_neighbour(&mut self, ingress: &Ingress) {
        let (status, _) = ask(ingress, "/neighbour/x").await;
        let bytes = self.neighbour.bytes();
        self.expect(status == 200 && bytes > 0, || {
            format!("the neighbour answered {status}, its upstream saw {bytes} bytes")
        });
    }

    /// No byte of any request, and no attempt, has reached the upstreams of what is broken.
    fn expect_silence(&mut self) {
        use std::sync::atomic::Ordering::Relaxed;
        for (what, upstream) in [("TLS", &self.mutual), ("plain", &self.plain)] {
            let (bytes, connections) = (upstream.bytes(), upstream.seen.connections.load(Relaxed));
            if bytes + connections > 0 {
                self.complaints
                    .push(format!("the {what} upstream saw {bytes} bytes, {connections} connections"));
            }
        }
    }

    fn end(self) {
        assert!(self.complaints.is_empty(), "{}", self.complaints.join("\n"));
    }
}

/// The line of a file that a finding names.
fn named_line(row: &Value) -> String {
    let text = std::fs::read_to_string(row["file"].as_str().unwrap_or_default()).unwrap_or_default();
    let at = row["line"].as_u64().and_then(|line| usize::try_from(line).ok()).unwrap_or_default();
    text.lines().nth(at.wrapping_sub(1)).unwrap_or_default().to_owned()
}

/// Asks for a path; all conditions on headers that cases have are met.
async fn ask(ingress: &Ingress, path: &str) -> (u16, String) {
    let request = Request::get(path).header("host", "shop.example").header("x-a", "1").body(empty());
    Http1::new(ingress.http()).ask(request.expect("request")).await.expect("an answer")
}

/// Rows about the file of a case.
fn about<'a>(rows: &'a Value, case: &Case) -> Vec<&'a Value> {
    let file = format!("/{}.yaml", case.name);
    let mine = |row: &&Value| row["file"].as_str().is_some_and(|path| path.ends_with(&file));
    rows.as_array().expect("rows").iter().filter(mine).collect()
}

/// What `/config` says of the Mapping of a case: its action and reason.
fn route(config: &Value, case: &Case) -> (String, String) {
    let name = format!("default/{}", case.name);
    let routes =
        config["hosts"].as_array().expect("hosts").iter().filter_map(|host| host["routes"].as_array());
    let found = routes.flatten().find(|route| route["mapping"] == *name).cloned().unwrap_or_default();
    let text = |value: &Value| value.as_str().unwrap_or_default().to_owned();
    (text(&found["action"]), text(&found["unavailable"]["reason"]))
}

fn checked(folder: &Path) -> (Said, Value) {
    let said = run(&["check", "--output", "json", &folder.display().to_string()]);
    let rows = serde_json::from_str(&said.stdout).expect("JSON");
    (said, rows)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_at_first_load() {
    let mut scene = Scene::new().await;
    let cases = all(&scene.world);
    for case in &cases {
        scene.write(case, &case.broken);
    }
    let ingress = Ingress::start(scene.folder.path(), &[]).await;
    let (said, rows) = checked(scene.folder.path());
    scene.expect(said.status == 1, || format!("check ended with {}: {}", said.status, said.stderr));
    let config = ingress.config().await;
    scene.expect(config["problems"] == rows, || {
        let differs = |a: &Value, b: &Value| {
            let known: BTreeSet<_> = b.as_array().expect("rows").iter().map(ToString::to_string).collect();
            let rows = a.as_array().expect("rows").iter().map(ToString::to_string);
            rows.filter(|row| !known.contains(row)).collect::<Vec<_>>()
        };
        let (only_config, only_check) =
            (differs(&config["problems"], &rows), differs(&rows, &config["problems"]));
        format!("/config alone: {only_config:#?}\ncheck alone: {only_check:#?}")
    });
    let text = run(&["check", &scene.folder.path().display().to_string()]);
    let metrics = ingress.metrics().await;
    for case in &cases {
        findings(&mut scene, case, &rows, &text.stdout);
        let logged = ingress.logged(case.code, &format!("/{}.yaml", case.name));
        scene.expect(logged, || format!("{}: {} is not in the log", case.name, case.code));
        let counted = metrics.lines().any(|line| {
            line.starts_with("config_problems")
                && line.contains(&format!("reason=\"{}\"", case.code))
                && (case.object.is_empty() || line.contains(&format!("name=\"{}\"", case.name)))
        });
        scene.expect(counted, || format!("{}: {} is in no metric", case.name, case.code));
        answers(&mut scene, &ingress, case, &config).await;
    }
    scene.expect_neighbour(&ingress).await;
    scene.expect_silence();
    scene.end();
}

/// The finding of a case in `check`, as JSON and as text.
fn findings(scene: &mut Scene, case: &Case, rows: &Value, text: &str) {
    let rows = about(rows, case);
    let found = rows.iter().find(|row| {
        row["code"] == case.code
            && row["severity"] == "error"
            && row["kind"] == case.object
            && row["field"] == case.field
            && !row["remedy"].as_str().unwrap_or_default().is_empty()
    });
    let Some(row) = found else {
        return scene.expect(false, || format!("{}: no such finding in {rows:#?}", case.name));
    };
    let line = named_line(row);
    scene.expect(line.contains(case.line), || format!("{}: line {} is `{line}`", case.name, row["line"]));
    let start = format!("{}:{}: ", row["file"].as_str().unwrap_or_default(), row["line"]);
    let remedy = row["remedy"].as_str().unwrap_or_default();
    let printed = text.lines().any(|line| line.starts_with(&start) && line.ends_with(&format!("; {remedy}")));
    scene.expect(printed, || format!("{}: no line `{start}...; {remedy}` in {text}", case.name));
}

/// What a client gets, what the access log has, what `/config` shows of the route.
async fn answers(scene: &mut Scene, ingress: &Ingress, case: &Case, config: &Value) {
    let path = format!("/{}/x", case.name);
    let (status, body) = ask(ingress, &path).await;
    let line = ingress.access(&path).await;
    let expected = match case.place {
        Place::Kept => (503, case.code.to_owned(), format!("default/{}", case.name)),
        Place::LeftOut => (404, "no_route".to_owned(), String::new()),
    };
    let text = |key: &str| line[key].as_str().unwrap_or_default().to_owned();
    let got = (status, text("reason"), text("route"));
    scene.expect(got == expected, || format!("{}: {got:?} ({body}), not {expected:?}", case.name));
    let shown = route(config, case);
    let expected = match case.place {
        Place::Kept => ("unavailable".to_owned(), case.code.to_owned()),
        Place::LeftOut => (String::new(), String::new()),
    };
    scene.expect(shown == expected, || format!("{}: /config shows {shown:?}", case.name));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn broken_by_an_edit_and_healed_by_the_next() {
    let mut scene = Scene::new().await;
    let cases = all(&scene.world);
    for case in &cases {
        scene.write(case, &good(&scene.world, case.name));
    }
    let ingress = Ingress::start(scene.folder.path(), &[]).await;
    for case in &cases {
        let (status, body) = ask(&ingress, &format!("/{}/before", case.name)).await;
        scene.expect(status == 200, || format!("{}: {status} before the edit: {body}", case.name));
    }
    for case in &cases {
        scene.write(case, &case.broken);
    }
    for case in &cases {
        until(&format!("{}: {} in /config", case.name, case.code), async || {
            named(&ingress.config().await, case)
        })
        .await;
        let path = format!("/{}/after", case.name);
        let (status, body) = ask(&ingress, &path).await;
        let expected = match case.after {
            After::LastGood => 200,
            After::Refused => 503,
            After::LeftOut => 404,
        };
        scene.expect(status == expected, || format!("{}: {status} after the edit: {body}", case.name));
        if status == 503 {
            let line = ingress.access(&path).await;
            scene.expect(line["reason"] == case.code, || {
                format!("{}: the log says {}", case.name, line["reason"])
            });
        }
        let logged = ingress
            .log()
            .iter()
            .any(|line| line["code"] == case.code && line.to_string().contains(case.name));
        scene.expect(logged, || format!("{}: {} is not in the log", case.name, case.code));
    }
    scene.expect_neighbour(&ingress).await;
    for case in &cases {
        scene.write(case, &good(&scene.world, case.name));
    }
    for case in &cases {
        let path = format!("/{}/healed", case.name);
        until(&format!("{}: healed", case.name), async || ask(&ingress, &path).await.0 == 200).await;
    }
    until("no identity has a problem any longer", async || {
        let config = ingress.config().await;
        cases.iter().all(|case| !named(&config, case))
    })
    .await;
    let bytes = scene.plain.bytes();
    scene.expect(bytes == 0, || format!("the plain upstream saw {bytes} bytes"));
    scene.end();
}

/// Whether `/config` names the problem of a case: at the resource, or at the key material that stays in use.
fn named(config: &Value, case: &Case) -> bool {
    let identities = config["identities"].as_array().expect("identities").iter();
    let mut problems = identities
        .filter(|row| row["source"].as_str().is_some_and(|name| name.contains(&format!("/{}-", case.name))));
    about(&config["problems"], case).iter().any(|row| row["code"] == case.code)
        || problems.any(|row| row["problem"]["reason"] == case.code)
}
