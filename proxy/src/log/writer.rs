//! The thread that writes lines, and the bounded queue in front of it.
//!
//! Standard output may be a pipe that nobody reads: whoever writes to it directly stops with it. The data path hands
//! its lines over instead and never waits; what does not fit is dropped and counted.

use std::{
    io::{self, Write},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
        mpsc::{Receiver, RecvTimeoutError, Sender, channel},
    },
    thread,
    time::{Duration, Instant},
};

use super::{json::Line, record::FindNearest};

/// Bytes of lines that may wait.
pub(super) const QUEUE_BYTES: usize = 1 << 20;
/// Bytes that are written at once.
const BATCH: usize = 64 << 10;
/// How long repetitions are collected before they are summed up.
const SWEEP: Duration = Duration::from_secs(1);

/// Rules that may be looked at in a second to find the nearest ones, for all lines together. At about 6 ns each this
/// is 3 % of one CPU, and more than the flood limit leaves to do with the 256 rules of annotations.
const RULES_PER_SECOND: usize = 5_000_000;
/// What finding one costs besides, in rules.
const RULES_PER_LINE: usize = 200;

/// The sending end; cheap to clone.
#[derive(Debug, Clone)]
pub(super) struct Queue {
    sender: Sender<Message>,
    bytes: Arc<AtomicUsize>,
    limit: usize,
}

/// The receiving end's handle: ends the thread in an orderly way.
#[derive(Debug)]
pub struct Writer {
    sender: Sender<Message>,
    done: Receiver<()>,
}

/// A finished line, but for the rule that came nearest.
pub(super) struct Unfinished {
    pub(super) line: String,
    /// Where it belongs.
    pub(super) at: usize,
    pub(super) nearest: Option<Box<dyn FindNearest>>,
}

enum Message {
    Line(String),
    Unfinished(Unfinished),
    /// Repetitions wait for being summed up.
    Sweep,
    Stop,
}

/// Makes the summary lines, at the end (`true`) all of them; says whether more will come.
type Sweeper = Box<dyn FnMut(bool) -> (Vec<String>, bool) + Send>;

/// Starts the thread.
pub(super) fn start(sink: impl Write + Send + 'static, limit: usize) -> (Queue, Starter) {
    let (sender, receiver) = channel();
    let bytes = Arc::new(AtomicUsize::new(0));
    let queue = Queue { sender: sender.clone(), bytes: Arc::clone(&bytes), limit };
    (queue, Starter { sink: Box::new(sink), receiver, bytes, sender })
}

/// A thread that is not running yet: the sweeper needs the queue's owner, who needs the queue.
pub(super) struct Starter {
    sink: Box<dyn Write + Send>,
    receiver: Receiver<Message>,
    bytes: Arc<AtomicUsize>,
    sender: Sender<Message>,
}

// === impl Queue ===

impl Queue {
    /// Hands a line over unless too much waits already; never blocks.
    pub(super) fn offer(&self, line: String) -> bool {
        self.reserve(line.len()) && self.sender.send(Message::Line(line)).is_ok()
    }

    /// The same, for a line that the writer has to finish.
    pub(super) fn offer_unfinished(&self, unfinished: Unfinished) -> bool {
        self.reserve(unfinished.bytes()) && self.sender.send(Message::Unfinished(unfinished)).is_ok()
    }

    fn reserve(&self, length: usize) -> bool {
        if self.bytes.fetch_add(length, Ordering::Relaxed) + length > self.limit {
            self.bytes.fetch_sub(length, Ordering::Relaxed);
            return false;
        }
        true
    }

    /// Hands over a line that must not be lost: there are few of these.
    pub(super) fn insist(&self, line: String) -> bool {
        self.bytes.fetch_add(line.len(), Ordering::Relaxed);
        self.sender.send(Message::Line(line)).is_ok()
    }

    /// Asks for a summary of repetitions after a while.
    pub(super) fn sweep(&self) {
        let _ = self.sender.send(Message::Sweep);
    }
}

// === impl Starter ===

impl Starter {
    pub(super) fn run(self, sweeper: Sweeper) -> io::Result<Writer> {
        let (finished, done) = channel();
        let sender = self.sender;
        let mut run = Run {
            sink: self.sink,
            bytes: self.bytes,
            batch: Vec::new(),
            allowance: Allowance::new(Instant::now()),
            sweeper,
            sweep_at: None,
        };
        let receiver = self.receiver;
        thread::Builder::new().name("mantlet-log".to_owned()).spawn(move || {
            run.until_stopped(&receiver);
            // Nobody may be waiting any more; that is fine.
            let _ = finished.send(());
        })?;
        Ok(Writer { sender, done })
    }
}

