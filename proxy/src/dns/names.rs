//! The names that this process needs, looked up again whenever what is known about them ends.
//!
//! The lookups run on the control thread; workers read a finished table. A name that cannot be looked
//! up keeps its last addresses for a bounded time: a DNS server that is down must not take with it
//! what it is not needed for.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use arc_swap::ArcSwap;
use tokio::{
    sync::{Notify, watch},
    task::JoinSet,
    time::{self, Instant},
};
use tracing::{debug, warn};

use super::{Answer, LookupError, Resolver};

/// No answer is asked for more often, whatever its TTL.
const SHORTEST: Duration = Duration::from_secs(1);
/// No answer is believed for longer.
const LONGEST: Duration = Duration::from_secs(3600);
/// Pause after a failure; doubled up to [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_secs(1);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// Lookups that run at a time.
const AT_ONCE: usize = 16;
/// An answer that is younger is not asked for again because of a destination that nobody knows.
const FRESH: Duration = Duration::from_secs(5);

/// The names and what is known about them. Cheap to clone.
#[derive(Clone)]
pub struct Names {
    shared: Arc<Shared>,
}

/// Somebody's wish that some names be known, until it is dropped.
pub struct Want {
    shared: Arc<Shared>,
    names: BTreeSet<String>,
}

type Table = HashMap<Arc<str>, Arc<[IpAddr]>>;

struct Shared {
    state: Mutex<HashMap<Arc<str>, Entry>>,
    table: ArcSwap<Table>,
    /// Changes with the table.
    version: watch::Sender<u64>,
    /// Changes with every lookup that ends.
    rounds: watch::Sender<u64>,
    wake: Notify,
    /// How long the last answer is kept when there is no newer one.
    keep: Duration,
}

struct Entry {
    /// Who wants it.
    wanted: usize,
    addresses: Arc<[IpAddr]>,
    /// When a lookup last ended, however it did.
    looked: Option<Instant>,
    /// When the next one is due.
    next: Instant,
    /// Until when `addresses` may be used without a newer answer.
    keep_until: Option<Instant>,
    failures: u32,
    in_flight: bool,
}

// === impl Names ===

impl Names {
    /// No names yet; what was known about one is kept for `keep` beyond its TTL when nobody answers.
    #[must_use]
    pub fn new(keep: Duration) -> Self {
        let shared = Shared {
            state: Mutex::default(),
            table: ArcSwap::default(),
            version: watch::Sender::new(0),
            rounds: watch::Sender::new(0),
            wake: Notify::new(),
            keep,
        };
        Self { shared: Arc::new(shared) }
    }

    /// Keeps these names known for as long as the answer lives.
    #[must_use]
    pub fn want(&self, names: BTreeSet<String>) -> Want {
        let mut state = self.shared.lock();
        for name in &names {
            let entry = state.entry(name.as_str().into()).or_insert_with(Entry::new);
            entry.wanted += 1;
        }
        drop(state);
        self.shared.wake.notify_one();
        Want { shared: Arc::clone(&self.shared), names }
    }

    /// The addresses of a name, as far as they are known.
    #[must_use]
    pub fn addresses(&self, name: &str) -> Arc<[IpAddr]> {
        self.shared.table.load().get(name).cloned().unwrap_or_default()
    }

    /// Whether a name is known to have this address.
    #[must_use]
    pub fn has(&self, name: &str, ip: IpAddr) -> bool {
        self.shared.table.load().get(name).is_some_and(|known| known.contains(&ip))
    }

    /// Told when any name's addresses change.
    #[must_use]
    pub fn subscribe(&self) -> watch::Receiver<u64> {
        self.shared.version.subscribe()
    }

    /// Looks those of `names` up again whose answer is not fresh, once for all who ask, and waits for
    /// the answers, at most for `limit`.
    pub async fn refresh(&self, names: impl Iterator<Item = &str>, limit: Duration) {
        let mut rounds = self.shared.rounds.subscribe();
        let asked = Instant::now();
        let mut awaited: Vec<Arc<str>> = Vec::new();
        {
            let mut state = self.shared.lock();
            for name in names {
                let Some(entry) = state.get_mut(name) else { continue };
                if entry.looked.is_none_or(|looked| asked.duration_since(looked) > FRESH) {
                    entry.next = asked;
                    awaited.push(name.into());
                }
            }
        }
        if awaited.is_empty() {
            return;
        }
        self.shared.wake.notify_one();
        let answered = |shared: &Shared| {
            let state = shared.lock();
            awaited.iter().all(|name| {
                let looked = state.get(name).map(|entry| entry.looked);
                looked.is_none_or(|looked| looked.is_some_and(|looked| looked >= asked))
            })
        };
        let wait = async {
            while !answered(&self.shared) {
                if rounds.changed().await.is_err() {
                    return;
                }
            }
        };
        // Whoever is late is not waited for.
        let _ = time::timeout(limit, wait).await;
    }

