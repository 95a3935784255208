//! `mantlet tail`: decisions as they are made.

use std::net::SocketAddr;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;
use serde_json::{Value, json};
use tokio::sync::mpsc;

use super::{clean, short, text};
use crate::admin::{AdminArgs, Event, Events, fetch};
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::{Output, Style};
use crate::runtime::{block_on, termination};

const EXAMPLES: &str = "\
Examples:
  mantlet tail                               # of the sidecar on 127.0.0.1:24190
  mantlet tail --deny --admin 127.0.0.1:24190,127.0.0.2:24190
  mantlet tail -o json | jq -r '.\"peer.id\"'
  mantlet tail --deny -n 1                   # ends with the next refusal

Exit codes: 0 ended by Ctrl-C or -n, 2 usage, 3 a sidecar is not there or gone.";

/// After a sidecar has dropped us for being slow.
const PAUSE: Duration = Duration::from_millis(200);
/// Events that wait for the terminal; past it, the sidecars notice that we are slow.
const WAITING: usize = 64;

/// Arguments of `mantlet tail`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct TailArgs {
    #[command(flatten)]
    admin: AdminArgs,
    /// Only what is refused, or would be but for audit mode
    #[arg(long)]
    deny: bool,
    /// End after this many events
    #[arg(short = 'n', long, value_name = "COUNT")]
    count: Option<u64>,
    /// Form of the output: lines for people, or one JSON object a line
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

/// An event and where it comes from.
struct Seen {
    addr: SocketAddr,
    own: Option<String>,
    event: Event,
}

pub(crate) fn run(arguments: &TailArgs, output: &Output) -> Result<ExitCode, Failure> {
    block_on(async {
        let ended = termination()?;
        tokio::select! {
            () = ended => Ok(ExitCode::SUCCESS),
            result = follow(arguments, output) => result,
        }
    })
}

async fn follow(arguments: &TailArgs, output: &Output) -> Result<ExitCode, Failure> {
    let query = if arguments.deny { "?decision=deny,would_deny" } else { "" };
    let (sender, mut seen) = mpsc::channel(WAITING);
    for addr in &arguments.admin.admin {
        // The first connection stands before anything is shown: what happens from now on is not missed.
        let own = fetch(*addr, "/v1/edges").await?;
        let own = text(&own, "self").map(str::to_owned);
        let events = Events::of(*addr, query).await?;
        tokio::spawn(one(*addr, own, events, query, sender.clone()));
    }
    drop(sender);
    if output.terminal && arguments.output == Format::Table {
        output.note(&output.err.dim("watching; Ctrl-C ends it"));
    }
    let mut shown = 0;
    while let Some(seen) = seen.recv().await {
        let seen: Seen = seen?;
        let line = match arguments.output {
            Format::Json => Some(to_json(&seen).to_string()),
            Format::Table => line(&seen, output.out),
        };
        let Some(line) = line else { continue };
        output.line(&line);
        shown += 1;
        if arguments.count.is_some_and(|count| shown >= count) {
            return Ok(ExitCode::SUCCESS);
        }
    }
    Ok(ExitCode::SUCCESS)
}

/// Watches one sidecar, again and again where it drops us for being slow.
async fn one(
    addr: SocketAddr,
    own: Option<String>,
    mut events: Events,
    query: &'static str,
    to: mpsc::Sender<Result<Seen, Failure>>,
) {
    loop {
        let dropped = match events.next().await {
            Ok(Some(event)) => {
                let dropped = event.kind == "dropped";
                if to.send(Ok(Seen { addr, own: own.clone(), event })).await.is_err() {
                    return;
                }
                dropped
            }
            Ok(None) => {
                let gone = Failure::unreachable(format!("the sidecar on {addr} is gone"));
                let _ = to.send(Err(gone)).await;
                return;
            }
            Err(failure) => {
                let _ = to.send(Err(failure)).await;
                return;
            }
        };
        if dropped {
            tokio::time::sleep(PAUSE).await;
            match Events::of(addr, query).await {
                Ok(again) => events = again,
                Err(failure) => {
                    let _ = to.send(Err(failure)).await;
                    return;
                }
            }
        }
    }
}

