//! What is played, and what must come of it.

use std::collections::BTreeSet;
use std::time::{Duration, Instant};

use http::{Method, StatusCode};
use mantlet_devagent::{Cause, Issuance};
use serde_json::Value;
use tokio::sync::broadcast::Receiver;

use super::app::CALLER_HEADER;
use super::client::{Client, Reply, Stranger};
use super::plan::{CALLED, CALLER, PATH};
use super::report::{Call, Report, Rotation, Scene, milliseconds, seconds};
use super::stage::Stage;
use crate::failure::Failure;

/// What an app might say about itself to be taken for somebody else.
const FORGED: &str = "By=spiffe://demo.local/ns/shop/sa/api;URI=spiffe://demo.local/ns/ops/sa/admin";
/// Between two requests while the rotation is awaited.
const PACE: Duration = Duration::from_millis(5);
/// A renewal at half life of 8 s comes after 5 s at the latest.
const ROTATION: Duration = Duration::from_secs(12);
/// Requests that must pass after everybody has new SVIDs.
const AFTERWARDS: u64 = 50;

/// How many checks were made and how many failed.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Score {
    pub(crate) checks: usize,
    pub(crate) failed: usize,
}

/// Plays everything once.
pub(crate) async fn play(
    stage: &mut Stage,
    issuances: &mut Receiver<Issuance>,
    report: &Report<'_>,
) -> Result<Score, Failure> {
    let mut score = Score::default();
    report.head();
    let mut client = caller(stage)?;
    for call in [allowed(stage, &mut client).await?, denied(stage, &mut client).await?] {
        score.count(call.passed());
        report.show(&Scene::Call(call));
    }
    let (call, certificate) = stranger(stage).await?;
    score.count(call.passed());
    report.show(&Scene::Call(call));
    let rotation = rotation(stage, &mut client, issuances, certificate).await?;
    score.count(rotation.problem.is_none());
    report.show(&Scene::Rotation(rotation));
    Ok(score)
}

/// The caller's app.
pub(crate) fn caller(stage: &mut Stage) -> Result<Client, Failure> {
    let outbound = stage.actor(CALLER)?.outbound;
    outbound.map(Client::new).ok_or_else(|| Failure::finding(format!("{CALLER} calls nobody")))
}

/// A request that the rule allows. The caller claims to be somebody else in the header that names
/// callers; the called app must see only who it really is.
async fn allowed(stage: &mut Stage, client: &mut Client) -> Result<Call, Failure> {
    let reply = client.send(Method::GET, PATH, &[(CALLER_HEADER, FORGED)]).await;
    let caller = stage.actor(CALLER)?.id.clone();
    let called = stage.actor(CALLED)?.id.clone();
    let mut call = Call {
        caller: CALLER,
        method: "GET",
        path: PATH,
        status: None,
        decision: "allow",
        why: "rule web-read".into(),
        seen: None,
        nearest: None,
        milliseconds: 0.0,
        problem: None,
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Ok(Call { decision: "failed", problem: Some(error), ..call }),
    };
    call.status = Some(reply.status.as_u16());
    call.milliseconds = milliseconds(reply.took);
    if reply.status != StatusCode::OK {
        let why = header(&reply, "x-mantlet-denied").or_else(|| header(&reply, "x-mantlet-error"));
        call.decision = "refused";
        call.problem = Some(format!("expected 200: {}", why.unwrap_or_default()));
        return Ok(call);
    }
    let seen = seen_by_app(&reply);
    call.problem = match seen.as_slice() {
        [one] => {
            call.seen = Some(format!("{CALLED} saw {}", part(one, "URI").unwrap_or_default()));
            let (by, uri, hash) = (part(one, "By"), part(one, "URI"), part(one, "Hash"));
            let well = by == Some(&*called) && uri == Some(&*caller) && hash.is_some_and(|h| h.len() == 64);
            (!well).then(|| format!("the app saw a wrong caller: {one}"))
        }
        others => Some(format!("the app saw {} caller headers instead of one", others.len())),
    };
    Ok(call)
}

/// A request that no rule allows: it must not reach the app, and its id must be in the audit log.
async fn denied(stage: &mut Stage, client: &mut Client) -> Result<Call, Failure> {
    let before = stage.actor(CALLED)?.app.writes();
    let reply = client.send(Method::DELETE, PATH, &[]).await;
    let reached = stage.actor(CALLED)?.app.writes() - before;
    let mut call = Call {
        caller: CALLER,
        method: "DELETE",
        path: PATH,
        status: None,
        decision: "deny",
        why: String::new(),
        seen: None,
        nearest: None,
        milliseconds: 0.0,
        problem: None,
    };
    let reply = match reply {
        Ok(reply) => reply,
        Err(error) => return Ok(Call { decision: "failed", problem: Some(error), ..call }),
    };
    call.status = Some(reply.status.as_u16());
    call.milliseconds = milliseconds(reply.took);
    let denial = header(&reply, "x-mantlet-denied").unwrap_or_default();
    let Some((reason, id)) = denial.split_once("; id=") else {
        call.problem = Some(format!("expected 403 with x-mantlet-denied, got {} {denial:?}", reply.status));
        return Ok(call);
    };
    call.why = reason.to_owned();
    if reply.status != StatusCode::FORBIDDEN || reason != "default" {
        call.problem = Some(format!("expected 403 default, got {} {reason}", reply.status));
    } else if reached > 0 {
        call.problem = Some("the request reached the app all the same".into());
    } else {
        let line = stage.actor(CALLED)?.sidecar.audited(id).await?;
        call.nearest = line.get("nearest_rule").and_then(Value::as_str).map(str::to_owned);
        call.seen = Some(format!("audit log of {CALLED}: id {id}"));
    }
    Ok(call)
}

