//! `mantlet policy check`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use serde_json::json;

use super::code;
use super::subject::{Surroundings, to_json};
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  mantlet policy check deploy/*.yaml
  mantlet policy check --strict --trust-domain prod.example api.policy
  kustomize build . | mantlet policy check -

Exit codes: 0 nothing found, 1 something found, 2 usage.";

/// Arguments of `mantlet policy check`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CheckArgs {
    /// Manifests and policy files; - is standard input
    #[arg(required = true, value_name = "FILE")]
    files: Vec<String>,
    /// Fail on warnings too
    #[arg(long)]
    strict: bool,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(arguments: &CheckArgs, output: &Output) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let (mut documents, mut errors, mut warnings) = (Vec::new(), 0, 0);
    for file in &arguments.files {
        for subject in arguments.surroundings.subjects(file)? {
            let report = subject.report(now);
            errors += report.errors.len();
            warnings += report.warnings.len();
            let findings = || report.errors.iter().chain(&report.warnings);
            if arguments.output == Format::Json {
                documents.push(json!({
                    "file": file,
                    "workload": subject.name(),
                    "valid": report.errors.is_empty(),
                    "findings": findings().map(to_json).collect::<Vec<_>>(),
                }));
                continue;
            }
            let mark = match (report.errors.is_empty(), report.warnings.is_empty()) {
                (false, _) => output.out.cross(),
                (true, false) => output.out.warn(output.out.symbol("‼", "!")),
                (true, true) => output.out.tick(),
            };
            let place = if subject.name() == file { String::new() } else { format!("{file}: ") };
            output.line(&format!("{mark} {place}{}", subject.name()));
            for finding in findings() {
                for line in finding.to_string().lines() {
                    output.line(&format!("  {line}"));
                }
            }
        }
    }
    let clean = errors == 0 && (warnings == 0 || !arguments.strict);
    match arguments.output {
        Format::Json => {
            output.line(&json!({"errors": errors, "warnings": warnings, "workloads": documents}).to_string());
        }
        Format::Table if errors + warnings > 0 => {
            output.line(&format!("{}, {}", count(errors, "error"), count(warnings, "warning")))
        }
        Format::Table => {}
    }
    Ok(code(clean))
}

fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}
