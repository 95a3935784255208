//! What the demo shows: lines for people on a terminal, JSON lines for everything else.

use std::cell::Cell;
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
        inbound: Option<SocketAddr>,
        outbound: Option<SocketAddr>,
        admin: SocketAddr,
        milliseconds: u128,
    },
    /// The rules of a workload.
    Policy { workload: &'static str, line: &'a str },
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
    pub(crate) method: &'static str,
    pub(crate) path: &'static str,
    pub(crate) status: Option<u16>,
    pub(crate) decision: &'static str,
    pub(crate) why: String,
    /// What the called app saw of the caller.
    pub(crate) seen: Option<String>,
    /// The rule that came nearest to allowing it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) nearest: Option<String>,
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

    fn line(&self, text: &str) {
        if !self.output.try_line(text) {
            self.unread.set(true);
        }
    }

    /// The table's head.
    pub(crate) fn head(&self) {
        let style = self.output.out;
        let head =
            format!("    {:<8} {:<18} {:<17} {:<19} {:>7}", "caller", "request", "answer", "why", "took");
        self.remark(&format!("\n{}", style.dim(&head)));
    }
}

// === impl Call ===

impl Call {
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
        Scene::WorkloadApi { addr, trust_domain, svid_seconds } => format!(
            " {} workload API  SVIDs of {trust_domain} live {svid_seconds} s\n{:16} {}",
            style.tick(),
            "",
            style.dim(addr)
        ),
        Scene::Sidecar { name, id, pid, milliseconds, .. } => {
            let ready = style.dim(&format!("pid {pid}, {milliseconds} ms"));
            format!(" {} sidecar {name:<5} {id}  {ready}", style.tick())
        }
        Scene::Policy { workload, line } => {
            format!(" {} policy {workload:<6} {line}", style.tick())
        }
        Scene::Call(call) => call_text(call, style),
        Scene::Rotation(rotation) => rotation_text(rotation, style),
        Scene::Result { passed: true, checks, seconds, .. } => {
            format!(
                "\n {} {}",
                style.tick(),
                style.good(&format!("all {checks} checks passed in {seconds} s"))
            )
        }
        Scene::Result { checks, failed, seconds, .. } => {
            format!(
                "\n {} {}",
                style.cross(),
                style.bad(&format!("{failed} of {checks} checks failed in {seconds} s"))
            )
        }
        Scene::Try { command, expect } => format!("   {command}\n      {}", style.dim(expect)),
    }
}

fn call_text(call: &Call, style: Style) -> String {
    let request = format!("{} {}", call.method, call.path);
    let answer = match call.status {
        Some(status) => format!("{status} {}", call.decision),
        None => call.decision.to_owned(),
    };
    let answer = format!("{answer:<17}");
    let answer = if call.decision == "allow" { style.good(&answer) } else { style.warn(&answer) };
    let took = format!("{:.1} ms", call.milliseconds);
    let mark = if call.passed() { style.tick() } else { style.cross() };
    let mut text = format!(" {mark} {:<8} {request:<18} {answer} {:<19} {took:>7}", call.caller, call.why);
    if let Some(seen) = &call.seen {
        text.push_str(&format!("\n            {}", style.dim(seen)));
    }
    if let Some(nearest) = &call.nearest {
        text.push_str(&format!("\n            {}", style.dim(&format!("nearest rule {nearest}"))));
    }
    if let Some(problem) = &call.problem {
        text.push_str(&format!("\n            {}", style.bad(problem)));
    }
    text
}

fn rotation_text(rotation: &Rotation, style: Style) -> String {
    let mark = if rotation.problem.is_none() { style.tick() } else { style.cross() };
    let who = rotation.workloads.join(" and ");
    let mut text = format!(
        "\n {mark} rotation  new SVIDs for {who} at half life, within {} s\n{:13}{} requests meanwhile, {} failed",
        rotation.seconds, "", rotation.requests, rotation.failed
    );
    if let Some(problem) = &rotation.problem {
        text.push_str(&format!("\n             {}", style.bad(problem)));
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
                name: "api",
                id: "spiffe://demo.local/ns/shop/sa/api".into(),
                pid: 4_194_304,
                inbound: Some(addr),
                outbound: None,
                admin: addr,
                milliseconds: 1_234,
            },
            Scene::Policy { workload: "api", line: "allow shop/web to GET /orders/** on 65535 as web-read" },
            Scene::Call(Call {
                caller: "no cert",
                method: "DELETE",
                path: "/orders/42",
                status: None,
                decision: "refused in TLS",
                why: "CertificateRequired".into(),
                seen: Some("api saw the caller spiffe://demo.local/ns/shop/sa/web".into()),
                nearest: Some("web-read".into()),
                milliseconds: 123.4,
                problem: None,
            }),
            Scene::Rotation(Rotation {
                workloads: vec!["api", "web"],
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
        assert!(text.starts_with(" !! no cert") && text.contains("the app was reached"), "{text}");
    }
}
