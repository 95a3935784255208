//! What one audit line and one access line hold.

use std::{net::SocketAddr, sync::Arc, time::Duration};

use super::{
    Origin,
    id::DecisionId,
    json::{Line, Value, cut},
};

/// Paths are cut at this many bytes.
const PATH: usize = 512;
/// Other text of the network (methods, routes, peers' ids) is cut at this many bytes.
const TEXT: usize = 2048;

/// One decision that refuses, or would.
///
/// There is no field for a query, a header or a body, so none can be logged.
#[derive(Debug, Clone, Default)]
pub struct AuditRecord<'a> {
    /// `deny` or `would_deny`.
    pub decision: &'static str,
    /// `enforce`, `audit` or `permissive`.
    pub mode: &'static str,
    /// A reason of the vocabulary, with its detail: `default`, `malformed(dot-segment)`.
    pub reason: &'a str,
    /// The rule that decided.
    pub rule: Option<&'a str>,
    /// `http` or `tcp`.
    pub layer: &'static str,
    /// The verified identity of the caller.
    pub peer_id: Option<&'a str>,
    /// Serial of the caller's certificate.
    pub peer_serial: Option<&'a str>,
    /// Where the caller connected from.
    pub peer_addr: Option<SocketAddr>,
    /// The own identity.
    pub self_id: Option<&'a str>,
    /// The request's method.
    pub method: Option<&'a str>,
    /// The pattern of the rule that matched, never a raw path.
    pub route: Option<&'a str>,
    /// The canonical path (in audit mode the raw one), without its query.
    pub path: Option<&'a str>,
    /// What the caller was answered.
    pub status: Option<u16>,
    /// The app's port.
    pub server_port: u16,
    /// Which policy decided.
    pub policy_hash: Option<&'a str>,
    /// Which load of it.
    pub policy_generation: u64,
}

/// Finds the rule that came nearest to allowing what a line is about. The log's own thread asks, when it
/// writes the line: nobody's request waits for it.
pub trait FindNearest: Send {
    /// How many rules it has to look at.
    fn rules(&self) -> usize;
    /// How many bytes it holds while the line waits.
    fn bytes(&self) -> usize;
    /// The rule's label.
    fn find(&self) -> Option<Arc<str>>;
}

/// One request or connection that has ended.
#[derive(Debug, Clone, Default)]
pub struct AccessRecord<'a> {
    /// `inbound` or `outbound`.
    pub direction: &'static str,
    /// `http` for a request, `tcp` for a connection.
    pub protocol: &'static str,
    /// The verified identity of the other side.
    pub peer_id: Option<&'a str>,
    /// Where the client connected from.
    pub peer_addr: Option<SocketAddr>,
    /// Where it was forwarded to.
    pub upstream: Option<SocketAddr>,
    /// The request's method.
    pub method: Option<&'a str>,
    /// The canonical path without its query.
    pub path: Option<&'a str>,
    /// The rule that allowed it.
    pub rule: Option<&'a str>,
    /// The answer's status.
    pub status: Option<u16>,
    /// Why it ended, in the words of the vocabulary.
    pub close: &'static str,
    /// The id that the caller was given.
    pub id: Option<DecisionId>,
    /// From the first byte to the last.
    pub took: Duration,
    /// It was refused or failed: shown by `errors` too.
    pub failed: bool,
}

// === impl AuditRecord ===

impl AuditRecord<'_> {
    /// Writes all but the nearest rule, and gives its place.
    pub(super) fn write(&self, line: &mut Line, id: DecisionId, origin: &Origin) -> usize {
        line.field("id", id.as_str())
            .field("decision", self.decision)
            .field("mode", self.mode)
            .field("reason", self.reason)
            .field("rule", self.rule);
        let nearest_at = line.len();
        line.field("layer", self.layer)
            .field("peer.id", short(self.peer_id))
            .optional("peer.cert.serial", self.peer_serial)
            .optional("peer.addr", self.peer_addr)
            .optional("self.id", self.self_id);
        origin.write(line);
        line.optional("http.request.method", short(self.method))
            .optional("http.route", short(self.route))
            .optional("url.path", self.path.map(|path| cut(path, PATH)))
            .optional("http.response.status_code", self.status)
            .field("server.port", self.server_port)
            .optional("policy.hash", self.policy_hash)
            .field("policy.generation", self.policy_generation);
        nearest_at
    }
}

// === impl AccessRecord ===

impl AccessRecord<'_> {
    pub(super) fn write(&self, line: &mut Line, origin: &Origin) {
        line.field("direction", self.direction)
            .field("network.protocol", self.protocol)
            .field("peer.id", short(self.peer_id))
            .optional("peer.addr", self.peer_addr)
            .optional("upstream.addr", self.upstream);
        origin.write(line);
        line.optional("http.request.method", short(self.method))
            .optional("rule", self.rule)
            .optional("url.path", self.path.map(|path| cut(path, PATH)))
            .optional("http.response.status_code", self.status)
            .field("close", self.close)
            .optional("id", self.id.as_ref().map(DecisionId::as_str))
            .field("duration_us", u64::try_from(self.took.as_micros()).unwrap_or(u64::MAX));
    }
}

// === impl Origin ===

impl Origin {
    fn write(&self, line: &mut Line) {
        line.optional("k8s.namespace.name", self.namespace.as_ref())
            .optional("k8s.serviceaccount.name", self.service_account.as_ref());
    }
}

fn short(text: Option<&str>) -> Option<&str> {
    text.map(|text| cut(text, TEXT))
}

/// Fields of a lifecycle event.
pub type Fields<'a> = [(&'static str, Value<'a>)];
