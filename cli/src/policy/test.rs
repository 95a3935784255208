//! `mantlet policy test`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use mantlet_policy::{Diagnostic, expect};
use serde_json::json;

use super::code;
use super::subject::{Surroundings, read, to_json};
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  mantlet policy test -f api.yaml api.expect
  mantlet policy test -f api.policy --ports http=8080 api.expect

An expectation file, one line each:
  expect allow web/frontend GET /orders/42 on 8080 by orders-read
  expect deny  web/frontend DELETE /orders/42 on 8080 by default
  expect bad   web/frontend GET /orders/../admin on 8080 because dot-segment
  expect allow pay/ledger grpc shop.v1.Orders/Get on grpc
  expect deny  data/etl tcp on 5432 at 2027-01-01T00:00Z by expired
  expect allow web/cart POST /orders on 8080 header x-tenant = a host api.shop

Exit codes: 0 all hold, 1 one does not or the policy is invalid, 2 usage.";

/// Arguments of `mantlet policy test`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TestArgs {
    /// Files with expectations
    #[arg(required = true, value_name = "EXPECTATIONS")]
    expectations: Vec<String>,
    /// The manifest or policy file to ask
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Which workload of the manifest
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(arguments: &TestArgs, output: &Output) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let subject = arguments.surroundings.subject_named(&arguments.file, arguments.workload.as_deref())?;
    let ready = match subject.ready(now) {
        Ok(ready) => ready,
        Err(findings) => return Ok(invalid(&findings, arguments.output, output)),
    };
    let (mut results, mut failed, mut total) = (Vec::new(), 0, 0);
    for file in &arguments.expectations {
        let expectations = match expect::parse(file, &read(file)?, subject.workload()) {
            Ok(expectations) => expectations,
            Err(findings) => return Ok(invalid(&findings, arguments.output, output)),
        };
        for expectation in expectations {
            let (decision, holds) = expectation.check(&ready.policy, now);
            let got = expect::describe(&decision);
            total += 1;
            failed += usize::from(!holds);
            if arguments.output == Format::Json {
                let text = &expectation.text;
                results.push(
                    json!({"file": file, "line": expectation.line, "text": text, "got": got, "holds": holds}),
                );
            } else if !holds {
                output.line(&format!(
                    "{} {file}:{} {}",
                    output.out.cross(),
                    expectation.line,
                    expectation.text
                ));
                output.line(&format!("  got {got}"));
            }
        }
    }
    match arguments.output {
        Format::Json => {
            output.line(&json!({"total": total, "failed": failed, "results": results}).to_string())
        }
        Format::Table => {
            let mark = if failed == 0 { output.out.tick() } else { output.out.cross() };
            output.line(&format!("{mark} {} of {total} expectations hold", total - failed));
        }
    }
    Ok(code(failed == 0))
}

/// Findings instead of results.
pub(super) fn invalid(findings: &[Diagnostic], format: Format, output: &Output) -> ExitCode {
    match format {
        Format::Json => {
            output.line(&json!({"findings": findings.iter().map(to_json).collect::<Vec<_>>()}).to_string());
        }
        Format::Table => findings.iter().for_each(|finding| output.line(&finding.to_string())),
    }
    code(false)
}
