//! The Unix socket for what changes something: only the sidecar's own user, or root, may connect.
//!
//! Loopback is shared with the app's container, so a compromised app could drain the pod there; a socket in a
//! directory of ours is not.

use std::{
    fs,
    io::{self, Read, Write},
    os::unix::{
        fs::{FileTypeExt, PermissionsExt},
        net::UnixStream as StdUnixStream,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use socket2::{Domain, SockAddr, Type};
use tokio::net::{UnixListener, UnixStream};

/// Waiting for an answer that is made at once.
const PATIENCE: Duration = Duration::from_secs(5);

/// A bound socket; the file goes when this is dropped.
#[derive(Debug)]
pub struct Socket {
    listener: UnixListener,
    path: PathBuf,
}

// === impl Socket ===

impl Socket {
    /// Binds `path` with mode 0600; must run inside a runtime. What a dead process left behind is replaced, a
    /// living one's socket and any other file are not.
    ///
    /// # Errors
    /// The path is taken, or cannot be bound.
    pub fn bind(path: &Path) -> io::Result<Self> {
        remove_stale(path)?;
        let socket = socket2::Socket::new(Domain::UNIX, Type::STREAM.nonblocking().cloexec(), None)?;
        socket.bind(&SockAddr::unix(path)?)?;
        // Before listen: nobody can have connected while the mode was still the umask's.
        fs::set_permissions(path, fs::Permissions::from_mode(0o600))?;
        socket.listen(16)?;
        let listener = UnixListener::from_std(socket.into())?;
        Ok(Self { listener, path: path.to_owned() })
    }

    /// The next connection; `None` for one of another user.
    pub(super) async fn accept(&self) -> io::Result<Option<UnixStream>> {
        let (stream, _) = self.listener.accept().await?;
        let uid = stream.peer_cred()?.uid();
        let own = rustix::process::geteuid().as_raw();
        Ok((uid == own || uid == 0).then_some(stream))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        // Gone already is fine.
        let _ = fs::remove_file(&self.path);
    }
}

fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(error) => Err(error),
        Ok(metadata) if !metadata.file_type().is_socket() => {
            Err(io::Error::new(io::ErrorKind::AlreadyExists, format!("{} is not a socket", path.display())))
        }
        Ok(_) => match StdUnixStream::connect(path) {
            Err(error) if error.kind() == io::ErrorKind::ConnectionRefused => fs::remove_file(path),
            Err(error) => Err(error),
            Ok(_) => Err(io::Error::new(
                io::ErrorKind::AddrInUse,
                format!("another process serves {}", path.display()),
            )),
        },
    }
}

/// Posts to the sidecar behind `path`, with a JSON body or none, and returns its answer's text: what
/// `mantlet-proxy drain` and `log-level` do. Blocking.
///
/// # Errors
/// Nobody listens, or the answer is not a success.
pub fn post(path: &Path, target: &'static str, body: Option<&str>) -> io::Result<String> {
    let absent = |error: io::Error| {
        io::Error::new(error.kind(), format!("no sidecar answers at {} ({error})", path.display()))
    };
    let mut stream = StdUnixStream::connect(path).map_err(absent)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    let body = body.unwrap_or_default();
    let request = format!(
        "POST {target} HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\n\
         content-length: {}\r\nconnection: close\r\n\r\n{body}",
        body.len()
    );
    stream.write_all(request.as_bytes())?;
    let mut answer = String::new();
    stream.take(64 << 10).read_to_string(&mut answer)?;
    let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
    match head.split(' ').nth(1) {
        Some(status) if status.starts_with('2') => Ok(body.trim_end().to_owned()),
        _ => Err(io::Error::other(format!("{target} was refused: {}", body.trim_end()))),
    }
}
