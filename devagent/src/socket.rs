//! Unix sockets that only their owner can open.

use std::fs;
use std::io;
use std::os::unix::fs::{DirBuilderExt as _, FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::os::unix::net::UnixListener;
use std::path::{Path, PathBuf};

use thiserror::Error;

use crate::authority::random;

/// Longest path of a Unix socket (`sun_path` has 108 bytes with the final zero).
const MAX_PATH: usize = 107;

/// Why a socket cannot be opened.
#[derive(Debug, Error)]
pub(crate) enum SocketError {
    #[error("the path {0} is longer than {MAX_PATH} bytes, the limit for Unix sockets: use a shorter one")]
    TooLong(PathBuf),
    #[error("{0} exists and is no socket: remove it, or choose another path")]
    NotASocket(PathBuf),
    #[error("cannot {what} {path}: {source}")]
    Io { what: &'static str, path: PathBuf, source: io::Error },
}

/// A listening socket; its file goes when this is dropped, unless somebody has replaced it.
pub(crate) struct Socket {
    pub(crate) listener: UnixListener,
    file: SocketFile,
}

/// The file of a socket.
pub(crate) struct SocketFile {
    path: PathBuf,
    inode: u64,
}

// === impl Socket ===

impl Socket {
    /// Opens a socket at `path` with mode 0600 and replaces an old one. Missing directories are
    /// made with mode 0700.
    pub(crate) fn bind(path: &Path) -> Result<Self, SocketError> {
        let failed = |what, path: &Path| {
            let path = path.to_owned();
            move |source| SocketError::Io { what, path, source }
        };
        let parent = match path.parent() {
            Some(parent) if !parent.as_os_str().is_empty() => parent,
            _ => Path::new("."),
        };
        if !parent.exists() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(parent)
                .map_err(failed("create the directory", parent))?;
        }
        match fs::symlink_metadata(path) {
            Ok(found) if !found.file_type().is_socket() => return Err(SocketError::NotASocket(path.into())),
            _ => {}
        }
        // Between bind and chmod anybody could connect: so it is bound in a directory that only we
        // can enter, and moved to its place when its mode is right.
        let tag = random::<3>().map_err(|error| io::Error::other(error.to_string()));
        let [a, b, c] = tag.map_err(failed("name a directory in", parent))?;
        let private = parent.join(format!(".{a:02x}{b:02x}{c:02x}"));
        let inside = private.join("s");
        if path.as_os_str().len() > MAX_PATH || inside.as_os_str().len() > MAX_PATH {
            return Err(SocketError::TooLong(path.into()));
        }
        fs::DirBuilder::new().mode(0o700).create(&private).map_err(failed("write in", parent))?;
        let bound = (|| {
            let listener = UnixListener::bind(&inside).map_err(failed("bind", path))?;
            listener.set_nonblocking(true).map_err(failed("bind", path))?;
            let private_mode = fs::Permissions::from_mode(0o600);
            fs::set_permissions(&inside, private_mode).map_err(failed("set the mode of", path))?;
            fs::rename(&inside, path).map_err(failed("place the socket at", path))?;
            let inode = fs::symlink_metadata(path).map_err(failed("look at", path))?.ino();
            Ok(Self { listener, file: SocketFile { path: path.into(), inode } })
        })();
        let _ = fs::remove_file(&inside);
        let _ = fs::remove_dir(&private);
        bound
    }

    /// The listener for a runtime, and the guard of the file.
    pub(crate) fn into_parts(self) -> (UnixListener, SocketFile) {
        (self.listener, self.file)
    }
}

// === impl SocketFile ===

impl Drop for SocketFile {
    fn drop(&mut self) {
        // A successor may have taken the path already.
        if fs::symlink_metadata(&self.path).is_ok_and(|found| found.ino() == self.inode) {
            let _ = fs::remove_file(&self.path);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scratch(name: &str) -> PathBuf {
        let path = std::env::temp_dir().join(format!("mantlet-sock-{name}-{}", std::process::id()));
        let _ = fs::remove_dir_all(&path);
        path
    }

    #[test]
    fn only_the_owner_can_open_the_socket_and_its_new_directory() {
        let directory = scratch("mode");
        let path = directory.join("agent.sock");
        let socket = Socket::bind(&path).unwrap();
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        assert_eq!((mode(&directory), mode(&path)), (0o700, 0o600));
        assert_eq!(fs::read_dir(&directory).unwrap().count(), 1, "nothing else is left there");
        drop(socket);
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn an_old_socket_is_replaced_and_the_old_owner_does_not_remove_the_new_one() {
        let directory = scratch("replace");
        let path = directory.join("agent.sock");
        let first = Socket::bind(&path).unwrap();
        let second = Socket::bind(&path).unwrap();
        drop(first);
        std::os::unix::net::UnixStream::connect(&path).unwrap();
        drop(second);
        assert!(!path.exists());
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_file_that_is_no_socket_is_never_removed() {
        let directory = scratch("file");
        fs::create_dir_all(&directory).unwrap();
        let path = directory.join("agent.sock");
        fs::write(&path, "precious").unwrap();
        let error = Socket::bind(&path).err().unwrap();
        assert!(matches!(error, SocketError::NotASocket(_)), "{error}");
        assert_eq!(fs::read_to_string(&path).unwrap(), "precious");
        fs::remove_dir_all(directory).unwrap();
    }

    #[test]
    fn a_path_that_is_too_long_is_a_clear_error() {
        let path = std::env::temp_dir().join("x".repeat(120));
        let error = Socket::bind(&path).err().unwrap().to_string();
        assert!(error.contains("107 bytes"), "{error}");
    }
}
