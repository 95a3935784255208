//! HTTP on both sides of the sidecar: serving, sending, and what may cross a hop.

pub mod answer;
pub mod body;
pub mod client;
mod guard;
pub mod headers;
pub mod server;
mod tape;
mod unsent;
pub mod upgrade;

pub use body::Body;
pub use guard::{Timeouts, limit_of};
