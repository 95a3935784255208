//! Which of several endpoints a connection or a request goes to.
//!
//! The less loaded of two random ones (the power of two choices): as even as looking at all of them,
//! without every caller running to the same idle endpoint at once. An endpoint that could not be
//! reached is left out for a while, longer each time, and then tried by one connection alone; if all
//! are out, all are in, because the next one to come back must be noticed.

use std::{
    cell::Cell,
    hash::{BuildHasher, Hasher, RandomState},
    net::SocketAddr,
    sync::{
        Arc, LazyLock,
        atomic::{AtomicU32, AtomicU64, AtomicUsize, Ordering},
    },
    time::{Duration, Instant},
};

use super::Endpoint;

/// How long an endpoint is left out after its first failure; doubled with each further one.
const FIRST_EJECTION: Duration = Duration::from_secs(1);
/// The longest that an endpoint is left out.
const LONGEST_EJECTION: Duration = Duration::from_secs(30);
/// Whoever tries an endpoint that was left out has this long to find out; then another may.
const PROBE: Duration = Duration::from_secs(5);
/// Doubling ends here; far above what [`LONGEST_EJECTION`] needs.
const MOST_DOUBLINGS: u32 = 8;

/// Times are milliseconds since this moment, so that they fit an atomic.
static START: LazyLock<Instant> = LazyLock::new(Instant::now);

/// How an endpoint fares, as all workers see it. It belongs to the address and outlives the lists
/// that name it.
#[derive(Debug, Default)]
pub struct Health {
    /// Requests and opaque connections that it carries.
    load: AtomicUsize,
    /// Connections in a row that could not be made.
    failures: AtomicU32,
    /// Left out until then, in milliseconds since [`START`]; 0 for an endpoint that is in.
    out_until: AtomicU64,
    /// Told its callers to go elsewhere, until then in the same milliseconds; 0 for one that never did.
    leaving_until: AtomicU64,
}

/// A request's or a connection's weight on its endpoint, until it is dropped.
#[derive(Debug)]
pub struct Load(Arc<Health>);

/// Chooses among `endpoints`, leaving out what was `tried` already. `None` when that is all of them.
#[must_use]
pub fn pick<'e>(endpoints: &'e [Endpoint], tried: &[SocketAddr]) -> Option<&'e Endpoint> {
    let untried = || endpoints.iter().filter(|endpoint| !tried.contains(&endpoint.addr));
    if let [only] = endpoints {
        return untried().next().map(|_| only);
    }
    let now = now();
    // One whose time is over is worth one connection: the first to ask gets it.
    if let Some(back) = untried().find(|endpoint| endpoint.health.claim_probe(now)) {
        return Some(back);
    }
    lighter_of_two(|| untried().filter(|endpoint| endpoint.health.is_in()))
        .or_else(|| lighter_of_two(untried))
}

fn lighter_of_two<'e, I>(candidates: impl Fn() -> I) -> Option<&'e Endpoint>
where
    I: Iterator<Item = &'e Endpoint>,
{
    let count = candidates().count();
    let first = random_below(count)?;
    // A second one that is not the first, where there is one.
    let second = random_below(count - 1).map_or(first, |n| if n >= first { n + 1 } else { n });
    let (a, b) = (candidates().nth(first)?, candidates().nth(second)?);
    Some(if b.health.load() < a.health.load() { b } else { a })
}

/// A random number below `bound`; `None` for 0. Nothing secret hangs on it.
fn random_below(bound: usize) -> Option<usize> {
    thread_local! {
        static STATE: Cell<u64> = Cell::new(RandomState::new().build_hasher().finish() | 1);
    }
    // xorshift64 (Marsaglia 2003).
    let mut state = STATE.get();
    state ^= state << 13;
    state ^= state >> 7;
    state ^= state << 17;
    STATE.set(state);
    // The remainder is off from even by one in 2^64 / bound.
    (state % u64::try_from(bound).ok()?.max(1)).try_into().ok().filter(|_| bound > 0)
}

fn now() -> u64 {
    u64::try_from(START.elapsed().as_millis()).unwrap_or(u64::MAX).saturating_add(1)
}

fn after(time: Duration) -> u64 {
    now().saturating_add(u64::try_from(time.as_millis()).unwrap_or(u64::MAX))
}

// === impl Health ===

impl Health {
    /// Puts one more request or connection on it.
    #[must_use]
    pub fn carry(self: &Arc<Self>) -> Load {
        self.load.fetch_add(1, Ordering::Relaxed);
        Load(Arc::clone(self))
    }

    /// A connection was made: it is in.
    pub fn succeeded(&self) {
        if self.failures.load(Ordering::Relaxed) != 0 {
            self.failures.store(0, Ordering::Relaxed);
            self.out_until.store(0, Ordering::Relaxed);
        }
    }

    /// A connection could not be made: it is out for a while. Returns whether it was in before.
    pub fn failed(&self) -> bool {
        let failures = self.failures.fetch_add(1, Ordering::Relaxed);
        let out = FIRST_EJECTION.saturating_mul(1 << failures.min(MOST_DOUBLINGS)).min(LONGEST_EJECTION);
        self.out_until.swap(after(out), Ordering::Relaxed) == 0
    }

    /// It can be reached, but tells whoever comes to go elsewhere: it is left out for a moment, as long as
    /// others are in.
    pub fn leaves(&self) {
        self.leaving_until.store(after(FIRST_EJECTION), Ordering::Relaxed);
    }

    /// Whether it takes part.
    #[must_use]
    pub fn is_in(&self) -> bool {
        let leaving = self.leaving_until.load(Ordering::Relaxed);
        self.out_until.load(Ordering::Relaxed) == 0 && (leaving == 0 || leaving <= now())
    }

    fn load(&self) -> usize {
        self.load.load(Ordering::Relaxed)
    }

    /// Whether its time is over and the caller is the one to try it. An endpoint that answers nothing
    /// costs one caller its time and not all.
    fn claim_probe(&self, now: u64) -> bool {
        let until = self.out_until.load(Ordering::Relaxed);
        if until == 0 || until > now {
            return false;
        }
        let next = now.saturating_add(u64::try_from(PROBE.as_millis()).unwrap_or(u64::MAX));
        self.out_until.compare_exchange(until, next, Ordering::Relaxed, Ordering::Relaxed).is_ok()
    }
}

// === impl Load ===

impl Drop for Load {
    fn drop(&mut self) {
        self.0.load.fetch_sub(1, Ordering::Relaxed);
    }
}
