//! What every verb has in common.

mod support;

use std::process::Stdio;

use serde_json::Value;
use support::{Scratch, mantlet, run, stderr, stdout};

#[test]
fn a_misspelt_verb_or_flag_is_a_usage_error_with_a_suggestion() {
    let scratch = Scratch::new();
    for (arguments, suggestion) in [
        (&["vrsion"][..], "'version'"),
        (&["dev-agent", "--socket", "x", "--entires", "y"], "'--entries'"),
        (&["demo", "--onse"], "'--once'"),
    ] {
        let output = run(&scratch, arguments);
        assert_eq!(output.status.code(), Some(2), "{arguments:?}");
        assert!(stderr(&output).contains(suggestion), "{}", stderr(&output));
        assert!(stdout(&output).is_empty());
    }
}

#[test]
fn the_version_is_one_line_or_one_json_document() {
    let scratch = Scratch::new();
    let version = env!("CARGO_PKG_VERSION");
    assert!(stdout(&run(&scratch, &["version"])).starts_with(&format!("mantlet {version} (")));
    assert_eq!(stdout(&run(&scratch, &["--version"])), format!("mantlet {version}\n"));
    let document: Value =
        serde_json::from_str(&stdout(&run(&scratch, &["version", "-o", "json"]))).expect("JSON");
    assert_eq!(document["version"], version);
}

#[test]
fn the_metrics_of_sidecar_and_injector_are_described_without_either() {
    let scratch = Scratch::new();
    for (of, family) in
        [("sidecar", "mantlet_authz_decisions_total"), ("injector", "mantlet_injector_admissions_total")]
    {
        let text = stdout(&run(&scratch, &["metrics", "--describe", "--of", of]));
        assert!(text.lines().any(|line| line.starts_with(family)), "{text}");
        let json = stdout(&run(&scratch, &["metrics", "--describe", "--of", of, "-o", "json"]));
        let document: Value = serde_json::from_str(&json).expect("JSON");
        let families = document["families"].as_array().expect("families");
        assert!(families.iter().any(|known| known["name"] == family), "{document}");
    }
}

#[test]
fn every_verb_explains_itself_with_examples() {
    let scratch = Scratch::new();
    for verb in [&[][..], &["demo"], &["dev-agent"], &["certs"], &["completions"]] {
        let output = run(&scratch, &[verb, &["--help"]].concat());
        assert_eq!(output.status.code(), Some(0), "{verb:?}");
        let out = stdout(&output);
        assert!(out.contains("Usage: mantlet") && out.contains("Examples:"), "{out}");
    }
}

#[test]
fn a_reader_that_goes_away_is_no_error() {
    let scratch = Scratch::new();
    let mut child = mantlet(&scratch.0, &["version"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("mantlet starts");
    drop(child.stdout.take());
    let output = child.wait_with_output().expect("it ends");
    assert_eq!((output.status.code(), stderr(&output)), (Some(0), String::new()));
}

#[test]
fn completions_are_a_script_for_the_shell_that_was_named() {
    let scratch = Scratch::new();
    for (shell, sign) in
        [("bash", "complete -F"), ("zsh", "#compdef mantlet"), ("fish", "complete -c mantlet")]
    {
        let output = run(&scratch, &["completions", shell]);
        let out = stdout(&output);
        assert!(out.contains(sign) && out.contains("dev-agent"), "{shell}: {out}");
    }
    assert_eq!(run(&scratch, &["completions", "tcsh"]).status.code(), Some(2));
}
