//! Live changes of a policy, and what they do to what is running.

use std::time::{Duration, Instant, SystemTime};

use time::OffsetDateTime;
use time::macros::format_description;

use super::super::plan::{WATCH, WATCH_RULE, WORKLOADS};
use super::super::report::{Call, milliseconds};
use super::super::rpc::Stream;
use super::super::stage::{ENFORCE, Stage};
use super::calls::short;
use crate::failure::Failure;

/// Audit has an end, also here.
const AUDIT: Duration = Duration::from_secs(3_600);

/// `api` counts what it would refuse, and lets it pass.
pub(super) async fn audit(stage: &mut Stage) -> Result<(), Failure> {
    let until = OffsetDateTime::from(SystemTime::now() + AUDIT);
    let until =
        until.format(format_description!("[year]-[month]-[day]T[hour]:[minute]Z")).unwrap_or_default();
    stage.edit("api", policy("api"), &format!("audit until {until}")).await
}

/// `api` refuses again.
pub(super) async fn enforce(stage: &mut Stage) -> Result<(), Failure> {
    stage.edit("api", policy("api"), ENFORCE).await
}

/// `api` reads a stream of `db` when the line that allows it goes away.
pub(super) async fn revoked_stream(stage: &mut Stage) -> Result<Call, Failure> {
    let mut call = Call::new("api", "db", short(WATCH));
    let mut stream = match Stream::open(stage.outbound("api", ("db", "grpc"))?, WATCH).await {
        Ok(stream) => stream,
        Err(error) => {
            call.decision = "failed";
            call.problem = Some(error);
            return Ok(call);
        }
    };
    let before = stream.messages;
    let left: Vec<&str> = policy("db").iter().filter(|line| !line.ends_with(WATCH_RULE)).copied().collect();
    stage.edit("db", &left, ENFORCE).await?;
    let edited = Instant::now();
    let end = stream.end().await;
    call.milliseconds = milliseconds(edited.elapsed());
    match end {
        Ok(Some(7)) => {
            call.status = Some(7);
            call.decision = "deny";
            call.why = "policy".to_owned();
            call.seen =
                Some(format!("it flowed until then, and ended {} ms after the edit", call.milliseconds));
        }
        other => {
            call.decision = "failed";
            call.problem = Some(format!("after {before} messages: expected grpc-status 7, got {other:?}"));
        }
    }
    Ok(call)
}

/// Puts the line back.
pub(super) async fn restore(stage: &mut Stage) -> Result<(), Failure> {
    stage.edit("db", policy("db"), ENFORCE).await
}

fn policy(name: &str) -> &'static [&'static str] {
    WORKLOADS.iter().find(|workload| workload.name == name).map_or(&[], |workload| workload.policy)
}
