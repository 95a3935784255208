//! When to call the agent again (WA 4.2, WE 6).
//!
//! Two kinds of trouble. What may pass by itself (nobody there, no identity yet) is tried again soon: 200 ms
//! and then twice as long up to 5 s, which is at most 18 calls in the first minute. What is a mistake of
//! somebody (`InvalidArgument`, `Unimplemented`) is tried every 3 s for 12 s, because agents answer oddly
//! while they start, and then every 30 s.

use std::time::Duration;

const FIRST: Duration = Duration::from_millis(200);
const LONGEST: Duration = Duration::from_secs(5);
/// A stream that has lived this long ended for a reason of its own: reconnect at once.
const SETTLED: Duration = Duration::from_secs(5);
const REFUSED_SOON: Duration = Duration::from_secs(3);
const REFUSED_SOON_TIMES: u32 = 4;
const REFUSED_LATER: Duration = Duration::from_secs(30);

/// Counts failures in a row.
#[derive(Debug, Default)]
pub(super) struct Backoff {
    passing: u32,
    refused: u32,
}

// === impl Backoff ===

impl Backoff {
    /// How long to wait after a failure that may pass. `lived` is how long the stream gave answers.
    pub(super) fn after_passing(&mut self, lived: Duration, jitter: u8) -> Duration {
        if lived >= SETTLED {
            self.passing = 0;
            return Duration::ZERO;
        }
        let delay = FIRST.saturating_mul(1 << self.passing.min(10)).min(LONGEST);
        self.passing = self.passing.saturating_add(1);
        // Up to a fifth longer, so that the pods of a node do not call in step.
        delay + delay.mul_f64(f64::from(jitter) / f64::from(u8::MAX) / 5.0)
    }

    /// How long to wait after a refusal that will not pass by itself.
    pub(super) fn after_refused(&mut self) -> Duration {
        self.refused = self.refused.saturating_add(1);
        if self.refused <= REFUSED_SOON_TIMES { REFUSED_SOON } else { REFUSED_LATER }
    }

    /// An update was taken: the next refusal is a new one. The other count stays until a stream has lived
    /// long enough, or an agent that answers and hangs up would be called in a loop.
    pub(super) fn answered(&mut self) {
        self.refused = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn at_most_20_calls_in_60_s_while_nothing_answers() {
        for jitter in [0, u8::MAX] {
            let (mut backoff, mut now, mut calls) = (Backoff::default(), Duration::ZERO, 0);
            while now < Duration::from_secs(60) {
                calls += 1;
                now += backoff.after_passing(Duration::ZERO, jitter);
            }
            assert!((10..=20).contains(&calls), "{calls}");
        }
    }

    #[test]
    fn refusals_are_tried_at_most_6_times_in_12_s_and_then_every_30_s() {
        let (mut backoff, mut now, mut at) = (Backoff::default(), Duration::ZERO, Vec::new());
        while now < Duration::from_secs(120) {
            at.push(now);
            now += backoff.after_refused();
        }
        assert!(at.iter().filter(|t| t.as_secs() < 5).count() <= 2);
        assert!(at.iter().filter(|t| t.as_secs() <= 12).count() <= 6);
        assert!(at.windows(2).all(|pair| pair[1] - pair[0] <= Duration::from_secs(30)));
    }

    #[test]
    fn a_settled_stream_is_reopened_at_once_and_a_flapping_one_is_not() {
        let mut backoff = Backoff::default();
        assert!(backoff.after_passing(Duration::from_millis(10), 0) > Duration::ZERO);
        backoff.answered();
        assert!(backoff.after_passing(Duration::from_millis(10), 0) > FIRST);
        assert_eq!(backoff.after_passing(Duration::from_secs(5), 0), Duration::ZERO);
        assert_eq!(backoff.after_passing(Duration::ZERO, 0), FIRST);
    }
}