fn to_json(seen: &Seen) -> Value {
    let mut value = seen.event.data.clone();
    if let Some(object) = value.as_object_mut() {
        object.insert("admin".to_owned(), json!(seen.addr.to_string()));
        object.insert("self.id".to_owned(), json!(seen.own));
        object.insert("event".to_owned(), json!(seen.event.kind));
    }
    value
}

/// A line for people; none for what a newer sidecar says.
fn line(seen: &Seen, style: Style) -> Option<String> {
    let data = &seen.event.data;
    let own = seen.own.as_deref();
    let at = text(data, "time").and_then(|time| time.get(11..19)).unwrap_or("--:--:--");
    let me = own.map_or_else(|| seen.addr.to_string(), |own| short(own, Some(own)));
    let field = |name| text(data, name);
    let said = match seen.event.kind.as_str() {
        "decision" => {
            let decision = field("decision")?;
            let word = format!("{decision:<10}");
            let word = match decision {
                "allow" => style.good(&word),
                "would_deny" => style.warn(&word),
                _ => style.bad(&word),
            };
            let peer = field("peer.id")
                .map_or_else(|| clean(field("peer.addr").unwrap_or("-")), |id| short(id, own));
            let request = match (field("http.request.method"), field("url.path")) {
                (Some(method), Some(path)) => clean(&format!("{method} {path}")),
                _ => "tcp".to_owned(),
            };
            let why = field("rule").or_else(|| field("reason")).unwrap_or("-");
            let id = field("id").map_or_else(String::new, |id| style.dim(&format!("  id {}", clean(id))));
            format!("{word} {peer} -> {me}  {request}  {}{id}", clean(why))
        }
        "policy" => {
            let (generation, rules) = (data.get("generation")?, data.get("rules")?);
            let mode = clean(field("mode").unwrap_or_default());
            format!("{} {me}  generation {generation}, {rules} rules, mode {mode}", style.bold("policy    "))
        }
        "identity" => {
            let until = field("not_after").and_then(|time| time.get(11..19));
            let until = until.map_or_else(|| "none".to_owned(), |until| format!("valid until {until}"));
            format!("{} {me}  {until}", style.bold("identity  "))
        }
        "dropped" => format!("{} {me}  events were missed: we read too slowly", style.warn("dropped   ")),
        _ => return None,
    };
    Some(format!("{} {said}", style.dim(at)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(kind: &str, data: Value) -> Option<String> {
        let own = Some("spiffe://a.test/ns/shop/sa/api".to_owned());
        let event = Event { kind: kind.to_owned(), data };
        line(&Seen { addr: "127.0.0.1:1".parse().unwrap(), own, event }, Style::PLAIN)
    }

    #[test]
    fn a_line_says_when_who_what_and_why() {
        let decision = json!({
            "time": "2027-01-15T08:00:01.250Z", "decision": "deny", "reason": "default", "rule": null,
            "peer.id": "spiffe://a.test/ns/shop/sa/web", "http.request.method": "DELETE",
            "url.path": "/orders/42\u{1b}[2J", "id": "01KEXAMPLE",
        });
        assert_eq!(
            shown("decision", decision).unwrap(),
            "08:00:01 deny       shop/web -> shop/api  DELETE /orders/42\\u{1b}[2J  default  id 01KEXAMPLE"
        );
        let identity = json!({"time": "2027-01-15T08:00:01Z", "not_after": "2027-01-15T09:00:00Z"});
        assert_eq!(
            shown("identity", identity).unwrap(),
            "08:00:01 identity   shop/api  valid until 09:00:00"
        );
        assert_eq!(shown("something new", json!({})), None);
    }
}
