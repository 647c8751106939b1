//! `explain` says before what the access log says afterwards: the same mapping, cluster and reason for the same dice.

mod random;

use std::{fmt::Write as _, path::Path, sync::Arc, time::SystemTime};

use clap::Parser as _;
use http::Request;
use ingress::{
    cli::{Cli, Command, DecisionSettings},
    command::explain::{Question, answer},
    compile::{CompileSettings, Input, compile, wants},
    keyring::Keyring,
    publish::Publisher,
    route::Table,
};
use proxy::upstream::Clusters;
use serde_json::Value;

use self::random::{Asked, Random, SERVICES};
use super::harness::{
    Ingress, Upstream,
    client::{Http1, Http2, empty},
    process::run,
    replace,
};

const MAPPINGS: usize = 200;
const REQUESTS: usize = 1_000;
/// So many of the questions are put to the command itself, the others to the function that it calls.
const COMMANDS: usize = 50;

/// `--resolve` for every service: all of them are the same upstream.
fn resolve(upstream: &Upstream) -> Vec<String> {
    let rule = |name| ["--resolve".to_owned(), format!("{name}={}", upstream.addr)];
    SERVICES.into_iter().flat_map(rule).collect()
}

/// The table that `explain` decides with, made once for all questions.
fn table(manifests: &Path, flags: &[String]) -> Arc<Table> {
    let path = manifests.display().to_string();
    let line = ["selvedge-ingress", "explain", "--manifests", &path, "GET", "/"].map(str::to_owned);
    let Command::Explain(args) = Cli::parse_from(line.into_iter().chain(flags.iter().cloned())).command
    else {
        panic!("explain was asked for")
    };
    let settings = DecisionSettings::new(&args.decision, &|_| None).expect("settings");
    let settings = CompileSettings::from(&settings);
    let set =
        resource::FileSource::load(&[manifests.to_path_buf()], &settings.namespace).expect("manifests").set();
    let mut keys = Keyring::new(None, false);
    keys.update(&wants(&set.documents, &settings), &set.documents, SystemTime::now());
    let input = Input { documents: &set.documents, errors: &set.errors, keys: &keys, settings: &settings };
    Publisher::new(Clusters::new(None)).table(compile(&input).0, &keys).0
}

/// What has to agree.
#[derive(Debug, PartialEq, Eq)]
struct Verdict {
    mapping: String,
    cluster: String,
    reason: String,
}

impl Verdict {
    fn of(value: &Value, mapping: &str) -> Self {
        let text =
            |key: &str| value[key].as_str().unwrap_or_else(|| panic!("no {key} in {value}")).to_owned();
        Self { mapping: text(mapping), cluster: text("cluster"), reason: text("reason") }
    }

    fn explained(found: &Value) -> Self {
        Self::of(found, "mapping")
    }

    fn logged(line: &Value) -> Self {
        Self::of(line, "route")
    }
}

/// Sends every request, each third over HTTP/2.
async fn send(ingress: &Ingress, asked: &[Asked]) {
    let (mut http1, mut http2) = (Http1::new(ingress.http()), Http2::new(ingress.http()));
    for (number, asked) in asked.iter().enumerate() {
        let build = |target: String, host: Option<&str>| {
            let mut request = Request::builder().method(asked.method).uri(target);
            if let Some(host) = host {
                request = request.header("host", host);
            }
            for (name, value) in &asked.headers {
                request = request.header(*name, *value);
            }
            request.body(empty()).expect("request")
        };
        let answered = if number % 3 == 0 {
            http2.try_ask(|| build(asked.url(), None)).await
        } else {
            http1.try_ask(build(asked.target.clone(), Some(asked.host))).await
        };
        assert!(answered.as_ref().is_ok_and(Option::is_some), "{asked:?}: {answered:?}");
    }
}

/// Puts a question to the command itself.
fn command(manifests: &Path, flags: &[String], asked: &Asked, dice: u8) -> Value {
    let (path, dice, url) = (manifests.display().to_string(), dice.to_string(), asked.url());
    let headers: Vec<String> = asked.headers.iter().map(|(name, value)| format!("{name}: {value}")).collect();
    let mut line = vec!["explain", "--output", "json", "--manifests", &path, "--dice", &dice];
    line.extend(headers.iter().flat_map(|header| ["-H", header.as_str()]));
    line.extend(flags.iter().map(String::as_str));
    line.extend([asked.method, &url]);
    let said = run(&line);
    assert_eq!(said.status, 0, "{line:?}: {}", said.stderr);
    serde_json::from_str(&said.stdout).expect("JSON")
}

