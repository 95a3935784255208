//! The guard of one access line: it is written when the work ends, also when it is cancelled.

use std::{net::SocketAddr, time::Instant};

use super::{Access, AccessRecord, DecisionId, Log};

/// A line of the access log under construction. Held by what it is about; dropping it writes it.
#[derive(Debug)]
pub struct AccessLine {
    log: Log,
    begun: Instant,
    direction: &'static str,
    protocol: &'static str,
    peer_id: Option<String>,
    peer_addr: Option<SocketAddr>,
    upstream: Option<SocketAddr>,
    method: Option<String>,
    path: Option<String>,
    rule: Option<String>,
    status: Option<u16>,
    id: Option<DecisionId>,
    close: &'static str,
    failed: bool,
    withheld: bool,
}

// === impl Log ===

impl Log {
    /// Begins a line; `None`, and no cost, while nobody wants any. Until somebody says how it ended, it was cut off.
    #[must_use]
    pub fn access_line(&self, direction: &'static str, protocol: &'static str) -> Option<AccessLine> {
        (self.inner.access != Access::Off).then(|| AccessLine {
            log: self.clone(),
            begun: Instant::now(),
            direction,
            protocol,
            peer_id: None,
            peer_addr: None,
            upstream: None,
            method: None,
            path: None,
            rule: None,
            status: None,
            id: None,
            close: "reset",
            failed: true,
            withheld: false,
        })
    }
}

// === impl AccessLine ===

impl AccessLine {
    /// The other side: who it proved to be, and where a client connected from.
    pub fn peer(&mut self, id: Option<&str>, addr: Option<SocketAddr>) {
        self.peer_id = id.map(str::to_owned);
        self.peer_addr = addr;
    }

    /// Where it is forwarded to.
    pub fn upstream(&mut self, addr: SocketAddr) {
        self.upstream = Some(addr);
    }

    /// A request: method, and path without its query.
    pub fn request(&mut self, method: &str, path: &str) {
        self.method = Some(method.to_owned());
        self.path = Some(path.to_owned());
    }

    /// It was allowed by `rule` and answered.
    pub fn answered(&mut self, status: u16, rule: Option<&str>) {
        self.status = Some(status);
        self.rule = rule.map(str::to_owned);
        self.close = "eof";
        self.failed = status >= 400;
    }

    /// It was refused or failed, and `id` is what the caller was told.
    pub fn refused(&mut self, status: u16, close: &'static str, id: DecisionId) {
        self.status = Some(status);
        self.close = close;
        self.id = Some(id);
    }

    /// A connection that ended; `failed` if not in an orderly way.
    pub fn closed(&mut self, close: &'static str, failed: bool) {
        self.close = close;
        self.failed = failed;
    }

    /// Others have said it already.
    pub fn withhold(mut self) {
        self.withheld = true;
    }
}

impl Drop for AccessLine {
    fn drop(&mut self) {
        if self.withheld {
            return;
        }
        self.log.access(&AccessRecord {
            direction: self.direction,
            protocol: self.protocol,
            peer_id: self.peer_id.as_deref(),
            peer_addr: self.peer_addr,
            upstream: self.upstream,
            method: self.method.as_deref(),
            path: self.path.as_deref(),
            rule: self.rule.as_deref(),
            status: self.status,
            close: self.close,
            id: self.id,
            took: self.begun.elapsed(),
            failed: self.failed,
        });
    }
}
