//! The command line.

use std::ffi::OsString;

use clap::{Args, Parser, Subcommand, ValueEnum};

use crate::certs::CertsArgs;
use crate::demo::DemoArgs;
use crate::dev_agent::DevAgentArgs;
use crate::output::ColorChoice;
use crate::policy::PolicyArgs;

const EXAMPLES: &str = "\
Examples:
  mantlet demo
  mantlet dev-agent --socket ./agent.sock --entries entries.toml
  mantlet certs --workload-api unix:///run/spire/sockets/agent.sock
  mantlet policy check deploy/*.yaml

Exit codes: 0 all is well, 1 a finding or a failed expectation, 2 usage, 3 unreachable.";

const COMPLETIONS: &str = "\
Examples:
  mantlet completions bash > ~/.local/share/bash-completion/completions/mantlet
  mantlet completions fish > ~/.config/fish/completions/mantlet.fish";

/// SPIFFE identities and policy for every connection of a workload.
#[derive(Debug, Parser)]
#[command(name = "mantlet", version, after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct Arguments {
    #[command(subcommand)]
    pub(crate) command: Command,

    /// When to use colour; NO_COLOR and CLICOLOR_FORCE are honoured
    #[arg(long, global = true, value_enum, default_value_t, value_name = "WHEN")]
    pub(crate) color: ColorChoice,
}

/// The verbs.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Two workloads with real sidecars on loopback, and what they may do to each other
    Demo(DemoArgs),
    /// Show the identity that a Workload API gives
    Certs(CertsArgs),
    /// Run a development SPIFFE Workload API with its own CA
    DevAgent(DevAgentArgs),
    /// Run the sidecar
    #[command(disable_help_flag = true)]
    Proxy(ProxyArgs),
    /// Check, test, explain and show policies, offline
    Policy(PolicyArgs),
    /// Print a completion script for a shell
    #[command(after_help = COMPLETIONS)]
    Completions(CompletionsArgs),
    /// Print the version
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
    /// For people
    #[default]
    Table,
    /// One JSON document
    Json,
}
