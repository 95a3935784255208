//! The standard `process_*` families, read from /proc at a scrape.

use std::{fs, sync::atomic::AtomicU64};

use prometheus_client::metrics::{counter::Counter, gauge::Gauge};

use super::catalog::{About, Catalog, NoLabels, about};

/// What the kernel says of the own process.
#[derive(Default)]
pub(super) struct Process {
    cpu: Counter<f64, AtomicU64>,
    resident: Gauge,
    open_fds: Gauge,
    max_fds: Gauge,
    threads: Gauge,
    start: Gauge<f64, AtomicU64>,
}

/// Fields of `/proc/self/stat`, see proc_pid_stat(5); times in ticks.
#[derive(Debug, PartialEq)]
struct Stat {
    user: u64,
    system: u64,
    threads: u64,
    start: u64,
    resident_pages: u64,
}

// === impl Process ===

impl Process {
    pub(super) fn register(&self, to: &mut Catalog) {
        let process = About::minimal;
        to.add::<NoLabels>(
            process(about("process_cpu", "CPU time of the process")).seconds(),
            self.cpu.clone(),
        );
        to.add::<NoLabels>(
            process(about("process_resident_memory", "Memory of the process in RAM")).bytes(),
            self.resident.clone(),
        );
        to.add::<NoLabels>(
            process(about("process_open_fds", "Open file descriptors")),
            self.open_fds.clone(),
        );
        to.add::<NoLabels>(
            process(about("process_max_fds", "Limit of open file descriptors")),
            self.max_fds.clone(),
        );
        to.add::<NoLabels>(process(about("process_threads", "Threads of the process")), self.threads.clone());
        to.add::<NoLabels>(
            process(about("process_start_time", "When the process started, since the epoch")).seconds(),
            self.start.clone(),
        );
    }

    /// Looks; what cannot be read keeps its last value.
    pub(super) fn observe(&self) {
        let ticks = rustix::param::clock_ticks_per_second().max(1) as f64;
        if let Some(stat) = fs::read_to_string("/proc/self/stat").ok().as_deref().and_then(Stat::parse) {
            let cpu = (stat.user + stat.system) as f64 / ticks;
            self.cpu.inc_by((cpu - self.cpu.get()).max(0.0));
            let page = i64::try_from(rustix::param::page_size()).unwrap_or(4096);
            self.resident.set(i64::try_from(stat.resident_pages).unwrap_or_default().saturating_mul(page));
            self.threads.set(i64::try_from(stat.threads).unwrap_or_default());
            if self.start.get() == 0.0
                && let Some(boot) = fs::read_to_string("/proc/stat").ok().as_deref().and_then(boot_time)
            {
                self.start.set(boot + stat.start as f64 / ticks);
            }
        }
        if let Ok(fds) = fs::read_dir("/proc/self/fd") {
            // Without the one that looks.
            self.open_fds.set(i64::try_from(fds.count()).unwrap_or_default() - 1);
        }
        let limit = rustix::process::getrlimit(rustix::process::Resource::Nofile).current;
        self.max_fds.set(limit.and_then(|limit| i64::try_from(limit).ok()).unwrap_or(i64::MAX));
    }
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

    #[test]
    fn the_own_process_is_seen() {
        let process = Process::default();
        process.observe();
        assert!(process.resident.get() > 0);
        assert!(process.threads.get() > 0);
        assert!(process.open_fds.get() > 0);
        assert!(process.max_fds.get() >= process.open_fds.get());
        assert!(process.start.get() > 1_500_000_000.0);
    }
}
