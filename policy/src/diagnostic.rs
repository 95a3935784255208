//! What is wrong with a text: a code, a place, and the fix spelled out.

use std::fmt::{self, Write as _};

/// Longest excerpt of a line, in characters. Admission warnings are cut at 256.
const EXCERPT: usize = 120;

macro_rules! codes {
    ($($variant:ident = $name:literal, $summary:literal;)*) => {
        /// The closed list of findings. `P` and `U` codes are errors, `W` codes are warnings.
        #[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
        pub enum Code {
            $(#[doc = $summary] $variant,)*
        }

        impl Code {
            /// Every code, in order.
            pub const ALL: &[Self] = &[$(Self::$variant,)*];

            /// The name that messages and documentation use, such as `P011`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $name,)* }
            }

            /// One line on what the code means.
            #[must_use]
            pub fn summary(self) -> &'static str {
                match self { $(Self::$variant => $summary,)* }
            }
        }
    };
}

codes! {
    UnknownVerb = "P001", "the line starts with no known verb";
    Unexpected = "P002", "something else was expected here";
    DuplicateName = "P003", "a name is used twice";
    Limit = "P004", "a limit is exceeded";
    UnknownGroup = "P005", "no group of that name in this annotation";
    PeerForm = "P011", "this is no peer";
    PeerStar = "P012", "a wildcard stands where none may stand";
    TrustDomainCase = "P013", "trust domains are lower case";
    PathNotCanonical = "P020", "the path is not in canonical form";
    Regex = "P021", "this looks like a regular expression";
    MethodCase = "P022", "this is no method that can be allowed";
    MethodMissing = "P023", "a path needs a method in front";
    UnknownPort = "P030", "no container port has that name";
    PortProtocol = "P031", "one port is both tcp and http";
    NoPorts = "P032", "there are no declared ports to stand for";
    TcpNeedsPort = "P033", "a tcp rule needs a port";
    BadTime = "P040", "this is no time";
    TimeNeedsZone = "P041", "a time needs an hour and a zone";
    AuditNeedsUntil = "P042", "audit mode needs an end";
    DenyUntil = "P043", "a deny has no end";
    PlaintextForm = "P050", "plaintext needs addresses";
    ReservedHeader = "P060", "no policy may read this header";
    HeaderName = "P061", "this header name has an alias";
    Guardrail = "P070", "the installation forbids this";
    UnknownKey = "P080", "no such annotation or option";
    AnnotationValue = "P081", "no such value of an annotation";
    HostNetwork = "P090", "a hostNetwork pod cannot be captured";
    UpstreamDestination = "U001", "this is no destination";
    UpstreamVerb = "U002", "a destination needs is, passthrough or refuse";
    UpstreamIdentity = "U003", "this is no identity";
    UpstreamProtocol = "U004", "no such protocol";
    UpstreamPort = "U005", "this is no port";
    UpstreamTrailing = "U006", "something is left at the end of the line";
    UpstreamLimit = "U007", "a limit is exceeded";
    UpstreamDefault = "U008", "identities cannot be a default";
    UpstreamConflict = "U010", "two lines contradict each other";
    UpstreamWildcardName = "U020", "wildcard names cannot be resolved";
    AnyNamespace = "W201", "anyone who can create a namespace satisfies this";
    ForeignWildcard = "W202", "a wildcard over a foreign trust domain";
    Shadowed = "W203", "the rule can never add anything";
    DeniedEntirely = "W204", "a deny covers this allow entirely";
    Expired = "W205", "the grant has expired";
    UndeclaredPort = "W206", "no container declares this port";
    Plaintext = "W207", "callers without identity are let in";
    UdpPort = "W208", "UDP is not captured";
    AbsentHeader = "W209", "a grant that holds because something is missing";
    NoPolicy = "W210", "no policy: everything is denied";
    DenyNotForeign = "W211", "the deny does not cover all callers of its port";
    PastTheSidecar = "W212", "a container may get past the sidecar";
    PlaintextOpaque = "W215", "plaintext on an opaque port";
    NotCaptured = "W216", "connections that are not captured";
}

/// Where in a text something stands. Lines and columns count from 1; columns count characters.
#[derive(Clone, Copy, Debug, Default, Eq, Ord, PartialEq, PartialOrd)]
pub struct Position {
    /// The line.
    pub line: u32,
    /// The column of the first character.
    pub column: u32,
    /// How many characters.
    pub width: u32,
}

/// One finding.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Diagnostic {
    /// What kind.
    pub code: Code,
    /// The annotation key or file name. Empty when the finding is about no text.
    pub source: String,
    /// Where, when it is in a text.
    pub position: Option<Position>,
    /// What is wrong.
    pub message: String,
    /// The line it stands in, controls replaced, at most 120 characters.
    pub excerpt: String,
    /// How to put it right.
    pub help: String,
}

// === impl Code ===

impl Code {
    /// Whether it only warns.
    #[must_use]
    pub fn is_warning(self) -> bool {
        self.as_str().starts_with('W')
    }
}

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

// === impl Diagnostic ===

impl Diagnostic {
    /// A finding about no particular place.
    #[must_use]
    pub fn general(code: Code, source: &str, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self {
            code,
            source: source.to_owned(),
            position: None,
            message: plain(&message.into()),
            excerpt: String::new(),
            help: plain(&help.into()),
        }
    }

    /// A finding at `position` of `text`.
    #[must_use]
    pub(crate) fn at(source: &str, text: &str, position: Position, fault: Fault) -> Self {
        let index = usize::try_from(position.line.saturating_sub(1)).unwrap_or(usize::MAX);
        let line = text.lines().nth(index).unwrap_or_default();
        Self {
            code: fault.code,
            source: source.to_owned(),
            position: Some(position),
            message: plain(&fault.message),
            excerpt: line.chars().take(EXCERPT).map(printable).collect(),
            help: plain(&fault.help),
        }
    }

