//! One watched file: noticing that it changed, and reading it as one piece.
//!
//! The directory is watched, never the file: a downward-API volume swaps the symbolic link `..data` (AtomicWriter),
//! editors rename over the old file, and both give the name a new inode. A poll stands behind it for file systems
//! that send no events (network mounts) and for links that change elsewhere.

use std::{
    ffi::{OsStr, OsString},
    fs::{self, File},
    io::{self, Read},
    os::unix::ffi::OsStrExt,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::inotify::{self, CreateFlags, WatchFlags};
use rustls::crypto::aws_lc_rs::cipher_suite::TLS13_AES_128_GCM_SHA256;
use tokio::{
    net::unix::pipe::Receiver,
    time::{Instant, sleep_until},
};

/// Poll behind the events.
const POLL: Duration = Duration::from_secs(10);
/// Poll when there are no events, and while a file is being written.
const QUICK_POLL: Duration = Duration::from_secs(2);
/// A file that changed less than this ago and sent no event may be half written.
const SETTLED: Duration = Duration::from_secs(1);
/// Ten thousand long rules fit well; a mistaken path to something huge does not.
const LARGEST: u64 = 8 << 20;
/// The link that a downward-API volume swaps.
const SWAPPED: &str = "..data";

/// Why a file cannot be taken over, whatever stands in it.
#[derive(Debug, thiserror::Error)]
pub enum ReadError {
    /// It cannot be read.
    #[error("cannot read {path}: {source}")]
    Io {
        /// Which file.
        path: PathBuf,
        /// What the kernel said.
        source: io::Error,
    },
    /// It is what a failed write leaves behind.
    #[error("{0} is empty (to say nothing at all, write a comment into it)")]
    Empty(PathBuf),
    /// It is something else than was meant.
    #[error("{0} is larger than 8 MiB")]
    TooLarge(PathBuf),
    /// It is not UTF-8.
    #[error("{0} is not UTF-8")]
    NotText(PathBuf),
}

/// Wakes when the file may have changed.
#[derive(Debug)]
pub struct FileWatch {
    path: PathBuf,
    events: Option<Receiver>,
    names: Vec<OsString>,
    /// Kept between calls: whoever gives up waiting early must not put the poll off for ever.
    poll_at: Instant,
}

/// Reads the file as one piece.
///
/// # Errors
/// There is no text in it.
pub fn read(path: &Path) -> Result<String, ReadError> {
    let failed = |source| ReadError::Io { path: path.to_owned(), source };
    let mut bytes = Vec::new();
    // One open, so the text is that of one inode even if the name is swapped meanwhile. `take`, because the size
    // of what is behind a name (a device, a pipe) need not be what stat says.
    File::open(path).and_then(|file| file.take(LARGEST + 1).read_to_end(&mut bytes)).map_err(failed)?;
    if bytes.is_empty() {
        // What a failed write leaves behind. It would be a policy that denies everything; nobody means that.
        return Err(ReadError::Empty(path.to_owned()));
    }
    if u64::try_from(bytes.len()).is_ok_and(|length| length > LARGEST) {
        return Err(ReadError::TooLarge(path.to_owned()));
    }
    String::from_utf8(bytes).map_err(|_| ReadError::NotText(path.to_owned()))
}

/// SHA-256 by the TLS library that is there anyway.
#[must_use]
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let hash = TLS13_AES_128_GCM_SHA256.tls13().map(|suite| suite.common.hash_provider.hash(bytes));
    hash.and_then(|hash| hash.as_ref().try_into().ok()).unwrap_or_default()
}

// === impl FileWatch ===

impl FileWatch {
    /// Begins to watch. What changes from here on is noticed, so the first read comes after this.
    #[must_use]
    pub fn new(path: &Path) -> Self {
        let poll_at = Instant::now() + QUICK_POLL;
        let mut watch = Self { path: path.to_owned(), events: None, names: Vec::new(), poll_at };
        watch.arm();
        watch
    }

    /// Returns when the file may have changed.
    pub async fn changed(&mut self) {
        loop {
            let noticed = tokio::select! {
                waited = wait(self.events.as_ref(), &self.names) => {
                    if waited.is_err() {
                        // The descriptor tells nothing any more: poll, and begin again.
                        self.events = None;
                    }
                    true
                }
                // Half of a file is worse than an old one: an event will say when it is closed.
                () = sleep_until(self.poll_at) => !recently_modified(&self.path),
            };
            self.arm();
            let pause = if noticed && self.events.is_some() { POLL } else { QUICK_POLL };
            self.poll_at = Instant::now() + pause;
            if noticed {
                return;
            }
        }
    }

