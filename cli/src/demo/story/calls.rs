//! Single calls. What a sidecar decided is taken from the sidecar that decided; what reached the app, from the app.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use serde_json::Value;

use super::super::app::{CALLER_HEADER, GREETING};
use super::super::client::{Client, PATIENCE, Reply, greeting};
use super::super::plan::PATH;
use super::super::report::{Call, milliseconds};
use super::super::rpc;
use super::super::sidecar::{Mark, field};
use super::super::stage::Stage;
use super::super::stranger::Stranger;
use crate::admin;
use crate::failure::Failure;

/// What an app might say about itself to be taken for somebody else.
const FORGED: &str = "By=spiffe://demo.local/ns/shop/sa/api;URI=spiffe://demo.local/ns/ops/sa/admin";
/// Between two looks at a counter.
const LOOK: Duration = Duration::from_millis(20);

/// What must come of a call.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Expect {
    /// This rule allows it.
    Allow(&'static str),
    /// Nothing does.
    Deny,
    /// Nothing does, and it passes all the same.
    WouldDeny,
}

/// A call that is being made.
struct Pending {
    call: Call,
    called: &'static str,
    port: &'static str,
    caller_id: String,
    before: u64,
    mark: Mark,
}

/// A request of the app `caller` to `api`. It claims to be somebody else in the header that names callers; the
/// called app must see only who it really is.
pub(super) async fn http(
    stage: &mut Stage,
    client: &mut Client,
    caller: &'static str,
    method: &'static str,
    expect: Expect,
) -> Result<Call, Failure> {
    let mut pending = Pending::new(stage, caller, ("api", "http"), format!("{method} {PATH}"))?;
    let verb = Method::from_bytes(method.as_bytes()).unwrap_or_default();
    let reply = match client.send(verb, PATH, &[(CALLER_HEADER, FORGED)]).await {
        Ok(reply) => reply,
        Err(error) => return Ok(pending.failed(error)),
    };
    pending.call.status = Some(reply.status.as_u16());
    pending.call.milliseconds = milliseconds(reply.took);
    let wanted = match expect {
        Expect::Allow(_) | Expect::WouldDeny => StatusCode::OK,
        Expect::Deny => StatusCode::FORBIDDEN,
    };
    if reply.status != wanted {
        let why = header(&reply, "x-mantlet-denied").or_else(|| header(&reply, "x-mantlet-error"));
        pending.wrong(format!("expected {wanted}: {}", why.unwrap_or_default()));
    }
    let decided = |decision: &Value| {
        field(decision, "http.request.method") == Some(method) && field(decision, "url.path") == Some(PATH)
    };
    let told = header(&reply, "x-mantlet-denied").and_then(|denied| Some(denied.split_once("; id=")?.1));
    pending.judge(stage, expect, decided, Some(told)).await?;
    if wanted == StatusCode::OK {
        pending.seen_by_app(stage, &reply)?;
    }
    Ok(pending.call)
}

/// A gRPC call of the app `api` to `db`.
pub(super) async fn grpc(stage: &mut Stage, method: &'static str, expect: Expect) -> Result<Call, Failure> {
    let addr = stage.outbound("api", ("db", "grpc"))?;
    let mut pending = Pending::new(stage, "api", ("db", "grpc"), short(method))?;
    let answer = match rpc::call(addr, method).await {
        Ok(answer) => answer,
        Err(error) => return Ok(pending.failed(error)),
    };
    pending.call.status = answer.status.map(u16::from);
    pending.call.milliseconds = milliseconds(answer.took);
    let wanted = if expect == Expect::Deny { 7 } else { 0 };
    if answer.status != Some(wanted) {
        pending.wrong(format!("expected grpc-status {wanted}"));
    }
    let path = format!("/{method}");
    let told = answer.denied.as_deref().and_then(|denied| Some(denied.split_once("; id=")?.1));
    pending.judge(stage, expect, |decision| field(decision, "url.path") == Some(&path), Some(told)).await?;
    Ok(pending.call)
}

