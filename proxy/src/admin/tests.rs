use std::{
    net::SocketAddr,
    os::unix::fs::PermissionsExt,
    path::PathBuf,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::SystemTime,
};

use mantlet_policy::Verdict;
use serde_json::json;
use tokio::{
    io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader},
    net::{TcpListener, TcpStream},
};

use super::*;
use crate::activity::Event;

struct Admin {
    address: SocketAddr,
    readiness: Readiness,
    drains: Arc<AtomicUsize>,
    events: Arc<Events>,
    sources: Arc<Sources>,
}

impl Admin {
    async fn start() -> Self {
        let readiness = Readiness::new();
        let drains = Arc::new(AtomicUsize::new(0));
        let counter = Arc::clone(&drains);
        let events = Arc::new(Events::default());
        let sources = Arc::new(Sources {
            readiness: readiness.clone(),
            probes: Probes::default(),
            metrics: Box::new(|| "# TYPE mantlet_x counter\nmantlet_x_total 1\n# EOF\n".to_owned()),
            certs: Box::new(|| json!({"id": "spiffe://prod.test/x"})),
            policy: Box::new(|| json!({"mode": "enforce"})),
            explain: Box::new(|question| match question.get("peer") {
                Some(peer) => Ok(json!({"peer": peer})),
                None => Err("peer is missing".to_owned()),
            }),
            edges: Box::new(|| json!({"edges": []})),
            events: Arc::clone(&events),
            log_level: Box::new(|request| match request.get("level") {
                Some(level) => Ok(json!({"level": level})),
                None => Err("level is missing".to_owned()),
            }),
            config: json!([]),
            drain: Box::new(move || {
                counter.fetch_add(1, Ordering::Relaxed);
            }),
        });
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(serve(listener, Arc::clone(&sources)));
        Self { address, readiness, drains, events, sources }
    }

    /// Sends a request with these extra header lines and returns status and whole answer.
    async fn ask(&self, line: &str, headers: &str, body: &str) -> (u16, String) {
        let mut stream = TcpStream::connect(self.address).await.unwrap();
        let length = body.len();
        let request = format!(
            "{line} HTTP/1.1\r\nconnection: close\r\ncontent-length: {length}\r\n{headers}\r\n{body}"
        );
        stream.write_all(request.as_bytes()).await.unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await.unwrap();
        (answer.split(' ').nth(1).unwrap().parse().unwrap(), answer)
    }

    async fn get(&self, path: &str) -> (u16, String) {
        self.ask(&format!("GET {path}"), "host: localhost\r\n", "").await
    }
}

fn directory(name: &str) -> PathBuf {
    let path = std::env::temp_dir().join(format!("mantlet-admin-{name}-{}", std::process::id()));
    let _ = std::fs::remove_dir_all(&path);
    std::fs::create_dir_all(&path).unwrap();
    path
}

#[tokio::test]
async fn readyz_names_the_failing_condition_and_the_next_step() {
    let admin = Admin::start().await;
    let identity = admin.readiness.blocker("identity");
    identity.set("no identity issued", "register the workload with SPIRE");
    let (status, answer) = admin.get("/readyz").await;
    assert_eq!(status, 503);
    assert!(
        answer
            .ends_with("not ready: identity: no identity issued (next: register the workload with SPIRE)\n"),
        "{answer}"
    );
    assert_eq!(admin.get("/startupz").await.0, 503);
    assert_eq!(admin.get("/livez").await.0, 200);
    identity.clear();
    assert_eq!(admin.get("/readyz").await.0, 200);
    identity.set("expired", "look at the agent");
    assert_eq!((admin.get("/startupz").await.0, admin.get("/readyz").await.0), (200, 503));
}