/// A caller without a certificate, and the certificate that the sidecar showed it.
async fn stranger(stage: &mut Stage) -> Result<(Call, Option<Vec<u8>>), Failure> {
    let inbound = stage.actor(CALLED)?.inbound;
    let addr = inbound.ok_or_else(|| Failure::finding(format!("{CALLED} serves nobody")))?;
    let before = stage.actor(CALLED)?.app.requests();
    let stranger = Stranger::knock(addr).await;
    let reached = stage.actor(CALLED)?.app.requests() - before;
    let mut call = Call {
        caller: "no cert",
        method: "GET",
        path: PATH,
        status: None,
        decision: "refused in TLS",
        why: String::new(),
        seen: None,
        nearest: None,
        milliseconds: milliseconds(stranger.took),
        problem: None,
    };
    match stranger.outcome {
        Ok(rustls::AlertDescription::CertificateRequired) if reached == 0 => {
            call.why = "CertificateRequired".into();
        }
        Ok(alert) => call.problem = Some(format!("expected CertificateRequired, got {alert:?}")),
        Err(text) => {
            call.decision = "failed";
            call.problem = Some(format!("expected a refusal in the handshake: {text}"));
        }
    }
    Ok((call, stranger.server))
}

/// Sends requests until everybody has renewed at half life and a while longer; none may fail.
async fn rotation(
    stage: &mut Stage,
    client: &mut Client,
    issuances: &mut Receiver<Issuance>,
    certificate: Option<Vec<u8>>,
) -> Result<Rotation, Failure> {
    let begin = Instant::now();
    let expected: BTreeSet<String> = stage.actors.values().map(|actor| actor.id.clone()).collect();
    let mut renewed = BTreeSet::new();
    let mut rotation = Rotation {
        workloads: stage.actors.keys().copied().collect(),
        cause: "half_life",
        seconds: 0.0,
        requests: 0,
        failed: 0,
        problem: None,
    };
    let mut hashes = BTreeSet::new();
    let mut afterwards = 0;
    while afterwards < AFTERWARDS {
        if begin.elapsed() > ROTATION {
            let missing: Vec<_> = expected.difference(&renewed).map(String::as_str).collect();
            rotation.problem = Some(match missing.as_slice() {
                [] => format!("{CALLED} still sees the old certificate of {CALLER}"),
                missing => format!("no renewal within {} s of {}", ROTATION.as_secs(), missing.join(", ")),
            });
            break;
        }
        while let Ok(issuance) = issuances.try_recv() {
            match issuance.cause {
                Cause::First => {}
                Cause::HalfLife => {
                    renewed.insert(issuance.id.to_string());
                }
                other => rotation.problem = Some(format!("a renewal by {other:?} and not by the timer")),
            }
        }
        rotation.requests += 1;
        match client.send(Method::GET, PATH, &[]).await {
            Ok(reply) if reply.status == StatusCode::OK => {
                hashes.extend(
                    seen_by_app(&reply).iter().filter_map(|seen| part(seen, "Hash").map(str::to_owned)),
                );
            }
            Ok(reply) => fail(&mut rotation, format!("a request was answered {}", reply.status)),
            Err(error) => fail(&mut rotation, error),
        }
        if renewed.is_superset(&expected) && hashes.len() > 1 {
            afterwards += 1;
        } else if rotation.seconds == 0.0 {
            tokio::time::sleep(PACE).await;
        }
    }
    rotation.seconds = seconds(begin.elapsed());
    if rotation.problem.is_none() {
        let (call, now) = stranger(stage).await?;
        let shown = call.problem.or_else(|| {
            (certificate.is_none() || certificate == now)
                .then(|| format!("{CALLED} still shows its old certificate"))
        });
        rotation.problem = shown;
    }
    Ok(rotation)
}

fn fail(rotation: &mut Rotation, problem: String) {
    rotation.failed += 1;
    rotation.problem.get_or_insert(problem);
}

/// Every value of the header that names the caller, as the app got it.
fn seen_by_app(reply: &Reply) -> Vec<String> {
    let body: Value = serde_json::from_slice(&reply.body).unwrap_or_default();
    let values = body.get(CALLER_HEADER).and_then(Value::as_array);
    values.into_iter().flatten().filter_map(|value| value.as_str().map(str::to_owned)).collect()
}

/// One part of a header value of the form `A=..;B=..`.
fn part<'a>(value: &'a str, name: &str) -> Option<&'a str> {
    value.split(';').find_map(|part| part.strip_prefix(name)?.strip_prefix('='))
}

fn header<'a>(reply: &'a Reply, name: &str) -> Option<&'a str> {
    reply.headers.get(name).and_then(|value| value.to_str().ok())
}

// === impl Score ===

impl Score {
    fn count(&mut self, passed: bool) {
        self.checks += 1;
        self.failed += usize::from(!passed);
    }
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
