//! A sidecar as a child process: this very program as `mantlet proxy`, the same code path as in
//! production.

use std::collections::VecDeque;
use std::ffi::OsString;
use std::net::SocketAddr;
use std::process::{ExitStatus, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;
use tokio::io::{AsyncBufReadExt as _, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tokio::sync::watch;

use crate::admin::Events;
use crate::failure::Failure;

/// How long a sidecar may take to start, and to say something that is expected of it.
const PATIENCE: Duration = Duration::from_secs(10);
/// How long it may take to stop before it is killed.
const STOP: Duration = Duration::from_secs(3);
/// Lines that are kept of what it says.
const KEPT: usize = 1_000;

/// A running sidecar.
pub(crate) struct Sidecar {
    pub(crate) name: &'static str,
    pub(crate) pid: u32,
    child: Child,
    events: watch::Receiver<VecDeque<Arc<Value>>>,
    decisions: Option<watch::Receiver<Decisions>>,
    log: Arc<Mutex<VecDeque<String>>>,
}

/// What a sidecar has decided, as it tells whoever watches.
#[derive(Default)]
struct Decisions {
    /// Those that are no longer kept.
    forgotten: usize,
    kept: VecDeque<Arc<Value>>,
}

/// A moment in the life of a sidecar; decisions after it are found by it.
#[derive(Clone, Copy)]
pub(crate) struct Mark(usize);

// === impl Sidecar ===

impl Sidecar {
    /// Starts this program again as a sidecar.
    pub(crate) fn start(name: &'static str, arguments: Vec<OsString>) -> Result<Self, Failure> {
        let cannot = |error: std::io::Error| {
            Failure::finding(format!("cannot start the sidecar of {name}")).because(&error)
        };
        let program = std::env::current_exe().map_err(cannot)?;
        let mut command = Command::new(program);
        command
            .arg("proxy")
            .args(arguments)
            // It ends with us even if we are killed: the child asks the kernel for that at its start.
            .args(["--exit-with-parent", &std::process::id().to_string()])
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // Ctrl-C is for us; we end the sidecars, in order.
            .process_group(0)
            .kill_on_drop(true);
        for (key, _) in std::env::vars_os() {
            let text = key.to_string_lossy();
            if text.starts_with("MANTLET_") || text == "SPIFFE_ENDPOINT_SOCKET" {
                command.env_remove(&key);
            }
        }
        let mut child = command.spawn().map_err(cannot)?;
        let pid = child.id().ok_or_else(|| Failure::finding(format!("the sidecar of {name} has no pid")))?;
        let (sender, events) = watch::channel(VecDeque::new());
        let log = Arc::new(Mutex::new(VecDeque::new()));
        if let Some(stdout) = child.stdout.take() {
            tokio::spawn(read(stdout, move |line| {
                if let Ok(event) = serde_json::from_str::<Value>(&line) {
                    sender.send_modify(|events| keep(events, Arc::new(event)));
                }
            }));
        }
        if let Some(stderr) = child.stderr.take() {
            let log = Arc::clone(&log);
            tokio::spawn(read(stderr, move |line| {
                keep(&mut log.lock().unwrap_or_else(PoisonError::into_inner), line);
            }));
        }
        Ok(Self { name, pid, child, events, decisions: None, log })
    }

    /// Waits for the listener of a role, in front of `upstream` if there is one, and says where it listens.
    pub(crate) async fn listening(
        &mut self,
        role: &'static str,
        upstream: Option<SocketAddr>,
    ) -> Result<SocketAddr, Failure> {
        let upstream = upstream.map(|upstream| upstream.to_string());
        let event = self
            .event(&format!("listens ({role})"), |event| {
                field(event, "event") == Some("listening")
                    && field(event, "role") == Some(role)
                    && upstream.as_deref().is_none_or(|upstream| field(event, "upstream") == Some(upstream))
            })
            .await?;
        field(&event, "addr").and_then(|addr| addr.parse().ok()).ok_or_else(|| {
            Failure::finding(format!("the sidecar of {} does not say where it listens: {event}", self.name))
        })
    }

    /// Waits until it has an identity and a policy.
    pub(crate) async fn ready(&mut self) -> Result<(), Failure> {
        self.event("is ready", |event| field(event, "event") == Some("ready")).await.map(|_| ())
    }

    /// Waits for the audit line that a refused caller was given the id of.
    pub(crate) async fn audited(&mut self, id: &str) -> Result<Arc<Value>, Failure> {
        let what = format!("writes the audit line {id}");
        self.event(&what, |event| field(event, "stream") == Some("audit") && field(event, "id") == Some(id))
            .await
    }

    /// How many policies it has taken over so far.
    pub(crate) fn policies(&self) -> u64 {
        let events = self.events.borrow();
        let loaded = events.iter().filter(|event| field(event, "event") == Some("policy_loaded"));
        loaded.filter_map(|event| event.get("generation")?.as_u64()).max().unwrap_or_default()
    }

    /// Waits until it has taken over a policy after this many.
    pub(crate) async fn takes_over(&mut self, after: u64) -> Result<(), Failure> {
        let newer = |event: &Value| {
            let generation = event.get("generation").and_then(Value::as_u64);
            field(event, "event") == Some("policy_loaded") && generation > Some(after)
        };
        self.event("takes the new policy over", newer).await.map(|_| ())
    }

    /// Begins to watch its decisions, at its admin listener.
    pub(crate) async fn watch(&mut self, admin: SocketAddr) -> Result<(), Failure> {
        let mut events = Events::of(admin, "").await?;
        let (sender, decisions) = watch::channel(Decisions::default());
        tokio::spawn(async move {
            // Whoever waits for a decision that is never told says so.
            while let Ok(Some(event)) = events.next().await {
                if event.kind == "decision" {
                    sender.send_modify(|decisions| decisions.keep(event.data));
                }
            }
        });
        self.decisions = Some(decisions);
        Ok(())
    }

    /// Now, among its decisions.
    pub(crate) fn mark(&self) -> Mark {
        let decisions = self.decisions.as_ref();
        Mark(decisions.map_or(0, |decisions| decisions.borrow().forgotten + decisions.borrow().kept.len()))
    }

    /// Waits for the first decision after `mark` that is the wanted one.
    pub(crate) async fn decided(
        &self,
        mark: Mark,
        wanted: impl Fn(&Value) -> bool,
    ) -> Result<Arc<Value>, Failure> {
        let missing =
            || Failure::finding(format!("the sidecar of {} does not tell of a decision", self.name));
        let mut decisions = self.decisions.clone().ok_or_else(missing)?;
        let search = async {
            loop {
                let found = {
                    let now = decisions.borrow_and_update();
                    let since = now.kept.iter().skip(mark.0.saturating_sub(now.forgotten));
                    since.into_iter().find(|decision| wanted(decision)).cloned()
                };
                match found {
                    Some(found) => return Some(found),
                    None => decisions.changed().await.ok()?,
                }
            }
        };
        let found = tokio::time::timeout(PATIENCE, search).await.ok().flatten();
        found.ok_or_else(|| self.with_log(missing()))
    }

    /// Completes when the sidecar ends, which it never should.
    pub(crate) async fn ended(&mut self) -> Failure {
        let status = self.child.wait().await;
        self.died(status.ok())
    }

    /// Asks it to end in an orderly way.
    pub(crate) fn terminate(&self) {
        // Without an id it has ended and been waited for: its number may be somebody else's by now.
        if let Some(pid) = self.child.id().and_then(|pid| i32::try_from(pid).ok()).and_then(Pid::from_raw) {
            let _ = kill_process(pid, Signal::TERM);
        }
    }

    /// Waits until it has ended, or ends it by force.
    pub(crate) async fn stop(mut self) {
        if tokio::time::timeout(STOP, self.child.wait()).await.is_err() {
            let _ = self.child.kill().await;
        }
    }

    async fn event(&mut self, what: &str, wanted: impl Fn(&Value) -> bool) -> Result<Arc<Value>, Failure> {
        let mut events = self.events.clone();
        let search = async {
            loop {
                if let Some(found) = events.borrow_and_update().iter().find(|event| wanted(event)) {
                    return Some(Arc::clone(found));
                }
                if events.changed().await.is_err() {
                    return None;
                }
            }
        };
        tokio::select! {
            found = tokio::time::timeout(PATIENCE, search) => match found {
                Ok(Some(event)) => return Ok(event),
                Ok(None) => {}
                Err(_) => {
                    let seconds = PATIENCE.as_secs();
                    let text = format!("waited {seconds} s until the sidecar of {} {what}", self.name);
                    return Err(self.with_log(Failure::finding(text)));
                }
            },
            status = self.child.wait() => return Err(self.died(status.ok())),
        }
        // Its output has ended; so will it.
        Err(self.ended().await)
    }

    fn died(&self, status: Option<ExitStatus>) -> Failure {
        let status = status.map_or_else(|| "unknown status".to_owned(), |status| status.to_string());
        self.with_log(Failure::finding(format!("the sidecar of {} ended ({status})", self.name)))
    }

    /// The last lines that it said on standard error.
    fn with_log(&self, failure: Failure) -> Failure {
        let log = self.log.lock().unwrap_or_else(PoisonError::into_inner);
        let last: Vec<&str> = log.iter().rev().take(10).map(String::as_str).collect();
        if last.is_empty() {
            return failure;
        }
        let lines: Vec<&str> = last.into_iter().rev().collect();
        failure.next(format!("it said:\n    {}", lines.join("\n    ")))
    }
}

// === impl Decisions ===

impl Decisions {
    fn keep(&mut self, decision: Value) {
        if self.kept.len() == KEPT {
            self.kept.pop_front();
            self.forgotten += 1;
        }
        self.kept.push_back(Arc::new(decision));
    }
}

async fn read(from: impl AsyncRead + Unpin, mut take: impl FnMut(String)) {
    let mut lines = BufReader::new(from).lines();
    while let Ok(Some(line)) = lines.next_line().await {
        take(line);
    }
}

fn keep<T>(queue: &mut VecDeque<T>, item: T) {
    if queue.len() == KEPT {
        queue.pop_front();
    }
    queue.push_back(item);
}

pub(crate) fn field<'a>(event: &'a Value, name: &str) -> Option<&'a str> {
    event.get(name).and_then(Value::as_str)
}
