//! What only Linux can say or do, in one place.

use std::{
    fs,
    io::{self, Write as _},
    net::SocketAddr,
    num::NonZeroUsize,
    os::fd::AsFd,
    path::Path,
    time::Duration,
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    param::page_size,
    process::{Resource, Rlimit, Signal, getppid, getrlimit, set_parent_process_death_signal, setrlimit},
};
use socket2::{SockRef, TcpKeepalive};

/// Keep-alive probes without an answer that end a connection.
const PROBES: u32 = 3;
/// More workers than this help nobody: past it the application is the bottleneck.
const MOST_WORKERS: usize = 4;

/// Worker threads for the CPU limit of the own cgroup: one, unless the limit is above one CPU.
/// A sidecar that takes every core of the node because it sees them is a bad neighbour.
#[must_use]
pub fn workers_for_cgroup() -> NonZeroUsize {
    let limit = cpu_limit(|path| fs::read_to_string(path).ok()).unwrap_or(1.0);
    let workers = limit.ceil().clamp(1.0, MOST_WORKERS as f64) as usize;
    NonZeroUsize::new(workers).unwrap_or(NonZeroUsize::MIN)
}

/// Ends this process when the one that started it, `parent`, ends, however that happens.
///
/// # Errors
/// The kernel refuses, or the parent is gone already: it may end before this is called, and nobody is told of
/// that.
pub fn exit_with_parent(parent: usize) -> io::Result<()> {
    set_parent_process_death_signal(Some(Signal::TERM))?;
    let now = getppid().and_then(|pid| usize::try_from(pid.as_raw_pid()).ok());
    match now == Some(parent) {
        true => Ok(()),
        false => Err(io::Error::other(format!("the process {parent} that started this one has ended"))),
    }
}

/// Lets `tcp` end with a reset when it is dropped. An end in order would tell the other side that all is said;
/// this one tells it that nothing was done.
pub fn reset_when_dropped(tcp: &impl AsFd) {
    // Without it the connection still ends.
    let _ = SockRef::from(tcp).set_linger(Some(Duration::ZERO));
}

/// What every connection gets, accepted or opened: nothing waits to be sent in larger pieces, and the kernel takes
/// no more than `unsent` bytes ahead of what the other side lets it send.
///
/// # Errors
/// The socket is gone.
pub fn prepare(tcp: &impl AsFd, unsent: u32) -> io::Result<()> {
    let socket = SockRef::from(tcp);
    socket.set_tcp_nodelay(true)?;
    socket.set_tcp_notsent_lowat(unsent)
}

/// Lets the kernel end a connection whose other side answers nothing for `dead_after`, as `ETIMEDOUT`. On a
/// listening socket it holds for every connection that is accepted there.
///
/// # Errors
/// The kernel refuses.
pub fn keep_alive(tcp: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    // The first probe after half of the time, and the last one with a sixth of it left.
    let (idle, interval) = (dead_after / 2, (dead_after / 6).max(Duration::from_secs(1)));
    let probes = TcpKeepalive::new().with_time(idle).with_interval(interval).with_retries(PROBES);
    SockRef::from(tcp).set_tcp_keepalive(&probes)
}

/// The same for bytes that wait: they are acknowledged within `dead_after`, or the connection ends. A
/// reader that pauses with a full window for so long counts as dead too, so this is only for connections
/// whose other side reads all the time.
///
/// # Errors
/// The kernel refuses.
pub fn acknowledged_within(tcp: &impl AsFd, dead_after: Duration) -> io::Result<()> {
    SockRef::from(tcp).set_tcp_user_timeout(Some(dead_after))
}

/// Where the client of an accepted connection wanted to go before the kernel redirected it. A connection
/// that was dialled as it is has its local address for an answer; `None` is one that the kernel does not
/// track, so that no rule can have redirected it.
#[must_use]
pub fn original_destination(tcp: &impl AsFd) -> Option<SocketAddr> {
    let socket = SockRef::from(tcp);
    // Without connection tracking the option does not exist or finds no entry: both mean the same here.
    let addr = match socket.local_addr().ok()?.as_socket()? {
        SocketAddr::V4(_) => socket.original_dst_v4(),
        SocketAddr::V6(_) => socket.original_dst_v6(),
    };
    addr.ok()?.as_socket()
}

