//! Every flag of `run` has a test that it takes effect, and every variable is read.
#![allow(clippy::expect_used, clippy::unwrap_used, reason = "a test may stop where it fails")]

mod proof;

use std::{
    collections::BTreeSet,
    process::{Command, Stdio},
};

use clap::CommandFactory as _;
use ingress::cli::Cli;

/// Each flag of `run`, and the test on the real program that shows what it changes.
const PROVEN: &[(&str, &str, &str)] = &[
    ("access-log", "logs", "the_access_log_has_the_form_that_is_asked_for"),
    ("admin", "places", "peers_beyond_loopback_get_health_and_metrics_alone"),
    ("admin", "places", "the_ready_file_names_what_listens_and_who"),
    ("allow-dev-identity", "places", "a_dev_identity_is_shown_beyond_loopback_only_if_that_is_allowed"),
    ("allow-upstream", "upstreams", "an_upstream_that_is_ourselves_is_refused_unless_it_is_allowed"),
    ("bind", "places", "listeners_are_where_bind_and_the_ports_say"),
    ("bind", "variables", "the_address_to_bind_comes_from_flag_variable_and_emissary"),
    ("connect-timeout", "limits", "an_upstream_that_does_not_shake_hands_is_given_up_by_the_connect_timeout"),
    ("drain-delay", "../drain", "a_drain_delay_accepts_on_while_ready_says_draining"),
    ("drain-timeout", "../drain", "what_outlasts_the_deadline_is_cut_and_ends_with_4"),
    ("drain-timeout", "variables", "the_time_to_drain_comes_from_variable_and_emissary"),
    ("handshake-timeout", "limits", "a_handshake_that_does_not_end_is_cut_by_the_handshake_timeout"),
    ("header-timeout", "limits", "a_head_that_does_not_end_is_cut_by_the_header_timeout"),
    ("health", "places", "the_ready_file_names_what_listens_and_who"),
    ("http-port", "places", "listeners_are_where_bind_and_the_ports_say"),
    ("https-port", "places", "listeners_are_where_bind_and_the_ports_say"),
    ("identity-timeout", "upstreams", "no_svid_within_the_identity_timeout_is_said_and_it_serves_on"),
    ("idle-timeout", "limits", "a_connection_without_a_request_is_closed_by_the_idle_timeout"),
    ("log-format", "logs", "the_log_has_the_form_that_is_asked_for"),
    ("log-level", "logs", "the_log_says_as_much_as_its_level_and_modules_allow"),
    ("manifests", "places", "manifests_are_read_from_every_place_that_is_named"),
    ("max-connections", "limits", "there_are_no_more_connections_than_allowed"),
    ("max-handshakes", "limits", "there_are_no_more_handshakes_than_allowed"),
    ("max-header-bytes", "limits", "a_head_has_no_more_bytes_than_allowed"),
    ("max-headers", "limits", "a_head_has_no_more_fields_than_allowed"),
    ("max-resets", "limits", "a_client_that_resets_more_than_allowed_loses_its_connection"),
    ("max-streams", "limits", "there_are_no_more_streams_than_allowed"),
    ("proxy-protocol-from", "places", "a_proxy_header_is_believed_of_peers_that_are_named"),
    ("ready-file", "places", "the_ready_file_names_what_listens_and_who"),
    (
        "require-verified-upstreams",
        "upstreams",
        "upstreams_that_nobody_verifies_are_refused_if_verification_is_required",
    ),
    ("resolve", "upstreams", "names_are_resolved_as_told"),
    ("spiffe-socket", "variables", "the_workload_api_comes_from_flag_variable_and_spiffe"),
    ("stream-idle-timeout", "limits", "a_stream_without_bytes_is_cut_by_the_stream_idle_timeout"),
    ("upstream-timeout", "limits", "an_answer_that_does_not_come_is_given_up_by_the_upstream_timeout"),
    ("workers", "places", "there_are_as_many_workers_as_asked_for"),
    ("workers", "variables", "a_flag_wins_over_its_variable_and_that_over_envoys"),
];

