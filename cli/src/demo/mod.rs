//! `mantlet demo`: four workloads with real sidecars on loopback, and a script that shows and checks
//! what they do.

mod app;
mod client;
mod plan;
mod report;
mod rpc;
mod scratch;
mod sidecar;
mod stage;
mod story;
mod stranger;

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use mantlet_devagent::{Cause, Issuance};
use tokio::sync::broadcast::Receiver;

use self::plan::PATH;
use self::report::{Report, Rotation, Scene, seconds};
pub(crate) use self::scratch::{SweepArgs, sweep};
use self::stage::Stage;
use self::story::Flow;
use crate::failure::Failure;
use crate::output::Output;
use crate::runtime::{block_on, termination};

const EXAMPLES: &str = "\
Examples:
  mantlet demo                     # stays until Ctrl-C, prints lines to paste
  mantlet demo --once              # verifies everything and ends
  mantlet demo --once -o json

Exit codes: 0 everything was as it should be, 1 something was not.";

/// Between two looks while the demo stays.
const LOOK: Duration = Duration::from_secs(1);

/// Arguments of `mantlet demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Play the script, verify every result and one rotation, and end
    #[arg(long)]
    once: bool,
    /// Form of the output; auto is text on a terminal and JSON lines elsewhere
    #[arg(short, long, value_enum, default_value_t)]
    output: DemoFormat,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum DemoFormat {
    #[default]
    Auto,
    Text,
    Json,
}

pub(crate) fn run(arguments: &DemoArgs, output: &Output) -> Result<(), Failure> {
    let json = match arguments.output {
        DemoFormat::Auto => !output.terminal,
        DemoFormat::Text => false,
        DemoFormat::Json => true,
    };
    block_on(demo(arguments.once, &Report::new(output, json)))
}

async fn demo(once: bool, report: &Report<'_>) -> Result<(), Failure> {
    let ended = termination()?;
    let mut stage = Stage::new(report)?;
    let outcome = tokio::select! {
        outcome = perform(&mut stage, once, report) => outcome,
        () = ended => match once {
            true => Err(Failure::finding("ended by a signal before everything was verified")),
            false => {
                report.remark("\n stopping");
                Ok(())
            }
        },
    };
    stage.strike().await;
    outcome
}

async fn perform(stage: &mut Stage, once: bool, report: &Report<'_>) -> Result<(), Failure> {
    let begin = Instant::now();
    let mut issuances = stage.agent.issuances();
    stage.raise(report).await?;
    let (score, flow) = story::play(stage, &mut issuances, report).await?;
    let passed = score.failed == 0;
    report.show(&Scene::Result {
        passed,
        checks: score.checks,
        failed: score.failed,
        seconds: seconds(begin.elapsed()),
    });
    if once {
        return match passed {
            true => Ok(()),
            false => Err(Failure::finding(format!("{} of {} checks failed", score.failed, score.checks))),
        };
    }
    invite(stage, report)?;
    stay(stage, &flow, issuances, report).await
}

/// Lines to paste.
fn invite(stage: &mut Stage, report: &Report<'_>) -> Result<(), Failure> {
    let (web, intruder) =
        (stage.outbound("web", ("api", "http"))?, stage.outbound("intruder", ("api", "http"))?);
    let (api, db) = (stage.actor("api")?.admin, stage.actor("db")?.admin);
    let annotations = stage.directory().join("api.annotations");
    let mantlet = program();
    let lines = [
        (format!("curl -i http://{web}{PATH}"), "you are web: 200, and the app says who called"),
        (format!("curl -i -X DELETE http://{web}{PATH}"), "403, no line allows it"),
        (format!("curl -i http://{intruder}{PATH}"), "you are the intruder: 403"),
        (format!("{mantlet} edges --admin {api},{db}"), "who talks to whom"),
        (format!("{mantlet} tail --deny --admin {api},{db}"), "refusals as they happen"),
        (format!("{mantlet} certs -w --admin {api}"), "the identity of api, and each renewal"),
        (format!("curl -s http://{api}/metrics | grep authz"), "what the sidecar of api has decided"),
        (
            format!("sed -i 's/to GET/to GET,DELETE/' {}", annotations.display()),
            "the policy is live: now web may delete",
        ),
    ];
    report.remark("\n try, in another terminal");
    for (command, expect) in lines {
        report.show(&Scene::Try { command, expect });
    }
    report.remark("\n Ctrl-C ends it and leaves nothing behind.\n");
    Ok(())
}

/// This program, as it was called: `cargo run` puts it on no path.
fn program() -> String {
    let called = std::env::args().next().filter(|program| program.contains('/'));
    called.unwrap_or_else(|| "mantlet".to_owned())
}

/// Lets the requests flow until somebody ends it, and says when SVIDs are renewed.
async fn stay(
    stage: &mut Stage,
    flow: &Flow,
    mut issuances: Receiver<Issuance>,
    report: &Report<'_>,
) -> Result<(), Failure> {
    flow.slow_down();
    let begin = Instant::now();
    let watch = async {
        let mut renewals = 0_u64;
        loop {
            let mut renewed = BTreeSet::new();
            while let Ok(issuance) = issuances.try_recv() {
                if issuance.cause == Cause::HalfLife {
                    renewals += 1;
                    let name = issuance.id.as_str().rsplit('/').next().unwrap_or_default().to_owned();
                    renewed.extend(plan::WORKLOADS.iter().map(|one| one.name).find(|one| *one == name));
                }
            }
            let counts = flow.counts();
            let running = seconds(begin.elapsed());
            if !renewed.is_empty() && report.is_json() {
                report.show(&Scene::Rotation(Rotation {
                    workloads: renewed.into_iter().collect(),
                    cause: "half_life",
                    seconds: running,
                    requests: counts.requests,
                    failed: counts.failed,
                    problem: None,
                }));
            }
            report.status(&format!(
                "{renewals} renewals, {} requests of web to api, {} failed",
                counts.requests, counts.failed
            ));
            if report.is_unread() {
                return;
            }
            tokio::time::sleep(LOOK).await;
        }
    };
    tokio::select! {
        failure = stage.broken() => Err(failure),
        () = watch => Ok(()),
    }
}
