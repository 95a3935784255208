//! Who talks to whom, and a view of it as it happens: `/v1/edges` and `/v1/events`.
//!
//! Both are bounded whatever comes: edges by a number of them, watchers by a number of them and by what may
//! wait for each. Nobody watching costs a request one relaxed read; a watcher that does not keep up is dropped
//! and counted, and never waited for.

mod edges;
mod events;

use std::sync::Arc;

pub use self::{
    edges::{Edge, Edges, Outcome, Subject},
    events::{Event, Events, Filter, Watcher, time},
};

/// What is known of the traffic; one per process, cheap to clone.
#[derive(Clone, Debug, Default)]
pub struct Activity {
    /// The counts.
    pub edges: Arc<Edges>,
    /// The watchers.
    pub events: Arc<Events>,
}
