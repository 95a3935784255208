//! The standard `process_*` families, read from /proc at a scrape.

use std::fs;

use super::{CPU, MAX_FDS, OPEN_FDS, RESIDENT, START, THREADS, exposition::Text};

/// Fields of `/proc/self/stat`, see proc_pid_stat(5); times in ticks.
#[derive(Debug, Default, PartialEq)]
struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    start: u64,
    resident_pages: u64,
}

/// Writes what the kernel says of the own process. What cannot be read is 0.
pub(super) fn write(text: &mut Text) {
    let read = |path| fs::read_to_string(path).ok();
    let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
    let stat = read("/proc/self/stat").as_deref().and_then(Stat::parse).unwrap_or_default();
    text.single(&CPU, (stat.user + stat.system) as f64 / ticks);
    text.single(&RESIDENT, stat.resident_pages as f64 * rustix::param::page_size() as f64);
    // Without the one that looks.
    let open = fs::read_dir("/proc/self/fd").map_or(0, |fds| fds.count().saturating_sub(1));
    text.single(&OPEN_FDS, open as f64);
    let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
    text.single(&MAX_FDS, limit.unwrap_or_default() as f64);
    text.single(&THREADS, stat.threads as f64);
    let boot = read("/proc/stat").as_deref().and_then(boot_time).unwrap_or_default();
    text.single(&START, boot + stat.start as f64 / ticks);
}

// === impl Stat ===

impl Stat {
    fn parse(text: &str) -> Option<Self> {
        // The program's name stands in parentheses and may hold anything, parentheses included.
        let (_, rest) = text.rsplit_once(") ")?;
        let fields: Vec<&str> = rest.split_whitespace().collect();
        let field = |number: usize| fields.get(number - 3)?.parse().ok();
        Some(Self {
            user: field(14)?,
            system: field(15)?,
            threads: field(20)?,
            start: field(22)?,
            resident_pages: field(24)?,
        })
    }
}

/// Seconds since the epoch at which the machine started.
fn boot_time(stat: &str) -> Option<f64> {
    stat.lines().find_map(|line| line.strip_prefix("btime "))?.trim().parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_with_spaces_and_parentheses_hides_no_field() {
        let text = "42 (a ) (b) S 1 2 3 4 5 6 7 8 9 10 1500 250 0 0 20 0 7 0 9000 1 333 0\n";
        let stat = Stat { user: 1500, system: 250, threads: 7, start: 9000, resident_pages: 333 };
        assert_eq!(Stat::parse(text), Some(stat));
        assert_eq!(Stat::parse("42 (a"), None);
        assert_eq!(boot_time("cpu 1 2\nbtime 1700000000\n"), Some(1_700_000_000.0));
    }
}
