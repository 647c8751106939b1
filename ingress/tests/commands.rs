//! The commands as people call them: where manifests come from, what is printed, how they end.
#![allow(clippy::expect_used, reason = "a test may stop where it fails")]

use std::process::{Command, Output, Stdio};

use serde_json::Value;

const MAPPING: &str = "apiVersion: getambassador.io/v3alpha1
kind: Mapping
metadata: {name: m}
spec: {hostname: \"*\", prefix: /, service: \"127.0.0.1:9\", timeout_mss: 5}
";

fn program(args: &[&str], env: &[(&str, &str)]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_selvedge-ingress"));
    command.args(args).env_clear().envs(env.iter().copied());
    command
}

fn said(args: &[&str], env: &[(&str, &str)]) -> (i32, String, String) {
    let Output { status, stdout, stderr } = program(args, env).output().expect("runs");
    let text = |bytes: Vec<u8>| String::from_utf8(bytes).expect("text");
    (status.code().expect("ends by itself"), text(stdout), text(stderr))
}

/// A folder with one manifest, and its path.
fn manifests() -> (tempfile::TempDir, String) {
    let folder = tempfile::tempdir().expect("folder");
    let path = folder.path().join("m.yaml");
    std::fs::write(&path, MAPPING).expect("write");
    (folder, path.display().to_string())
}

#[test]
fn check_and_explain_read_the_variable_of_run() {
    let (_folder, path) = manifests();
    let env = [("SELVEDGE_MANIFESTS", &*path)];
    let (status, stdout, _) = said(&["explain", "--output", "json", "GET", "/"], &env);
    let found: Value = serde_json::from_str(&stdout).expect("JSON");
    assert_eq!((status, &found["mapping"]), (0, &"default/m".into()));
    let (status, stdout, _) = said(&["check"], &env);
    assert!(status == 0 && stdout.contains("timeout_mss"), "{status} {stdout}");
    for (command, how) in
        [(&["explain", "GET", "/"][..], "--manifests DIR|FILE"), (&["check"], "after `check`")]
    {
        let (status, stdout, stderr) = said(command, &[]);
        assert_eq!((status, &*stdout), (2, ""), "{command:?}");
        assert!(stderr.contains(how) && stderr.contains("SELVEDGE_MANIFESTS"), "{stderr}");
    }
}

#[test]
fn explain_shows_literal_addresses_and_gives_a_reason_for_a_bad_host() {
    let (_folder, path) = manifests();
    let explain = |more: &[&str]| -> (i32, Value) {
        let args = [&["explain", "--output", "json", "--manifests", &path], more].concat();
        let (status, stdout, stderr) = said(&args, &[]);
        (status, serde_json::from_str(&stdout).unwrap_or_else(|_| stderr.into()))
    };
    let (status, found) = explain(&["GET", "/"]);
    assert_eq!((status, &found["upstream"]), (0, &vec!["127.0.0.1:9"].into()));
    let (status, found) = explain(&["-H", "Host: *", "GET", "/"]);
    assert_eq!((status, &found["reason"]), (0, &"bad_host".into()));
    let (status, found) = explain(&["OPTIONS", "*"]);
    assert_eq!((status, &found["reason"]), (0, &"no_route".into()), "{found}");
}

#[test]
fn switches_take_the_usual_words_from_the_environment() {
    let (_folder, path) = manifests();
    for (value, expected) in [("1", 1), ("true", 1), ("yes", 1), ("0", 0), ("false", 0), ("maybe", 2)] {
        let (status, _, stderr) = said(&["check", &path], &[("SELVEDGE_STRICT", value)]);
        assert_eq!(status, expected, "{value}: {stderr}");
    }
}

#[test]
fn the_version_has_both_forms() {
    let (status, text, _) = said(&["version"], &[]);
    let (also, json, _) = said(&["version", "--output", "json"], &[]);
    let json: Value = serde_json::from_str(&json).expect("JSON");
    assert_eq!((status, also), (0, 0));
    assert_eq!(text, format!("selvedge-ingress {}\n", json["version"].as_str().expect("version")));
}

#[test]
fn a_reader_that_goes_away_is_no_failure() {
    let (_folder, path) = manifests();
    for args in [&["explain", "--manifests", &*path, "GET", "/"][..], &["check", &path], &["version"]] {
        let (reader, writer) = std::io::pipe().expect("pipe");
        drop(reader);
        let ended = program(args, &[]).stdout(writer).stderr(Stdio::piped()).output().expect("runs");
        assert_eq!(ended.status.code(), Some(0), "{args:?}");
        assert!(!String::from_utf8_lossy(&ended.stderr).contains("roken pipe"), "{args:?}");
    }
}

#[test]
fn a_ready_file_that_cannot_be_written_is_named() {
    let (_folder, path) = manifests();
    let flags = ["--bind", "127.0.0.1", "--http-port", "0", "--admin", "127.0.0.1:0", "--workers", "1"];
    let args = [&["run", "--manifests", &path, "--ready-file", "/nowhere/ready.json"], &flags[..]].concat();
    let (status, _, stderr) = said(&args, &[]);
    assert_eq!(status, 3);
    assert!(stderr.contains("/nowhere/ready.json") && stderr.contains("--ready-file"), "{stderr}");
}
