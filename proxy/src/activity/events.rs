//! Watchers of what happens, each with a bounded buffer.

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use mantlet_policy::Verdict;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};
use tokio::sync::{Notify, mpsc};

/// Watchers at a time.
const WATCHERS: usize = 8;
/// Events that may wait for one watcher: at some 500 bytes each, half a megabyte.
const WAITING: usize = 1024;

/// Who wants to be told.
#[derive(Debug, Default)]
pub struct Events {
    watchers: Mutex<Vec<Sender>>,
    /// How many there are, for a look without the lock.
    watched: AtomicUsize,
    dropped: AtomicU64,
}

/// What happened.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Event {
    /// A request or connection was decided about.
    Decision,
    /// A policy came into force.
    Policy,
    /// The own identity was renewed or lost.
    Identity,
}

/// Which decisions a watcher wants; other events it always gets.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Filter {
    verdicts: [bool; 3],
}

/// The receiving end: what happened, as it goes over the wire (`text/event-stream`). It ends when the watcher was
/// too slow.
pub type Watcher = mpsc::Receiver<Arc<str>>;

#[derive(Debug)]
struct Sender {
    filter: Filter,
    events: mpsc::Sender<Arc<str>>,
    dropped: Arc<Notify>,
}

// === impl Events ===

impl Events {
    /// Whether anybody watches; asked before an event is put together.
    #[must_use]
    pub fn is_watched(&self) -> bool {
        self.watched.load(Ordering::Relaxed) > 0
    }

    /// Tells every watcher that wants it. Never waits: a watcher whose buffer is full is dropped.
    pub fn publish(&self, event: Event, verdict: Option<Verdict>, now: SystemTime, mut data: Value) {
        if !self.is_watched() {
            return;
        }
        if let Some(data) = data.as_object_mut() {
            data.insert("time".to_owned(), json!(time(now)));
        }
        let text: Arc<str> = format!("event: {}\ndata: {data}\n\n", event.as_str()).into();
        let mut watchers = self.lock();
        watchers.retain(|watcher| {
            if verdict.is_some_and(|verdict| !watcher.filter.wants(verdict)) {
                return !watcher.events.is_closed();
            }
            match watcher.events.try_send(Arc::clone(&text)) {
                Ok(()) => true,
                Err(mpsc::error::TrySendError::Closed(_)) => false,
                Err(mpsc::error::TrySendError::Full(_)) => {
                    self.dropped.fetch_add(1, Ordering::Relaxed);
                    watcher.dropped.notify_one();
                    false
                }
            }
        });
        self.watched.store(watchers.len(), Ordering::Relaxed);
    }

    /// A new watcher; `None` when there are as many as there may be. `dropped` is told when it was too slow: what is
    /// on its way to it may then be cut off.
    #[must_use]
    pub fn watch(&self, filter: Filter, dropped: Arc<Notify>) -> Option<Watcher> {
        let mut watchers = self.lock();
        watchers.retain(|watcher| !watcher.events.is_closed());
        if watchers.len() >= WATCHERS {
            return None;
        }
        let (sender, events) = mpsc::channel(WAITING);
        watchers.push(Sender { filter, events: sender, dropped });
        self.watched.store(watchers.len(), Ordering::Relaxed);
        Some(events)
    }

    /// Watchers that were dropped because they were too slow.
    #[must_use]
    pub fn dropped(&self) -> u64 {
        self.dropped.load(Ordering::Relaxed)
    }

    fn lock(&self) -> MutexGuard<'_, Vec<Sender>> {
        self.watchers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

// === impl Event ===

impl Event {
    fn as_str(self) -> &'static str {
        match self {
            Self::Decision => "decision",
            Self::Policy => "policy",
            Self::Identity => "identity",
        }
    }
}

// === impl Filter ===

impl Filter {
    /// Every decision.
    pub const ALL: Self = Self { verdicts: [true; 3] };

    /// From the query of the request: `decision=deny,would_deny`; without one, everything.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn parse(query: Option<&str>) -> Result<Self, String> {
        let mut filter = Self::ALL;
        for part in query.unwrap_or_default().split('&').filter(|part| !part.is_empty()) {
            let Some(("decision", words)) = part.split_once('=') else {
                return Err(format!("{part:?}: write decision=allow,deny,would_deny"));
            };
            filter = Self { verdicts: [false; 3] };
            for word in words.split(',') {
                let [allow, deny, would_deny] = &mut filter.verdicts;
                *match word {
                    "allow" => allow,
                    "deny" => deny,
                    "would_deny" => would_deny,
                    other => return Err(format!("{other:?} is no decision: allow, deny, would_deny")),
                } = true;
            }
        }
        Ok(filter)
    }

    fn wants(self, verdict: Verdict) -> bool {
        let [allow, deny, would_deny] = self.verdicts;
        match verdict {
            Verdict::Allow => allow,
            Verdict::Deny => deny,
            Verdict::WouldDeny => would_deny,
        }
    }
}

/// A time as the documents and events write it: RFC 3339, to the millisecond.
#[must_use]
pub fn time(at: SystemTime) -> Option<String> {
    let at = OffsetDateTime::from(at);
    at.replace_nanosecond(at.nanosecond() / 1_000_000 * 1_000_000).ok()?.format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn publish(events: &Events, verdict: Verdict) {
        events.publish(Event::Decision, Some(verdict), SystemTime::UNIX_EPOCH, json!({"rule": "x"}));
    }

    fn watch(events: &Events, query: Option<&str>) -> Option<Watcher> {
        events.watch(Filter::parse(query).unwrap(), Arc::default())
    }

    #[test]
    fn a_watcher_gets_what_it_asked_for() {
        let events = Events::default();
        publish(&events, Verdict::Deny);
        let mut all = watch(&events, None).unwrap();
        let mut denied = watch(&events, Some("decision=deny,would_deny")).unwrap();
        publish(&events, Verdict::Allow);
        publish(&events, Verdict::WouldDeny);
        let data = "data: {\"rule\":\"x\",\"time\":\"1970-01-01T00:00:00Z\"}\n\n";
        for _ in 0..2 {
            assert_eq!(&*all.try_recv().unwrap(), format!("event: decision\n{data}"));
        }
        assert!(denied.try_recv().is_ok() && denied.try_recv().is_err());
        assert!(Filter::parse(Some("decision=maybe")).unwrap_err().contains("would_deny"));
        assert!(Filter::parse(Some("deny")).is_err());
    }

    #[tokio::test]
    async fn a_watcher_that_does_not_read_is_dropped_and_counted_and_nobody_waits_for_it() {
        let events = Events::default();
        let dropped = Arc::new(Notify::new());
        let mut slow = events.watch(Filter::ALL, Arc::clone(&dropped)).unwrap();
        for _ in 0..10 * WAITING {
            publish(&events, Verdict::Allow);
        }
        assert_eq!(events.dropped(), 1);
        assert!(!events.is_watched());
        dropped.notified().await;
        let mut got = 0;
        while slow.recv().await.is_some() {
            got += 1;
        }
        assert_eq!(got, WAITING);
    }

    #[test]
    fn there_are_only_so_many_watchers_and_those_that_left_make_room() {
        let events = Events::default();
        let mut watchers: Vec<_> = (0..WATCHERS).map(|_| watch(&events, None).unwrap()).collect();
        assert!(watch(&events, None).is_none());
        watchers.pop();
        assert!(watch(&events, None).is_some());
        assert_eq!(events.dropped(), 0);
    }
}
