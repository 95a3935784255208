//! The application's probes and hooks, asked for the kubelet.
//!
//! The kubelet has no mesh identity, so the injector points its probes here and records what they asked for. The
//! sidecar asks the application the same, at the pod's own address, and answers what the application answered.
//! Nothing of a request chooses a target: its path is looked up among the recorded ones, and is otherwise unknown.

mod ask;
mod grpc;
mod unverified;

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicBool, Ordering},
};

use bytes::Bytes;
use http::{HeaderValue, StatusCode};
use tokio::{sync::Semaphore, time};
use tracing::{info, warn};

pub use self::{ask::Failure, grpc::Health};
use crate::config;

/// Runs of one handler at a time. The kubelet makes one after the other; what comes beside is somebody who read
/// the path somewhere.
const RUNS: usize = 4;

/// Every probe and hook of the pod, by the path that the kubelet asks for.
#[derive(Default)]
pub struct Probes {
    handlers: BTreeMap<String, Handler>,
}

struct Handler {
    recorded: config::Handler,
    slots: Semaphore,
    failing: AtomicBool,
}

/// What the application answered.
#[derive(Debug, Eq, PartialEq)]
pub struct Answer {
    /// As the application said it; of another protocol than HTTP, 200 or 503.
    pub status: StatusCode,
    /// The beginning of what it said.
    pub body: Bytes,
}

/// What comes of a request for a path of a probe.
#[derive(Debug)]
pub enum Asked {
    /// No handler was recorded under this path.
    Unknown,
    /// The application answered.
    Answered(Answer),
    /// It did not; a probe says so with a status.
    Failed(Failure),
    /// It did not, and the kubelet takes every status of a hook for success: the connection must end without one.
    HookFailed,
}

// === impl Probes ===

impl Probes {
    /// What was recorded, nothing of it running.
    #[must_use]
    pub fn new(recorded: config::Probes) -> Self {
        let handler =
            |recorded| Handler { recorded, slots: Semaphore::new(RUNS), failing: AtomicBool::new(false) };
        Self { handlers: recorded.handlers.into_iter().map(|(path, each)| (path, handler(each))).collect() }
    }

    /// Asks the application what the kubelet asks for with `path`. `agent` is who asks: applications look at it.
    pub async fn ask(&self, path: &str, agent: Option<&HeaderValue>) -> Asked {
        let Some(handler) = self.handlers.get(path) else { return Asked::Unknown };
        let hook = handler.recorded.timeout.is_none();
        let outcome = handler.run(agent).await;
        handler.note(path, &outcome);
        match outcome {
            Ok(answer) => Asked::Answered(answer),
            Err(_) if hook => Asked::HookFailed,
            Err(failure) => Asked::Failed(failure),
        }
    }
}

// === impl Handler ===

impl Handler {
    async fn run(&self, agent: Option<&HeaderValue>) -> Result<Answer, Failure> {
        let Ok(_slot) = self.slots.try_acquire() else { return Err(Failure::Busy) };
        let asked = ask::application(self.recorded.to, &self.recorded.action, agent);
        match self.recorded.timeout {
            None => asked.await,
            Some(limit) => time::timeout(limit, asked).await.unwrap_or(Err(Failure::Timeout(limit))),
        }
    }

    /// The kubelet's Event has the status and no cause, so the log has it: once when a probe begins to fail, and
    /// once when it is well again.
    fn note(&self, path: &str, outcome: &Result<Answer, Failure>) {
        // Without the token, which is for the kubelet alone.
        let probe = path.splitn(4, '/').last().unwrap_or_default();
        let cause = match outcome {
            Ok(answer) if answer.status.is_success() => None,
            Ok(answer) => Some(format!("the application answered {}", answer.status)),
            // Says nothing about the application.
            Err(Failure::Busy) => return,
            Err(failure) => Some(failure.to_string()),
        };
        let before = self.failing.swap(cause.is_some(), Ordering::Relaxed);
        match (cause, before) {
            (Some(cause), false) => warn!(event = "probe_failing", probe, cause),
            (None, true) => info!(event = "probe_recovered", probe),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests;
