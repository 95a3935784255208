//! `mantlet edges`: who talks to whom, and what came of it.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::{Duration, SystemTime};

use clap::Args;
use serde_json::{Value, json};
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use super::{short, text};
use crate::admin::{AdminArgs, fetch};
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::{Output, Style};
use crate::runtime::block_on;

const EXAMPLES: &str = "\
Examples:
  mantlet edges                              # of the sidecar on 127.0.0.1:24190
  mantlet edges --admin 127.0.0.1:24190,127.0.0.2:24190    # as one picture
  mantlet edges -o json | jq '.sidecars[].document.edges[].peer'

Calls that two of them know are shown once, as the one that was called counts
them. Bytes that a peer took are \"carried\": what it decided, only it knows.

Exit codes: 0 shown, 2 usage, 3 a sidecar does not answer.";

/// The form of the JSON output; it only grows.
const SCHEMA: &str = "mantlet.cli.edges/v1";

/// Arguments of `mantlet edges`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct EdgesArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// A line of the table.
#[derive(Debug, Eq, PartialEq)]
struct Row {
    caller: String,
    called: String,
    how: String,
    decision: &'static str,
    why: String,
    count: u64,
    last: String,
}

pub(crate) fn run(arguments: &EdgesArgs, output: &Output) -> Result<ExitCode, Failure> {
    block_on(ask(arguments, output))
}

async fn ask(arguments: &EdgesArgs, output: &Output) -> Result<ExitCode, Failure> {
    let (mut documents, mut failures) = (Vec::new(), Vec::new());
    for addr in &arguments.admin.admin {
        match fetch(*addr, "/v1/edges").await {
            Ok(document) => documents.push((*addr, document)),
            Err(failure) => failures.push((*addr, failure)),
        }
    }
    match arguments.output {
        Format::Json => output.line(&to_json(&documents, &failures).to_string()),
        Format::Table if documents.is_empty() => {}
        Format::Table => output.line(&table(&documents, SystemTime::now(), output.out)),
    }
    // The last one is said by the caller, with its exit code.
    let last = failures.pop();
    for (_, failure) in failures {
        output.failure(&failure);
    }
    last.map_or(Ok(ExitCode::SUCCESS), |(_, failure)| Err(failure))
}

fn to_json(documents: &[(SocketAddr, Value)], failures: &[(SocketAddr, Failure)]) -> Value {
    let sidecars =
        documents.iter().map(|(addr, document)| json!({"admin": addr.to_string(), "document": document}));
    let unreachable =
        failures.iter().map(|(addr, failure)| json!({"admin": addr.to_string(), "error": failure.text()}));
    json!({
        "schema": SCHEMA,
        "sidecars": sidecars.collect::<Vec<_>>(),
        "unreachable": unreachable.collect::<Vec<_>>(),
    })
}

fn table(documents: &[(SocketAddr, Value)], now: SystemTime, style: Style) -> String {
    let asked: Vec<&str> = documents.iter().filter_map(|(_, document)| text(document, "self")).collect();
    let mut rows: Vec<Row> = Vec::new();
    for (_, document) in documents {
        let own = text(document, "self");
        let edges = document.get("edges").and_then(Value::as_array);
        rows.extend(edges.into_iter().flatten().filter_map(|edge| Row::of(edge, own, &asked, now)));
    }
    if rows.is_empty() {
        return "nothing has passed yet".to_owned();
    }
    // By what is called, and the same each time.
    rows.sort_by(|a, b| {
        (&a.called, &a.caller, &a.how, a.decision, &a.why)
            .cmp(&(&b.called, &b.caller, &b.how, b.decision, &b.why))
    });
    let width = |head: &str, of: fn(&Row) -> &str| {
        rows.iter().map(|row| of(row).chars().count()).max().unwrap_or_default().max(head.len())
    };
    let caller = width("caller", |row| &row.caller);
    let called = width("called", |row| &row.called);
    let why = width("why", |row| &row.why);
    let head = format!(
        "{:caller$}  {:called$}  {:<10}  {:<10}  {:<why$}  {:>7}  last",
        "caller", "called", "how", "decision", "why", "count"
    );
    let mut lines = vec![style.dim(&head)];
    for row in &rows {
        let decision = format!("{:<10}", row.decision);
        let decision = match row.decision {
            "allow" => style.good(&decision),
            "would_deny" => style.warn(&decision),
            "carried" => decision,
            _ => style.bad(&decision),
        };
        lines.push(format!(
            "{:caller$}  {:called$}  {:<10}  {decision}  {:<why$}  {:>7}  {}",
            row.caller, row.called, row.how, row.why, row.count, row.last
        ));
    }
    lines.join("\n")
}

