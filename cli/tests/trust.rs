//! Two sidecars in two trust domains, with one development agent: federation, and a rotation of both
//! authorities while requests flow.

mod support;

use std::fs;
use std::io::{BufRead as _, BufReader, Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use support::{PATIENCE, Running, Scratch, run, stderr};

/// Everything of one test.
struct Mesh {
    scratch: Scratch,
    web: Running,
    api: Running,
    _agent: Running,
    addr: String,
}

#[test]
fn a_caller_of_a_federated_trust_domain_is_let_in_and_no_other() {
    let mesh = Mesh::start(true);
    let mut client = Client::connect(&mesh.addr);
    let (status, body) = client.get();
    assert_eq!(status, 200, "{body}");
    let caller = "URI=spiffe://a.test/ns/shop/sa/web";
    assert!(body.contains(caller), "the app sees the caller of the other trust domain: {body}");

    // Without federation the same caller is nobody: its certificate has no bundle to be judged by.
    let mesh = Mesh::start(false);
    let (status, body) = Client::connect(&mesh.addr).get();
    assert_eq!(status, 502, "{body}");
}

#[test]
fn both_authorities_rotate_on_command_while_requests_flow_and_none_fails() {
    let mesh = Mesh::start(true);
    let flow = Flow::start(&mesh.addr);
    flow.until_more(20);
    for domain in ["a.test", "b.test"] {
        for step in ["prepare", "activate", "retire"] {
            mesh.ctl(&["ca", step, domain]);
            // Each step is in use before the next one.
            flow.until_more(100);
        }
    }
    let status = mesh.status();
    assert_eq!(status.matches(" active ").count(), 2, "{status}");
    assert_eq!(status.matches(" old ").count(), 0, "{status}");
    assert_eq!(flow.stop(), 0, "requests failed");
}

// === impl Mesh ===

impl Mesh {
    fn start(federated: bool) -> Self {
        let scratch = Scratch::new();
        fs::write(scratch.file("entries.toml"), "").expect("a file");
        let mut agent = Running::start(
            &scratch,
            &[
                &["dev-agent", "--socket", "agent.sock", "--control", "control.sock"][..],
                &["--entries", "entries.toml", "--trust-domain", "a.test", "--trust-domain", "b.test"],
            ]
            .concat(),
        );
        let endpoint = agent.event("listening")["addr"].as_str().expect("an address").to_owned();
        let port = app();
        let policy = format!("allow spiffe://a.test/ns/shop/sa/web to GET /** on {port} as web\n");
        fs::write(scratch.file("api.policy"), policy).expect("a file");
        let parent = std::process::id().to_string();
        let common = |domain, account| {
            let api = ["proxy", "--exit-with-parent", &parent, "--workload-api", &endpoint];
            let own = ["--trust-domain", domain, "--namespace", "shop", "--service-account", account];
            let rest = ["--admin", "127.0.0.1:0", "--drain-deadline", "1s"];
            [&api[..], &own, &rest].concat().into_iter().map(str::to_owned).collect::<Vec<_>>()
        };
        let start = |mut arguments: Vec<String>, more: &[&str]| {
            arguments.extend(more.iter().map(|&argument| argument.to_owned()));
            Running::start(&scratch, &arguments.iter().map(String::as_str).collect::<Vec<_>>())
        };
        let inbound = format!("127.0.0.1:0=127.0.0.1:{port}");
        let mut api = start(common("b.test", "api"), &["--policy", "api.policy", "--inbound", &inbound]);
        let inbound = listening(&mut api, "inbound");
        let outbound = format!("127.0.0.1:0={inbound} is spiffe://b.test/ns/shop/sa/api as http");
        let mut web = start(common("a.test", "web"), &["--outbound", &outbound]);
        let addr = listening(&mut web, "outbound");
        let entry = |id: &str, pid: u32, other: &str| {
            let federates =
                if federated { format!("federates_with = [\"{other}\"]\n") } else { String::new() };
            format!("[[entry]]\nid = \"spiffe://{id}\"\npid = {pid}\n{federates}")
        };
        let entries = entry("b.test/ns/shop/sa/api", api.pid(), "a.test")
            + &entry("a.test/ns/shop/sa/web", web.pid(), "b.test");
        fs::write(scratch.file("entries.toml"), entries).expect("a file");
        api.event("ready");
        web.event("ready");
        Self { scratch, web, api, _agent: agent, addr }
    }

    fn ctl(&self, command: &[&str]) {
        let arguments = [&["dev-agent", "ctl", "--control", "control.sock"], command].concat();
        let output = run(&self.scratch, &arguments);
        assert!(output.status.success(), "{command:?}: {}", stderr(&output));
    }

    fn status(&self) -> String {
        support::stdout(&run(&self.scratch, &["dev-agent", "ctl", "--control", "control.sock", "status"]))
    }
}

impl Drop for Mesh {
    fn drop(&mut self) {
        // Both are killed when they are dropped; here it is only said that they still ran.
        assert!(std::thread::panicking() || (self.web.runs() && self.api.runs()), "a sidecar ended");
    }
}

fn listening(sidecar: &mut Running, role: &str) -> String {
    loop {
        let event = sidecar.event("listening");
        if event["role"] == role {
            return event["addr"].as_str().expect("an address").to_owned();
        }
    }
}

/// An app that answers every request with the header that names the caller.
fn app() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").expect("a port");
    let port = listener.local_addr().expect("an address").port();
    std::thread::spawn(move || {
        for stream in listener.incoming().flatten() {
            std::thread::spawn(move || {
                let mut lines = BufReader::new(stream.try_clone().expect("a stream")).lines();
                while let Some(caller) = head(&mut lines) {
                    let answer =
                        format!("HTTP/1.1 200 OK\r\ncontent-length: {}\r\n\r\n{caller}", caller.len());
                    if (&stream).write_all(answer.as_bytes()).is_err() {
                        return;
                    }
                }
            });
        }
    });
    port
}

