//! What the demo shows: lines for people on a terminal, JSON lines for everything else.

use std::cell::Cell;
use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::time::Duration;

use serde::Serialize;

use crate::output::{Output, Style};
use crate::version::VERSION;

/// Shows scenes.
pub(crate) struct Report<'a> {
    output: &'a Output,
    json: bool,
    unread: Cell<bool>,
}

/// One thing that happened.
#[derive(Debug, Serialize)]
#[serde(tag = "event", rename_all = "snake_case")]
pub(crate) enum Scene<'a> {
    /// The demo begins.
    Start { version: &'static str },
    /// The development agent serves.
    WorkloadApi { addr: String, trust_domain: &'static str, svid_seconds: u64 },
    /// A sidecar is ready.
    Sidecar {
        name: &'static str,
        id: String,
        pid: u32,
        /// By port.
        inbound: BTreeMap<&'static str, SocketAddr>,
        /// By workload and port.
        outbound: BTreeMap<String, SocketAddr>,
        admin: SocketAddr,
        milliseconds: u128,
    },
    /// The rules of a workload.
    Policy { workload: &'static str, lines: &'a [&'a str] },
    /// A policy is changed while it is in force.
    Edit { workload: &'static str, what: &'a str },
    /// A call and what became of it.
    Call(Call),
    /// SVIDs were renewed while requests flowed.
    Rotation(Rotation),
    /// The end.
    Result { passed: bool, checks: usize, failed: usize, seconds: f64 },
    /// Something to paste.
    Try { command: String, expect: &'static str },
}

/// A call and what became of it.
#[derive(Debug, Serialize)]
pub(crate) struct Call {
    pub(crate) caller: &'static str,
    pub(crate) called: &'static str,
    pub(crate) request: String,
    /// Of HTTP or gRPC.
    pub(crate) status: Option<u16>,
    pub(crate) decision: &'static str,
    pub(crate) why: String,
    /// What the called app saw of the caller, or the caller of the app.
    pub(crate) seen: Option<String>,
    /// The rule that came nearest to allowing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nearest: Option<String>,
    /// Under which it stands in the audit log.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    pub(crate) milliseconds: f64,
    /// What is not as it should be.
    pub(crate) problem: Option<String>,
}

/// SVIDs were renewed while requests flowed.
#[derive(Debug, Serialize)]
pub(crate) struct Rotation {
    pub(crate) workloads: Vec<&'static str>,
    pub(crate) cause: &'static str,
    pub(crate) seconds: f64,
    pub(crate) requests: u64,
    pub(crate) failed: u64,
    /// What is not as it should be.
    pub(crate) problem: Option<String>,
}

// === impl Report ===

impl<'a> Report<'a> {
    pub(crate) fn new(output: &'a Output, json: bool) -> Self {
        Self { output, json, unread: Cell::new(false) }
    }

    /// Whether the reader has gone away (`| head`).
    pub(crate) fn is_unread(&self) -> bool {
        self.unread.get()
    }

    pub(crate) fn is_json(&self) -> bool {
        self.json
    }

    pub(crate) fn show(&self, scene: &Scene<'_>) {
        if self.json {
            // A scene holds nothing that JSON cannot say.
            if let Ok(line) = serde_json::to_string(scene) {
                self.line(&line);
            }
        } else {
            self.line(&text(scene, self.output.out));
        }
    }

    /// A line for people only.
    pub(crate) fn remark(&self, text: &str) {
        if !self.json {
            self.line(text);
        }
    }

    /// The last line of a terminal, written over again and again.
    pub(crate) fn status(&self, text: &str) {
        let style = self.output.out;
        let line = format!(" {} {}", style.good(style.symbol("↻", "*")), style.dim(text));
        if self.json || !self.output.terminal {
            return;
        }
        if !self.output.try_rewrite(&line) {
            self.unread.set(true);
        }
    }

    fn line(&self, text: &str) {
        if !self.output.try_line(text) {
            self.unread.set(true);
        }
    }

    /// The table's head.
    pub(crate) fn head(&self) {
        let style = self.output.out;
        let head = format!(
            "    {:<9} {:<3} {:<17} {:<14} {:<15} {:>8}",
            "caller", "to", "request", "answer", "why", "took"
        );
        self.remark(&format!("\n{}", style.dim(&head)));
    }

    /// Says that a policy is changed.
    pub(crate) fn edit(&self, workload: &'static str, what: &str) {
        self.show(&Scene::Edit { workload, what });
    }
}

// === impl Call ===

impl Call {
    /// A call of which nothing is known yet.
    pub(crate) fn new(caller: &'static str, called: &'static str, request: String) -> Self {
        Self {
            caller,
            called,
            request,
            status: None,
            decision: "",
            why: String::new(),
            seen: None,
            nearest: None,
            id: None,
            milliseconds: 0.0,
            problem: None,
        }
    }

    pub(crate) fn passed(&self) -> bool {
        self.problem.is_none()
    }
}

/// Whole tenths of a millisecond.
pub(crate) fn milliseconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10_000.0).round() / 10.0
}

/// Whole tenths of a second.
pub(crate) fn seconds(time: Duration) -> f64 {
    (time.as_secs_f64() * 10.0).round() / 10.0
}

fn text(scene: &Scene<'_>, style: Style) -> String {
    match scene {
        Scene::Start { .. } => format!(
            "{} {}\n",
            style.bold(&format!("mantlet {VERSION} demo")),
            style.dim(" on loopback only, nothing is left behind")
        ),
        Scene::WorkloadApi { addr, trust_domain, svid_seconds } => {
            let renewed = format!("SVIDs of {trust_domain} live {svid_seconds} s, renewed at half of it");
            format!(" {}workload API      {renewed}\n{:22}{}", ok(style), "", style.dim(addr))
        }
        Scene::Sidecar { name, id, pid, .. } => {
            format!(" {}sidecar {name:<9} {id:<39} {}", ok(style), style.dim(&format!("pid {pid}")))
        }
        Scene::Policy { workload, lines } => {
            let lines = lines.join(&format!("\n{:16}", ""));
            format!(" {}policy {workload:<4} {lines}", ok(style))
        }
        Scene::Edit { workload, what } => {
            format!("\n {}  {workload:<9} {}", style.warn("~"), style.bold(what))
        }
        Scene::Call(call) => call_text(call, style),
        Scene::Rotation(rotation) => rotation_text(rotation, style),
        Scene::Result { passed: true, checks, seconds, .. } => {
            format!("\n {}{}", ok(style), style.good(&format!("all {checks} checks passed in {seconds} s")))
        }
        Scene::Result { checks, failed, seconds, .. } => {
            format!(
                "\n {}{}",
                wrong(style),
                style.bad(&format!("{failed} of {checks} checks failed in {seconds} s"))
            )
        }
        Scene::Try { command, expect } => format!("   {command}\n      {}", style.dim(expect)),
    }
}

/// A mark, as wide in ASCII as it is with symbols.
fn ok(style: Style) -> String {
    format!("{}{} ", style.tick(), style.symbol(" ", ""))
}

fn wrong(style: Style) -> String {
    format!("{}{} ", style.cross(), style.symbol(" ", ""))
}

fn call_text(call: &Call, style: Style) -> String {
    let answer = match call.status {
        Some(status) => format!("{status} {}", call.decision),
        None => call.decision.to_owned(),
    };
    let answer = format!("{answer:<14}");
    let answer = match call.decision {
        "allow" => style.good(&answer),
        "failed" => style.bad(&answer),
        _ => style.warn(&answer),
    };
    let took = format!("{:.1} ms", call.milliseconds);
    let mark = if call.passed() { ok(style) } else { wrong(style) };
    let Call { caller, called, request, why, .. } = call;
    let mut text = format!(" {mark}{caller:<9} {called:<3} {request:<17} {answer} {why:<15} {took:>8}");
    let nearest = call.nearest.as_ref().map(|nearest| format!("nearest rule {nearest}"));
    let id = call.id.as_ref().map(|id| format!("audit id {id}"));
    let audit = nearest.into_iter().chain(id).collect::<Vec<_>>().join(", ");
    for more in call.seen.iter().chain(Some(&audit)).filter(|more| !more.is_empty()) {
        text.push_str(&format!("\n{:14}{}", "", style.dim(more)));
    }
    if let Some(problem) = &call.problem {
        text.push_str(&format!("\n{:14}{}", "", style.bad(problem)));
    }
    text
}

fn rotation_text(rotation: &Rotation, style: Style) -> String {
    let mark = if rotation.problem.is_none() { ok(style) } else { wrong(style) };
    let who = rotation.workloads.join(", ");
    let mut text = format!(
        "\n {mark}rotation  new SVIDs for {who} at half life\n{:14}{} requests in {} s meanwhile, {} failed",
        "", rotation.requests, rotation.seconds, rotation.failed
    );
    if let Some(problem) = &rotation.problem {
        text.push_str(&format!("\n{:14}{}", "", style.bad(problem)));
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scenes() -> Vec<Scene<'static>> {
        let addr: SocketAddr = "127.0.0.1:65535".parse().unwrap();
        vec![
            Scene::Start { version: VERSION },
            Scene::WorkloadApi {
                addr: "unix:///tmp/mantlet-demo-4194304-0/agent.sock".into(),
                trust_domain: "demo.local",
                svid_seconds: 8,
            },
            Scene::Sidecar {
                name: "intruder",
                id: "spiffe://demo.local/ns/shop/sa/intruder".into(),
                pid: 4_194_304,
                inbound: BTreeMap::from([("http", addr)]),
                outbound: BTreeMap::from([("db:sql".to_owned(), addr)]),
                admin: addr,
                milliseconds: 1_234,
            },
            Scene::Policy {
                workload: "db",
                lines: &["allow shop/api to grpc shop.v1.Rows/Watch on grpc as api-watch"; 2],
            },
            Scene::Call(Call {
                decision: "refused in TLS",
                why: "unknown_issuer".into(),
                seen: Some("api saw the caller spiffe://demo.local/ns/shop/sa/web".into()),
                nearest: Some("web-read".into()),
                id: Some("01M7YS95XTBJBNWJCP00000000".into()),
                milliseconds: 1_234.5,
                ..Call::new("plaintext", "api", "DELETE /orders/42".into())
            }),
            Scene::Edit { workload: "db", what: "the line api-watch is removed while api reads a stream" },
            Scene::Rotation(Rotation {
                workloads: vec!["api", "db", "intruder", "web"],
                cause: "half_life",
                seconds: 4.2,
                requests: 12_345,
                failed: 0,
                problem: None,
            }),
            Scene::Result { passed: true, checks: 4, failed: 0, seconds: 6.1 },
            Scene::Try {
                command: "curl -i -X DELETE http://127.0.0.1:65535/orders/42".into(),
                expect: "you are web: 403, no rule allows it",
            },
        ]
    }

    #[test]
    fn every_line_fits_eighty_columns_and_needs_no_colour() {
        for scene in scenes() {
            for line in text(&scene, Style::PLAIN).lines() {
                assert!(line.chars().count() <= 80, "{} columns: {line}", line.chars().count());
                assert!(!line.contains('\x1b'), "{line:?}");
            }
        }
    }

    #[test]
    fn every_scene_is_one_json_line_with_its_name() {
        for scene in scenes() {
            let line = serde_json::to_string(&scene).unwrap();
            assert!(line.starts_with("{\"event\":\"") && !line.contains('\n'), "{line}");
        }
    }

    #[test]
    fn a_problem_is_shown_and_marked() {
        let mut scenes = scenes();
        let Some(Scene::Call(call)) = scenes.get_mut(4) else { panic!() };
        call.problem = Some("the app was reached".into());
        let text = text(&scenes[4], Style::PLAIN);
        assert!(text.starts_with(" !! plaintext") && text.contains("the app was reached"), "{text}");
    }
}
