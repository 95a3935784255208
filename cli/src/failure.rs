//! Why a command did not succeed: what, why, and the next step.

use std::error::Error;
use std::process::ExitCode;

/// A command that did not succeed.
#[derive(Debug, Eq, PartialEq)]
pub(crate) struct Failure {
    kind: Kind,
    what: String,
    causes: Vec<String>,
    next: Option<String>,
}

/// Decides the exit code.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Kind {
    Finding = 1,
    Usage = 2,
    Unreachable = 3,
}

// === impl Failure ===

impl Failure {
    /// An expectation that did not hold, or something that went wrong on the way.
    pub(crate) fn finding(what: impl Into<String>) -> Self {
        Self::new(Kind::Finding, what)
    }

    /// Something in the command line, or in a file that it names, cannot be used.
    pub(crate) fn usage(what: impl Into<String>) -> Self {
        Self::new(Kind::Usage, what)
    }

    /// Somebody does not answer.
    pub(crate) fn unreachable(what: impl Into<String>) -> Self {
        Self::new(Kind::Unreachable, what)
    }

    fn new(kind: Kind, what: impl Into<String>) -> Self {
        Self { kind, what: what.into(), causes: Vec::new(), next: None }
    }

    /// Adds the cause and its own causes; what a text already says is not said again.
    pub(crate) fn because(mut self, cause: &dyn Error) -> Self {
        let mut next = Some(cause);
        while let Some(cause) = next {
            let text = cause.to_string();
            let said = |earlier: &String| earlier.contains(&text);
            if !said(&self.what) && !self.causes.iter().any(said) {
                self.causes.push(text);
            }
            next = cause.source();
        }
        self
    }

    /// Adds what to do about it.
    pub(crate) fn next(mut self, step: impl Into<String>) -> Self {
        self.next = Some(step.into());
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.kind as u8)
    }

    /// What went wrong with its causes, on one line or more.
    pub(crate) fn text(&self) -> String {
        std::iter::once(&self.what).chain(&self.causes).map(String::as_str).collect::<Vec<_>>().join(": ")
    }

    /// What to do about it.
    pub(crate) fn next_step(&self) -> Option<&str> {
        self.next.as_deref()
    }
}

#[cfg(test)]
mod tests {
    use std::io;

    use super::*;

    #[test]
    fn a_failure_names_its_causes_once() {
        let cause = io::Error::new(io::ErrorKind::NotFound, "no such file");
        let failure = Failure::usage("cannot read x").because(&cause).because(&cause).next("make x");
        assert_eq!(failure.text(), "cannot read x: no such file");
        assert_eq!(failure.next_step(), Some("make x"));
    }

    #[test]
    fn the_exit_code_says_what_kind_of_failure_it_is() {
        let code = |failure: Failure| format!("{:?}", failure.exit_code());
        assert_eq!(code(Failure::finding("")), format!("{:?}", ExitCode::from(1)));
        assert_eq!(code(Failure::usage("")), format!("{:?}", ExitCode::from(2)));
        assert_eq!(code(Failure::unreachable("")), format!("{:?}", ExitCode::from(3)));
    }
}
