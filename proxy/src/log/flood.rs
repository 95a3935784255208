//! Repeated denials: the first ones in full, then a few per second with the number that was left out.
//!
//! Pure: time is an argument. Counts in the metrics stay exact; only lines are saved.

use std::{
    collections::{HashMap, HashSet},
    time::{Duration, Instant},
};

use super::id::DecisionId;

/// Lines of one kind written at once before the rate counts.
const BURST: u64 = 20;
/// Lines of one kind per second after that.
const PER_SECOND: u64 = 10;
/// A line costs this many units, of which PER_SECOND arrive each millisecond.
const LINE: u64 = 1000;
/// Kinds that are told apart; peers are authenticated and rules are few, so this is rarely reached.
const KINDS: usize = 1024;
/// Peers that are known to have been refused.
const PEERS: usize = 4096;
/// A kind that was quiet for so long may be forgotten to make room.
const QUIET: Duration = Duration::from_secs(60);
/// The kind of everything that comes when there is no room.
const OTHER: u64 = u64::MAX;

/// What describes a kind in its summary line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Kind {
    /// None for a failure, which is no decision.
    pub(super) decision: Option<&'static str>,
    pub(super) reason: String,
    pub(super) rule: Option<String>,
    pub(super) peer: Option<String>,
}

/// Token buckets by kind.
#[derive(Debug, Default)]
pub(super) struct Flood {
    buckets: HashMap<u64, Bucket>,
    /// Who was refused before.
    peers: HashSet<u64>,
}

/// What to do with one denial.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Admission {
    /// Write it, and say how many were left out since the last line.
    Write {
        /// Left out before this one.
        suppressed: u64,
        /// The first of its kind.
        first: bool,
    },
    /// Leave it out; the caller is told the id of the last line of its kind.
    Suppress {
        /// The line that stands for this denial.
        last: DecisionId,
        /// The first that was left out since the last line.
        begins: bool,
    },
}

/// A kind whose repetitions stopped with some left out.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Summary {
    pub(super) kind: Kind,
    pub(super) suppressed: u64,
    pub(super) last: DecisionId,
}

#[derive(Debug)]
struct Bucket {
    kind: Kind,
    level: u64,
    filled: Instant,
    suppressed: u64,
    last: Option<DecisionId>,
}

// === impl Flood ===

impl Flood {
    /// Judges one denial of the kind `key`.
    pub(super) fn admit(&mut self, key: u64, now: Instant, kind: impl FnOnce() -> Kind) -> Admission {
        let key = self.room_for(key, now);
        let mut first = false;
        let bucket = self.buckets.entry(key).or_insert_with(|| {
            first = true;
            Bucket { kind: kind(), level: BURST * LINE, filled: now, suppressed: 0, last: None }
        });
        bucket.fill(now);
        match bucket.last {
            Some(last) if bucket.level < LINE => {
                bucket.suppressed += 1;
                Admission::Suppress { last, begins: bucket.suppressed == 1 }
            }
            _ => {
                bucket.level = bucket.level.saturating_sub(LINE);
                Admission::Write { suppressed: bucket.suppressed, first }
            }
        }
    }

    /// Whether this peer was never refused before. Past a limit nobody is new any more.
    pub(super) fn is_new(&mut self, peer: u64) -> bool {
        self.peers.len() < PEERS && self.peers.insert(peer)
    }

    /// The line for an admitted denial stands in the log: later ones may refer to it.
    pub(super) fn written(&mut self, key: u64, id: DecisionId) {
        let key = if self.buckets.contains_key(&key) { key } else { OTHER };
        if let Some(bucket) = self.buckets.get_mut(&key) {
            bucket.last = Some(id);
            bucket.suppressed = 0;
        }
    }

    /// The line was lost; returns what stands for it, if anything does.
    pub(super) fn lost(&mut self, key: u64) -> Option<DecisionId> {
        self.buckets.get(&key).or_else(|| self.buckets.get(&OTHER)).and_then(|bucket| bucket.last)
    }

    /// Summaries that may be written now, or all if this is the end; they cost a line each and clear the count.
    pub(super) fn due(&mut self, now: Instant, ending: bool) -> Vec<Summary> {
        let mut due = Vec::new();
        for bucket in self.buckets.values_mut().filter(|bucket| bucket.suppressed > 0) {
            bucket.fill(now);
            if let (true, Some(last)) = (ending || bucket.level >= LINE, bucket.last) {
                bucket.level = bucket.level.saturating_sub(LINE);
                due.push(Summary { kind: bucket.kind.clone(), suppressed: bucket.suppressed, last });
                bucket.suppressed = 0;
            }
        }
        due
    }

