//! A SPIFFE Workload API server on a real Unix socket that does what the test tells it to.
//!
//! Two modes. **Scripted** (the start): every `FetchX509SVID` call waits until the test takes it with
//! [`WorkloadApi::next_call`] and then sends messages, errors and ends on it one at a time.
//! **Serving** ([`WorkloadApi::serve`]): every caller gets the same message, and each later one at
//! once; that is what a sidecar in a test is started with. The server runs on a thread of its own, so a
//! test may block or stop its clock.

use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Instant;

use tokio::sync::{mpsc, oneshot, watch};

use crate::temp::TempDir;
use crate::wait::within;

mod answer;
mod server;

pub use answer::Answer;
pub use mantlet_proto::workload::{X509svid, X509svidResponse};
pub use tonic::Status;

/// The server; dropping it closes every connection and removes the socket.
#[derive(Debug)]
pub struct WorkloadApi {
    socket: PathBuf,
    state: Arc<State>,
    queue: tokio::sync::Mutex<mpsc::UnboundedReceiver<Call>>,
    running: Mutex<Option<Running>>,
    _dir: TempDir,
}

/// One `FetchX509SVID` call that the test answers. Dropping it ends the stream.
#[derive(Debug)]
pub struct Call {
    steps: mpsc::UnboundedSender<Step>,
}

/// What was seen of one `FetchX509SVID` call.
#[derive(Clone, Debug)]
pub struct CallRecord {
    /// When it arrived.
    pub at: Instant,
    /// Every value of the metadata `workload.spiffe.io` that it carried.
    pub header: Vec<String>,
}

#[derive(Debug)]
struct State {
    mode: watch::Sender<Mode>,
    calls: watch::Sender<Vec<CallRecord>>,
    script: mpsc::UnboundedSender<Call>,
}

#[derive(Clone, Debug)]
enum Mode {
    Scripted,
    Serving(Box<X509svidResponse>),
    Refusing(Status),
}

#[derive(Debug)]
enum Step {
    Accept,
    Message(Box<X509svidResponse>),
    Fail(Status),
    End,
}

#[derive(Debug)]
struct Running {
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

// === impl WorkloadApi ===

impl WorkloadApi {
    /// A server in scripted mode, listening.
    pub fn scripted() -> Self {
        let api = Self::absent();
        api.start();
        api
    }

    /// A server that gives this answer to everybody, listening.
    pub fn serving(answer: impl Into<X509svidResponse>) -> Self {
        let api = Self::absent();
        api.serve(answer);
        api.start();
        api
    }

    /// A server whose socket does not exist until [`Self::start`].
    pub fn absent() -> Self {
        let dir = TempDir::new();
        let (script, queue) = mpsc::unbounded_channel();
        Self {
            socket: dir.path().join("api.sock"),
            state: Arc::new(State {
                mode: watch::Sender::new(Mode::Scripted),
                calls: watch::Sender::new(Vec::new()),
                script,
            }),
            queue: tokio::sync::Mutex::new(queue),
            running: Mutex::new(None),
            _dir: dir,
        }
    }

    /// Makes the socket and accepts on it.
    ///
    /// # Panics
    /// When it is running already.
    pub fn start(&self) {
        let mut running = self.running.lock().expect("not poisoned");
        assert!(running.is_none(), "the server is running");
        *running = Some(server::start(&self.socket, Arc::clone(&self.state)));
    }

    /// Closes every connection at once and removes the socket, as a killed agent would (which leaves
    /// the socket file behind; a client must not care).
    pub fn stop(&self) {
        drop(self.running.lock().expect("not poisoned").take());
        let _ = std::fs::remove_file(&self.socket);
    }

    /// The endpoint in the form of `SPIFFE_ENDPOINT_SOCKET`.
    pub fn endpoint(&self) -> String {
        format!("unix://{}", self.socket.display())
    }

    /// The path of the socket.
    pub fn socket(&self) -> &Path {
        &self.socket
    }

    /// From now on everybody gets this answer: open calls that are not the test's own, and new ones.
    pub fn serve(&self, answer: impl Into<X509svidResponse>) {
        self.state.mode.send_replace(Mode::Serving(Box::new(answer.into())));
    }

    /// From now on everybody is refused with this status, open streams included.
    pub fn refuse(&self, status: Status) {
        self.state.mode.send_replace(Mode::Refusing(status));
    }

    /// From now on new calls wait for [`Self::next_call`]; open ones stay open and silent.
    pub fn script(&self) {
        self.state.mode.send_replace(Mode::Scripted);
    }

    /// The next call in scripted mode; waits for one.
    pub async fn next_call(&self) -> Call {
        let mut queue = self.queue.lock().await;
        within("a FetchX509SVID call", queue.recv()).await.expect("the server holds the other end")
    }

    /// Every `FetchX509SVID` call so far, those without the header included.
    pub fn calls(&self) -> Vec<CallRecord> {
        self.state.calls.borrow().clone()
    }

    /// Waits until at least so many calls have arrived.
    pub async fn wait_for_calls(&self, count: usize) {
        let mut calls = self.state.calls.subscribe();
        let arrived = calls.wait_for(|calls| calls.len() >= count);
        within(format!("{count} FetchX509SVID calls"), arrived).await.expect("the sender is ours");
    }
}

impl Drop for WorkloadApi {
    fn drop(&mut self) {
        self.stop();
    }
}

// === impl Call ===

impl Call {
    /// Sends response headers without a message: the stream is open and empty.
    pub fn accept(&self) -> &Self {
        self.step(Step::Accept)
    }

    /// Sends a message.
    pub fn send(&self, message: impl Into<X509svidResponse>) -> &Self {
        self.step(Step::Message(Box::new(message.into())))
    }

    /// Ends the call with this status; as the first step it is a trailers-only answer.
    pub fn fail(self, status: Status) {
        self.step(Step::Fail(status));
    }

    /// Ends the stream without an error.
    pub fn end(self) {
        self.step(Step::End);
    }

    /// Waits until the client has gone away.
    pub async fn cancelled(&self) {
        within("the client to drop its call", self.steps.closed()).await;
    }

    /// A client that has gone away is not an error here: what happens then is what is tested.
    fn step(&self, step: Step) -> &Self {
        let _ = self.steps.send(step);
        self
    }
}

// === impl Running ===

impl Drop for Running {
    fn drop(&mut self) {
        if let Some(stop) = self.stop.take() {
            let _ = stop.send(());
        }
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