/// Flags that no test needs to name because the harness gives them to every program that it starts.
const GIVEN_BY_HARNESS: [&str; 2] = ["manifests", "ready-file"];

/// The flags of `run` as `--help` has them, without clap's own.
fn flags() -> BTreeSet<String> {
    let mut root = Cli::command();
    root.build();
    let run = root.find_subcommand_mut("run").expect("run");
    let help = run.render_long_help().to_string();
    let found = help
        .split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .filter_map(|word| word.strip_prefix("--"));
    let found: BTreeSet<_> =
        found.filter(|flag| !flag.is_empty() && *flag != "help").map(str::to_owned).collect();
    let known = run.get_arguments().filter_map(|arg| arg.get_long()).filter(|flag| *flag != "help");
    assert_eq!(found, known.map(str::to_owned).collect(), "--help shows what clap knows");
    found
}

#[test]
fn every_flag_has_a_test_that_it_takes_effect_and_every_such_test_is_there() {
    let rows: BTreeSet<_> = PROVEN.iter().map(|(flag, ..)| (*flag).to_owned()).collect();
    assert_eq!(rows, flags(), "flags with a row, and flags that `run --help` shows");
    for (flag, file, test) in PROVEN {
        let body = proof::test(&format!("ingress/tests/live/flags/{file}.rs"), test);
        let variable = format!("SELVEDGE_{}", flag.to_uppercase().replace('-', "_"));
        let named = body.contains(&format!("--{flag}")) || body.contains(&variable);
        assert!(named || GIVEN_BY_HARNESS.contains(flag), "{test} does not give --{flag}");
    }
}

/// What a variable says that cannot be meant, and what the program says then.
fn said(env: &[(&str, &str)]) -> (i32, String) {
    let folder = tempfile::tempdir().expect("folder");
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-ingress"));
    command.arg("run").env_clear().stdin(Stdio::null());
    if env.iter().all(|(name, _)| *name != "SELVEDGE_MANIFESTS") {
        command.env("SELVEDGE_MANIFESTS", folder.path());
    }
    // Whatever is wrongly taken for good must not stay, and must not meet another test.
    command.envs([
        ("SELVEDGE_ADMIN", "127.0.0.1:0"),
        ("SELVEDGE_HTTP_PORT", "0"),
        ("SELVEDGE_BIND", "127.0.0.1"),
    ]);
    command.envs([("SELVEDGE_READY_FILE", "/nowhere/ready.json")]);
    let output = command.envs(env.iter().copied()).output().expect("runs");
    let text = String::from_utf8(output.stderr).expect("UTF-8");
    (output.status.code().expect("ends by itself"), text)
}

#[test]
fn every_variable_is_read_and_a_bad_one_is_named() {
    for flag in flags() {
        let variable = format!("SELVEDGE_{}", flag.to_uppercase().replace('-', "_"));
        // A path may be any text; that it is used shows in what goes wrong with it.
        let (value, status, named) = match flag.as_str() {
            "manifests" => ("/nowhere/at/all", 2, "/nowhere/at/all".to_owned()),
            "ready-file" => ("/nowhere/at/all", 3, "/nowhere/at/all".to_owned()),
            "spiffe-socket" => ("nonsense", 2, "nonsense".to_owned()),
            "log-level" => ("=,=", 2, "--log-level".to_owned()),
            "resolve" | "allow-upstream" | "proxy-protocol-from" => ("nonsense", 2, variable.clone()),
            _ => ("nonsense", 2, format!("--{flag}")),
        };
        let (ended, stderr) = said(&[(&variable, value)]);
        assert_eq!(ended, status, "{variable}={value}: {stderr}");
        assert!(stderr.contains(&named), "{variable}={value}: {stderr}");
    }
}

#[test]
fn a_bad_variable_of_emissary_or_envoy_is_named() {
    for variable in ["ENVOY_CONCURRENCY", "AMBASSADOR_DRAIN_TIME"] {
        let (status, stderr) = said(&[(variable, "nonsense")]);
        assert_eq!(status, 2, "{variable}: {stderr}");
        assert!(stderr.contains(variable) && stderr.contains("nonsense"), "{stderr}");
    }
}