#[tokio::test]
async fn probes_and_scrapes_are_answered_whatever_host_they_name() {
    let admin = Admin::start().await;
    assert_eq!(admin.ask("GET /readyz?probe=1", "host: 10.0.0.7:24190\r\n", "").await.0, 200);
    assert_eq!(admin.ask("HEAD /livez", "host: pod\r\n", "").await.0, 200);
    assert_eq!(admin.ask("POST /readyz", "host: pod\r\n", "").await.0, 405);
    assert_eq!(admin.ask("GET /nothing", "host: pod\r\n", "").await.0, 404);
}

#[tokio::test]
async fn metrics_are_classic_text_unless_openmetrics_is_asked_for() {
    let admin = Admin::start().await;
    let (_, classic) = admin.get("/metrics").await;
    assert!(classic.contains("text/plain; version=0.0.4"), "{classic}");
    assert!(classic.ends_with("# TYPE mantlet_x_total counter\nmantlet_x_total 1\n"), "{classic}");
    let accept = "host: x\r\naccept: application/openmetrics-text\r\n";
    let (_, open) = admin.ask("GET /metrics", accept, "").await;
    assert!(
        open.contains("application/openmetrics-text; version=1.0.0") && open.ends_with("# EOF\n"),
        "{open}"
    );
}

#[tokio::test]
async fn dumps_are_for_loopback_names_only() {
    let admin = Admin::start().await;
    let (status, answer) = admin.get("/v1/certs").await;
    assert!(status == 200 && answer.contains("spiffe://prod.test/x"), "{answer}");
    for headers in ["host: evil.test\r\n", "", "host: localhost\r\nhost: localhost\r\n"] {
        for path in ["/v1/certs", "/v1/policy", "/v1/config", "/v1/edges", "/v1/events", "/v1/unknown"] {
            let (status, _) = admin.ask(&format!("GET {path}"), headers, "").await;
            assert!(matches!(status, 400 | 403), "{path} {headers:?} {status}");
        }
    }
    assert_eq!(admin.ask("PUT /v1/config", "host: localhost\r\n", "").await.0, 405);
}

