//! Requests of `web` to `api` that flow all the time, and the renewal of every certificate under them.

use std::collections::BTreeSet;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use mantlet_devagent::{Cause, Issuance};
use tokio::sync::broadcast::Receiver;
use tokio::task::AbortHandle;

use super::super::client::Client;
use super::super::plan::FLOW_PATH;
use super::super::report::{Rotation, seconds};
use super::super::stage::Stage;
use super::super::stranger::Stranger;
use super::calls;
use crate::failure::Failure;

/// Between two requests while something is checked, and while the demo only stays.
const PACE: Duration = Duration::from_millis(5);
const SLOW_PACE: Duration = Duration::from_millis(100);
/// A renewal at half life of 8 s comes after 5 s at the latest; the rest is for a busy machine.
const ROTATION: Duration = Duration::from_secs(12);
/// Between two looks at what was renewed.
const LOOK: Duration = Duration::from_millis(20);
/// Requests that must pass after everybody has new SVIDs.
const AFTERWARDS: u64 = 50;

/// Requests that flow; they end when this is dropped.
pub(crate) struct Flow {
    begun: Instant,
    counts: Arc<Mutex<Counts>>,
    task: AbortHandle,
}

/// What became of them.
#[derive(Clone, Debug, Default)]
pub(crate) struct Counts {
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    problem: Option<String>,
    /// The certificates that the called app has seen, by their hashes.
    certificates: BTreeSet<String>,
    slow: bool,
}

// === impl Flow ===

impl Flow {
    pub(super) fn start(addr: SocketAddr) -> Self {
        let counts: Arc<Mutex<Counts>> = Arc::default();
        let counting = Arc::clone(&counts);
        let task = tokio::spawn(async move {
            let mut client = Client::new(addr);
            loop {
                let answer = client.send(Method::GET, FLOW_PATH, &[]).await;
                let slow = {
                    let mut counts = lock(&counting);
                    counts.requests += 1;
                    match answer {
                        Ok(reply) if reply.status == StatusCode::OK => {
                            counts.certificates.extend(calls::certificate(&reply));
                        }
                        Ok(reply) => counts.fail(format!("a request was answered {}", reply.status)),
                        Err(error) => counts.fail(error),
                    }
                    counts.slow
                };
                tokio::time::sleep(if slow { SLOW_PACE } else { PACE }).await;
            }
        });
        Self { begun: Instant::now(), counts, task: task.abort_handle() }
    }

    /// From now on nobody waits for them.
    pub(crate) fn slow_down(&self) {
        let mut counts = lock(&self.counts);
        counts.slow = true;
        // Each renewal adds one, for as long as somebody leaves the demo running.
        counts.certificates.clear();
    }

    pub(crate) fn counts(&self) -> Counts {
        lock(&self.counts).clone()
    }
}

impl Drop for Flow {
    fn drop(&mut self) {
        self.task.abort();
    }
}

// === impl Counts ===

impl Counts {
    fn fail(&mut self, problem: String) {
        self.failed += 1;
        self.problem.get_or_insert(problem);
    }
}

/// Waits until everybody has renewed at half life and a while longer; none of the requests may fail.
pub(super) async fn rotation(
    stage: &mut Stage,
    flow: &mut Flow,
    issuances: &mut Receiver<Issuance>,
    certificate: Option<Vec<u8>>,
) -> Result<Rotation, Failure> {
    let begin = Instant::now();
    let expected: BTreeSet<String> = stage.actors.values().map(|actor| actor.id.clone()).collect();
    let mut renewed = BTreeSet::new();
    let mut problem = None;
    let mut goal = None;
    loop {
        while let Ok(issuance) = issuances.try_recv() {
            match issuance.cause {
                Cause::First => {}
                Cause::HalfLife => {
                    renewed.insert(issuance.id.to_string());
                }
                other => problem = Some(format!("a renewal by {other:?} and not by the timer")),
            }
        }
        let counts = flow.counts();
        let all = renewed.is_superset(&expected) && counts.certificates.len() > 1;
        if all && counts.requests >= *goal.get_or_insert(counts.requests + AFTERWARDS) {
            break;
        }
        if begin.elapsed() > ROTATION {
            let missing: Vec<_> = expected.difference(&renewed).map(String::as_str).collect();
            problem = Some(match missing.as_slice() {
                [] => "api still sees the old certificate of web".to_owned(),
                missing => format!("no renewal within {} s of {}", ROTATION.as_secs(), missing.join(", ")),
            });
            break;
        }
        tokio::time::sleep(LOOK).await;
    }
    let counts = flow.counts();
    let took = seconds(flow.begun.elapsed());
    let mut problem = problem.or(counts.problem);
    if problem.is_none() {
        let (call, now) = calls::refused(stage, "no cert", "no_peer_cert", Stranger::NoCertificate).await?;
        problem = call.problem.or_else(|| {
            (certificate.is_none() || certificate == now)
                .then(|| "api still shows its old certificate".to_owned())
        });
    }
    Ok(Rotation {
        workloads: stage.actors.keys().copied().collect(),
        cause: "half_life",
        seconds: took,
        requests: counts.requests,
        failed: counts.failed,
        problem,
    })
}

fn lock(counts: &Mutex<Counts>) -> MutexGuard<'_, Counts> {
    counts.lock().unwrap_or_else(PoisonError::into_inner)
}
