//! Mistakes in the configuration: all of them at once, each with the accepted form.

use std::fmt;

/// Longest value that is repeated in a message.
const SHOWN: usize = 200;

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mistake {
    /// The flag or variable as the operator wrote it, e.g. `--admin`.
    pub key: String,
    /// The value that is wrong; `None` when one is missing.
    pub value: Option<String>,
    /// What is wrong with it.
    pub problem: String,
    /// The accepted form.
    pub accepts: String,
}

/// Every mistake that was found, in the order of the table of keys.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Mistakes(Vec<Mistake>);

/// Says that a mistake has been recorded: what `?` carries to the end of assembling.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Reported;

// === impl Mistakes ===

impl Mistakes {
    /// Whether there is none.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// All of them.
    #[must_use]
    pub fn all(&self) -> &[Mistake] {
        &self.0
    }

    pub(super) fn add(&mut self, mistake: Mistake) -> Reported {
        self.0.push(mistake);
        Reported
    }
}

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} {} in the configuration", if count == 1 { "mistake" } else { "mistakes" })?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}

// === impl Mistake ===

impl fmt::Display for Mistake {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.key)?;
        if let Some(value) = &self.value {
            // Debug escapes control characters: a value is not allowed to draw on the terminal.
            let shown: String = value.chars().take(SHOWN).collect();
            let cut = if shown.len() < value.len() { "..." } else { "" };
            write!(f, " {shown:?}{cut}")?;
        }
        write!(f, ": {}", self.problem)?;
        if !self.accepts.is_empty() {
            write!(f, "; accepted: {}", self.accepts)?;
        }
        Ok(())
    }
}
