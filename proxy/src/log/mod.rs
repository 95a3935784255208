//! Logs: events of the process's life, the audit stream, the access stream, and the process log.
//!
//! The first three are lines of JSON on standard output, each with a stream and a schema whose version changes only
//! when a field is taken away or changes its meaning. They are written by a thread of their own behind a bounded
//! queue, so a reader that stops reading stops nothing else; what is dropped is counted.

mod access;
mod flood;
mod id;
mod json;
mod process;
mod record;
mod writer;

use std::{
    hash::{BuildHasher, RandomState},
    io::{self, Write},
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::{Instant, SystemTime},
};

pub use self::{
    access::AccessLine,
    id::DecisionId,
    json::Value,
    process::{LevelChange, LogLevel, start_process_log},
    record::{AccessRecord, AuditRecord, Fields, FindNearest},
    writer::Writer,
};
use self::{
    flood::{Admission, Flood, Kind, Summary},
    id::Ids,
    json::Line,
    writer::{QUEUE_BYTES, Queue, Unfinished},
};

const EVENT: Schema = Schema { stream: "event", schema: "mantlet.event/v1" };
const AUDIT: Schema = Schema { stream: "audit", schema: "mantlet.audit/v1" };
const ACCESS: Schema = Schema { stream: "access", schema: "mantlet.access/v1" };

/// The streams' entrance; cheap to clone, one per process.
#[derive(Debug, Clone)]
pub struct Log {
    inner: Arc<Inner>,
}

/// Which requests and connections have a line in the access stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// None.
    Off,
    /// Those that were refused or failed.
    Errors,
    /// All.
    All,
}

/// Where the lines come from: repeated in each, so that a line makes sense alone.
#[derive(Debug, Clone, Default)]
pub struct Origin {
    /// The pod's namespace.
    pub namespace: Option<String>,
    /// The pod's service account.
    pub service_account: Option<String>,
}

/// How many lines there were, for the metrics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Counts {
    /// Audit lines handed to the writer.
    pub audit: u64,
    /// Audit lines lost because the queue was full.
    pub audit_dropped: u64,
    /// Denials that have no line of their own because they repeat one.
    pub audit_suppressed: u64,
    /// Access lines handed to the writer.
    pub access: u64,
    /// Access lines lost because the queue was full.
    pub access_dropped: u64,
}

#[derive(Debug)]
struct Inner {
    queue: Queue,
    access: Access,
    origin: Origin,
    ids: Ids,
    hasher: RandomState,
    flood: Mutex<Flood>,
    counters: Counters,
}

#[derive(Debug, Default)]
struct Counters {
    audit: AtomicU64,
    audit_dropped: AtomicU64,
    audit_suppressed: AtomicU64,
    access: AtomicU64,
    access_dropped: AtomicU64,
}

struct Schema {
    stream: &'static str,
    schema: &'static str,
}

// === impl Log ===

impl Log {
    /// Starts the writer thread on `sink`, in a process standard output.
    ///
    /// # Errors
    /// The thread cannot be made.
    pub fn start(
        sink: impl Write + Send + 'static,
        access: Access,
        origin: Origin,
    ) -> io::Result<(Self, Writer)> {
        Self::with_limit(sink, access, origin, QUEUE_BYTES)
    }

    fn with_limit(
        sink: impl Write + Send + 'static,
        access: Access,
        origin: Origin,
        limit: usize,
    ) -> io::Result<(Self, Writer)> {
        let (queue, starter) = writer::start(sink, limit);
        let inner = Arc::new(Inner {
            queue,
            access,
            origin,
            ids: Ids::new(),
            hasher: RandomState::new(),
            flood: Mutex::default(),
            counters: Counters::default(),
        });
        let log = Self { inner: Arc::clone(&inner) };
        let writer = starter.run(Box::new(move |ending| inner.summaries(ending)))?;
        Ok((log, writer))
    }

    /// Writes an event of the process's life: `listening`, `ready`, `draining`, `stopped`... Never dropped.
    pub fn event(&self, event: &'static str, fields: &Fields<'_>) {
        let mut line = EVENT.line();
        line.field("event", event);
        for (name, value) in fields {
            line.field(name, *value);
        }
        self.inner.queue.insist(line.finish());
    }

    /// Writes a refusal, or a would-be one, and returns the id to answer the caller with: that of this line, or of
    /// the last line of the same peer, reason and rule if this one repeats it too often.
    ///
    /// `nearest` is called only if a line is written, and what it gives only when the log's thread gets to it.
    pub fn audit(
        &self,
        record: &AuditRecord<'_>,
        nearest: impl FnOnce() -> Option<Box<dyn FindNearest>>,
    ) -> DecisionId {
        self.inner.audit(record, nearest, Instant::now())
    }

    /// Whether an access line is wanted; asked before the record is put together.
    #[must_use]
    pub fn wants_access(&self, failed: bool) -> bool {
        match self.inner.access {
            Access::Off => false,
            Access::Errors => failed,
            Access::All => true,
        }
    }

    /// Writes one line for a request or connection that has ended, if the access log wants it.
    pub fn access(&self, record: &AccessRecord<'_>) {
        if !self.wants_access(record.failed) {
            return;
        }
        let mut line = ACCESS.line();
        record.write(&mut line, &self.inner.origin);
        let counters = &self.inner.counters;
        let counter = match self.inner.queue.offer(line.finish()) {
            true => &counters.access,
            false => &counters.access_dropped,
        };
        counter.fetch_add(1, Ordering::Relaxed);
    }

