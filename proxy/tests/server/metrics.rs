//! `/metrics` and the access log, as others read them.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, Instant},
};

use proxy::{
    ConnMeta, Reason,
    observe::{
        AccessLog, Counter, Gauge, Observe, Record,
        names::{self, Metric},
    },
    route::Dice,
    upstream::Attempts,
};

use tokio::io::AsyncWriteExt as _;

use super::support::*;

/// A family as the text format has it.
#[derive(Debug, Default)]
struct Family {
    kind: String,
    help: String,
    samples: Vec<(String, f64)>,
}

/// Reads the text, and fails where it is not what the format allows.
fn parse(text: &str) -> BTreeMap<String, Family> {
    let body = text.strip_suffix("# EOF\n").expect("the end is marked");
    let mut families: BTreeMap<String, Family> = BTreeMap::new();
    let mut present = String::new();
    for line in body.lines() {
        if let Some(described) = line.strip_prefix("# ") {
            let (what, rest) = described.split_once(' ').unwrap();
            let (name, text) = rest.split_once(' ').unwrap();
            let family = families.entry(name.to_owned()).or_default();
            let place = match what {
                "HELP" => &mut family.help,
                "TYPE" => &mut family.kind,
                other => panic!("{other} in {line}"),
            };
            assert!(place.is_empty(), "twice: {line}");
            text.clone_into(place);
            name.clone_into(&mut present);
            continue;
        }
        let (series, value) = line.rsplit_once(' ').unwrap();
        let (name, labels) = series.split_once('{').unwrap_or((series, "}"));
        assert!(labels.ends_with('}'), "{line}");
        let family = families.get_mut(&present).unwrap();
        let suffix = name.strip_prefix(&present).unwrap_or_else(|| panic!("{line} stands under {present}"));
        let allowed: &[&str] = match family.kind.as_str() {
            "counter" => &["_total"],
            "histogram" => &["_bucket", "_sum", "_count"],
            "gauge" | "unknown" => &[""],
            other => panic!("type {other}"),
        };
        assert!(allowed.contains(&suffix), "{line}");
        family.samples.push((series.to_owned(), value.parse().unwrap()));
    }
    families
}

fn all() -> Vec<Metric> {
    let counters = Counter::ALL.iter().map(|(_, name, help)| Metric { name, help });
    let gauges = Gauge::ALL.iter().map(|(_, name, help)| Metric { name, help });
    counters.chain(gauges).chain(names::OTHERS.iter().copied()).collect()
}

#[tokio::test]
async fn every_metric_is_shown_with_its_help_and_type_and_can_be_parsed() {
    let rig = Rig::start(Table::new(upstream().await));
    let mut client = rig.h1().await;
    for path in ["/", "/", "/early"] {
        text(client.send_request(get(path)).await.unwrap()).await;
        client.ready().await.unwrap();
    }
    let families = parse(&rig.observe.render());
    for metric in all() {
        let family = families.get(metric.name).unwrap_or_else(|| panic!("{} is not shown", metric.name));
        assert!(family.help.starts_with(metric.help), "{}: {:?}", metric.name, family.help);
    }
    assert_eq!(families.len(), all().len(), "nothing is shown that is not named: {:?}", families.keys());
    let sample = |family: &str, series: &str| {
        let found = families[family].samples.iter().find(|(found, _)| found == series);
        found.unwrap_or_else(|| panic!("{series} in {:?}", families[family])).1
    };
    let cluster = "{envoy_cluster_name=\"upstream\"";
    for (family, series, value) in [
        ("selvedge_requests", "selvedge_requests_total{class=\"2xx\"}".to_owned(), 2.0),
        ("envoy_cluster_upstream_rq", format!("envoy_cluster_upstream_rq_total{cluster}}}"), 3.0),
        (
            "envoy_cluster_upstream_rq_xx",
            format!("envoy_cluster_upstream_rq_xx{cluster},envoy_response_code_class=\"4\"}}"),
            1.0,
        ),
        ("envoy_cluster_upstream_rq_time", format!("envoy_cluster_upstream_rq_time_count{cluster}}}"), 3.0),
        ("envoy_cluster_upstream_cx_active", format!("envoy_cluster_upstream_cx_active{cluster}}}"), 1.0),
        (
            "envoy_http_downstream_rq_xx",
            "envoy_http_downstream_rq_xx{envoy_http_conn_manager_prefix=\"ingress_http\",envoy_response_code_class=\"2\"}"
                .to_owned(),
            2.0,
        ),
    ] {
        assert!((sample(family, &series) - value).abs() < f64::EPSILON, "{series}: {}", sample(family, &series));
    }
}

