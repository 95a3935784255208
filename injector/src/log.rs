//! Logs: events of the process's life and one line for each admission, as JSON on standard output; the process log on
//! standard error.
//!
//! The lines are written by a thread of their own behind a bounded queue: a reader that stops reading delays no
//! admission. What is dropped is counted.

use std::{
    fmt::Write as _,
    io::{self, IsTerminal, Write},
    sync::{
        Arc,
        mpsc::{Receiver, SyncSender, TrySendError, sync_channel},
    },
    thread,
    time::{Duration, SystemTime},
};

use serde_json::Value;
use time::{OffsetDateTime, format_description::BorrowedFormatItem, macros::format_description};
use tracing::level_filters::LevelFilter;
use tracing_subscriber::{
    Layer as _, filter::Targets, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

use crate::metrics::Metrics;

const TIME: &[BorrowedFormatItem<'_>] =
    format_description!("[year]-[month]-[day]T[hour]:[minute]:[second].[subsecond digits:3]Z");

/// Lines that may wait; one has at most a few kilobytes.
const QUEUE: usize = 1024;
/// Longest text of a field.
const LONGEST: usize = 2048;

/// A line's fields after its time, stream and schema.
pub(crate) type Fields<'a> = [(&'static str, Value)];

/// The streams' entrance; cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    sender: SyncSender<Message>,
    metrics: Arc<Metrics>,
}

/// Ends the thread in an orderly way.
#[derive(Debug)]
pub(crate) struct Writer {
    sender: SyncSender<Message>,
    done: Receiver<()>,
}

#[derive(Debug)]
enum Message {
    Line(String),
    Stop,
}

/// Starts the writer's thread on standard output.
///
/// # Errors
/// The thread cannot be made.
pub(crate) fn start(metrics: Arc<Metrics>) -> io::Result<(Log, Writer)> {
    let (sender, receiver) = sync_channel(QUEUE);
    let (finished, done) = sync_channel(1);
    thread::Builder::new().name("mantlet-log".to_owned()).spawn(move || {
        write_until_stopped(&receiver);
        // Nobody may be waiting any more; that is fine.
        let _ = finished.send(());
    })?;
    Ok((Log { sender: sender.clone(), metrics }, Writer { sender, done }))
}

/// Starts the process log at `level`: text for people when standard error is a terminal, JSON otherwise. Libraries at
/// debug level print heads and bodies of requests, which hold secrets: theirs stays at warn.
pub(crate) fn start_process_log(level: &str) {
    let level: LevelFilter = level.parse().unwrap_or(LevelFilter::INFO);
    let filter = Targets::new()
        .with_default(level.min(LevelFilter::WARN))
        .with_target("mantlet", level)
        // It tells each failed request; whoever made the request tells it once, and with what to do.
        .with_target("kube_client", LevelFilter::OFF);
    let format = tracing_subscriber::fmt::layer().with_writer(io::stderr);
    let layer = match io::stderr().is_terminal() {
        true => format.with_ansi(std::env::var_os("NO_COLOR").is_none()).boxed(),
        false => format.json().flatten_event(true).boxed(),
    };
    // An embedding program may have its own subscriber already.
    let _ = tracing_subscriber::registry().with(layer.with_filter(filter)).try_init();
}

// === impl Log ===

impl Log {
    /// An event of the process's life: `listening`, `ready`, `stopped`...
    pub(crate) fn event(&self, event: &'static str, fields: &Fields<'_>) {
        let mut text = begin("event", "mantlet.event/v1");
        field(&mut text, "event", &Value::from(event));
        self.offer(finish(text, fields));
    }

    /// What became of an object.
    pub(crate) fn admission(&self, fields: &Fields<'_>) {
        self.offer(finish(begin("admission", "mantlet.admission/v1"), fields));
    }

    fn offer(&self, line: String) {
        match self.sender.try_send(Message::Line(line)) {
            Ok(()) => {}
            Err(TrySendError::Full(_) | TrySendError::Disconnected(_)) => self.metrics.line_dropped(),
        }
    }
}

// === impl Writer ===

impl Writer {
    /// Writes what waits and ends the thread; gives up after `deadline`.
    pub(crate) fn finish(self, deadline: Duration) {
        // With a full queue nobody reads, and there is nothing to wait for.
        if self.sender.try_send(Message::Stop).is_ok() {
            let _ = self.done.recv_timeout(deadline);
        }
    }
}

fn write_until_stopped(receiver: &Receiver<Message>) {
    let mut sink = io::stdout();
    while let Ok(Message::Line(line)) = receiver.recv() {
        // Standard output may be closed; the process goes on without its lines.
        let _ = sink.write_all(line.as_bytes()).and_then(|()| sink.flush());
    }
}

fn begin(stream: &str, schema: &str) -> String {
    let time = OffsetDateTime::from(SystemTime::now()).format(&TIME).unwrap_or_default();
    format!("{{\"time\":\"{time}\",\"stream\":\"{stream}\",\"schema\":\"{schema}\"")
}

fn finish(mut text: String, fields: &Fields<'_>) -> String {
    for (name, value) in fields {
        field(&mut text, name, value);
    }
    text.push_str("}\n");
    text
}

/// `name` is a constant of ours. The order of fields is part of what people read.
fn field(text: &mut String, name: &str, value: &Value) {
    let _ = write!(text, ",\"{name}\":");
    match value {
        Value::String(string) => {
            let end = string.floor_char_boundary(LONGEST);
            let cut = serde_json::to_string(string.get(..end).unwrap_or_default()).unwrap_or_default();
            // JSON lets pass what turns the direction of writing or breaks lines in an editor.
            cut.chars().for_each(|c| match c {
                c if c.is_control() || turns(c) => drop(write!(text, "\\u{:04x}", u32::from(c))),
                c => text.push(c),
            });
        }
        other => drop(write!(text, "{other}")),
    }
}

/// Line separators that JSON does not escape, and the bidirectional controls of CVE-2021-42574.
fn turns(c: char) -> bool {
    matches!(c, '\u{200e}' | '\u{200f}' | '\u{2028}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_is_one_line_of_json_whatever_an_object_is_called() {
        let hostile: String =
            (0..0x300u32).filter_map(char::from_u32).chain("\u{202e}\u{2028}\u{feff}\"\\".chars()).collect();
        let fields =
            [("name", Value::from(hostile.as_str())), ("n", Value::from(7)), ("b", Value::from(true))];
        let line = finish(begin("admission", "mantlet.admission/v1"), &fields);
        let body = line.strip_suffix('\n').unwrap();
        assert!(!body.chars().any(|c| c.is_control() || turns(c)), "{body}");
        let value: Value = serde_json::from_str(body).unwrap();
        assert_eq!(value["name"], hostile);
        assert_eq!((&value["n"], &value["b"]), (&Value::from(7), &Value::from(true)));
    }
}