    /// Watches the directory of the name and that of the file behind it. Repeated after each change, because a
    /// directory may be made, or swapped, later; watching one twice changes nothing.
    fn arm(&mut self) {
        if self.events.is_none() {
            // An inotify descriptor is read like a pipe, and is one as far as the runtime can tell.
            self.events = inotify::init(CreateFlags::CLOEXEC | CreateFlags::NONBLOCK)
                .ok()
                .and_then(|fd| Receiver::from_file_unchecked(fd.into()).ok());
        }
        let Some(events) = &self.events else { return };
        self.names = vec![OsString::from(SWAPPED)];
        let mut watched = false;
        for path in [Some(self.path.clone()), fs::canonicalize(&self.path).ok()].into_iter().flatten() {
            self.names.extend(path.file_name().map(OsStr::to_owned));
            watched |= inotify::add_watch(events, directory(&path), interesting()).is_ok();
        }
        if !watched {
            // No such directory yet, or no watches left (fs.inotify.max_user_watches): poll.
            self.events = None;
        }
    }
}

fn directory(path: &Path) -> &Path {
    match path.parent() {
        Some(parent) if parent != Path::new("") => parent,
        _ => Path::new("."),
    }
}

/// Neither CREATE nor MODIFY: a file that is being written is not a policy yet.
fn interesting() -> WatchFlags {
    WatchFlags::CLOSE_WRITE
        | WatchFlags::DELETE
        | WatchFlags::MOVED_FROM
        | WatchFlags::MOVED_TO
        | WatchFlags::DELETE_SELF
        | WatchFlags::MOVE_SELF
        | WatchFlags::ATTRIB
        | WatchFlags::ONLYDIR
}

/// Returns when an event was about the file.
async fn wait(events: Option<&Receiver>, names: &[OsString]) -> io::Result<()> {
    let Some(events) = events else { return std::future::pending().await };
    let mut buffer = [0; 4096];
    loop {
        events.readable().await?;
        match events.try_read(&mut buffer) {
            Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
            Ok(length) if about(buffer.get(..length).unwrap_or_default(), names) => return Ok(()),
            Ok(_) => {}
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
            Err(error) => return Err(error),
        }
    }
}

/// Whether one of these events (inotify(7): wd, mask, cookie, length, name) is about the file. Events without a
/// name are about the directory itself, or say that events were lost.
fn about(mut events: &[u8], names: &[OsString]) -> bool {
    while let Some((header, rest)) = events.split_first_chunk::<16>() {
        let [.., a, b, c, d] = *header;
        let length = usize::try_from(u32::from_ne_bytes([a, b, c, d])).unwrap_or(usize::MAX);
        let Some((name, rest)) = rest.split_at_checked(length) else { return true };
        let name = name.split(|byte| *byte == 0).next().unwrap_or_default();
        if name.is_empty() || names.iter().any(|known| known.as_bytes() == name) {
            return true;
        }
        events = rest;
    }
    false
}

fn recently_modified(path: &Path) -> bool {
    let modified = fs::metadata(path).and_then(|metadata| metadata.modified());
    modified.is_ok_and(|at| SystemTime::now().duration_since(at).is_ok_and(|age| age < SETTLED))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_digest_is_sha_256() {
        let hex: String = sha256(b"abc").iter().map(|byte| format!("{byte:02x}")).collect();
        assert_eq!(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
    }

    #[test]
    fn only_events_about_the_file_wake() {
        let event = |name: &[u8]| {
            let mut event = vec![0; 12];
            event.extend(u32::try_from(name.len()).unwrap().to_ne_bytes());
            event.extend(name);
            event
        };
        let names = [OsString::from("..data"), OsString::from("policy")];
        assert!(about(&event(b"policy\0\0"), &names));
        assert!(about(&[event(b"other\0\0\0"), event(b"..data\0\0")].concat(), &names));
        assert!(!about(&[event(b"other\0\0\0"), event(b"policy.new\0\0")].concat(), &names));
        assert!(about(&event(b""), &names), "about the directory, or an overflow");
        assert!(!about(b"", &names));
    }

    #[test]
    fn what_cannot_be_a_policy_is_refused_with_the_path() {
        let missing = read(Path::new("/nowhere/policy")).unwrap_err().to_string();
        assert!(missing.contains("/nowhere/policy"), "{missing}");
        assert!(matches!(read(Path::new("/dev/null")), Err(ReadError::Empty(_))));
        assert!(matches!(read(Path::new("/dev/zero")), Err(ReadError::TooLarge(_))));
        assert!(matches!(read(Path::new("/")), Err(ReadError::Io { .. })));
    }
}