    /// Whether a later [`Flood::due`] will have something to say.
    pub(super) fn pending(&self) -> bool {
        self.buckets.values().any(|bucket| bucket.suppressed > 0)
    }

    fn room_for(&mut self, key: u64, now: Instant) -> u64 {
        if self.buckets.len() < KINDS || self.buckets.contains_key(&key) {
            return key;
        }
        self.buckets.retain(|_, bucket| {
            bucket.suppressed > 0 || now.saturating_duration_since(bucket.filled) < QUIET
        });
        if self.buckets.len() < KINDS { key } else { OTHER }
    }
}

// === impl Bucket ===

impl Bucket {
    fn fill(&mut self, now: Instant) {
        let millis = now.saturating_duration_since(self.filled).as_millis();
        let gained = u64::try_from(millis).unwrap_or(u64::MAX).saturating_mul(PER_SECOND);
        if gained > 0 {
            self.level = self.level.saturating_add(gained).min(BURST * LINE);
            self.filled = now;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::{super::id::Ids, *};
    use std::time::SystemTime;

    fn kind() -> Kind {
        Kind { decision: Some("deny"), reason: "default".to_owned(), rule: None, peer: None }
    }

    /// Sends `count` denials of one kind at `now`; returns written and suppressed.
    fn send(flood: &mut Flood, ids: &Ids, key: u64, now: Instant, count: usize) -> (usize, usize) {
        let mut result = (0, 0);
        for _ in 0..count {
            match flood.admit(key, now, kind) {
                Admission::Write { .. } => {
                    flood.written(key, ids.next(SystemTime::now()));
                    result.0 += 1;
                }
                Admission::Suppress { .. } => result.1 += 1,
            }
        }
        result
    }

    #[test]
    fn twenty_lines_at_once_then_ten_per_second() {
        let (mut flood, ids, start) = (Flood::default(), Ids::new(), Instant::now());
        assert_eq!(send(&mut flood, &ids, 1, start, 1000), (20, 980));
        assert_eq!(send(&mut flood, &ids, 1, start + Duration::from_secs(1), 1000), (10, 990));
        assert_eq!(send(&mut flood, &ids, 1, start + Duration::from_secs(100), 1000), (20, 980));
        assert_eq!(send(&mut flood, &ids, 2, start, 1), (1, 0));
    }

    #[test]
    fn a_suppressed_denial_is_answered_with_the_last_written_id() {
        let (mut flood, ids, now) = (Flood::default(), Ids::new(), Instant::now());
        let mut written = Vec::new();
        for _ in 0..100 {
            match flood.admit(1, now, kind) {
                Admission::Write { .. } => {
                    let id = ids.next(SystemTime::now());
                    flood.written(1, id);
                    written.push(id);
                }
                Admission::Suppress { last, .. } => assert_eq!(Some(&last), written.last()),
            }
        }
    }

    #[test]
    fn what_was_left_out_is_said_by_the_next_line_or_by_a_summary() {
        let (mut flood, ids, start) = (Flood::default(), Ids::new(), Instant::now());
        send(&mut flood, &ids, 1, start, 25);
        let later = start + Duration::from_millis(100);
        assert_eq!(flood.admit(1, later, kind), Admission::Write { suppressed: 5, first: false });
        flood.written(1, ids.next(SystemTime::now()));
        send(&mut flood, &ids, 1, later, 3);
        assert!(flood.pending());
        assert_eq!(flood.due(later, false), []);
        let due = flood.due(later + Duration::from_secs(1), false);
        assert_eq!(due.iter().map(|summary| summary.suppressed).collect::<Vec<_>>(), [3]);
        assert!(!flood.pending());
        assert_eq!(flood.due(later + Duration::from_secs(2), true), []);
    }

    #[test]
    fn a_line_that_was_lost_is_never_referred_to() {
        let (mut flood, now) = (Flood::default(), Instant::now());
        for _ in 0..100 {
            assert!(matches!(flood.admit(1, now, kind), Admission::Write { .. }));
            assert_eq!(flood.lost(1), None);
        }
    }

    #[test]
    fn memory_is_bounded_whatever_comes() {
        let (mut flood, ids, now) = (Flood::default(), Ids::new(), Instant::now());
        for key in 0..10_000 {
            send(&mut flood, &ids, key, now, 1);
        }
        assert!(flood.buckets.len() <= KINDS + 1);
        let much_later = now + QUIET + Duration::from_secs(1);
        assert_eq!(flood.admit(50_000, much_later, kind), Admission::Write { suppressed: 0, first: true });
        assert!(flood.buckets.len() <= 2, "{}", flood.buckets.len());
    }
}
