//! Health, metrics and dumps over HTTP/1.1, on the control thread.
//!
//! Health and metrics answer everybody who reaches the listener: a scraper or a kubelet has no mesh identity, and
//! policy must not be able to make a pod unready. The dumps under `/v1/` are for loopback. What changes something is
//! for the Unix socket.

pub mod documents;
mod exposition;
mod route;
mod server;
mod socket;
mod watch;

use std::sync::Arc;

use serde_json::Value;

pub use self::{
    exposition::{Format, classic},
    server::{serve, serve_socket},
    socket::{Socket, post},
};
use crate::{activity::Events, probes::Probes, readiness::Readiness};

/// Answers a question to the policy, or says what is wrong with the question.
pub type Explain = Box<dyn Fn(&Value) -> Result<Value, String> + Send + Sync>;

/// Where the answers come from. Everything is asked for at the moment of the request; nothing here is kept.
pub struct Sources {
    /// Health.
    pub readiness: Readiness,
    /// `/app-health/`: what the kubelet wants to know of the application.
    pub probes: Probes,
    /// The metrics, in OpenMetrics text.
    pub metrics: Box<dyn Fn() -> String + Send + Sync>,
    /// `/v1/certs`.
    pub certs: Box<dyn Fn() -> Value + Send + Sync>,
    /// `/v1/policy`.
    pub policy: Box<dyn Fn() -> Value + Send + Sync>,
    /// `/v1/policy/explain`.
    pub explain: Explain,
    /// `/v1/edges`.
    pub edges: Box<dyn Fn() -> Value + Send + Sync>,
    /// `/v1/events`.
    pub events: Arc<Events>,
    /// `/v1/config`: it never changes.
    pub config: Value,
    /// Begins to drain; said twice means once.
    pub drain: Box<dyn Fn() + Send + Sync>,
    /// Sets the level of the process log for a while, or says what is wrong with the request.
    pub log_level: Explain,
}

#[cfg(test)]
mod tests;