/// Reads a head to its end; gives the caller's header.
fn head(lines: &mut impl Iterator<Item = std::io::Result<String>>) -> Option<String> {
    let mut caller = String::new();
    loop {
        let line = lines.next()?.ok()?;
        if line.is_empty() {
            return Some(caller);
        }
        if let Some(value) = line.strip_prefix("x-forwarded-client-cert: ") {
            caller = value.to_owned();
        }
    }
}

/// One connection of the calling app, which it keeps.
struct Client(BufReader<TcpStream>);

impl Client {
    fn connect(addr: &str) -> Self {
        let stream = TcpStream::connect(addr).expect("the sidecar listens");
        stream.set_read_timeout(Some(PATIENCE)).expect("a timeout");
        Self(BufReader::new(stream))
    }

    fn get(&mut self) -> (u16, String) {
        self.0.get_mut().write_all(b"GET /x HTTP/1.1\r\nhost: api\r\n\r\n").expect("it reads");
        let (mut status, mut length) = (0, 0);
        loop {
            let mut line = String::new();
            assert_ne!(self.0.read_line(&mut line).expect("it answers"), 0, "the connection was closed");
            let line = line.trim_end().to_ascii_lowercase();
            if let Some(rest) = line.strip_prefix("http/1.1 ") {
                status = rest.split(' ').next().and_then(|code| code.parse().ok()).expect("a status");
            } else if let Some(value) = line.strip_prefix("content-length: ") {
                length = value.parse().expect("a length");
            } else if line.is_empty() {
                break;
            }
        }
        let mut body = vec![0; length];
        self.0.read_exact(&mut body).expect("a body");
        (status, String::from_utf8(body).expect("UTF-8"))
    }
}

/// Requests one after the other until it is stopped.
struct Flow {
    stop: Arc<AtomicBool>,
    sent: Arc<AtomicU64>,
    thread: std::thread::JoinHandle<u64>,
}

impl Flow {
    fn start(addr: &str) -> Self {
        let (stop, sent) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicU64::new(0)));
        let mut client = Client::connect(addr);
        let thread = {
            let (stop, sent) = (Arc::clone(&stop), Arc::clone(&sent));
            std::thread::spawn(move || {
                let mut failed = 0;
                while !stop.load(Ordering::Relaxed) {
                    let (status, body) = client.get();
                    if status != 200 {
                        eprintln!("{status} {body}");
                        failed += 1;
                    }
                    sent.fetch_add(1, Ordering::Relaxed);
                }
                failed
            })
        };
        Self { stop, sent, thread }
    }

    /// Waits until this many more requests were answered.
    fn until_more(&self, count: u64) {
        let goal = self.sent.load(Ordering::Relaxed) + count;
        let begin = Instant::now();
        while self.sent.load(Ordering::Relaxed) < goal {
            assert!(begin.elapsed() < PATIENCE && !self.thread.is_finished(), "requests do not flow");
            std::thread::sleep(Duration::from_millis(5));
        }
    }

    fn stop(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().expect("no request was left without an answer")
    }
}
