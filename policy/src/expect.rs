//! Test files: one expectation per line, in the words of the policy.
//!
//! ```text
//! expect allow web/frontend GET /orders/42 on 8080 by orders-read
//! expect deny  ops/dev GET /Admin/users on 8080 by no-admin
//! expect bad   web/frontend GET /orders/../admin on 8080 because dot-segment
//! expect allow web/checkout POST /orders on 8080 header x-tenant = acme
//! ```

use std::time::SystemTime;

use crate::{
    Policy, Workload,
    decision::{Decision, Reason, Verdict},
    diagnostic::{Code, Diagnostic, did_you_mean},
    language::{
        Time,
        cursor::{Cursor, Located},
        text::{Line, logical_lines},
    },
    question::{Ask, Caller, Question},
};

/// One line of a test file.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Expectation {
    /// The line.
    pub line: u32,
    /// The line's text.
    pub text: String,
    /// What is asked.
    pub question: Question,
    /// When, if not now.
    pub at: Option<Time>,
    /// What should come out.
    pub outcome: Outcome,
    /// `by`: the label of the rule or the reason that should decide.
    pub by: Option<String>,
    /// `because`: what should be malformed.
    pub because: Option<String>,
}

/// What a test expects.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Outcome {
    /// It passes, and no audit objects.
    Allow,
    /// It is refused.
    Deny,
    /// It passes only because of an audit.
    WouldDeny,
    /// It has no single meaning.
    Bad,
}

// === impl Expectation ===

impl Expectation {
    /// What the policy decides, and whether that was expected. Without `at`, the time is `now`.
    #[must_use]
    pub fn check(&self, policy: &Policy, now: SystemTime) -> (Decision, bool) {
        let decision = self.question.decide(policy, self.at.map_or(now, Time::system_time));
        let outcome = match self.outcome {
            Outcome::Bad => decision.reason == Reason::Malformed,
            Outcome::Allow => decision.verdict == Verdict::Allow,
            Outcome::Deny => decision.verdict == Verdict::Deny && decision.reason != Reason::Malformed,
            Outcome::WouldDeny => decision.verdict == Verdict::WouldDeny,
        };
        let decided_by = decision.rule.as_deref().unwrap_or(decision.reason.as_str());
        let by = self.by.as_deref().is_none_or(|by| by == decided_by);
        let malformed = decision.malformed.map_or("", |defect| defect.as_str());
        let because = self.because.as_deref().is_none_or(|because| because == malformed);
        (decision, outcome && by && because)
    }
}

/// The decision in the words of a test file.
#[must_use]
pub fn describe(decision: &Decision) -> String {
    match decision.malformed {
        Some(defect) => format!("bad because {defect}"),
        None => {
            let verdict = match decision.verdict {
                Verdict::Allow => "allow",
                Verdict::Deny => "deny",
                Verdict::WouldDeny => "would-deny",
            };
            format!("{verdict} by {}", decision.rule.as_deref().unwrap_or(decision.reason.as_str()))
        }
    }
}

/// Parses a test file.
///
/// # Errors
/// Every line that is no expectation.
pub fn parse(source: &str, text: &str, workload: &Workload) -> Result<Vec<Expectation>, Vec<Diagnostic>> {
    let (mut expectations, mut findings) = (Vec::new(), Vec::new());
    for line in logical_lines(text) {
        match parse_line(&line, workload) {
            Ok(expectation) => expectations.push(expectation),
            Err((span, fault)) => findings.push(Diagnostic::at(source, text, line.position(span), fault)),
        }
    }
    if findings.is_empty() { Ok(expectations) } else { Err(findings) }
}

fn parse_line(line: &Line, workload: &Workload) -> Located<Expectation> {
    let mut cursor = Cursor::new(line.text());
    let first = cursor.peek();
    if !cursor.keyword("expect") {
        return Err(cursor.unexpected("\"expect\""));
    }
    let outcome = parse_outcome(&mut cursor)?;
    let word = cursor.word();
    let caller = match Caller::parse(word.text, workload) {
        Ok(caller) => caller,
        Err(message) => {
            return word.fault(Code::PeerForm, message, "write ns/sa, a full id, or plaintext(10.0.0.1)");
        }
    };
    let ask = parse_ask(&mut cursor)?;
    if !cursor.keyword("on") {
        return Err(cursor.unexpected("\"on\" and a port"));
    }
    let word = cursor.word();
    let named = workload.port_named(word.text);
    let port = match named.or_else(|| word.text.parse().ok()) {
        Some(port) => port,
        None => {
            return word.fault(
                Code::UnknownPort,
                format!("\"{}\" is no port", word.text),
                "write its number",
            );
        }
    };
    let question = Question { caller, ask, port, host: None, headers: Vec::new() };
    let line_number = line.position(first.span).line;
    let text = line.text().to_owned();
    let mut expectation =
        Expectation { line: line_number, text, question, at: None, outcome, by: None, because: None };
    while !cursor.is_at_end() {
        parse_clause(&mut cursor, &mut expectation)?;
    }
    Ok(expectation)
}