    /// Whether it only warns.
    #[must_use]
    pub fn is_warning(&self) -> bool {
        self.code.is_warning()
    }

    /// The first line of the message: place, code and what is wrong.
    #[must_use]
    pub fn headline(&self) -> String {
        let mut out = String::new();
        if !self.source.is_empty() {
            out.push_str(&self.source);
            out.push(':');
        }
        if let Some(position) = self.position {
            // Writing to a string cannot fail.
            let _ = write!(out, "{}:{}:", position.line, position.column);
        }
        if !out.is_empty() {
            out.push(' ');
        }
        let _ = write!(out, "{} {}", self.code, self.message);
        out
    }

    /// Everything on one line, at most 256 characters: the form of admission warnings.
    #[must_use]
    pub fn one_line(&self) -> String {
        let mut out = self.headline();
        if !self.help.is_empty() {
            out.push_str(": ");
            out.push_str(&self.help);
        }
        out.chars().map(printable).take(256).collect()
    }
}

impl fmt::Display for Diagnostic {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.headline())?;
        let Some(position) = self.position else {
            return if self.help.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.help) };
        };
        let column = usize::try_from(position.column.saturating_sub(1)).unwrap_or(usize::MAX);
        if column >= EXCERPT {
            return if self.help.is_empty() { Ok(()) } else { write!(f, "\n  {}", self.help) };
        }
        let indent = self.excerpt.chars().take(column).take_while(|c| *c == ' ').count();
        let shown: String = self.excerpt.chars().skip(indent).collect();
        let room = self.excerpt.chars().count().saturating_sub(column).max(1);
        let width = usize::try_from(position.width).unwrap_or(1).clamp(1, room);
        write!(f, "\n  {shown}\n  {:pad$}{}", "", "^".repeat(width), pad = column - indent)?;
        if self.help.is_empty() { Ok(()) } else { write!(f, " {}", self.help) }
    }
}

/// Longest message or help, in characters: a text of one endless word need not be quoted whole.
const MESSAGE: usize = 400;

/// The text of others that stands in a message, fit for a terminal.
fn plain(text: &str) -> String {
    text.chars().take(MESSAGE).map(printable).collect()
}

/// Controls move the cursor, and bidirectional marks make a line read as what it is not
/// (CVE-2021-42574).
fn printable(c: char) -> char {
    match c {
        c if c.is_control() => ' ',
        '\u{200b}'..='\u{200f}' | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}' => {
            '\u{fffd}'
        }
        c => c,
    }
}

/// A finding before it is known where: parsers return it with a span of their own.
#[derive(Clone, Debug)]
pub(crate) struct Fault {
    pub(crate) code: Code,
    pub(crate) message: String,
    pub(crate) help: String,
}

// === impl Fault ===

impl Fault {
    pub(crate) fn new(code: Code, message: impl Into<String>, help: impl Into<String>) -> Self {
        Self { code, message: message.into(), help: help.into() }
    }
}

/// The candidate nearest to `word`, if one is near enough to have been meant.
pub(crate) fn did_you_mean<'c>(word: &str, candidates: impl IntoIterator<Item = &'c str>) -> Option<&'c str> {
    if word.len() > 64 {
        return None;
    }
    let allowed = if word.chars().count() <= 4 { 1 } else { 2 };
    candidates
        .into_iter()
        .filter(|candidate| candidate.len() <= 64)
        .map(|candidate| {
            (edit_distance(&word.to_ascii_lowercase(), &candidate.to_ascii_lowercase()), candidate)
        })
        .filter(|(distance, _)| *distance <= allowed)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}

/// Levenshtein's distance, one row at a time. Both words are short.
fn edit_distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.chars().count()).collect();
    for (i, x) in a.chars().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.chars()) {
            let substituted = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substituted.min(left + 1).min(*cell + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_finding_points_at_its_place_and_says_the_fix() {
        let fault = Fault::new(Code::PeerForm, "peer \"frontend\" needs a namespace", "write \"./frontend\"");
        let text = "# x\n  allow frontend to GET /orders/**\n";
        let position = Position { line: 2, column: 9, width: 8 };
        let shown = Diagnostic::at("mantlet.dev/policy", text, position, fault).to_string();
        let expected = "mantlet.dev/policy:2:9: P011 peer \"frontend\" needs a namespace\n  \
                        allow frontend to GET /orders/**\n        ^^^^^^^^ write \"./frontend\"";
        assert_eq!(shown, expected);
    }

    #[test]
    fn controls_of_a_text_never_reach_a_terminal() {
        let fault = Fault::new(Code::UnknownVerb, "\u{1b}", "\u{1b}\u{202e}");
        let shown =
            Diagnostic::at("p", "a\u{1b}[31mb", Position { line: 1, column: 1, width: 1 }, fault).to_string();
        assert!(!shown.contains(['\u{1b}', '\u{202e}']));
    }

    #[test]
    fn near_words_are_suggested_and_far_ones_are_not() {
        assert_eq!(did_you_mean("alow", ["allow", "deny"]), Some("allow"));
        assert_eq!(did_you_mean("permit", ["allow", "deny"]), None);
        assert_eq!(edit_distance("kitten", "sitting"), 3);
    }

    #[test]
    fn codes_are_unique() {
        let mut names: Vec<_> = Code::ALL.iter().map(|code| code.as_str()).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), Code::ALL.len());
    }
}
