//! `docs/contract.md` and the command line name the same flags, both ways; the page's marker for what is not built is the only exception.
#![allow(clippy::expect_used, reason = "a test may stop where it fails")]

use std::collections::BTreeSet;

use clap::CommandFactory as _;
use ingress::cli::Cli;

const PAGE: &str = include_str!("../../docs/contract.md");

/// clap's own flag, and the page's word for any flag.
const NOT_OURS: [&str; 2] = ["--help", "--x-y"];

/// Flags named in a text: two dashes, then small letters and dashes.
fn flags(text: &str) -> BTreeSet<String> {
    text.split(|c: char| !(c.is_ascii_lowercase() || c == '-'))
        .filter(|word| word.starts_with("--") && word.len() > 2 && !word.ends_with('-'))
        .filter(|word| !NOT_OURS.contains(word))
        .map(str::to_owned)
        .collect()
}

/// The page's sections about this program, and the flags that the page itself says are for later.
fn documented() -> (BTreeSet<String>, BTreeSet<String>) {
    let (marker, _) =
        PAGE.split_once("Rules for all programs").expect("the page starts with what is not built yet");
    let later = flags(marker);
    let ours: String = PAGE
        .split("\n## ")
        .filter(|section| !section.starts_with("selvedge-sidecar"))
        .collect::<Vec<_>>()
        .join("\n## ");
    (flags(&ours), later)
}

/// Every flag of every command, as `--help` prints it.
fn built() -> BTreeSet<String> {
    let mut root = Cli::command();
    root.build();
    root.get_subcommands_mut().flat_map(|command| flags(&command.render_long_help().to_string())).collect()
}

#[test]
fn every_flag_is_on_the_page() {
    let (page, _) = documented();
    let missing: Vec<_> = built().into_iter().filter(|flag| !page.contains(flag)).collect();
    assert!(missing.is_empty(), "docs/contract.md does not name {missing:?}");
}

#[test]
fn every_flag_of_the_page_is_built_or_marked_as_later() {
    let (page, later) = documented();
    let built = built();
    let missing: Vec<_> = page.difference(&later).filter(|flag| !built.contains(*flag)).collect();
    assert!(missing.is_empty(), "no command has {missing:?}");
    let too_early: Vec<_> = later.intersection(&built).collect();
    assert!(too_early.is_empty(), "docs/contract.md says that {too_early:?} is for later");
}

#[test]
fn a_flag_reads_its_own_variable() {
    let mut root = Cli::command();
    root.build();
    for command in root.get_subcommands() {
        for arg in command.get_arguments() {
            if let (Some(long), Some(env)) = (arg.get_long(), arg.get_env()) {
                let wanted = format!("SELVEDGE_{}", long.to_uppercase().replace('-', "_"));
                assert_eq!(env.to_str(), Some(wanted.as_str()), "{} --{long}", command.get_name());
            }
        }
    }
}

#[test]
fn every_command_is_on_the_page() {
    let (_, section) = PAGE.split_once("## selvedge-ingress").expect("the page has our section");
    for command in Cli::command().get_subcommands() {
        let name = command.get_name();
        assert!(
            section.lines().any(|line| line.split(' ').next() == Some(name)),
            "docs/contract.md has no line for {name}"
        );
    }
}
