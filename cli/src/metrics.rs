//! `mantlet metrics --describe`: what a sidecar and the injector measure.

use clap::Args;
use mantlet_injector::metrics::FAMILIES;
use mantlet_proxy::metrics::{Description, Level, Metrics, Options, Stability};
use serde_json::json;

use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::Output;

const EXAMPLES: &str = "\
Examples:
  mantlet metrics --describe
  mantlet metrics --describe --level minimal
  mantlet metrics --describe --of injector
  mantlet metrics --describe -o json | jq -r '.families[].name'";

/// Arguments of `mantlet metrics`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct MetricsArgs {
    /// List every family with type, labels, stability and what it says
    #[arg(long, required = true)]
    describe: bool,

    /// Who measures
    #[arg(long, value_enum, default_value_t)]
    of: Of,

    /// Only what a sidecar with this --metrics-level shows
    #[arg(long, value_enum, default_value_t)]
    level: LevelChoice,

    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
enum LevelChoice {
    /// What the alerts need
    Minimal,
    /// What the dashboard needs too
    Default,
    /// Everything
    #[default]
    Full,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, clap::ValueEnum)]
enum Of {
    /// The sidecar
    #[default]
    Sidecar,
    /// The injector, which has no levels
    Injector,
}

pub(crate) fn run(arguments: &MetricsArgs, output: &Output) -> Result<(), Failure> {
    let level = match arguments.level {
        LevelChoice::Minimal => Level::Minimal,
        LevelChoice::Default => Level::Default,
        LevelChoice::Full => Level::Full,
    };
    if arguments.of == Of::Injector {
        match arguments.output {
            Format::Json => {
                let document = json!({"schema": "mantlet.metrics/v1", "families": FAMILIES});
                output.line(&document.to_string());
            }
            Format::Table => FAMILIES.iter().for_each(|family| {
                output.line(&format!("{}{}", family.name, braces(family.labels)));
                output.line(&format!("    {} ({})", family.help, family.kind));
            }),
        }
        return Ok(());
    }
    let metrics = Metrics::new(Options::default());
    let shown = metrics.describe().iter().filter(|family| family.level <= level);
    match arguments.output {
        Format::Json => {
            let families: Vec<_> = shown.collect();
            output.line(&json!({"schema": "mantlet.metrics/v1", "families": families}).to_string());
        }
        Format::Table => shown.for_each(|family| table(family, output)),
    }
    Ok(())
}

/// Two lines a family: names of families are too long for columns.
fn table(family: &Description, output: &Output) {
    let labels = braces(family.labels);
    let unstable = match family.stability {
        Stability::Stable => "",
        Stability::Unstable => ", unstable",
    };
    let level = match family.level {
        Level::Minimal => "minimal",
        Level::Default => "default",
        Level::Full => "full",
    };
    output.line(&format!("{}{labels}", family.name));
    output.line(&format!("    {} ({}, {level}{unstable})", family.help, family.kind));
}

fn braces(labels: &[&str]) -> String {
    match labels {
        [] => String::new(),
        labels => format!("{{{}}}", labels.join(",")),
    }
}
