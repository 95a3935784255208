//! Guardrails: what the installation forbids, whatever an annotation says.
//!
//! They come from the immutable environment of the sidecar, because annotations can be changed by
//! more people than pod specs can (a `pods/status` writer, for one).

use std::time::Duration;

use mantlet_id::TrustDomain;

/// What the platform forbids.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Guardrails {
    /// No rule may let callers without identity in.
    pub forbid_plaintext: bool,
    /// No allow may have a wildcard where the namespace stands.
    pub forbid_wildcard_namespace: bool,
    /// The only foreign trust domains that an allow may name.
    pub trust_domains: Option<Vec<TrustDomain>>,
    /// How far ahead an `until` may be.
    pub max_until: Option<Duration>,
    /// Mandatory denies, in the policy language.
    pub denies: String,
}

// === impl Guardrails ===

impl Guardrails {
    /// Parses one guardrail per line, as `MANTLET_GUARDRAILS` has them. The denies are checked with
    /// the policy they are compiled into.
    ///
    /// # Errors
    /// The first line that is no guardrail, with what may stand there.
    pub fn parse(text: &str) -> Result<Self, String> {
        let mut guardrails = Self::default();
        for (number, line) in (1..).zip(text.lines()) {
            let line = line.trim();
            let error = |message: String| format!("guardrail {number}: {message}");
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            match (word, rest.trim()) {
                ("", _) | ("#", _) => {}
                ("forbid", "plaintext") => guardrails.forbid_plaintext = true,
                ("forbid", "wildcard-namespace") => guardrails.forbid_wildcard_namespace = true,
                ("trust-domains", list) => {
                    let domains = list.split(',').map(str::trim).filter(|name| !name.is_empty());
                    let parsed: Result<Vec<_>, _> = domains.map(TrustDomain::parse).collect();
                    guardrails.trust_domains = Some(parsed.map_err(|e| error(format!("\"{list}\": {e}")))?);
                }
                ("max-until", span) => {
                    let parsed = parse_span(span);
                    let help = || error(format!("\"{span}\" is no span, write 30d, 12h or 45m"));
                    guardrails.max_until = Some(parsed.ok_or_else(help)?);
                }
                ("deny", _) => {
                    guardrails.denies.push_str(line);
                    guardrails.denies.push('\n');
                }
                _ => {
                    let known = "forbid plaintext, forbid wildcard-namespace, trust-domains, max-until, deny";
                    return Err(error(format!("\"{line}\" is none of {known}")));
                }
            }
        }
        Ok(guardrails)
    }
}

/// `30d`, `12h`, `45m` or `90s`.
fn parse_span(text: &str) -> Option<Duration> {
    let unit = text.chars().next_back()?;
    let count: u64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        'd' => 86_400,
        'h' => 3600,
        'm' => 60,
        's' => 1,
        _ => return None,
    };
    count.checked_mul(seconds).map(Duration::from_secs)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guardrails_are_read_line_by_line_and_nothing_is_ignored() {
        let text = "forbid plaintext\nforbid wildcard-namespace\ntrust-domains a.test, b.test\nmax-until 30d\n\
                    deny mesh to * /admin/**\n";
        let guardrails = Guardrails::parse(text).unwrap();
        assert!(guardrails.forbid_plaintext && guardrails.forbid_wildcard_namespace);
        assert_eq!(guardrails.trust_domains.unwrap().len(), 2);
        assert_eq!(guardrails.max_until, Some(Duration::from_secs(30 * 86_400)));
        assert_eq!(guardrails.denies, "deny mesh to * /admin/**\n");
        assert!(Guardrails::parse("forbid everything").is_err());
        assert!(Guardrails::parse("allow mesh to * /**").is_err());
        assert!(Guardrails::parse("max-until soon").is_err());
        assert!(Guardrails::parse("trust-domains A.test").is_err());
    }
}