// === impl Writer ===

impl Writer {
    /// Writes what waits and ends the thread; gives up after `deadline`. Says whether all was written.
    pub fn finish(self, deadline: Duration) -> bool {
        self.sender.send(Message::Stop).is_ok() && self.done.recv_timeout(deadline).is_ok()
    }
}

/// What is left of [`RULES_PER_SECOND`].
struct Allowance {
    rules: usize,
    since: Instant,
}

struct Run {
    sink: Box<dyn Write + Send>,
    bytes: Arc<AtomicUsize>,
    batch: Vec<u8>,
    allowance: Allowance,
    sweeper: Sweeper,
    sweep_at: Option<Instant>,
}

// === impl Unfinished ===

impl Unfinished {
    fn bytes(&self) -> usize {
        self.line.len() + self.nearest.as_ref().map_or(0, |nearest| nearest.bytes())
    }
}

// === impl Allowance ===

impl Allowance {
    fn new(now: Instant) -> Self {
        Self { rules: RULES_PER_SECOND, since: now }
    }

    /// Takes the cost of looking at `rules`, if that much is left.
    fn take(&mut self, rules: usize, now: Instant) -> bool {
        let micros = now.saturating_duration_since(self.since).as_micros();
        let gained =
            usize::try_from(micros).unwrap_or(usize::MAX).saturating_mul(RULES_PER_SECOND / 1_000_000);
        if gained > 0 {
            self.rules = self.rules.saturating_add(gained).min(RULES_PER_SECOND);
            self.since = now;
        }
        let left = self.rules.checked_sub(rules.saturating_add(RULES_PER_LINE));
        self.rules = left.unwrap_or(self.rules);
        left.is_some()
    }
}

// === impl Run ===

impl Run {
    fn until_stopped(&mut self, receiver: &Receiver<Message>) {
        loop {
            let message = match self.sweep_at {
                // Idle costs nothing: without repetitions to sum up there is no tick.
                None => receiver.recv().map_err(|_| RecvTimeoutError::Disconnected),
                Some(at) => receiver.recv_timeout(at.saturating_duration_since(Instant::now())),
            };
            let go_on = match message {
                Ok(message) => self.take(message),
                Err(RecvTimeoutError::Timeout) => true,
                Err(RecvTimeoutError::Disconnected) => false,
            };
            let go_on = go_on && self.take_what_waits(receiver);
            if !go_on || self.sweep_at.is_some_and(|at| at <= Instant::now()) {
                self.sum_up(!go_on);
            }
            self.write();
            if !go_on {
                return;
            }
        }
    }

    fn take_what_waits(&mut self, receiver: &Receiver<Message>) -> bool {
        while self.batch.len() < BATCH {
            let Ok(message) = receiver.try_recv() else { return true };
            if !self.take(message) {
                return false;
            }
        }
        true
    }

    fn take(&mut self, message: Message) -> bool {
        match message {
            Message::Line(line) => {
                self.batch.extend_from_slice(line.as_bytes());
                self.bytes.fetch_sub(line.len(), Ordering::Relaxed);
            }
            Message::Unfinished(unfinished) => {
                self.bytes.fetch_sub(unfinished.bytes(), Ordering::Relaxed);
                self.finish(unfinished);
            }
            Message::Sweep => {
                self.sweep_at.get_or_insert_with(|| Instant::now() + SWEEP);
            }
            Message::Stop => return false,
        }
        true
    }

    /// The place where a denial that no rule made is explained: this thread, and within its allowance.
    fn finish(&mut self, unfinished: Unfinished) {
        let Unfinished { line, at, nearest } = unfinished;
        let nearest = nearest.filter(|nearest| self.allowance.take(nearest.rules(), Instant::now()));
        let nearest = nearest.and_then(|nearest| nearest.find());
        let (front, back) = line.split_at_checked(at).unwrap_or((&line, ""));
        self.batch.extend_from_slice(front.as_bytes());
        self.batch.extend_from_slice(Line::piece("nearest_rule", nearest.as_deref()).as_bytes());
        self.batch.extend_from_slice(back.as_bytes());
    }

    fn sum_up(&mut self, ending: bool) {
        let (lines, more) = (self.sweeper)(ending);
        lines.iter().for_each(|line| self.batch.extend_from_slice(line.as_bytes()));
        self.sweep_at = more.then(|| Instant::now() + SWEEP);
    }

    fn write(&mut self) {
        if !self.batch.is_empty() {
            // A closed pipe must not end the pod's traffic, and there is nowhere left to say it.
            let _ = self.sink.write_all(&self.batch).and_then(|()| self.sink.flush());
            self.batch.clear();
            self.batch.shrink_to(BATCH);
        }
    }
}