#[tokio::test]
async fn explaining_takes_json_and_says_what_is_missing() {
    let admin = Admin::start().await;
    let json = "host: localhost\r\ncontent-type: application/json; charset=utf-8\r\n";
    let (status, answer) = admin.ask("POST /v1/policy/explain", json, r#"{"peer":"a/b"}"#).await;
    assert!(status == 200 && answer.contains("a/b"), "{answer}");
    assert_eq!(admin.ask("POST /v1/policy/explain", "host: localhost\r\n", "{}").await.0, 415);
    let (status, answer) = admin.ask("POST /v1/policy/explain", json, "{}").await;
    assert!(status == 400 && answer.contains("peer is missing"), "{answer}");
    assert_eq!(admin.ask("POST /v1/policy/explain", json, &" ".repeat(70_000)).await.0, 413);
    assert_eq!(admin.get("/v1/policy/explain").await.0, 405);
}

/// Publishes so many decisions about a path of some length.
fn publish(admin: &Admin, verdict: Verdict, count: usize) {
    for number in 0..count {
        let data = json!({"decision": verdict.as_str(), "number": number, "url.path": "x".repeat(400)});
        admin.events.publish(Event::Decision, Some(verdict), SystemTime::UNIX_EPOCH, data);
    }
}

#[tokio::test]
async fn decisions_are_streamed_as_they_come_to_whoever_watches() {
    let admin = Admin::start().await;
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    let request = "GET /v1/events?decision=deny HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    let mut lines = BufReader::new(stream).lines();
    let mut head = String::new();
    while !head.contains(": watching") {
        head.push_str(&lines.next_line().await.unwrap().unwrap());
    }
    assert!(head.contains("200 OK") && head.contains("text/event-stream"), "{head}");
    publish(&admin, Verdict::Allow, 1);
    publish(&admin, Verdict::Deny, 1);
    let mut data = String::new();
    while !data.starts_with("data: ") {
        data = lines.next_line().await.unwrap().unwrap();
    }
    let event: Value = serde_json::from_str(data.trim_start_matches("data: ")).unwrap();
    assert_eq!((&event["decision"], &event["time"]), (&json!("deny"), &json!("1970-01-01T00:00:00Z")));

    assert_eq!(admin.ask("GET /v1/events?decision=no", "host: localhost\r\n", "").await.0, 400);
    assert_eq!(admin.ask("POST /v1/events", "host: localhost\r\n", "").await.0, 405);
}

#[tokio::test]
async fn a_reader_that_stops_reading_is_counted_and_its_connection_closed() {
    let admin = Admin::start().await;
    let mut stream = TcpStream::connect(admin.address).await.unwrap();
    let request = "GET /v1/events HTTP/1.1\r\nhost: localhost\r\n\r\n";
    stream.write_all(request.as_bytes()).await.unwrap();
    while !admin.events.is_watched() {
        tokio::task::yield_now().await;
    }
    // More than every buffer between here and there takes.
    while admin.events.dropped() == 0 {
        publish(&admin, Verdict::Allow, 100);
        tokio::task::yield_now().await;
    }
    assert!(!admin.events.is_watched());
    let mut all = Vec::new();
    // It may be cut off in the middle of an event, or be told.
    let _ = stream.read_to_end(&mut all).await;
    assert_eq!(admin.events.dropped(), 1);
    assert_eq!(admin.get("/livez").await.0, 200);
}

#[tokio::test]
async fn the_app_can_neither_drain_the_pod_nor_change_its_log_over_loopback() {
    let admin = Admin::start().await;
    assert_eq!(admin.ask("POST /drain", "host: localhost\r\n", "").await.0, 403);
    assert_eq!(admin.drains.load(Ordering::Relaxed), 0);
    let json = "host: localhost\r\ncontent-type: application/json\r\n";
    assert_eq!(admin.ask("POST /log", json, r#"{"level":"trace","for":"1h"}"#).await.0, 403);
}

#[tokio::test]
async fn two_hundred_silent_connections_do_not_fail_a_probe() {
    let admin = Admin::start().await;
    let mut silent = Vec::new();
    for _ in 0..200 {
        silent.push(TcpStream::connect(admin.address).await.unwrap());
    }
    assert_eq!(admin.get("/readyz").await.0, 200);
    drop(silent);
}

#[tokio::test]
async fn a_drain_is_asked_for_on_the_socket_that_only_its_owner_opens() {
    let admin = Admin::start().await;
    let directory = directory("drain");
    let path = directory.join("admin.sock");
    let socket = Socket::bind(&path).unwrap();
    assert_eq!(std::fs::metadata(&path).unwrap().permissions().mode() & 0o777, 0o600);
    let serving = tokio::spawn(serve_socket(socket, Arc::clone(&admin.sources)));
    let post = |target| {
        let path = path.clone();
        tokio::task::spawn_blocking(move || super::post(&path, target, Some(r#"{"level":"debug"}"#)))
    };
    assert_eq!(post("/drain").await.unwrap().unwrap(), "draining");
    assert_eq!(admin.drains.load(Ordering::Relaxed), 1);
    assert!(post("/log").await.unwrap().unwrap().contains("debug"));
    assert!(post("/nothing").await.unwrap().is_err());
    serving.abort();
    let _ = serving.await;
    assert!(!path.exists(), "the file goes with the server");
    std::fs::remove_dir_all(directory).unwrap();
}

#[tokio::test]
async fn a_stale_socket_is_replaced_and_anything_else_is_left_alone() {
    let directory = directory("stale");
    let path = directory.join("admin.sock");
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    let socket = Socket::bind(&path).unwrap();
    assert!(Socket::bind(&path).unwrap_err().to_string().contains("another process"));
    drop(socket);
    std::fs::write(&path, "precious").unwrap();
    assert!(Socket::bind(&path).is_err());
    assert_eq!(std::fs::read_to_string(&path).unwrap(), "precious");
    std::fs::remove_dir_all(directory).unwrap();
}
