//! Watches the memory of the process: one that is killed for it loses everything, one that refuses in
//! time loses only what is new.

use std::{sync::Arc, time::Duration};

use tokio::time;
use tracing::warn;

use crate::{listener::Admission, sys};

/// Memory grows no faster than this can see: what is new is bounded by the other limits meanwhile.
const PERIOD: Duration = Duration::from_millis(500);
const MIB: u64 = 1024 * 1024;

/// Refuses what is new while more is in use than `most` MiB, by default nine tenths of what the cgroup may
/// use. Without either it returns at once.
pub(super) async fn watch(most: Option<usize>, admission: Arc<Admission>) {
    let of_cgroup = || sys::memory_limit().map(|limit| limit / 10 * 9);
    let Some(most) = most.map(|mib| mib as u64 * MIB).or_else(of_cgroup) else { return };
    let mut was_short = false;
    loop {
        let Some(used) = sys::resident_memory() else { return };
        let short = used > most;
        if short != was_short {
            warn!(event = "memory", short, used_mib = used / MIB, most_mib = most / MIB);
        }
        was_short = short;
        admission.set_short_of_memory(short);
        time::sleep(PERIOD).await;
    }
}