fn parse_outcome(cursor: &mut Cursor<'_>) -> Located<Outcome> {
    let word = cursor.word();
    Ok(match word.text {
        "allow" => Outcome::Allow,
        "deny" => Outcome::Deny,
        "would-deny" => Outcome::WouldDeny,
        "bad" => Outcome::Bad,
        other => {
            let known = ["allow", "deny", "would-deny", "bad"];
            let help = match did_you_mean(other, known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("write one of {}", known.join(", ")),
            };
            return word.fault(Code::Unexpected, format!("unexpected \"{other}\""), help);
        }
    })
}

fn parse_ask(cursor: &mut Cursor<'_>) -> Located<Ask> {
    let word = cursor.word();
    match word.text {
        "tcp" => Ok(Ask::Tcp),
        "grpc" => Ok(Ask::Grpc(cursor.word().text.to_owned())),
        method if method.starts_with('/') || method.is_empty() => word.fault(
            Code::MethodMissing,
            "a path needs a method in front",
            format!("write \"GET {method}\""),
        ),
        method => Ok(Ask::Http { method: method.to_owned(), target: cursor.word().text.to_owned() }),
    }
}

fn parse_clause(cursor: &mut Cursor<'_>, expectation: &mut Expectation) -> Located<()> {
    let word = cursor.word();
    match word.text {
        "host" => expectation.question.host = Some(cursor.word().text.to_owned()),
        "header" => {
            let name = cursor.word().text.to_ascii_lowercase();
            if !cursor.keyword("=") {
                return Err(cursor.unexpected("\"=\""));
            }
            cursor.skip_blanks();
            let value = if cursor.accept('"') {
                let value = cursor.take_while(|c| c != '"').text;
                if !cursor.accept('"') {
                    return Err(cursor.unexpected("the closing quote"));
                }
                value
            } else {
                cursor.word().text
            };
            expectation.question.headers.push((name, value.to_owned()));
        }
        "at" => {
            let word = cursor.word();
            match Time::parse(word.text) {
                Ok(time) => expectation.at = Some(time),
                Err(code) => return word.fault(code, code.summary(), "write \"2026-12-01T18:00Z\""),
            }
        }
        "by" => expectation.by = Some(cursor.word().text.to_owned()),
        "because" => expectation.because = Some(cursor.word().text.to_owned()),
        other => {
            let known = ["host", "header", "at", "by", "because"];
            let help = match did_you_mean(other, known) {
                Some(near) => format!("did you mean \"{near}\"?"),
                None => format!("expected one of {}", known.join(", ")),
            };
            return word.fault(Code::Unexpected, format!("unexpected \"{other}\""), help);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expectation_is_read_in_the_words_of_the_policy() {
        let workload = Workload::new(mantlet_id::TrustDomain::parse("td.test").unwrap(), "shop");
        let text =
            "# x\nexpect deny ./a GET /x?y on 80 host h header X-A = \"b c\" at 2026-12-01T18:00Z by r\n";
        let parsed = parse("t", text, &workload).unwrap();
        let one = &parsed[0];
        assert_eq!((one.line, one.outcome, one.question.port), (2, Outcome::Deny, 80));
        assert_eq!(one.question.headers, [("x-a".to_owned(), "b c".to_owned())]);
        assert_eq!((one.by.as_deref(), one.question.host.as_deref()), (Some("r"), Some("h")));
        assert!(one.at.is_some());
    }

    #[test]
    fn a_line_that_is_none_is_pointed_at() {
        let workload = Workload::new(mantlet_id::TrustDomain::parse("td.test").unwrap(), "shop");
        for text in [
            "allow a/b",
            "expect alow a/b GET / on 80",
            "expect allow a GET / on 80",
            "expect allow a/b / on 80",
            "expect deny a/b GET / on x",
            "expect deny a/b GET / on 80 form x",
        ] {
            assert_eq!(parse("t", text, &workload).unwrap_err().len(), 1, "{text}");
        }
    }
}
