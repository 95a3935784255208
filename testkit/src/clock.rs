//! Wall clocks of single processes, which a test sets while they run. Monotonic clocks go on as they are.

use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::process::Command;

use crate::temp::TempDir;
use crate::tools;

/// Takes the place of the C library's function, which is where Rust's standard library asks.
const SOURCE: &str = r#"
#define _GNU_SOURCE
#include <fcntl.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

static volatile long long *offset;

__attribute__((constructor)) static void attach(void) {
    const char *path = getenv("TEST_CLOCK");
    int file = path ? open(path, O_RDONLY | O_CLOEXEC) : -1;
    if (file < 0)
        return;
    void *page = mmap(0, sizeof *offset, PROT_READ, MAP_SHARED, file, 0);
    close(file);
    if (page != MAP_FAILED)
        offset = page;
}

int clock_gettime(clockid_t clock, struct timespec *now) {
    int result = (int)syscall(SYS_clock_gettime, clock, now);
    if (result == 0 && offset && (clock == CLOCK_REALTIME || clock == CLOCK_REALTIME_COARSE))
        now->tv_sec += *offset;
    return result;
}
"#;

/// The wall clock of the processes that run under it.
#[derive(Debug)]
pub struct Clock {
    library: String,
    path: String,
    offset: File,
    _dir: TempDir,
}

// === impl Clock ===

impl Clock {
    /// A clock that goes right. It takes a C compiler, which Rust links with anyhow; see [`tools::find`] for what
    /// happens without one.
    ///
    /// # Panics
    /// When the compiler fails.
    pub fn start(test: &str) -> Option<Self> {
        let compiler = tools::find(test, "cc", "gcc libc6-dev")?;
        let dir = TempDir::new();
        let (source, library) = (dir.file("clock.c", SOURCE), dir.path().join("clock.so"));
        let compiled = Command::new(compiler)
            .args(["-shared", "-fPIC", "-O1", "-o"])
            .args([&library, &source])
            .status()
            .expect("the compiler runs");
        assert!(compiled.success(), "{compiled}");
        let path = dir.file("offset", 0_i64.to_ne_bytes());
        let offset = OpenOptions::new().write(true).open(&path).expect("a file of the test");
        let text = |path: &std::path::Path| path.to_str().expect("a plain path").to_owned();
        Some(Self { library: text(&library), path: text(&path), offset, _dir: dir })
    }

    /// What a sidecar is started under to live by this clock.
    pub fn under(&self) -> Vec<String> {
        vec!["env".to_owned(), format!("LD_PRELOAD={}", self.library), format!("TEST_CLOCK={}", self.path)]
    }

    /// The clock is so many seconds ahead from now on, or behind.
    ///
    /// # Panics
    /// When the file is gone.
    pub fn ahead(&self, seconds: i64) {
        self.offset.write_all_at(&seconds.to_ne_bytes(), 0).expect("a file of the test");
    }
}