    /// Keeps what is known up to date. Never returns.
    pub async fn run(self, resolver: Resolver) {
        let mut lookups: JoinSet<(Arc<str>, Result<Answer, LookupError>)> = JoinSet::new();
        loop {
            let next = self.start_due(&resolver, &mut lookups);
            tokio::select! {
                Some(done) = lookups.join_next() => {
                    if let Ok((name, answer)) = done {
                        self.ended(&name, answer);
                    }
                }
                () = sleep_until(next) => {}
                () = self.shared.wake.notified() => {}
            }
        }
    }

    /// Starts what is due, and says when something else is.
    fn start_due(
        &self,
        resolver: &Resolver,
        lookups: &mut JoinSet<(Arc<str>, Result<Answer, LookupError>)>,
    ) -> Option<Instant> {
        let now = Instant::now();
        let mut next = None;
        for (name, entry) in self.shared.lock().iter_mut().filter(|(_, entry)| !entry.in_flight) {
            if entry.next > now {
                next = Some(next.map_or(entry.next, |next: Instant| next.min(entry.next)));
            } else if lookups.len() < AT_ONCE {
                entry.in_flight = true;
                let (resolver, name) = (resolver.clone(), Arc::clone(name));
                lookups.spawn(async move {
                    let answer = resolver.lookup(&name).await;
                    (name, answer)
                });
            }
        }
        next
    }

    fn ended(&self, name: &Arc<str>, answer: Result<Answer, LookupError>) {
        let mut state = self.shared.lock();
        let Some(entry) = state.get_mut(name) else { return };
        let changed = entry.ended(name, answer, self.shared.keep);
        if changed {
            self.shared.publish(&state);
        }
        drop(state);
        self.shared.rounds.send_modify(|rounds| *rounds += 1);
    }
}

async fn sleep_until(at: Option<Instant>) {
    match at {
        Some(at) => time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

// === impl Shared ===

impl Shared {
    fn lock(&self) -> MutexGuard<'_, HashMap<Arc<str>, Entry>> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn publish(&self, state: &HashMap<Arc<str>, Entry>) {
        let known = state.iter().filter(|(_, entry)| !entry.addresses.is_empty());
        let table = known.map(|(name, entry)| (Arc::clone(name), Arc::clone(&entry.addresses))).collect();
        self.table.store(Arc::new(table));
        self.version.send_modify(|version| *version += 1);
    }
}

// === impl Entry ===

impl Entry {
    fn new() -> Self {
        Self {
            wanted: 0,
            addresses: Arc::default(),
            looked: None,
            next: Instant::now(),
            keep_until: None,
            failures: 0,
            in_flight: false,
        }
    }

    /// Takes a lookup's end over. Returns whether the addresses changed.
    fn ended(&mut self, name: &str, answer: Result<Answer, LookupError>, keep: Duration) -> bool {
        let now = Instant::now();
        (self.in_flight, self.looked) = (false, Some(now));
        let addresses: Vec<IpAddr> = match answer {
            Ok(answer) => {
                let ttl = answer.ttl.clamp(SHORTEST, LONGEST);
                (self.failures, self.next, self.keep_until) = (0, now + ttl, Some(now + ttl + keep));
                let mut addresses = answer.addresses;
                addresses.sort_unstable();
                addresses.dedup();
                addresses
            }
            Err(error) => {
                let pause = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
                self.failures = self.failures.saturating_add(1);
                self.next = now + pause;
                debug!(event = "lookup_failed", name, error = &error as &dyn std::error::Error);
                let kept = self.keep_until.is_some_and(|until| now < until);
                if kept || self.addresses.is_empty() {
                    self.next = self.keep_until.map_or(self.next, |until| {
                        if until > now { self.next.min(until) } else { self.next }
                    });
                    return false;
                }
                warn!(event = "lookup_given_up", name, hint = "its last addresses are too old to be used");
                Vec::new()
            }
        };
        let changed = *self.addresses != *addresses;
        self.addresses = addresses.into();
        changed
    }
}

// === impl Want ===

impl Drop for Want {
    fn drop(&mut self) {
        let mut state = self.shared.lock();
        let mut gone = false;
        for name in &self.names {
            if let Some(entry) = state.get_mut(name.as_str()) {
                entry.wanted = entry.wanted.saturating_sub(1);
                if entry.wanted == 0 {
                    gone |= !entry.addresses.is_empty();
                    state.remove(name.as_str());
                }
            }
        }
        if gone {
            self.shared.publish(&state);
        }
    }
}
