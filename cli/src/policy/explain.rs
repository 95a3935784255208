//! `mantlet policy explain`.

use std::process::ExitCode;
use std::time::SystemTime;

use clap::Args;
use mantlet_injector::Subject;
use mantlet_policy::language::Time;
use mantlet_policy::{Ask, Caller, Clause, Decision, Explanation, Question, Reason, Verdict};
use serde_json::{Value, json};

use super::subject::Surroundings;
use super::test::invalid;
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::{Output, Style};

const EXAMPLES: &str = "\
Examples:
  mantlet policy explain -f api.yaml --as shop/web DELETE '/orders/42?x=1'
  mantlet policy explain -f api.yaml --as pay/ledger --on 9090 grpc a.v1.B/Get
  mantlet policy explain -f api.yaml --as data/etl --on 5432 tcp
  mantlet policy explain -f api.yaml --as 'plaintext(10.0.0.7)' GET /healthz

Exit codes: 0 explained, whatever the decision, 1 the policy is invalid, 2 usage.";

/// Arguments of `mantlet policy explain`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct ExplainArgs {
    /// METHOD PATH, grpc SERVICE/METHOD, or tcp
    #[arg(required = true, num_args = 1..=2, value_name = "REQUEST")]
    request: Vec<String>,
    /// The manifest or policy file to ask
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Who asks: ns/sa, ./sa, a SPIFFE ID, or plaintext(ADDRESS)
    #[arg(long = "as", value_name = "CALLER")]
    caller: String,
    /// The container port, by number or name [default: the only one there is]
    #[arg(long, value_name = "PORT")]
    on: Option<String>,
    /// The host of the request
    #[arg(long, value_name = "HOST")]
    host: Option<String>,
    /// A header field of the request
    #[arg(long, value_name = "NAME=VALUE")]
    header: Vec<String>,
    /// When, instead of now, such as 2026-12-01T18:00Z
    #[arg(long, value_name = "TIME")]
    at: Option<String>,
    /// Which workload of the manifest
    #[arg(long, value_name = "NAME")]
    workload: Option<String>,
    #[command(flatten)]
    surroundings: Surroundings,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(super) fn run(arguments: &ExplainArgs, output: &Output) -> Result<ExitCode, Failure> {
    let now = SystemTime::now();
    let at = match &arguments.at {
        Some(text) => Time::parse(text)
            .map_err(|_| Failure::usage(format!("\"{text}\" is no time")).next("write 2026-12-01T18:00Z"))?
            .system_time(),
        None => now,
    };
    let subject = arguments.surroundings.subject_named(&arguments.file, arguments.workload.as_deref())?;
    let question = question(arguments, &subject)?;
    let ready = match subject.ready(now) {
        Ok(ready) => ready,
        Err(findings) => return Ok(invalid(&findings, arguments.output, output)),
    };
    let explanation = mantlet_policy::explain(&ready.policy, subject.workload(), &question, at);
    let (hash, mode) = (ready.policy.hash(), ready.policy.mode(at));
    let mode = format!("{mode:?}").to_lowercase();
    match arguments.output {
        Format::Json => output.line(&to_json(&explanation, &hash, &mode).to_string()),
        Format::Table => table(&explanation, &hash, &mode, output),
    }
    Ok(ExitCode::SUCCESS)
}

fn question(arguments: &ExplainArgs, subject: &Subject) -> Result<Question, Failure> {
    let ask = match arguments.request.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["tcp"] => Ask::Tcp,
        ["grpc", method] => Ask::Grpc((*method).to_owned()),
        [method, target] => Ask::Http { method: (*method).to_owned(), target: (*target).to_owned() },
        _ => {
            return Err(Failure::usage("the request is not complete")
                .next("write \"GET /orders\", \"grpc a.B/C\" or \"tcp\""));
        }
    };
    let caller = Caller::parse(&arguments.caller, subject.workload()).map_err(Failure::usage)?;
    let mut headers = Vec::new();
    for header in &arguments.header {
        let (name, value) = header.split_once('=').ok_or_else(|| {
            Failure::usage(format!("\"{header}\" has no value")).next("write --header x-tenant=acme")
        })?;
        headers.push((name.trim().to_ascii_lowercase(), value.trim().to_owned()));
    }
    let port = port(arguments, subject)?;
    Ok(Question { caller, ask, port, host: arguments.host.clone(), headers })
}

