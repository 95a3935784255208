//! Decisions as watchers see them.

use std::time::SystemTime;

use mantlet_id::SpiffeId;
use mantlet_policy::Decision;
use serde_json::json;

use super::{Asked, Authorizer, Session, reason_text};
use crate::{activity::Event, log::DecisionId};

/// Paths are cut at this many bytes, as in the audit log.
const PATH: usize = 512;

// === impl Authorizer ===

impl Authorizer {
    /// Tells who watches; `id` is that of the audit line.
    pub(super) fn show(
        &self,
        session: &Session,
        layer: &'static str,
        decision: &Decision,
        asked: Asked<'_>,
        id: Option<DecisionId>,
        now: SystemTime,
    ) {
        if !self.activity.events.is_watched() {
            return;
        }
        let data = json!({
            "id": id.as_ref().map(DecisionId::as_str),
            "decision": decision.verdict.as_str(),
            "reason": reason_text(decision),
            "rule": decision.rule.as_deref(),
            "layer": layer,
            "peer.id": session.caller.id().map(SpiffeId::as_str),
            "peer.addr": session.client.0.to_string(),
            "http.request.method": asked.method,
            "http.route": decision.route.as_deref(),
            "url.path": asked.path.map(|path| path.get(..path.floor_char_boundary(PATH)).unwrap_or_default()),
            "server.port": session.port(),
        });
        self.activity.events.publish(Event::Decision, Some(decision.verdict), now, data);
    }
}
