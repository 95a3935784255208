//! What a process holds of memory of its own.

use mantlet_testkit::sidecar::Sidecar;

/// A reading can be taken at any moment, and compared with a later one.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Memory {
    /// Bytes that belong to the process alone: heap and stacks, not the binary.
    pub(crate) anonymous: u64,
}

impl Memory {
    pub(crate) fn of(sidecar: &Sidecar) -> Self {
        let pid = sidecar.pid().expect("a running sidecar");
        let rollup = std::fs::read_to_string(format!("/proc/{pid}/smaps_rollup")).expect("smaps_rollup");
        let line = rollup.lines().find_map(|line| line.strip_prefix("Anonymous:"));
        let number = line.and_then(|line| line.split_whitespace().next()?.parse::<u64>().ok());
        Self { anonymous: number.unwrap_or_else(|| panic!("no Anonymous in {rollup}")) * 1024 }
    }

    /// How much more it is than before.
    pub(crate) fn since(self, before: Self) -> u64 {
        self.anonymous.saturating_sub(before.anonymous)
    }
}

/// True in CI, where tests have the machine and the time for full sizes.
pub(crate) fn full_size() -> bool {
    std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1")
}
