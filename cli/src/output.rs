//! Standard output and standard error: colour, symbols, closed pipes.

use std::io::{self, IsTerminal as _, Write as _};

use clap::ValueEnum;

use crate::failure::Failure;

/// When to use colour.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
pub(crate) enum ColorChoice {
    // On a terminal.
    #[default]
    Auto,
    Always,
    Never,
}

/// The two streams of the process and how to write to them.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Output {
    pub(crate) out: Style,
    pub(crate) err: Style,
    /// Whether standard output is a terminal.
    pub(crate) terminal: bool,
}

/// How text is dressed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) struct Style {
    colour: bool,
    unicode: bool,
}

// === impl Output ===

impl Output {
    pub(crate) fn detect(choice: ColorChoice) -> Self {
        let environment = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let unicode = unicode(environment);
        let style = |terminal| Style { colour: colour(choice, terminal, environment), unicode };
        let terminal = io::stdout().is_terminal();
        Self { out: style(terminal), err: style(io::stderr().is_terminal()), terminal }
    }

    /// Writes a line to standard output. A reader that has gone away (`| head`) ends the process
    /// quietly, as it would end one that knows SIGPIPE.
    pub(crate) fn line(&self, text: &str) {
        if !self.try_line(text) {
            std::process::exit(0);
        }
    }

    /// The same for a verb that has something to clean up; says whether anybody still reads.
    pub(crate) fn try_line(&self, text: &str) -> bool {
        let mut out = io::stdout().lock();
        writeln!(out, "{text}").and_then(|()| out.flush()).is_ok()
    }

    /// Writes over the line that the cursor is in, and stays there; for a terminal.
    pub(crate) fn try_rewrite(&self, text: &str) -> bool {
        let mut out = io::stdout().lock();
        // ECMA-48: to column 1, erase to the end of the line.
        write!(out, "\r{text}\x1b[K").and_then(|()| out.flush()).is_ok()
    }

    /// Writes a line to standard error; there is nobody to tell when that fails.
    pub(crate) fn note(&self, text: &str) {
        let _ = writeln!(io::stderr().lock(), "{text}");
    }

    /// Writes what went wrong and what to do about it.
    pub(crate) fn failure(&self, failure: &Failure) {
        self.note(&format!("{} {}", self.err.bad("error:"), failure.text()));
        if let Some(next) = failure.next_step() {
            self.note(&format!("  {} {next}", self.err.dim("next:")));
        }
    }
}

// === impl Style ===

impl Style {
    #[cfg(test)]
    pub(crate) const PLAIN: Self = Self { colour: false, unicode: false };

    pub(crate) fn is_coloured(self) -> bool {
        self.colour
    }

    pub(crate) fn good(self, text: &str) -> String {
        self.dress("32", text)
    }

    pub(crate) fn bad(self, text: &str) -> String {
        self.dress("31", text)
    }

    pub(crate) fn warn(self, text: &str) -> String {
        self.dress("33", text)
    }

    pub(crate) fn bold(self, text: &str) -> String {
        self.dress("1", text)
    }

    pub(crate) fn dim(self, text: &str) -> String {
        self.dress("2", text)
    }

    fn dress(self, code: &str, text: &str) -> String {
        if self.colour { format!("\x1b[{code}m{text}\x1b[0m") } else { text.to_owned() }
    }

    /// A symbol, or its stand-in where only ASCII can be shown.
    pub(crate) fn symbol(self, unicode: &'static str, ascii: &'static str) -> &'static str {
        if self.unicode { unicode } else { ascii }
    }

    /// The mark before a line that is in order.
    pub(crate) fn tick(self) -> String {
        self.good(self.symbol("√", "ok"))
    }

    /// The mark before a line that is not.
    pub(crate) fn cross(self) -> String {
        self.bad(self.symbol("×", "!!"))
    }
}

fn colour(choice: ColorChoice, terminal: bool, environment: impl Fn(&str) -> Option<String>) -> bool {
    match choice {
        ColorChoice::Always => true,
        ColorChoice::Never => false,
        // no-color.org, bixense.com/clicolors
        ColorChoice::Auto if environment("NO_COLOR").is_some() => false,
        ColorChoice::Auto if environment("CLICOLOR_FORCE").is_some_and(|value| value != "0") => true,
        ColorChoice::Auto => terminal && environment("TERM").is_none_or(|term| term != "dumb"),
    }
}

/// POSIX: the first of the three that is set decides.
fn unicode(environment: impl Fn(&str) -> Option<String>) -> bool {
    ["LC_ALL", "LC_CTYPE", "LANG"].iter().find_map(|name| environment(name)).is_some_and(|locale| {
        let locale = locale.to_ascii_lowercase();
        locale.contains("utf-8") || locale.contains("utf8")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with(set: &[(&str, &str)]) -> impl Fn(&str) -> Option<String> {
        |name: &str| set.iter().find(|(key, _)| *key == name).map(|(_, value)| (*value).to_owned())
    }

    #[test]
    fn colour_is_for_terminals_unless_somebody_says_otherwise() {
        assert!(colour(ColorChoice::Auto, true, with(&[])));
        assert!(!colour(ColorChoice::Auto, false, with(&[])));
        assert!(!colour(ColorChoice::Auto, true, with(&[("NO_COLOR", "1")])));
        assert!(!colour(ColorChoice::Auto, true, with(&[("TERM", "dumb")])));
        assert!(colour(ColorChoice::Auto, false, with(&[("CLICOLOR_FORCE", "1")])));
        assert!(!colour(ColorChoice::Auto, true, with(&[("NO_COLOR", "1"), ("CLICOLOR_FORCE", "1")])));
        assert!(colour(ColorChoice::Always, false, with(&[("NO_COLOR", "1")])));
        assert!(!colour(ColorChoice::Never, true, with(&[("CLICOLOR_FORCE", "1")])));
    }

    #[test]
    fn symbols_are_ascii_where_the_locale_is_not_utf8() {
        assert!(unicode(with(&[("LANG", "de_DE.UTF-8")])));
        assert!(unicode(with(&[("LC_ALL", "C.utf8"), ("LANG", "C")])));
        assert!(!unicode(with(&[("LC_ALL", "C"), ("LANG", "de_DE.UTF-8")])));
        assert!(!unicode(with(&[])));
    }

    #[test]
    fn plain_text_has_no_escape_codes() {
        let style = Style::PLAIN;
        assert_eq!([style.tick(), style.cross(), style.bold("x"), style.dim("y")], ["ok", "!!", "x", "y"]);
    }
}
