use std::{
    sync::mpsc::{Receiver, SyncSender, sync_channel},
    time::Duration,
};

use super::*;

const LONG: Duration = Duration::from_secs(30);

/// A sink that tests read from another thread.
#[derive(Clone, Default)]
struct Memory(Arc<Mutex<Vec<u8>>>);

impl Write for Memory {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap().extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

impl Memory {
    fn lines(&self) -> Vec<serde_json::Value> {
        let bytes = self.0.lock().unwrap().clone();
        String::from_utf8(bytes).unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect()
    }
}

/// A sink that says when it is about to write, and writes when it is told to.
struct Stuck(SyncSender<()>, Receiver<()>, Memory);

impl Write for Stuck {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let _ = self.0.try_send(());
        let _ = self.1.recv();
        self.2.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Finds the same rule among this many.
struct Near(usize);

impl FindNearest for Near {
    fn rules(&self) -> usize {
        self.0
    }

    fn bytes(&self) -> usize {
        0
    }

    fn find(&self) -> Option<Arc<str>> {
        Some("web-read".into())
    }
}

fn denial(reason: &str) -> AuditRecord<'_> {
    AuditRecord {
        decision: "deny",
        mode: "enforce",
        reason,
        layer: "http",
        peer_id: Some("spiffe://prod.test/ns/shop/sa/web"),
        path: Some("/orders/42"),
        method: Some("DELETE"),
        status: Some(403),
        server_port: 8080,
        policy_generation: 7,
        ..AuditRecord::default()
    }
}

fn start(access: Access) -> (Log, Writer, Memory) {
    let memory = Memory::default();
    let origin = Origin { namespace: Some("shop".to_owned()), service_account: Some("api".to_owned()) };
    let (log, writer) = Log::start(memory.clone(), access, origin).unwrap();
    (log, writer, memory)
}

#[test]
fn an_audit_line_tells_who_what_and_why_under_the_id_that_was_answered() {
    let (log, writer, memory) = start(Access::Off);
    let id = log.audit(&denial("default"), || Some(Box::new(Near(2))));
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    assert_eq!(lines.len(), 1);
    let line = &lines[0];
    assert_eq!(line["id"], id.as_str());
    for (field, value) in [
        ("stream", "audit"),
        ("schema", "mantlet.audit/v1"),
        ("decision", "deny"),
        ("reason", "default"),
        ("nearest_rule", "web-read"),
        ("peer.id", "spiffe://prod.test/ns/shop/sa/web"),
        ("k8s.namespace.name", "shop"),
        ("url.path", "/orders/42"),
    ] {
        assert_eq!(line[field], value, "{field}");
    }
    assert_eq!(line["rule"], serde_json::Value::Null);
    assert_eq!(line["first"], true);
}

#[test]
fn a_flood_of_denials_finds_nearest_rules_as_far_as_the_allowance_goes_and_loses_no_line() {
    let (log, writer, memory) = start(Access::Off);
    let reasons: Vec<String> = (0..40).map(|n| n.to_string()).collect();
    for reason in &reasons {
        // As many rules as may be looked at in half a second: nobody can wait so long between two of these.
        log.audit(&denial(reason), || Some(Box::new(Near(2_400_000))));
    }
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    assert_eq!(lines.len(), 40);
    assert!(lines.iter().all(|line| line.get("nearest_rule").is_some()), "the field is always there");
    let found = lines.iter().filter(|line| line["nearest_rule"] == "web-read").count();
    assert!((2..40).contains(&found), "{found}");
}

#[test]
fn what_is_suppressed_is_not_even_prepared() {
    let (log, writer, memory) = start(Access::Off);
    let mut prepared = 0;
    for _ in 0..1000 {
        log.audit(&denial("default"), || {
            prepared += 1;
            None
        });
    }
    assert!(writer.finish(LONG));
    let own = memory.lines().iter().filter(|line| line.get("summary_of").is_none()).count();
    assert_eq!(prepared, own);
}

#[test]
fn every_id_that_was_given_out_is_found_and_no_denial_is_left_uncounted() {
    let (log, writer, memory) = start(Access::Off);
    let ids: Vec<DecisionId> = (0..1000).map(|_| log.audit(&denial("default"), || None)).collect();
    let other = log.audit(&denial("expired"), || None);
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    let found: Vec<&str> = lines.iter().map(|line| line["id"].as_str().unwrap()).collect();
    assert!(ids.iter().chain([&other]).all(|id| found.contains(&id.as_str())));
    // Own lines, and the numbers that other lines and the last summary give.
    let own = lines.iter().filter(|line| line.get("summary_of").is_none()).count();
    let suppressed: u64 = lines.iter().map(|line| line["suppressed"].as_u64().unwrap()).sum();
    assert!((20..100).contains(&own), "{own}");
    let own = u64::try_from(own).unwrap();
    assert_eq!(own + suppressed, 1001);
    assert_eq!(log.counts().audit_suppressed + own, 1001);
}

#[test]
fn repetitions_that_stopped_are_summed_up_without_another_denial() {
    let (log, writer, memory) = start(Access::Off);
    for _ in 0..30 {
        log.audit(&denial("default"), || None);
    }
    let deadline = Instant::now() + LONG;
    let summary = loop {
        assert!(Instant::now() < deadline);
        if let Some(line) = memory.lines().into_iter().find(|line| line.get("summary_of").is_some()) {
            break line;
        }
        std::thread::yield_now();
    };
    assert!(summary["suppressed"].as_u64().unwrap() > 0);
    assert_eq!(summary["peer.id"], "spiffe://prod.test/ns/shop/sa/web");
    assert!(writer.finish(LONG));
}

#[test]
fn a_reader_that_stops_reading_stops_nobody_and_drops_are_counted() {
    let (writing, is_writing) = sync_channel(1);
    let (go, wait) = sync_channel::<()>(0);
    let memory = Memory::default();
    let sink = Stuck(writing, wait, memory.clone());
    let (log, writer) = Log::with_limit(sink, Access::All, Origin::default(), 4096).unwrap();
    log.access(&AccessRecord::default());
    is_writing.recv_timeout(LONG).unwrap();
    let ids: Vec<DecisionId> = (0..1000).map(|_| log.audit(&denial("default"), || None)).collect();
    let counts = log.counts();
    assert!(counts.audit < 20 && counts.audit_dropped > 0, "{counts:?}");
    log.event("stopped", &[]);
    drop(go);
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    let written: Vec<&str> = lines.iter().filter_map(|line| line["id"].as_str()).collect();
    // The queue was full, so later callers were told the id of a line that does exist.
    assert!(ids.iter().all(|id| written.contains(&id.as_str())));
    assert!(lines.iter().any(|line| line["event"] == "stopped"), "events are never dropped");
}

#[test]
fn no_query_and_no_control_character_leaves_and_paths_are_cut() {
    let (log, writer, memory) = start(Access::All);
    let path = format!("/\u{1b}[31m\n{}", "a".repeat(10_000));
    log.audit(&AuditRecord { path: Some(&path), ..denial("default") }, || None);
    log.access(&AccessRecord { path: Some(&path), ..AccessRecord::default() });
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    assert_eq!(lines.len(), 2);
    assert!(lines.iter().all(|line| line["url.path"].as_str().unwrap().len() == 512));
    let raw = String::from_utf8(memory.0.lock().unwrap().clone()).unwrap();
    assert!(!raw.replace('\n', "").chars().any(char::is_control));
}

#[test]
fn the_access_log_shows_what_it_is_asked_to() {
    for (access, expected) in [(Access::Off, 0), (Access::Errors, 1), (Access::All, 2)] {
        let (log, writer, memory) = start(access);
        log.access(&AccessRecord { direction: "inbound", close: "eof", ..AccessRecord::default() });
        log.access(&AccessRecord {
            direction: "inbound",
            close: "denied",
            failed: true,
            ..AccessRecord::default()
        });
        assert!(writer.finish(LONG));
        assert_eq!(memory.lines().len(), expected, "{access:?}");
        assert_eq!(log.counts().access, u64::try_from(expected).unwrap());
    }
}

#[test]
fn an_event_is_a_line_with_its_name_and_fields() {
    let (log, writer, memory) = start(Access::Off);
    let addr = "127.0.0.1:8443".parse().unwrap();
    log.event("listening", &[("role", Value::Text("inbound")), ("addr", Value::Address(addr))]);
    assert!(writer.finish(LONG));
    let line = &memory.lines()[0];
    assert_eq!(
        (&line["event"], &line["role"], &line["addr"]),
        (&"listening".into(), &"inbound".into(), &"127.0.0.1:8443".into())
    );
}

#[test]
fn the_first_denial_of_a_peer_stands_out_from_its_later_ones() {
    let (log, writer, memory) = start(Access::Off);
    let other = || AuditRecord { peer_id: Some("spiffe://prod.test/ns/shop/sa/new"), ..denial("default") };
    for record in [denial("default"), denial("default"), denial("expired"), other(), other()] {
        log.audit(&record, || None);
    }
    assert!(writer.finish(LONG));
    let new: Vec<bool> = memory.lines().iter().map(|line| line["new_peer"] == true).collect();
    assert_eq!(new, [true, false, false, true, false]);
}

#[test]
fn every_id_of_a_failure_is_found_although_repetitions_are_left_out() {
    let (log, writer, memory) = start(Access::Off);
    let failed = AccessRecord {
        direction: "outbound",
        protocol: "http",
        peer_id: Some("spiffe://prod.test/ns/shop/sa/web"),
        close: "connect",
        failed: true,
        ..AccessRecord::default()
    };
    let told: Vec<String> = (0..500).map(|_| log.failure(&failed).to_string()).collect();
    assert!(writer.finish(LONG));
    let lines = memory.lines();
    assert!(lines.len() < 100, "{} lines", lines.len());
    assert!(told.iter().all(|id| lines.iter().any(|line| line["id"] == **id && line["close"] == "connect")));
    let left_out: u64 = lines.iter().map(|line| line["suppressed"].as_u64().unwrap()).sum();
    let written = lines.iter().filter(|line| line["id"].is_string()).count();
    assert_eq!(written + usize::try_from(left_out).unwrap(), told.len());
}

#[test]
fn a_failure_that_gets_an_access_line_gets_no_other() {
    let (log, writer, memory) = start(Access::Errors);
    let _ = log.failure(&AccessRecord { close: "connect", failed: true, ..AccessRecord::default() });
    assert!(writer.finish(LONG));
    assert!(memory.lines().is_empty());
}
