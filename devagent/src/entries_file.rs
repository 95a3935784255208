//! The entries file: TOML, one `[[entry]]` per identity.

use std::path::PathBuf;
use std::time::Duration;

use mantlet_id::{SpiffeId, TrustDomain};
use serde::Deserialize;
use thiserror::Error;
use toml::Spanned;

use crate::config::check_svid_ttl;
use crate::duration::parse_duration;
use crate::entry::{Entry, Selectors};

/// Longest hint (SPIFFE Workload API 5.2.1).
const MAX_HINT: usize = 1024;

/// What is wrong with an entries file, with the line.
#[derive(Clone, Debug, Eq, PartialEq, Error)]
#[error("{message}")]
pub struct EntriesError {
    message: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawFile {
    #[serde(default)]
    entry: Vec<Spanned<RawEntry>>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RawEntry {
    id: String,
    uid: Option<u32>,
    gid: Option<u32>,
    pid: Option<u32>,
    path: Option<PathBuf>,
    hint: Option<String>,
    ttl: Option<String>,
    #[serde(default)]
    dns: Vec<String>,
    #[serde(default)]
    federates_with: Vec<String>,
}

/// Parses the text of an entries file and checks every entry against the served trust domains.
///
/// ```toml
/// [[entry]]
/// id = "spiffe://demo.local/ns/shop/sa/web"
/// uid = 1000                      # selectors: uid, gid, pid, path; all that are set must match
/// path = "/usr/local/bin/web"
/// ttl = "5m"                      # optional, as are the next three
/// hint = "internal"
/// dns = ["web.shop"]
/// federates_with = ["other.test"]
/// ```
///
/// # Errors
/// [`EntriesError`] with every mistake, one per line, each with its line number.
pub fn parse_entries(text: &str, served: &[TrustDomain]) -> Result<Vec<Entry>, EntriesError> {
    let raw: RawFile = toml::from_str(text).map_err(|error| {
        let line = error.span().map_or(1, |span| line_of(text, span.start));
        EntriesError { message: format!("line {line}: {}", error.message()) }
    })?;
    let mut entries = Vec::new();
    let mut mistakes = Vec::new();
    for spanned in raw.entry {
        let line = line_of(text, spanned.span().start);
        match spanned.into_inner().check(served) {
            Ok(entry) => entries.push(entry),
            Err(mistake) => mistakes.push(format!("line {line}: {mistake}")),
        }
    }
    if mistakes.is_empty() { Ok(entries) } else { Err(EntriesError { message: mistakes.join("\n") }) }
}

/// Checks one entry, from a file or from a program, against the served trust domains.
pub(crate) fn check_entry(entry: &Entry, served: &[TrustDomain]) -> Result<(), String> {
    let names = || served.iter().map(TrustDomain::as_str).collect::<Vec<_>>().join(", ");
    if entry.selectors.is_empty() {
        return Err(format!(
            "entry {} has no selector and would be for everybody: add uid, gid, pid or path",
            entry.id
        ));
    }
    if !served.contains(entry.id.trust_domain()) {
        return Err(format!(
            "entry {} is not in a trust domain of this agent ({}): change the id, or start the agent with --trust-domain {}",
            entry.id,
            names(),
            entry.id.trust_domain()
        ));
    }
    for domain in &entry.federates_with {
        if domain == entry.id.trust_domain() {
            return Err(format!("entry {} federates with its own trust domain: remove it", entry.id));
        }
        if !served.contains(domain) {
            return Err(format!(
                "entry {} federates with {domain}, which is not served ({})",
                entry.id,
                names()
            ));
        }
    }
    if entry.hint.as_ref().is_some_and(|hint| hint.is_empty() || hint.len() > MAX_HINT) {
        return Err(format!("entry {}: a hint has 1 to {MAX_HINT} bytes", entry.id));
    }
    entry.ttl.map_or(Ok(()), check_svid_ttl).map_err(|error| format!("entry {}: {error}", entry.id))
}

fn line_of(text: &str, offset: usize) -> usize {
    text.bytes().take(offset).filter(|byte| *byte == b'\n').count() + 1
}

// === impl RawEntry ===

impl RawEntry {
    fn check(self, served: &[TrustDomain]) -> Result<Entry, String> {
        let id = SpiffeId::parse(&self.id).map_err(|error| format!("id {:?}: {error}", self.id))?;
        let selectors = Selectors { uid: self.uid, gid: self.gid, pid: self.pid, path: self.path };
        let ttl = self.ttl.as_deref().map(parse_ttl).transpose()?;
        let mut federates_with = Vec::new();
        for name in &self.federates_with {
            let domain = TrustDomain::parse(name).map_err(|e| format!("federates_with {name:?}: {e}"))?;
            federates_with.push(domain);
        }
        let entry = Entry { id, selectors, hint: self.hint, ttl, dns: self.dns, federates_with };
        check_entry(&entry, served)?;
        Ok(entry)
    }
}

fn parse_ttl(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| format!("ttl {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(text: &str) -> Result<Vec<Entry>, EntriesError> {
        parse_entries(text, &["demo.local", "other.test"].map(|name| TrustDomain::parse(name).unwrap()))
    }

    fn error(text: &str) -> String {
        parse(text).unwrap_err().to_string()
    }

    #[test]
    fn an_entry_with_every_key_is_read() {
        let entries = parse(
            r#"
            [[entry]]
            id = "spiffe://demo.local/ns/shop/sa/web"
            uid = 1000
            gid = 100
            path = "/usr/local/bin/web"
            ttl = "5m"
            hint = "internal"
            dns = ["web.shop"]
            federates_with = ["other.test"]
            [[entry]]
            id = "spiffe://other.test/x"
            pid = 7
            "#,
        )
        .unwrap();
        assert_eq!(entries.len(), 2);
        assert_eq!(entries[0].id.as_str(), "spiffe://demo.local/ns/shop/sa/web");
        assert_eq!(entries[0].ttl, Some(Duration::from_secs(300)));
        assert_eq!(entries[0].selectors.uid, Some(1000));
        assert_eq!(entries[1].selectors.pid, Some(7));
        assert_eq!(parse("").unwrap(), Vec::new());
    }

    #[test]
    fn every_mistake_is_named_with_its_line() {
        let text =
            "[[entry]]\nid = \"spiffe://demo.local/a\"\n\n[[entry]]\nid = \"spiffe://prod/a\"\nuid = 1\n";
        let error = error(text);
        assert!(error.contains("line 1: entry spiffe://demo.local/a has no selector"), "{error}");
        assert!(error.contains("line 4: entry spiffe://prod/a is not in a trust domain"), "{error}");
    }

    #[test]
    fn a_misspelt_key_is_an_error_and_not_ignored() {
        let error = error("[[entry]]\nid = \"spiffe://demo.local/a\"\nuidd = 1\n");
        assert!(error.starts_with("line 3: unknown field `uidd`"), "{error}");
    }

    #[test]
    fn broken_toml_ids_durations_and_federation_are_clear_errors() {
        assert!(error("[[entry]\n").starts_with("line 1: "));
        assert!(error("[[entry]]\nid = \"spiffe://demo.local/\"\nuid = 1").contains("line 1: id "));
        assert!(error("[[entry]]\nid = \"spiffe://demo.local/a\"\nuid = 1\nttl = \"8\"").contains("8s, 5m"));
        assert!(
            error("[[entry]]\nid = \"spiffe://demo.local/a\"\nuid = 1\nttl = \"9d\"").contains("1s to 24h")
        );
        let federates = |name: &str| {
            error(&format!(
                "[[entry]]\nid = \"spiffe://demo.local/a\"\nuid = 1\nfederates_with = [\"{name}\"]"
            ))
        };
        assert!(federates("demo.local").contains("its own trust domain"));
        assert!(federates("third.test").contains("not served (demo.local, other.test)"));
        assert!(federates("UPPER").contains("federates_with"));
    }
}
