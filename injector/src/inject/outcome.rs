//! What became of a pod.

use std::fmt;

use super::operation::Operation;
use super::reason::{Reason, Verdict};

/// What became of a pod, and what its owner should know.
#[derive(Clone, Debug, PartialEq)]
pub struct Outcome {
    /// What became of it.
    pub decision: Decision,
    /// Sentences for its owner, at most 256 characters each and few: the API server cuts the rest off.
    pub warnings: Vec<String>,
}

/// What became of a pod.
#[derive(Clone, Debug, PartialEq)]
pub enum Decision {
    /// It gets the sidecar.
    Injected {
        /// [`Reason::Injected`], [`Reason::Updated`] or [`Reason::Reordered`].
        reason: Reason,
        /// What is to be done to the object.
        operations: Vec<Operation>,
    },
    /// It stays as it is.
    Skipped(Reason),
    /// It may not be created; never empty.
    Denied(Vec<Problem>),
}

/// One thing that is wrong with a pod.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Problem {
    /// What kind.
    pub reason: Reason,
    /// What, where, and how to put it right; lines of a policy may be quoted in it.
    pub text: String,
}

/// Warnings of one pod. The API server hands about 4 KiB of them on.
const MAX_WARNINGS: usize = 15;
/// Longest warning, in characters.
const MAX_WARNING: usize = 256;

// === impl Outcome ===

impl Outcome {
    pub(super) fn new(decision: Decision, mut warnings: Vec<String>) -> Self {
        let left_out = warnings.len().saturating_sub(MAX_WARNINGS);
        if left_out > 0 {
            warnings.truncate(MAX_WARNINGS - 1);
            warnings.push(format!("and {} more warnings: see mantlet inject --explain", left_out + 1));
        }
        for warning in &mut warnings {
            *warning = warning.chars().take(MAX_WARNING).collect();
        }
        Self { decision, warnings }
    }

    /// Why: the label, and what the answer and the command line say. Of several problems, the first.
    #[must_use]
    pub fn reason(&self) -> Reason {
        match &self.decision {
            Decision::Injected { reason, .. } | Decision::Skipped(reason) => *reason,
            Decision::Denied(problems) => problems.first().map_or(Reason::Malformed, |first| first.reason),
        }
    }

    /// The label `result`.
    #[must_use]
    pub fn verdict(&self) -> Verdict {
        match self.decision {
            Decision::Injected { .. } => Verdict::Injected,
            Decision::Skipped(_) => Verdict::Skipped,
            Decision::Denied(_) => Verdict::Denied,
        }
    }

    /// What is to be done to the object: nothing, unless it is injected.
    #[must_use]
    pub fn operations(&self) -> &[Operation] {
        match &self.decision {
            Decision::Injected { operations, .. } => operations,
            Decision::Skipped(_) | Decision::Denied(_) => &[],
        }
    }

    /// What a person is told: every problem, or the reason.
    #[must_use]
    pub fn message(&self) -> String {
        match &self.decision {
            Decision::Injected { reason, .. } | Decision::Skipped(reason) => {
                format!("mantlet: {}: {}", reason, reason.meaning())
            }
            Decision::Denied(problems) => {
                let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
                match texts.as_slice() {
                    [one] => format!("mantlet: {one}"),
                    all => format!("mantlet: {} problems:\n{}", all.len(), all.join("\n")),
                }
            }
        }
    }
}

// === impl Problem ===

impl Problem {
    pub(super) fn new(reason: Reason, text: impl Into<String>) -> Self {
        Self { reason, text: text.into() }
    }
}

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn warnings_are_few_and_short_and_say_what_is_left_out() {
        let outcome =
            |count: usize| Outcome::new(Decision::Skipped(Reason::OptOut), vec!["ü".repeat(300); count]);
        assert_eq!(outcome(15).warnings.len(), 15);
        let many = outcome(60).warnings;
        assert_eq!(many.len(), 15);
        assert!(many.last().unwrap().starts_with("and 46 more"));
        assert!(many.iter().all(|warning| warning.chars().count() <= 256));
    }

    #[test]
    fn a_refusal_names_every_problem() {
        let problem = |text| Problem::new(Reason::ProxyUser, text);
        let message = |problems| Outcome::new(Decision::Denied(problems), Vec::new()).message();
        assert_eq!(message(vec![problem("a")]), "mantlet: a");
        assert_eq!(message(vec![problem("a"), problem("b")]), "mantlet: 2 problems:\na\nb");
    }
}