async fn agrees(seed: u64, hosts: bool) {
    let upstream = Upstream::plain().await;
    let mut random = Random::new(seed);
    let folder = tempfile::tempdir().expect("folder");
    let mut text = if hosts { random::HOSTS.to_owned() } else { String::new() };
    for mapping in random.mappings(MAPPINGS) {
        write!(text, "---\n{mapping}").expect("text");
    }
    replace(&folder.path().join("all.yaml"), &text);
    let flags = resolve(&upstream);
    let given: Vec<&str> = flags.iter().map(String::as_str).collect();
    let ingress = Ingress::start(folder.path(), &given).await;
    let asked: Vec<Asked> = (0..REQUESTS).map(|number| random.request(number)).collect();
    send(&ingress, &asked).await;
    let last = asked.last().expect("some");
    ingress.access(&last.target).await;
    let lines = ingress.access_log();
    let table = table(folder.path(), &flags);
    let mut differ = Vec::new();
    let mut outcomes = std::collections::BTreeMap::<String, usize>::new();
    for (number, asked) in asked.iter().enumerate() {
        let line = lines.iter().find(|line| line["path"] == *asked.target);
        let line = line.unwrap_or_else(|| panic!("no line for {}", asked.target));
        let dice = line["dice"].as_u64().and_then(|dice| u8::try_from(dice).ok()).expect("dice");
        let headers = asked.headers.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let question = Question {
            method: asked.method.to_owned(),
            url: asked.url(),
            headers: headers.collect(),
            dice,
            ..Question::default()
        };
        let found = answer(&table, &question).expect("an answer");
        if number % (REQUESTS / COMMANDS) == 0 {
            assert_eq!(command(folder.path(), &flags, asked, dice), found, "{asked:?}");
        }
        let (explained, logged) = (Verdict::explained(&found), Verdict::logged(line));
        *outcomes.entry(logged.reason.clone()).or_default() += 1;
        if explained != logged {
            differ.push(format!("{asked:?} with dice {dice}: explain {explained:?}, log {logged:?}"));
        }
    }
    eprintln!(
        "seed {seed}: {MAPPINGS} Mappings, {REQUESTS} requests, {} differ; reasons {outcomes:?}",
        differ.len()
    );
    assert!(differ.is_empty(), "{} differ:\n{}", differ.len(), differ[..differ.len().min(10)].join("\n"));
    assert!(outcomes.len() > 4 && outcomes["ok"] > REQUESTS / 10, "too plain to show anything: {outcomes:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn without_hosts() {
    agrees(8, false).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn with_hosts() {
    agrees(88, true).await;
}

/// What only a request shows: a rewrite that makes no path of it. The client is not to blame.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_rewrite_that_gives_no_path() {
    let upstream = Upstream::plain().await;
    let folder = tempfile::tempdir().expect("folder");
    let mapping = format!(
        "apiVersion: getambassador.io/v3alpha1\nkind: Mapping\nmetadata: {{name: m}}\n\
         spec: {{hostname: \"*\", prefix: /a/, service: \"{}\", regex_rewrite: {{pattern: \"^/a/(.*)\", substitution: '\\1'}}}}\n",
        upstream.addr
    );
    replace(&folder.path().join("all.yaml"), &mapping);
    let ingress = Ingress::start(folder.path(), &[]).await;
    let table = table(folder.path(), &[]);
    for (path, status, reason, action) in
        [("/a//x?q", 200, "ok", "forward"), ("/a/x?q", 500, "bad_rewrite", "respond 500")]
    {
        let request = Request::get(path).header("host", "a.test").body(empty()).expect("request");
        let (answered, _) = Http1::new(ingress.http()).ask(request).await.expect("an answer");
        assert_eq!(answered, status, "{path}");
        assert_eq!(ingress.access(path).await["reason"], reason, "{path}");
        let question =
            Question { method: "GET".to_owned(), url: format!("http://a.test{path}"), ..Question::default() };
        let found = answer(&table, &question).expect("an answer");
        assert_eq!((&found["reason"], &found["action"]), (&reason.into(), &action.into()), "{path}");
    }
}