/// A TCP connection of the app `caller` to `db`, which speaks first.
pub(super) async fn tcp(stage: &mut Stage, caller: &'static str, expect: Expect) -> Result<Call, Failure> {
    let addr = stage.outbound(caller, ("db", "sql"))?;
    let mut pending = Pending::new(stage, caller, ("db", "sql"), "tcp".to_owned())?;
    let (said, took) = match greeting(addr).await {
        Ok(said) => said,
        Err(error) => return Ok(pending.failed(error)),
    };
    pending.call.milliseconds = milliseconds(took);
    let wanted = (expect != Expect::Deny).then_some(GREETING);
    if said.as_deref() != wanted {
        pending.wrong(format!("expected {wanted:?} from the app, got {said:?}"));
    }
    pending.judge(stage, expect, |decision| field(decision, "layer") == Some("tcp"), None).await?;
    if expect != Expect::Deny {
        pending.call.seen = Some(format!("{} said \"{GREETING}\" first", pending.called));
    }
    Ok(pending.call)
}

/// The forger: its certificate claims to be `web`.
pub(super) async fn forger(stage: &mut Stage) -> Result<Stranger, Failure> {
    let cannot = |error: String| Failure::finding(format!("no forged certificate: {error}"));
    let workload = super::super::plan::WORKLOADS.iter().find(|workload| workload.name == "web");
    let id = workload.and_then(|web| web.id().ok()).ok_or_else(|| cannot("web has no name".to_owned()))?;
    Stranger::forger(id, stage.directory()).await.map_err(cannot)
}

/// A stranger at the door of `api`, and the certificate that the sidecar showed it. `reason` is what the sidecar
/// must count it under.
pub(super) async fn refused(
    stage: &mut Stage,
    who: &'static str,
    reason: &'static str,
    stranger: Stranger,
) -> Result<(Call, Option<Vec<u8>>), Failure> {
    let inbound = stage.inbound("api", "http")?;
    let admin = stage.actor("api")?.admin;
    let (before, failures) = (stage.reached("api", "http")?, failures(admin).await?);
    let outcome = stranger.knock(inbound).await;
    let mut call = Call::new(who, "api", format!("GET {PATH}"));
    call.decision = "refused in TLS";
    call.milliseconds = milliseconds(outcome.took);
    match outcome.refused {
        Err(text) => {
            call.decision = "failed";
            call.problem = Some(text);
        }
        Ok(()) => {
            call.why = counted(admin, &failures).await?;
            if call.why != reason {
                call.problem = Some(format!("the sidecar counts it under {:?} and not {reason}", call.why));
            }
        }
    }
    if stage.reached("api", "http")? != before {
        call.problem = Some("the request reached the app all the same".to_owned());
    }
    Ok((call, outcome.server))
}

/// The counts of refused handshakes, by reason.
async fn failures(admin: SocketAddr) -> Result<BTreeMap<String, f64>, Failure> {
    let text = admin::text(admin, "/metrics").await?;
    let lines = text.lines().filter_map(|line| {
        let (labels, value) = line.strip_prefix("mantlet_tls_handshakes_total{")?.split_once("} ")?;
        let label = |name: &str| {
            labels
                .split(',')
                .find_map(|label| label.strip_prefix(name)?.strip_prefix("=\"")?.strip_suffix('"'))
        };
        let inbound = label("direction") == Some("inbound") && label("result") == Some("error");
        inbound.then_some((label("reason")?.to_owned(), value.parse().ok()?))
    });
    Ok(lines.collect())
}

/// Under which reason there is one more than before.
async fn counted(admin: SocketAddr, before: &BTreeMap<String, f64>) -> Result<String, Failure> {
    let begin = Instant::now();
    while begin.elapsed() < PATIENCE {
        let now = failures(admin).await?;
        let more =
            |(reason, count): &(&String, &f64)| **count > before.get(*reason).copied().unwrap_or_default();
        if let Some((reason, _)) = now.iter().find(more) {
            return Ok(reason.clone());
        }
        tokio::time::sleep(LOOK).await;
    }
    Ok("nothing".to_owned())
}

/// The method as the table shows it.
pub(super) fn short(method: &str) -> String {
    format!("grpc {}", method.rsplit('.').next().unwrap_or_default())
}

// === impl Pending ===

impl Pending {
    fn new(
        stage: &mut Stage,
        caller: &'static str,
        (called, port): (&'static str, &'static str),
        request: String,
    ) -> Result<Self, Failure> {
        Ok(Self {
            call: Call::new(caller, called, request),
            called,
            port,
            caller_id: stage.actor(caller)?.id.clone(),
            before: stage.reached(called, port)?,
            mark: stage.actor(called)?.sidecar.mark(),
        })
    }