/// The port that is named, or the only one that is declared.
fn port(arguments: &ExplainArgs, subject: &Subject) -> Result<u16, Failure> {
    let declared = &subject.workload().ports;
    let names: Vec<String> = declared.iter().map(|port| port.port.to_string()).collect();
    match (&arguments.on, declared.as_slice()) {
        (None, [only]) => Ok(only.port),
        (None, _) => Err(Failure::usage("the port is not clear")
            .next(format!("say it with --on; declared: {}", names.join(", ")))),
        (Some(text), _) => {
            let named = declared.iter().find(|port| port.name.as_deref() == Some(text)).map(|port| port.port);
            let number = named.or_else(|| text.parse().ok().filter(|number| *number > 0));
            number.ok_or_else(|| Failure::usage(format!("\"{text}\" is no port")).next("write its number"))
        }
    }
}

fn table(explanation: &Explanation, hash: &str, mode: &str, output: &Output) {
    let style = output.out;
    let decision = &explanation.decision;
    let (word, status) = headline(decision);
    let word = match decision.verdict {
        Verdict::Allow => style.good(word),
        Verdict::Deny => style.bad(word),
        Verdict::WouldDeny => style.warn(word),
    };
    output.line(&format!("{word}  {status}{}  policy {hash}, mode {mode}", why(decision)));
    if let Some(rule) = &explanation.rule {
        let what = if rule.decided { "decided by " } else { "nearest rule" };
        output.line(&format!("  {what} {}   ({}, line {})", style.bold(&rule.label), rule.source, rule.line));
        output.line(&format!("    {}", style.dim(&rule.text)));
        let widths = rule.clauses.iter().map(|clause| (clause.what.len(), clause.actual.chars().count()));
        let (what, actual) = widths.fold((0, 0), |(a, b), (c, d)| (a.max(c), b.max(d)));
        for clause in &rule.clauses {
            output.line(&clause_line(clause, what, actual.min(60), style));
        }
    }
    if let Some(audited) = &decision.audit_allow {
        output.line(&format!("  audit allow  {audited} would let it pass"));
    }
    if let Some(line) = &explanation.to_allow {
        output.line(&format!("  to allow it  {}", style.bold(line)));
    }
}

fn clause_line(clause: &Clause, what: usize, actual: usize, style: Style) -> String {
    let mark = if clause.holds { style.tick() } else { style.cross() };
    let verb = if clause.holds { "fits   " } else { "not in " };
    format!("    {mark} {:what$}  {:actual$}  {verb} {}", clause.what, clause.actual, clause.expected)
}

fn headline(decision: &Decision) -> (&'static str, &'static str) {
    match (decision.verdict, decision.malformed) {
        (Verdict::Allow, _) => ("ALLOW", ""),
        (Verdict::WouldDeny, _) => ("WOULD DENY", ""),
        (Verdict::Deny, Some(defect)) if defect.status() == 405 => ("DENY", "405  "),
        (Verdict::Deny, Some(_)) => ("DENY", "400  "),
        (Verdict::Deny, None) => ("DENY", "403  "),
    }
}

fn why(decision: &Decision) -> String {
    match (decision.reason, decision.malformed) {
        (Reason::Malformed, Some(defect)) => format!("malformed({defect}): {}", defect.explain()),
        (Reason::Default, _) => "default (no rule matches)".to_owned(),
        (Reason::Expired, _) => "expired (only a grant that is over matches)".to_owned(),
        (reason, _) => match &decision.rule {
            Some(rule) => format!("{reason} {rule}"),
            None => reason.to_string(),
        },
    }
}

fn to_json(explanation: &Explanation, hash: &str, mode: &str) -> Value {
    let decision = &explanation.decision;
    let rule = explanation.rule.as_ref().map(|rule| {
        let clauses = rule.clauses.iter().map(|clause| {
            json!({"what": clause.what, "actual": clause.actual, "expected": clause.expected, "holds": clause.holds})
        });
        json!({
            "label": &*rule.label, "source": rule.source, "line": rule.line, "text": rule.text,
            "decided": rule.decided, "clauses": clauses.collect::<Vec<_>>(),
        })
    });
    json!({
        "decision": decision.verdict.as_str(),
        "reason": decision.reason.as_str(),
        "malformed": decision.malformed.map(|defect| defect.as_str()),
        "rule": rule,
        "audit_allow": decision.audit_allow.as_deref(),
        "to_allow": explanation.to_allow,
        "policy": hash,
        "mode": mode,
    })
}
