//! What a policy belongs to: a pod template of a manifest, or nothing but a policy file.

use std::io::Read as _;
use std::path::Path;

use clap::Args;
use mantlet_id::TrustDomain;
use mantlet_injector::{Installation, Subject};
use mantlet_policy::{Diagnostic, Guardrails, NamedPort, Workload};
use serde_json::{Value, json};

use super::manifest;
use crate::failure::Failure;

/// Larger files are no policies.
const MAX_BYTES: u64 = 64 * 1024 * 1024;

/// What a policy is read against.
#[derive(Debug, Args)]
pub(super) struct Surroundings {
    /// The trust domain of ns/sa and mesh
    #[arg(long, default_value = "cluster.local", value_name = "NAME")]
    trust_domain: String,
    /// The own namespace, where a manifest does not say it
    #[arg(long, default_value = "default", value_name = "NAME")]
    namespace: String,
    /// The container ports of a policy file, as [name=]port[/tcp],..
    #[arg(long, default_value = "", value_name = "PORTS")]
    ports: String,
    /// A file with the guardrails of the installation, one per line
    #[arg(long, value_name = "FILE")]
    guardrails: Option<String>,
}

// === impl Surroundings ===

impl Surroundings {
    /// The policies in `file`; `-` is standard input.
    pub(super) fn subjects(&self, file: &str) -> Result<Vec<Subject>, Failure> {
        let text = read(file)?;
        let trust_domain = TrustDomain::parse(&self.trust_domain).map_err(|error| {
            Failure::usage(format!("\"{}\" is no trust domain", self.trust_domain)).because(&error)
        })?;
        let guardrails = match &self.guardrails {
            Some(path) => Guardrails::parse(&read(path)?).map_err(Failure::usage)?,
            None => Guardrails::default(),
        };
        let namespace = self.namespace.clone();
        if !is_manifest(file, &text) {
            let ports = NamedPort::parse_list(&self.ports).map_err(Failure::usage)?;
            let workload = Workload { trust_domain, namespace, service_account: None, ports };
            return Ok(vec![Subject::of_text(file.to_owned(), text, workload, guardrails)]);
        }
        let installation = Installation { trust_domain, namespace, guardrails };
        let templates = manifest::templates(&text).map_err(|error| {
            Failure::usage(format!("{file} cannot be read: {error}"))
                .next("give YAML or JSON, or a policy file")
        })?;
        if templates.is_empty() {
            return Err(Failure::usage(format!("{file} has no pod template"))
                .next("a policy file must not end in .yaml, .yml or .json"));
        }
        let subject = |template| Subject::of_template(template, &installation);
        Ok(templates.into_iter().map(subject).collect())
    }

    /// The one policy of `file` that is meant: by `workload`, where there are several.
    pub(super) fn subject_named(&self, file: &str, workload: Option<&str>) -> Result<Subject, Failure> {
        let mut subjects = self.subjects(file)?;
        let names: Vec<String> = subjects.iter().map(|subject| subject.name().to_owned()).collect();
        if let Some(wanted) = workload {
            subjects.retain(|subject| {
                subject.name().split([' ', '/']).any(|part| part == wanted) || subject.name() == wanted
            });
        }
        match (subjects.pop(), subjects.is_empty()) {
            (Some(subject), true) => Ok(subject),
            _ => Err(Failure::usage(format!("{file} has {}", names.join(", ")))
                .next("say which with --workload NAME")),
        }
    }
}

/// A finding as JSON.
pub(super) fn to_json(finding: &Diagnostic) -> Value {
    let position = finding.position;
    json!({
        "code": finding.code.as_str(),
        "severity": if finding.is_warning() { "warning" } else { "error" },
        "source": finding.source,
        "line": position.map(|position| position.line),
        "column": position.map(|position| position.column),
        "message": finding.message,
        "help": finding.help,
    })
}

/// The text of `file`; `-` is standard input.
pub(crate) fn read(file: &str) -> Result<String, Failure> {
    let mut text = String::new();
    let result = if file == "-" {
        std::io::stdin().lock().take(MAX_BYTES).read_to_string(&mut text)
    } else {
        std::fs::File::open(file).and_then(|opened| opened.take(MAX_BYTES).read_to_string(&mut text))
    };
    result.map_err(|error| Failure::usage(format!("{file} cannot be read")).because(&error))?;
    Ok(text)
}

/// By its name; standard input by what it starts with.
fn is_manifest(file: &str, text: &str) -> bool {
    match Path::new(file).extension().and_then(|extension| extension.to_str()) {
        Some("yaml" | "yml" | "json") => true,
        _ if file == "-" => {
            text.lines().map(str::trim).find(|line| !line.is_empty() && !line.starts_with('#')).is_some_and(
                |line| {
                    line == "---"
                        || line.starts_with('{')
                        || line.contains("kind:")
                        || line.starts_with("apiVersion:")
                },
            )
        }
        _ => false,
    }
}