    /// There was no answer at all.
    fn failed(mut self, error: String) -> Call {
        self.call.decision = "failed";
        self.wrong(error);
        self.call
    }

    fn wrong(&mut self, problem: String) {
        self.call.problem.get_or_insert(problem);
    }

    /// Takes the decision from the called sidecar, and compares it with what was expected and with what came
    /// through. `told` is the id that the caller was given, where callers are given one.
    async fn judge(
        &mut self,
        stage: &mut Stage,
        expect: Expect,
        about: impl Fn(&Value) -> bool,
        told: Option<Option<&str>>,
    ) -> Result<(), Failure> {
        let caller = &self.caller_id;
        let wanted = |decision: &Value| field(decision, "peer.id") == Some(caller) && about(decision);
        let decision = stage.actor(self.called)?.sidecar.decided(self.mark, wanted).await?;
        let (made, word) = match field(&decision, "decision") {
            Some("allow") => ("allow", matches!(expect, Expect::Allow(_))),
            Some("would_deny") => ("would_deny", expect == Expect::WouldDeny),
            _ => ("deny", expect == Expect::Deny),
        };
        self.call.decision = made;
        let (reason, rule) = (field(&decision, "reason").unwrap_or_default(), field(&decision, "rule"));
        self.call.why = rule.map_or_else(|| reason.to_owned(), |rule| format!("rule {rule}"));
        let right = match expect {
            Expect::Allow(expected) => rule == Some(expected),
            Expect::Deny | Expect::WouldDeny => reason == "default",
        };
        if !word || !right {
            self.wrong(format!("expected {expect:?}"));
        }
        let came = stage.reached(self.called, self.port)? - self.before;
        let may = u64::from(expect != Expect::Deny);
        if came != may {
            self.wrong(format!("{came} requests reached the app, and not {may}"));
        }
        if made != "allow" {
            self.audited(stage, &decision, told).await?;
        }
        Ok(())
    }

    /// What is refused stands in the audit log, under the id that the caller was given.
    async fn audited(
        &mut self,
        stage: &mut Stage,
        decision: &Arc<Value>,
        told: Option<Option<&str>>,
    ) -> Result<(), Failure> {
        let id = field(decision, "id").unwrap_or_default().to_owned();
        if self.call.decision == "deny" && told.is_some_and(|told| told != Some(&id)) {
            self.wrong(format!("the caller was given the id {told:?} and not {id}"));
        }
        let line = stage.actor(self.called)?.sidecar.audited(&id).await?;
        self.call.nearest = field(&line, "nearest_rule").map(str::to_owned);
        self.call.id = Some(id);
        Ok(())
    }

    /// The app sees exactly one caller, and who it really is.
    fn seen_by_app(&mut self, stage: &mut Stage, reply: &Reply) -> Result<(), Failure> {
        let called = stage.actor(self.called)?.id.clone();
        let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
        let values = body.get(CALLER_HEADER).and_then(Value::as_array);
        match values.into_iter().flatten().filter_map(Value::as_str).collect::<Vec<_>>().as_slice() {
            [one] => {
                self.call.seen =
                    Some(format!("{} saw {}", self.called, part(one, "URI").unwrap_or_default()));
                let (by, uri, hash) = (part(one, "By"), part(one, "URI"), part(one, "Hash"));
                let well = by == Some(&*called)
                    && uri == Some(&*self.caller_id)
                    && hash.is_some_and(|hash| hash.len() == 64);
                if !well {
                    self.wrong(format!("the app saw a wrong caller: {one}"));
                }
            }
            others => self.wrong(format!("the app saw {} callers instead of one", others.len())),
        }
        Ok(())
    }
}

/// The certificate of the caller that the app saw, by its hash.
pub(super) fn certificate(reply: &Reply) -> Option<String> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let seen = body.get(CALLER_HEADER)?.get(0)?.as_str()?;
    part(seen, "Hash").map(str::to_owned)
}

/// One part of a header value of the form `A=..;B=..`.
fn part<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_caller_header_is_taken_apart_by_name() {
        let value = "By=spiffe://a/b;URI=spiffe://c/d;Hash=00ff";
        assert_eq!(part(value, "URI"), Some("spiffe://c/d"));
        assert_eq!(part(value, "Hash"), Some("00ff"));
        assert_eq!(part(value, "Has"), None);
        assert_eq!(part("", "By"), None);
    }
}
