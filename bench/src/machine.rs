//! What the kernel knows: processor time, memory, and who else was using the machine.
//!
//! Processor time is the scheduler's own run time in nanoseconds (`/proc/PID/task/*/schedstat`, the
//! source of `cpuacct.usage` too), because this kind of kernel counts user and system time by ticks.

use std::fs;
use std::io;
use std::time::{Duration, Instant};

/// Processor time of a process with its threads and its children, since they started.
pub(crate) fn cpu_time(pid: u32) -> Duration {
    let mut total = Duration::ZERO;
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return total };
    for task in tasks.flatten() {
        let path = task.path();
        if let Ok(line) = fs::read_to_string(path.join("schedstat")) {
            total += Duration::from_nanos(first_number(&line));
        }
        for child in fs::read_to_string(path.join("children")).unwrap_or_default().split_whitespace() {
            total += child.parse().map_or(Duration::ZERO, cpu_time);
        }
    }
    total
}

/// Proportional set size of a process and its children, in bytes.
pub(crate) fn pss(pid: u32) -> u64 {
    sum_over_tree(pid, "smaps_rollup", "Pss:")
}

/// Memory that is nobody's file, in bytes: what growth is measured by, since a kernel that reclaims cold
/// pages of the program itself makes the proportional set size fall meanwhile.
pub(crate) fn anonymous(pid: u32) -> u64 {
    sum_over_tree(pid, "smaps_rollup", "Anonymous:")
}

/// Resident set size of a process and its children, in bytes.
pub(crate) fn rss(pid: u32) -> u64 {
    sum_over_tree(pid, "status", "VmRSS:")
}

/// Waits until nothing has taken processor time of this process for a while, at most `limit`.
pub(crate) fn settle(pid: u32, limit: Duration) {
    let begun = Instant::now();
    let mut before = cpu_time(pid);
    while begun.elapsed() < limit {
        std::thread::sleep(Duration::from_millis(200));
        let now = cpu_time(pid);
        if now - before < Duration::from_micros(500) {
            return;
        }
        before = now;
    }
}

/// Processor time of the whole machine at one moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Usage {
    at: Instant,
    busy: Duration,
    stolen: Duration,
}

fn sum_over_tree(pid: u32, file: &str, key: &str) -> u64 {
    let text = fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
    let own = text.lines().find_map(|line| line.strip_prefix(key)).map_or(0, first_number) * 1024;
    let children = fs::read_to_string(format!("/proc/{pid}/task/{pid}/children")).unwrap_or_default();
    own + children
        .split_whitespace()
        .filter_map(|child| child.parse().ok())
        .map(|child| sum_over_tree(child, file, key))
        .sum::<u64>()
}

fn first_number(text: &str) -> u64 {
    text.split_whitespace().next().and_then(|word| word.parse().ok()).unwrap_or(0)
}

// === impl Usage ===

impl Usage {
    /// Reads the machine's counters, which advance by ticks of 4 ms or 10 ms.
    pub(crate) fn now() -> io::Result<Self> {
        let stat = fs::read_to_string("/proc/stat")?;
        let ticks: Vec<u64> = stat
            .lines()
            .next()
            .unwrap_or_default()
            .split_whitespace()
            .filter_map(|word| word.parse().ok())
            .collect();
        let at = |index: usize| ticks.get(index).copied().unwrap_or(0);
        // user, nice, system, (idle, iowait,) irq, softirq, steal; in hundredths of a second.
        Ok(Self {
            at: Instant::now(),
            busy: Duration::from_millis(10 * (at(0) + at(1) + at(2) + at(5) + at(6))),
            stolen: Duration::from_millis(10 * at(7)),
        })
    }

    /// Processors that somebody else kept busy since `before`, given what we used ourselves.
    pub(crate) fn foreign_since(&self, before: &Self, own: Duration) -> f64 {
        let window = (self.at - before.at).as_secs_f64();
        let busy = self.busy.saturating_sub(before.busy).saturating_sub(own);
        (busy + self.stolen.saturating_sub(before.stolen)).as_secs_f64() / window
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_that_works_is_charged_for_it() {
        let me = std::process::id();
        let before = cpu_time(me);
        let begun = Instant::now();
        let mut x = 1u64;
        while begun.elapsed() < Duration::from_millis(50) {
            x = std::hint::black_box(x.wrapping_mul(3));
        }
        assert!(cpu_time(me) > before);
    }

    #[test]
    fn memory_of_a_process_is_found() {
        let me = std::process::id();
        assert!(pss(me) > 100_000);
        assert!(rss(me) >= pss(me) / 4);
    }
}