    /// Lines so far.
    #[must_use]
    pub fn counts(&self) -> Counts {
        let counters = &self.inner.counters;
        let of = |counter: &AtomicU64| counter.load(Ordering::Relaxed);
        Counts {
            audit: of(&counters.audit),
            audit_dropped: of(&counters.audit_dropped),
            audit_suppressed: of(&counters.audit_suppressed),
            access: of(&counters.access),
            access_dropped: of(&counters.access_dropped),
        }
    }

    /// The id to answer the caller of a failed request with, which is no decision. It is found in the access stream:
    /// in the line that the request gets at its end, or, where failures have none, in a line written now; of repeated
    /// failures, in the last line of the same peer and close reason.
    #[must_use]
    pub fn failure(&self, record: &AccessRecord<'_>) -> DecisionId {
        match self.wants_access(true) {
            true => self.inner.ids.next(SystemTime::now()),
            false => self.inner.failure(record, Instant::now()),
        }
    }
}

// === impl Inner ===

impl Inner {
    fn audit(
        &self,
        record: &AuditRecord<'_>,
        nearest: impl FnOnce() -> Option<Box<dyn FindNearest>>,
        now: Instant,
    ) -> DecisionId {
        let kind = self.hasher.hash_one((record.decision, record.reason, record.rule, record.peer_id));
        // Held while the line is made, so that nobody refers to a line before it stands in the queue. A line costs
        // about a microsecond and the flood limit makes them rare; suppressed denials hold it for a look-up.
        let mut flood = self.flood();
        match flood.admit(kind, now, || describe(record)) {
            Admission::Suppress { last, begins } => {
                drop(flood);
                self.counters.audit_suppressed.fetch_add(1, Ordering::Relaxed);
                if begins {
                    self.queue.sweep();
                }
                last
            }
            Admission::Write { suppressed, first } => {
                let id = self.ids.next(SystemTime::now());
                let mut line = AUDIT.line();
                let at = record.write(&mut line, id, &self.origin);
                let new_peer = first && flood.is_new(self.hasher.hash_one((record.decision, record.peer_id)));
                line.field("first", first).field("new_peer", new_peer).field("suppressed", suppressed);
                if self.queue.offer_unfinished(Unfinished { line: line.finish(), at, nearest: nearest() }) {
                    flood.written(kind, id);
                    self.counters.audit.fetch_add(1, Ordering::Relaxed);
                    id
                } else {
                    self.counters.audit_dropped.fetch_add(1, Ordering::Relaxed);
                    flood.lost(kind).unwrap_or(id)
                }
            }
        }
    }

    fn failure(&self, record: &AccessRecord<'_>, now: Instant) -> DecisionId {
        let kind = self.hasher.hash_one((record.direction, record.close, record.peer_id));
        let mut flood = self.flood();
        let describe = || Kind {
            decision: None,
            reason: record.close.to_owned(),
            rule: None,
            peer: record.peer_id.map(str::to_owned),
        };
        match flood.admit(kind, now, describe) {
            Admission::Suppress { last, begins } => {
                drop(flood);
                if begins {
                    self.queue.sweep();
                }
                last
            }
            Admission::Write { suppressed, .. } => {
                let id = self.ids.next(SystemTime::now());
                let mut line = ACCESS.line();
                AccessRecord { id: Some(id), ..record.clone() }.write(&mut line, &self.origin);
                line.field("suppressed", suppressed);
                if self.queue.offer(line.finish()) {
                    flood.written(kind, id);
                    self.counters.access.fetch_add(1, Ordering::Relaxed);
                    id
                } else {
                    self.counters.access_dropped.fetch_add(1, Ordering::Relaxed);
                    flood.lost(kind).unwrap_or(id)
                }
            }
        }
    }

    fn summaries(&self, ending: bool) -> (Vec<String>, bool) {
        let mut flood = self.flood();
        let lines = flood.due(Instant::now(), ending).iter().map(|summary| self.summary(summary)).collect();
        (lines, flood.pending())
    }

    fn summary(&self, summary: &Summary) -> String {
        let Summary { kind, suppressed, last } = summary;
        let Some(decision) = kind.decision else {
            let mut line = ACCESS.line();
            line.field("close", &kind.reason)
                .field("peer.id", kind.peer.as_ref())
                .field("summary_of", last.as_str())
                .field("suppressed", *suppressed);
            self.counters.access.fetch_add(1, Ordering::Relaxed);
            return line.finish();
        };
        let mut line = AUDIT.line();
        line.field("id", self.ids.next(SystemTime::now()).as_str())
            .field("decision", decision)
            .field("reason", &kind.reason)
            .field("rule", kind.rule.as_ref())
            .field("peer.id", kind.peer.as_ref())
            .field("summary_of", last.as_str())
            .field("suppressed", *suppressed);
        self.counters.audit.fetch_add(1, Ordering::Relaxed);
        line.finish()
    }

    fn flood(&self) -> MutexGuard<'_, Flood> {
        // Nothing in here panics; if it ever did, the counts are still better than none.
        self.flood.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn describe(record: &AuditRecord<'_>) -> Kind {
    Kind {
        decision: Some(record.decision),
        reason: record.reason.to_owned(),
        rule: record.rule.map(str::to_owned),
        peer: record.peer_id.map(str::to_owned),
    }
}

// === impl Schema ===

impl Schema {
    fn line(&self) -> Line {
        Line::new(SystemTime::now(), self.stream, self.schema)
    }
}

#[cfg(test)]
mod tests;
