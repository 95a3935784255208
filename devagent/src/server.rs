//! Binds the sockets, serves, looks after files and authorities.

use std::collections::BTreeMap;
use std::fs;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use mantlet_proto::workload::spiffe_workload_api_server::SpiffeWorkloadApiServer;
use thiserror::Error;
use tokio::net::UnixListener;
use tokio::sync::watch;
use tokio_stream::wrappers::UnixListenerStream;

use crate::authorities::Authorities;
use crate::config::{CaStorage, Config, ConfigError};
use crate::control;
use crate::core::{Core, chain};
use crate::entries_file::parse_entries;
use crate::handle::Handle;
use crate::service::Service;
use crate::socket::Socket;
use crate::storage;

/// How often the entries file and the age of authorities are looked at.
const TICK: Duration = Duration::from_millis(250);
/// How long open connections may take to end at a stop.
const STOP_DEADLINE: Duration = Duration::from_secs(2);

/// A development agent with its sockets open.
pub struct Server {
    core: Arc<Core>,
    socket: Socket,
    control: Option<Socket>,
    entries_file: Option<EntriesFile>,
}

/// Why an agent cannot start; the text names the cause and the remedy.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum BindError {
    /// The configuration cannot be used.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The authorities cannot be loaded or made.
    #[error("{0}")]
    Authorities(String),
    /// The entries file cannot be read.
    #[error("cannot read the entries file {path}: {source}")]
    EntriesFile {
        /// The file.
        path: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// The entries file has mistakes.
    #[error("{path}: {mistakes}")]
    Entries {
        /// The file.
        path: PathBuf,
        /// Every mistake with its line.
        mistakes: String,
    },
    /// An entry given by the program is invalid.
    #[error("{0}")]
    Entry(#[from] crate::core::EntryError),
    /// A socket cannot be opened.
    #[error("{0}")]
    Socket(String),
}

/// Why an agent ended.
#[derive(Debug, Error)]
#[non_exhaustive]
pub enum RunError {
    /// A socket cannot be used by the runtime.
    #[error("cannot serve the socket")]
    Socket(#[from] std::io::Error),
    /// The gRPC server failed.
    #[error("the Workload API server failed: {0}")]
    Grpc(String),
}

struct EntriesFile {
    path: PathBuf,
    /// What was read last, good or bad.
    text: String,
}

// === impl Server ===

impl Server {
    /// Checks the configuration, loads or makes the authorities, reads the entries, opens the
    /// sockets. From here on callers can connect; they are answered once [`run`](Self::run) runs.
    ///
    /// # Errors
    /// [`BindError`], before anything is left behind.
    pub fn bind(config: Config) -> Result<Self, BindError> {
        config.validate()?;
        let now = SystemTime::now();
        let mut authorities = BTreeMap::new();
        for domain in &config.trust_domains {
            let set = match &config.ca {
                CaStorage::Memory => Authorities::generate(domain, config.ca_ttl, now).map_err(|e| chain(&e)),
                CaStorage::Directory(directory) => {
                    storage::load_or_generate(directory, domain, config.ca_ttl, now).map_err(|e| chain(&e))
                }
            };
            authorities.insert(domain.clone(), set.map_err(BindError::Authorities)?);
        }
        let ca_directory = match config.ca {
            CaStorage::Memory => None,
            CaStorage::Directory(directory) => Some(directory),
        };
        let core = Core::new(authorities, config.trust_domains, config.svid_ttl, ca_directory);
        // A stored authority may have expired meanwhile.
        core.maintain_authorities(now).map_err(|error| BindError::Authorities(error.to_string()))?;
        let entries_file = config.entries_file.map(|path| EntriesFile { path, text: String::new() });
        let entries_file = entries_file.map(|file| file.load(&core)).transpose()?;
        for entry in config.entries {
            core.add_entry(entry, false)?;
        }
        let bind = |path: &PathBuf| Socket::bind(path).map_err(|error| BindError::Socket(error.to_string()));
        let socket = bind(&config.socket)?;
        let control = config.control.as_ref().map(bind).transpose()?;
        Ok(Self { core: Arc::new(core), socket, control, entries_file })
    }

    /// Adds entries and rotates while the agent runs.
    #[must_use]
    pub fn handle(&self) -> Handle {
        Handle { core: Arc::clone(&self.core) }
    }

    /// Serves until `shutdown` completes; then streams end with `Unavailable` and the sockets go.
    ///
    /// # Errors
    /// [`RunError`] when the sockets cannot be served.
    pub async fn run(self, shutdown: impl Future<Output = ()>) -> Result<(), RunError> {
        let handle = self.handle();
        let (listener, _socket_file) = self.socket.into_parts();
        let incoming = UnixListenerStream::new(UnixListener::from_std(listener)?);
        let (stop, stopping) = watch::channel(false);
        let service = Service::new(Arc::clone(&self.core), stopping.clone());
        let mut stop_serving = stopping.clone();
        let grpc = tonic::transport::Server::builder().serve_with_incoming_shutdown(
            SpiffeWorkloadApiServer::new(service),
            incoming,
            async move {
                let _ = stop_serving.wait_for(|stop| *stop).await;
            },
        );
        let (control_listener, _control_file) = match self.control.map(Socket::into_parts) {
            Some((listener, file)) => (Some(UnixListener::from_std(listener)?), Some(file)),
            None => (None, None),
        };
        let mut grpc = std::pin::pin!(grpc);
        tokio::select! {
            ended = &mut grpc => return ended.map_err(|error| RunError::Grpc(chain(&error))),
            () = look_after(&self.core, self.entries_file) => {}
            () = control::serve(control_listener, handle) => {}
            () = shutdown => {}
        }
        stop.send_replace(true);
        match tokio::time::timeout(STOP_DEADLINE, grpc).await {
            Ok(ended) => ended.map_err(|error| RunError::Grpc(chain(&error))),
            // A caller that does not close its connection does not hold the agent.
            Err(_) => Ok(()),
        }
    }
}

/// Never ends.
async fn look_after(core: &Core, mut entries_file: Option<EntriesFile>) {
    let mut tick = tokio::time::interval(TICK);
    tick.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    let mut complained = false;
    loop {
        tick.tick().await;
        if let Some(file) = &mut entries_file {
            file.reload(core);
        }
        match core.maintain_authorities(SystemTime::now()) {
            Ok(()) => complained = false,
            Err(error) if !complained => {
                complained = true;
                tracing::error!(%error, "cannot renew an authority; the old one stays while it lives");
            }
            Err(_) => {}
        }
    }
}

// === impl EntriesFile ===

impl EntriesFile {
    /// The first reading: a mistake here is a mistake at the command line.
    fn load(mut self, core: &Core) -> Result<Self, BindError> {
        self.text = fs::read_to_string(&self.path)
            .map_err(|source| BindError::EntriesFile { path: self.path.clone(), source })?;
        let entries = parse_entries(&self.text, core.served())
            .map_err(|error| BindError::Entries { path: self.path.clone(), mistakes: error.to_string() })?;
        core.replace_file_entries(entries);
        Ok(self)
    }

    /// A later reading: a mistake keeps the last good entries and is reported once. The content is
    /// compared, not the time: an editor may write twice in one tick of the file system's clock.
    fn reload(&mut self, core: &Core) {
        let text = match fs::read_to_string(&self.path) {
            Ok(text) => text,
            Err(error) => {
                let problem = format!("cannot read {}: {error}", self.path.display());
                core.set_file_problem(problem);
                return;
            }
        };
        if text == self.text && core.file_problem().is_none() {
            return;
        }
        let changed = text != self.text;
        self.text = text;
        match parse_entries(&self.text, core.served()) {
            Ok(entries) => {
                tracing::info!(path = %self.path.display(), entries = entries.len(), "entries reloaded");
                core.replace_file_entries(entries);
            }
            Err(error) => {
                if changed {
                    tracing::error!(path = %self.path.display(), %error, "entries not reloaded; the last good ones stay");
                }
                core.set_file_problem(format!("{}: {error}", self.path.display()));
            }
        }
    }
}
