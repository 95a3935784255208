//! A supervisor at work, on a real socket or on a script in memory.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use mantlet_identity::{
    ApiError, Credentials, Endpoint, IdentityHandle, IdentitySource, IdentityState, SourceConfig, Updates,
    WorkloadApi as Api, X509Update,
};
use mantlet_testkit::within;
use mantlet_testkit::workload_api::{Answer, WorkloadApi};
use tokio::sync::{Mutex, mpsc};

use super::config;

/// A supervisor at work on this server.
pub struct Supervised {
    pub handle: IdentityHandle,
    pub task: tokio::task::JoinHandle<()>,
    /// Longer than anything takes; in tests that stop the clock, on that clock.
    patience: Duration,
}

impl Supervised {
    pub fn start(api: &WorkloadApi) -> Self {
        Self::with(api, |_| ())
    }

    pub fn with(api: &WorkloadApi, edit: impl FnOnce(&mut SourceConfig)) -> Self {
        let mut config = SourceConfig { endpoint: Endpoint::parse(&api.endpoint()).unwrap(), ..config() };
        edit(&mut config);
        let source = IdentitySource::new(config);
        let handle = source.handle();
        let task = tokio::spawn(async move {
            source.run().await;
        });
        Self { handle, task, patience: Duration::from_secs(30) }
    }

    /// The same over a script in memory, for tests that stop the clock.
    pub fn scripted(script: Script, edit: impl FnOnce(&mut SourceConfig)) -> Self {
        let mut config = config();
        edit(&mut config);
        let source = IdentitySource::new(config);
        let handle = source.handle();
        let task = tokio::spawn(async move {
            source.run_with(script).await;
        });
        Self { handle, task, patience: Duration::from_secs(3600) }
    }

    /// Waits until this holds.
    pub async fn until(&self, what: &str, holds: impl Fn(&IdentityHandle) -> bool) {
        let mut version = self.handle.subscribe();
        let holding = async {
            while !holds(&self.handle) {
                version.changed().await.unwrap();
            }
        };
        assert!(tokio::time::timeout(self.patience, holding).await.is_ok(), "waited for: {what}");
    }

    pub async fn ready(&self) -> Arc<Credentials> {
        within("an identity", self.handle.ready()).await
    }

    pub async fn rotated_from(&self, old: &Arc<Credentials>) -> Arc<Credentials> {
        let newer = |h: &IdentityHandle| h.credentials().is_some_and(|c| c.generation() > old.generation());
        self.until("newer credentials", newer).await;
        self.handle.credentials().unwrap()
    }

    pub async fn state(&self, state: IdentityState) {
        self.until(state.as_str(), |h| h.status().state() == state).await;
    }
}

impl Drop for Supervised {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Answers calls as the test says; a call waits for its stream, a stream for its next step.
pub struct Script {
    calls: Arc<AtomicUsize>,
    streams: Mutex<mpsc::UnboundedReceiver<Result<Stream, ApiError>>>,
}

/// The test's end of a [`Script`].
pub struct Playwright {
    pub calls: Arc<AtomicUsize>,
    streams: mpsc::UnboundedSender<Result<Stream, ApiError>>,
}

/// The test's end of one stream; dropping it ends the stream.
pub struct Open(mpsc::UnboundedSender<Result<X509Update, ApiError>>);

pub struct Stream(mpsc::UnboundedReceiver<Result<X509Update, ApiError>>);

pub fn script() -> (Playwright, Script) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let calls = Arc::new(AtomicUsize::new(0));
    (Playwright { calls: calls.clone(), streams: sender }, Script { calls, streams: Mutex::new(receiver) })
}

impl Playwright {
    /// The next call is answered with an error.
    pub fn fail(&self, error: ApiError) {
        let _ = self.streams.send(Err(error));
    }

    /// The next call is answered with a stream.
    pub fn open(&self) -> Open {
        let (sender, receiver) = mpsc::unbounded_channel();
        let _ = self.streams.send(Ok(Stream(receiver)));
        Open(sender)
    }

    pub fn calls(&self) -> usize {
        self.calls.load(Ordering::Relaxed)
    }
}

impl Open {
    pub fn send(&self, answer: Answer) -> &Self {
        let _ = self.0.send(Ok(answer.message().into()));
        self
    }

    pub fn fail(self, error: ApiError) {
        let _ = self.0.send(Err(error));
    }
}

impl Api for Script {
    type Updates = Stream;

    async fn open(&self) -> Result<Stream, ApiError> {
        self.calls.fetch_add(1, Ordering::Relaxed);
        match self.streams.lock().await.recv().await {
            Some(answer) => answer,
            None => std::future::pending().await,
        }
    }
}

impl Updates for Stream {
    async fn next(&mut self) -> Result<Option<X509Update>, ApiError> {
        self.0.recv().await.transpose()
    }
}