// === impl Row ===

impl Row {
    /// None for what the called side, which was asked too, says better.
    fn of(edge: &Value, own: Option<&str>, asked: &[&str], now: SystemTime) -> Option<Self> {
        let peer = text(edge, "peer");
        let outbound = text(edge, "direction") == Some("outbound");
        let decision = match text(edge, "decision") {
            Some("allow") => "allow",
            Some("would_deny") => "would_deny",
            Some(_) => "deny",
            // Bytes that a peer took, or closed on: only the peer knows what it decided.
            None if matches!(text(edge, "close"), Some("eof" | "drain")) => "carried",
            None => "failed",
        };
        if outbound && decision != "failed" && peer.is_some_and(|peer| asked.contains(&peer)) {
            return None;
        }
        let peer = peer.map_or_else(|| "-".to_owned(), |peer| short(peer, own));
        let own = own.map_or_else(|| "?".to_owned(), |own| short(own, Some(own)));
        let (caller, called) = if outbound { (own, peer) } else { (peer, own) };
        let mtls = if edge.get("mtls").and_then(Value::as_bool) == Some(true) { "mtls" } else { "plain" };
        let why = text(edge, "rule").or_else(|| text(edge, "reason")).or_else(|| text(edge, "close"));
        let last = text(edge, "last_seen").and_then(|last| OffsetDateTime::parse(last, &Rfc3339).ok());
        let ago = last.and_then(|last| now.duration_since(last.into()).ok()).unwrap_or_default();
        Some(Self {
            caller,
            called,
            how: format!("{} {mtls}", text(edge, "layer").unwrap_or_default()),
            decision,
            why: super::clean(why.unwrap_or("-")),
            count: edge.get("count").and_then(Value::as_u64).unwrap_or_default(),
            last: span(ago),
        })
    }
}

fn span(ago: Duration) -> String {
    match ago.as_secs() {
        0 => "now".to_owned(),
        seconds @ 1..=119 => format!("{seconds}s ago"),
        seconds @ 120..=7_199 => format!("{}m ago", seconds / 60),
        seconds @ 7_200..=172_799 => format!("{}h ago", seconds / 3_600),
        seconds => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn edge(direction: &str, peer: &str, decision: Option<&str>, rule: Option<&str>) -> Value {
        json!({
            "direction": direction, "peer": format!("spiffe://a.test/ns/shop/sa/{peer}"), "mtls": true,
            "layer": "http", "decision": decision, "rule": rule,
            "reason": decision.map(|_| rule.map_or("default", |_| "rule")),
            "close": decision.map_or(Some("connect"), |_| None), "count": 7,
            "last_seen": "2027-01-15T07:59:30Z",
        })
    }

    #[test]
    fn a_call_that_both_sides_know_is_shown_once_and_a_failed_one_always() {
        let own = |name: &str| format!("spiffe://a.test/ns/shop/sa/{name}");
        let addr: SocketAddr = "127.0.0.1:1".parse().unwrap();
        let api = json!({"self": own("api"), "edges": [
            edge("inbound", "web", Some("allow"), Some("web-read")),
            edge("inbound", "web", Some("deny"), None),
        ]});
        let web = json!({"self": own("web"), "edges": [
            edge("outbound", "api", Some("allow"), None),
            edge("outbound", "db", Some("allow"), None),
            edge("outbound", "api", None, None),
        ]});
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
        let shown = table(&[(addr, api), (addr, web)], now, Style::PLAIN);
        assert_eq!(
            shown.lines().map(str::trim_end).collect::<Vec<_>>(),
            [
                "caller    called    how         decision    why         count  last",
                "shop/web  shop/api  http mtls   allow       web-read        7  30s ago",
                "shop/web  shop/api  http mtls   deny        default         7  30s ago",
                "shop/web  shop/api  http mtls   failed      connect         7  30s ago",
                "shop/web  shop/db   http mtls   allow       default         7  30s ago",
            ]
        );
    }
}