/// Whether an address cannot be had because this host, or this network namespace, lacks its family.
#[must_use]
pub fn is_no_family(error: &io::Error) -> bool {
    error.kind() == io::ErrorKind::AddrNotAvailable
        || error.raw_os_error() == Some(Errno::AFNOSUPPORT.raw_os_error())
}

/// Raises the limit of file descriptors as far as the process may, and says what it is then. The soft limit
/// is low for the sake of programs that use `select`.
#[must_use]
pub fn raise_descriptor_limit() -> Option<u64> {
    let limit = getrlimit(Resource::Nofile);
    // One that may not be raised stays as it is.
    let _ = setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum });
    getrlimit(Resource::Nofile).current
}

/// Puts `text` in place of what a plain file says. It makes no file, follows no link and waits for nobody, so that it
/// can be the last thing that a process does.
///
/// # Errors
/// There is no such file, it is of another kind, or it cannot be written.
pub fn overwrite(path: &Path, text: &[u8]) -> io::Result<()> {
    // A pipe that nobody reads would otherwise be waited for.
    let flags = OFlags::WRONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC | OFlags::NOCTTY;
    let mut file = fs::File::from(open(path, flags, Mode::empty())?);
    if !file.metadata()?.is_file() {
        return Err(io::Error::other("not a plain file"));
    }
    file.set_len(0)?;
    file.write_all(text)
}

/// Bytes of memory that the process has in use.
#[must_use]
pub fn resident_memory() -> Option<u64> {
    let statm = fs::read_to_string("/proc/self/statm").ok()?;
    let pages: u64 = statm.split_whitespace().nth(1)?.parse().ok()?;
    Some(pages.saturating_mul(page_size() as u64))
}

/// Bytes of memory that the own cgroup may use. `None` without a limit.
#[must_use]
pub fn memory_limit() -> Option<u64> {
    let read = |path: &str| fs::read_to_string(path).ok()?.trim().parse().ok();
    // Version 1 says "no limit" by a number that no machine has.
    let limit =
        read("/sys/fs/cgroup/memory.max").or_else(|| read("/sys/fs/cgroup/memory/memory.limit_in_bytes"));
    limit.filter(|limit: &u64| *limit < 1 << 60)
}

/// CPUs that the cgroup may use, version 2 first. `None` without a limit.
fn cpu_limit(read: impl Fn(&str) -> Option<String>) -> Option<f64> {
    let quota_over_period = |quota: &str, period: &str| {
        let (quota, period): (f64, f64) = (quota.trim().parse().ok()?, period.trim().parse().ok()?);
        (quota > 0.0 && period > 0.0).then(|| quota / period)
    };
    if let Some(limit) = read("/sys/fs/cgroup/cpu.max") {
        let (quota, period) = limit.trim().split_once(' ')?;
        return quota_over_period(quota, period);
    }
    let v1 = |file: &str| read(&format!("/sys/fs/cgroup/cpu/{file}"));
    quota_over_period(&v1("cpu.cfs_quota_us")?, &v1("cpu.cfs_period_us")?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_cpu_limit_is_read_from_either_version_of_cgroups() {
        let v2 = |text: &'static str| move |path: &str| path.ends_with("cpu.max").then(|| text.to_owned());
        assert_eq!(cpu_limit(v2("150000 100000\n")), Some(1.5));
        assert_eq!(cpu_limit(v2("max 100000\n")), None);
        assert_eq!(cpu_limit(v2("garbage")), None);
        let v1 = |path: &str| match path.rsplit('/').next()? {
            "cpu.cfs_quota_us" => Some("250000\n".to_owned()),
            "cpu.cfs_period_us" => Some("100000\n".to_owned()),
            _ => None,
        };
        assert_eq!(cpu_limit(v1), Some(2.5));
        assert_eq!(cpu_limit(|path| v1(path).map(|_| "-1".to_owned())), None);
    }
}
