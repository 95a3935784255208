//! The command line.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::certs::CertsArgs;
use crate::demo::{DemoArgs, SweepArgs};
use crate::dev_agent::DevAgentArgs;
use crate::inject::{InjectArgs, UninjectArgs};
use crate::metrics::MetricsArgs;
use crate::output::ColorChoice;
use crate::policy::PolicyArgs;
use crate::traffic::edges::EdgesArgs;
use crate::traffic::tail::TailArgs;

const EXAMPLES: &str = "\
Examples:
  mantlet demo
  mantlet dev-agent --socket ./agent.sock --entries entries.toml
  mantlet certs --workload-api unix:///run/spire/sockets/agent.sock
  mantlet policy check deploy/*.yaml
  mantlet inject -f deploy.yaml --diff
  mantlet tail --deny

Exit codes:
  0 all is well, 1 a finding or a failed expectation, 2 usage, 3 unreachable";

const COMPLETIONS: &str = "\
Examples:
  mantlet completions bash > ~/.local/share/bash-completion/completions/mantlet
  mantlet completions fish > ~/.config/fish/completions/mantlet.fish";

const PROXY: &str = "\
Examples:
  mantlet proxy --help
  mantlet proxy --inbound 0.0.0.0:8443=127.0.0.1:8080 --policy api.policy";

const VERSION: &str = "\
Examples:
  mantlet version
  mantlet version -o json";

/// SPIFFE identities and policy for every connection of a workload.
#[derive(Debug, Parser)]
#[command(name = "mantlet", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// Colour; auto is on a terminal, and honours NO_COLOR and CLICOLOR_FORCE
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Four workloads with real sidecars on loopback, and what they may do to each other
    Demo(DemoArgs),
    /// Removes what a demo that was killed has left
    #[command(hide = true)]
    DemoSweep(SweepArgs),
    /// Show the identity that a Workload API gives, or that a sidecar has
    Certs(CertsArgs),
    /// Show who talks to whom, and what came of it
    Edges(EdgesArgs),
    /// Show decisions as they are made
    Tail(TailArgs),
    /// Run a development SPIFFE Workload API with its own CA
    DevAgent(DevAgentArgs),
    /// Run the sidecar
    #[command(disable_help_flag = true, after_help = PROXY)]
    Proxy(ProxyArgs),
    /// List what a sidecar measures
    Metrics(MetricsArgs),
    /// Check, test, explain and show policies, offline
    Policy(PolicyArgs),
    /// Add the sidecar to manifests, as the webhook does it to pods, offline
    Inject(InjectArgs),
    /// Take the sidecar out of manifests again
    Uninject(UninjectArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the version
    #[command(after_help = VERSION)]
    Version(VersionArgs),
}

/// Arguments of `mantlet proxy`: the sidecar reads them itself, so that both programs have one
/// table of flags.
#[derive(Debug, Args)]
pub(crate) struct ProxyArgs {
    /// Flags of the sidecar, see `mantlet proxy --help`
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "FLAGS")]
    pub(crate) arguments: Vec<OsString>,
}

/// Arguments of `mantlet completions`.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArgs {
    /// The shell
    #[arg(value_enum)]
    pub(crate) shell: clap_complete::Shell,
}

/// Arguments of `mantlet version`.
#[derive(Debug, Args)]
pub(crate) struct VersionArgs {
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    pub(crate) output: Format,
}

/// Form of a result.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum Format {
    // For people.
    #[default]
    Table,
    // One document, or one a line where there are several.
    Json,
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    fn lacking(command: &clap::Command, path: &str, found: &mut Vec<String>) {
        let path = format!("{path} {}", command.get_name());
        let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
        // As it is printed: wrapped lines could not be pasted.
        let wide = help.lines().any(|line| line.starts_with("  ") && line.chars().count() > 80);
        if !help.contains("Examples:") || !help.contains(path.trim()) || wide {
            found.push(path.clone());
        }
        for verb in command.get_subcommands().filter(|verb| verb.get_name() != "help" && !verb.is_hide_set())
        {
            lacking(verb, &path, found);
        }
    }

    #[test]
    fn every_verb_shows_examples_of_itself_that_fit_eighty_columns() {
        let mut found = Vec::new();
        let mut command = Arguments::command();
        command.build();
        lacking(&command, "", &mut found);
        assert!(found.is_empty(), "{found:?}");
    }
}
