//! `mantlet policy show`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use mantlet_injector::{Ready, Subject};
use mantlet_policy::{Limits, PortProtocol, language};
use serde_json::{Value, json};

use super::subject::{Surroundings, to_json};
use super::{code, test};
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  mantlet policy show api.yaml
  mantlet policy show --ports http=8080 -o json api.policy";

/// Arguments of `mantlet policy show`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ShowArgs {
    /// Manifests and policy files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(arguments: &ShowArgs, output: &Output) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let (mut documents, mut clean) = (Vec::new(), true);
    for file in &arguments.files {
        for subject in arguments.surroundings.subjects(file)? {
            match (subject.ready(now), arguments.output) {
                (Ok(ready), Format::Json) => documents.push(document(file, &subject, &ready, now)),
                (Ok(ready), Format::Table) => table(&subject, &ready, now, output),
                (Err(findings), Format::Json) => {
                    clean = false;
                    let findings: Vec<Value> = findings.iter().map(to_json).collect();
                    documents.push(json!({"file": file, "workload": subject.name(), "findings": findings}));
                }
                (Err(findings), Format::Table) => {
                    clean = false;
                    output.line(&output.out.bold(subject.name()));
                    test::invalid(&findings, arguments.output, output);
                }
            }
        }
    }
    if arguments.output == Format::Json {
        output.line(&json!({"workloads": documents}).to_string());
    }
    Ok(code(clean))
}

fn table(subject: &Subject, ready: &Ready, now: SystemTime, output: &Output) {
    let policy = &ready.policy;
    let mode = format!("{:?}", policy.mode(now)).to_lowercase();
    let rules = policy.rule_count();
    let name = output.out.bold(subject.name());
    output.line(&format!(
        "{name}  policy {}, mode {mode}, {rules} rule{}",
        policy.hash(),
        if rules == 1 { "" } else { "s" }
    ));
    for (range, protocol, plaintext) in ports(ready) {
        let plaintext = if plaintext { output.out.warn(", accepts plaintext") } else { String::new() };
        output.line(&format!("  port {range:<12} {protocol}{plaintext}"));
    }
    for (key, text) in &ready.set.texts {
        output.line(&format!("  {}", output.out.dim(key)));
        if let Ok(document) = language::parse(key, text, &Limits::FILES) {
            document.to_string().lines().for_each(|line| output.line(&format!("    {line}")));
        }
    }
}

fn document(file: &str, subject: &Subject, ready: &Ready, now: SystemTime) -> Value {
    let texts = ready.set.texts.iter().map(|(key, text)| {
        let rules = language::parse(key, text, &Limits::FILES).map(|document| {
            let line = |line: u32, text: String| json!({"line": line, "text": text});
            let groups = document.groups.iter().map(|group| line(group.name.at.line, group.to_string()));
            groups
                .chain(document.rules.iter().map(|rule| line(rule.line(), rule.to_string())))
                .collect::<Vec<_>>()
        });
        json!({"source": key, "lines": rules.unwrap_or_default()})
    });
    let ports = ports(ready).into_iter().map(
        |(range, protocol, plaintext)| json!({"ports": range, "protocol": protocol, "plaintext": plaintext}),
    );
    json!({
        "file": file,
        "workload": subject.name(),
        "policy": ready.policy.hash(),
        "mode": format!("{:?}", ready.policy.mode(now)).to_lowercase(),
        "rules": ready.policy.rule_labels().map(|label| &**label).collect::<Vec<_>>(),
        "ports": ports.collect::<Vec<_>>(),
        "texts": texts.collect::<Vec<_>>(),
    })
}

/// What ports speak, neighbours that are alike together.
fn ports(ready: &Ready) -> Vec<(String, &'static str, bool)> {
    let policy = &ready.policy;
    let mut ranges: Vec<(u16, u16, PortProtocol, bool)> = Vec::new();
    for port in 1..=u16::MAX {
        let (protocol, plaintext) = (policy.protocol(port), policy.accepts_plaintext(port));
        if protocol == PortProtocol::None {
            continue;
        }
        match ranges.last_mut() {
            Some((_, last, p, q)) if *last == port - 1 && (*p, *q) == (protocol, plaintext) => *last = port,
            _ => ranges.push((port, port, protocol, plaintext)),
        }
    }
    let show = |(first, last, protocol, plaintext)| {
        let range = if first == last { format!("{first}") } else { format!("{first}-{last}") };
        (range, if protocol == PortProtocol::Http { "http" } else { "tcp" }, plaintext)
    };
    ranges.into_iter().map(show).collect()
}
