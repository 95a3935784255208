//! Temporary directories with short names: the path of a Unix socket may have 107 bytes.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A directory of mode 0700 that goes when this is dropped.
#[derive(Debug)]
pub struct TempDir(PathBuf);

// === impl TempDir ===

impl TempDir {
    /// Makes a new one.
    pub fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let name = format!("mantlet-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let path = std::env::temp_dir().join(name);
        // What a killed run with the same process id left behind is in the way.
        let _ = std::fs::remove_dir_all(&path);
        std::fs::DirBuilder::new().mode(0o700).create(&path).expect("temporary directory");
        Self(path)
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// Writes a file into it and gives its path.
    pub fn file(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let path = self.0.join(name);
        std::fs::write(&path, content).expect("file in the temporary directory");
        path
    }

    /// Replaces a file in one step, as an editor or a volume mount would.
    pub fn replace(&self, name: &str, content: impl AsRef<[u8]>) -> PathBuf {
        let new = self.file(&format!(".{name}.new"), content);
        let path = self.0.join(name);
        std::fs::rename(new, &path).expect("rename in the temporary directory");
        path
    }
}

impl Default for TempDir {
    fn default() -> Self {
        Self::new()
    }
}

impl Drop for TempDir {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
