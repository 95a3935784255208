//! The `mantlet` command: a thin layer over the libraries.
//!
//! Results go to standard output, progress and logs to standard error. The exit code is 0 when all
//! is well, 1 for a finding or an expectation that failed, 2 for a usage error, 3 when something
//! cannot be reached.

#![deny(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]
#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing))]

mod admin;
mod arguments;
mod certs;
mod demo;
mod dev_agent;
mod failure;
mod inject;
mod metrics;
mod output;
mod policy;
mod runtime;
mod traffic;
mod version;

use std::process::ExitCode;

use clap::{CommandFactory as _, Parser as _};

use crate::arguments::{Arguments, Command, CompletionsArgs};
use crate::failure::Failure;
use crate::output::Output;

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let output = Output::detect(arguments.color);
    match run(arguments.command, &output) {
        Ok(code) => code,
        Err(failure) => {
            output.failure(&failure);
            failure.exit_code()
        }
    }
}

fn run(command: Command, output: &Output) -> Result<ExitCode, Failure> {
    match command {
        Command::Proxy(arguments) => return Ok(mantlet_proxy::main("mantlet proxy", arguments.arguments)),
        Command::Certs(arguments) => certs::run(&arguments, output)?,
        Command::Completions(arguments) => completions(&arguments, output),
        Command::Demo(arguments) => demo::run(&arguments, output)?,
        Command::DemoSweep(arguments) => demo::sweep(&arguments),
        Command::DevAgent(arguments) => dev_agent::run(arguments, output)?,
        Command::Edges(arguments) => return traffic::edges::run(&arguments, output),
        Command::Inject(arguments) => return inject::run(&arguments, output),
        Command::Uninject(arguments) => return inject::run_uninject(&arguments, output),
        Command::Metrics(arguments) => metrics::run(&arguments, output)?,
        Command::Tail(arguments) => return traffic::tail::run(&arguments, output),
        Command::Policy(arguments) => return policy::run(&arguments, output),
        Command::Version(arguments) => version::run(&arguments, output)?,
    }
    Ok(ExitCode::SUCCESS)
}

/// Made from the same description of the command line that the help texts come from.
fn completions(arguments: &CompletionsArgs, output: &Output) {
    let mut script = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "mantlet", &mut script);
    output.line(String::from_utf8_lossy(&script).trim_end());
}
