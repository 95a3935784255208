//! `mantlet policy`: read policies as admission and the sidecar do, offline.

mod check;
mod explain;
mod manifest;
mod show;
mod subject;
mod test;

use std::process::ExitCode;

use clap::{Args, Subcommand};

use crate::failure::Failure;
use crate::output::Output;

pub(crate) use subject::read;

const EXAMPLES: &str = "\
Examples:
  mantlet policy check deploy/*.yaml
  mantlet policy test orders.expect -f deploy/orders.yaml
  mantlet policy explain -f orders.policy --as web/frontend --on 8080 GET /a
  helm template . | mantlet policy check -

A file is a manifest (.yaml, .yml, .json: Pods and whatever has a pod template, lists and several
documents included) or a policy (anything else: the text of one mantlet.dev/policy annotation).

Exit codes: 0 all is well, 1 a finding or a failed expectation, 2 usage.";

/// Arguments of `mantlet policy`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct PolicyArgs {
    #[command(subcommand)]
    verb: Verb,
}

/// What is done with a policy.
#[derive(Debug, Subcommand)]
enum Verb {
    /// Find errors and what is probably not meant, as admission does
    Check(check::CheckArgs),
    /// Run expectations: who may do what
    Test(test::TestArgs),
    /// Say why a request would be allowed or denied, and what would change it
    Explain(explain::ExplainArgs),
    /// Show the rules in normal form and what each port speaks
    Show(show::ShowArgs),
}

pub(crate) fn run(arguments: &PolicyArgs, output: &Output) -> Result<ExitCode, Failure> {
    match &arguments.verb {
        Verb::Check(arguments) => check::run(arguments, output),
        Verb::Test(arguments) => test::run(arguments, output),
        Verb::Explain(arguments) => explain::run(arguments, output),
        Verb::Show(arguments) => show::run(arguments, output),
    }
}

/// 0, or 1 where there is something to put right.
fn code(clean: bool) -> ExitCode {
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
