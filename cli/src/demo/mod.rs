//! `mantlet demo`: two workloads with real sidecars on loopback, and a script that shows and checks
//! what they do.

mod app;
mod client;
mod plan;
mod report;
mod scratch;
mod sidecar;
mod stage;
mod story;

use std::time::{Duration, Instant};

use clap::{Args, ValueEnum};
use http::Method;
use mantlet_devagent::{Cause, Issuance};
use tokio::sync::broadcast::Receiver;

use self::plan::{CALLER, PATH};
use self::report::{Report, Scene, seconds};
use self::stage::Stage;
use crate::failure::Failure;
use crate::output::Output;
use crate::runtime::{block_on, termination};

const EXAMPLES: &str = "\
Examples:
  mantlet demo                     # stays until Ctrl-C, prints lines to paste
  mantlet demo --once              # verifies everything and ends
  mantlet demo --once -o json

Exit codes: 0 everything was as it should be, 1 something was not.";

/// Between two requests while the demo stays.
const PACE: Duration = Duration::from_millis(100);

/// Arguments of `mantlet demo`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct DemoArgs {
    /// Play the script, verify every result and one rotation, and end
    #[arg(long)]
    once: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: DemoFormat,
}

#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum DemoFormat {
    /// For people on a terminal, JSON lines elsewhere
    #[default]
    Auto,
    /// For people
    Text,
    /// JSON lines
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
    let score = story::play(stage, &mut issuances, report).await?;
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
    stay(stage, issuances, report).await
}

/// Lines to paste.
fn invite(stage: &mut Stage, report: &Report<'_>) -> Result<(), Failure> {
    let caller = stage.actor(CALLER)?;
    let (outbound, admin) = (caller.outbound, caller.admin);
    report.remark("\n try");
    if let Some(outbound) = outbound {
        let url = format!("http://{outbound}{PATH}");
        report.show(&Scene::Try {
            command: format!("curl -i {url}"),
            expect: "you are web: 200, and the app says who called",
        });
        report.show(&Scene::Try {
            command: format!("curl -i -X DELETE {url}"),
            expect: "you are web: 403, no rule allows it",
        });
    }
    report.show(&Scene::Try {
        command: format!("mantlet certs --admin {admin}"),
        expect: "the identity of web; add -w to see it renewed",
    });
    report.show(&Scene::Try {
        command: format!("curl -s http://{admin}/metrics"),
        expect: "what the sidecar of web counts",
    });
    report.remark("\n Ctrl-C ends it and leaves nothing behind.");
    Ok(())
}

/// Goes on calling until somebody ends it, and says when SVIDs are renewed.
async fn stay(
    stage: &mut Stage,
    mut issuances: Receiver<Issuance>,
    report: &Report<'_>,
) -> Result<(), Failure> {
    let mut client = story::caller(stage)?;
    let flow = async {
        let (mut requests, mut failed) = (0_u64, 0_u64);
        let mut since = Instant::now();
        loop {
            requests += 1;
            let answer = client.send(Method::GET, PATH, &[]).await;
            failed += u64::from(!answer.is_ok_and(|reply| reply.status == http::StatusCode::OK));
            while let Ok(issuance) = issuances.try_recv() {
                if report.is_json() && issuance.cause == Cause::HalfLife {
                    let workloads = plan::WORKLOADS.iter().map(|workload| workload.name);
                    let name = |name: &&str| issuance.id.as_str().ends_with(&format!("/{name}"));
                    report.show(&Scene::Rotation(report::Rotation {
                        workloads: workloads.filter(name).collect(),
                        cause: "half_life",
                        seconds: seconds(since.elapsed()),
                        requests,
                        failed,
                        problem: None,
                    }));
                    since = Instant::now();
                }
            }
            if report.is_unread() {
                return;
            }
            tokio::time::sleep(PACE).await;
        }
    };
    tokio::select! {
        failure = stage.broken() => Err(failure),
        () = flow => Ok(()),
    }
}