#[test]
fn the_page_of_metrics_lists_every_one_and_no_other() {
    let page = include_str!("../../../docs/metrics.md");
    let listed: BTreeSet<_> = page
        .lines()
        .filter_map(|line| line.strip_prefix("| `"))
        .map(|row| row.split(['`', '{']).next().unwrap())
        .collect();
    let counters = Counter::ALL.iter().map(|(_, name, _)| format!("{name}_total"));
    let counted = [names::REQUESTS, names::FAILURES, names::CLUSTER_REQUESTS];
    let counted = counted.iter().chain([&names::DOWNSTREAM_REQUESTS, &names::DOWNSTREAM_CONNECTIONS]);
    let is_counter: Vec<_> = counters.chain(counted.map(|metric| format!("{}_total", metric.name))).collect();
    let shown = |metric: Metric| {
        let total = format!("{}_total", metric.name);
        if is_counter.contains(&total) { total } else { metric.name.to_owned() }
    };
    let named: BTreeSet<_> = all().into_iter().chain(names::OF_PROGRAM.iter().copied()).map(shown).collect();
    assert_eq!(listed, named.iter().map(String::as_str).collect());
}

#[tokio::test]
async fn an_access_line_has_the_keys_of_the_contract_and_no_other() {
    let (rig, lines) = Rig::logging(Table::new(upstream().await));
    text(rig.h1().await.send_request(get("/x?y=1")).await.unwrap()).await;
    let line = lines.next().await;
    let page = include_str!("../../../docs/contract.md");
    let (_, section) = page.split_once("## Access log, JSON keys").unwrap();
    let (keys, _) = section.split_once("One line a request").unwrap();
    let keys: BTreeSet<_> = keys.split('`').skip(1).step_by(2).collect();
    let written: BTreeSet<_> = line.as_object().unwrap().keys().map(String::as_str).collect();
    assert_eq!(written, keys);
    let of = |key: &str| line[key].as_str().unwrap().to_owned();
    assert_eq!((of("method"), of("path"), of("reason")), ("GET".into(), "/x?y=1".into(), "ok".into()));
    assert_eq!(
        (of("route"), of("cluster"), of("authority")),
        ("test/rule".into(), "upstream".into(), "example.org".into())
    );
    assert_eq!((&line["status"], &line["attempts"]), (&200.into(), &1.into()));
}

/// A pipe that nobody reads, until it is told to.
struct Blocked(std::sync::mpsc::Receiver<()>);

impl std::io::Write for Blocked {
    fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
        let _unblocked = self.0.recv();
        Ok(bytes.len())
    }

    fn flush(&mut self) -> std::io::Result<()> {
        Ok(())
    }
}

#[tokio::test]
async fn a_blocked_access_log_costs_lines_and_nobody_waits() {
    let (unblock, blocked) = std::sync::mpsc::channel();
    let observe = Observe::logging_to(AccessLog::Json, Blocked(blocked));
    let worker = observe.worker();
    let addr = "127.0.0.1:1".parse().unwrap();
    let conn = ConnMeta::new("http".into(), 80, addr, addr);
    let record = Record {
        conn: &conn,
        method: "GET",
        authority: "a",
        path: "/",
        protocol: "HTTP/1.1",
        status: 200,
        grpc_status: None,
        reason: Reason::OK,
        duration: Duration::ZERO,
        bytes_in: 0,
        bytes_out: 0,
        client: addr,
        route: "",
        cluster: "",
        attempts: &Attempts::default(),
        dice: Dice::new(0),
        request_id: "",
        trace_id: "",
    };
    let started = Instant::now();
    while observe.total(Counter::AccessLogDropped) == 0 {
        worker.record(&record);
        assert!(started.elapsed() < Duration::from_secs(20), "nothing is dropped");
    }
    drop(unblock);
}

#[tokio::test]
async fn the_line_of_a_request_that_was_given_up_names_the_upstream_that_it_waited_for() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = listener.local_addr().unwrap();
    let (rig, lines) = Rig::logging(Table::new(silent));
    let mut client = rig.connect().await;
    client.write_all(b"GET / HTTP/1.1\r\nhost: a\r\n\r\n").await.unwrap();
    let (mut upstream, _) = listener.accept().await.unwrap();
    read_until(&mut upstream, "\r\n\r\n").await;
    drop(client);
    let line = lines.next().await;
    assert_eq!(line["reason"], "downstream_reset", "{line}");
    assert_eq!((&line["status"], &line["attempts"]), (&0.into(), &1.into()), "{line}");
    assert_eq!(line["upstream"], silent.to_string(), "{line}");
}
