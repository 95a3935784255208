//! The document of `/v1/certs`, and how it is shown to people. `mantlet certs` makes the same one
//! from a Workload API, so that there is one form of it.

use std::time::{Duration, SystemTime};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use time::OffsetDateTime;
use time::format_description::well_known::Rfc3339;

use crate::output::Style;

/// The first words of the schema that this program reads.
const SCHEMA: &str = "mantlet.certs/v1";

/// The part of the document that is shown; unknown fields are for newer readers.
#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Document {
    schema: String,
    pub(super) state: String,
    pub(super) cause: Option<String>,
    pub(super) next_step: Option<String>,
    pub(super) svid: Option<Svid>,
    bundles: Vec<Bundle>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
pub(super) struct Svid {
    spiffe_id: String,
    issuer: String,
    serial: String,
    hint: Option<String>,
    #[serde(deserialize_with = "instant")]
    not_before: SystemTime,
    #[serde(deserialize_with = "instant")]
    not_after: SystemTime,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Bundle {
    trust_domain: String,
    authorities: Vec<Authority>,
}

#[derive(Clone, Debug, Deserialize, PartialEq)]
struct Authority {
    #[serde(deserialize_with = "instant")]
    not_after: SystemTime,
}

// === impl Document ===

impl Document {
    /// Reads a document; the error says what is not as it should be.
    pub(super) fn parse(value: &Value) -> Result<Self, String> {
        let document = Self::deserialize(value).map_err(|error| error.to_string())?;
        match document.schema == SCHEMA {
            true => Ok(document),
            false => Err(format!("its schema is {:?} and not {SCHEMA}", document.schema)),
        }
    }

    /// The table for people; empty without an identity.
    pub(super) fn table(&self, now: SystemTime, style: Style) -> String {
        let Some(svid) = &self.svid else { return String::new() };
        let left = left(svid.not_after, now);
        let life = svid.not_after.duration_since(svid.not_before).unwrap_or_default();
        let dress = if left * 4 < life { Style::warn } else { Style::good };
        let mut rows = vec![
            ("id", style.bold(&svid.spiffe_id)),
            ("issuer", svid.issuer.clone()),
            ("serial", svid.serial.clone()),
            ("valid", format!("{} left, until {}", dress(style, &span(left)), rfc3339(svid.not_after))),
        ];
        if let Some(hint) = &svid.hint {
            rows.push(("hint", hint.clone()));
        }
        if self.state != "ready" || self.cause.is_some() {
            let cause = self.cause.as_deref().map_or_else(String::new, |cause| format!(": {cause}"));
            rows.push(("state", style.warn(&format!("{}{cause}", self.state))));
        }
        for (index, bundle) in self.own_first(&svid.spiffe_id).into_iter().enumerate() {
            rows.push((if index == 0 { "bundles" } else { "" }, bundle.text(now)));
        }
        let row = |(label, text): &(&str, String)| format!("{} {text}", style.dim(&format!("{label:<8}")));
        rows.iter().map(row).collect::<Vec<_>>().join("\n")
    }

    /// Every bundle, that of the own trust domain first.
    fn own_first(&self, id: &str) -> Vec<&Bundle> {
        let own = |bundle: &Bundle| id.starts_with(&format!("spiffe://{}/", bundle.trust_domain));
        let mut bundles: Vec<&Bundle> = self.bundles.iter().collect();
        bundles.sort_by_key(|bundle| (!own(bundle), bundle.trust_domain.clone()));
        bundles
    }
}

// === impl Bundle ===

impl Bundle {
    fn text(&self, now: SystemTime) -> String {
        let count = self.authorities.len();
        let plural = if count == 1 { "authority" } else { "authorities" };
        let soonest = self.authorities.iter().map(|authority| authority.not_after).min();
        let soonest =
            soonest.map_or_else(String::new, |end| format!(", soonest expiry in {}", span(left(end, now))));
        format!("{}  {count} {plural}{soonest}", self.trust_domain)
    }
}

fn instant<'de, D: Deserializer<'de>>(from: D) -> Result<SystemTime, D::Error> {
    let text = String::deserialize(from)?;
    OffsetDateTime::parse(&text, &Rfc3339).map(SystemTime::from).map_err(serde::de::Error::custom)
}

pub(super) fn left(end: SystemTime, now: SystemTime) -> Duration {
    end.duration_since(now).unwrap_or_default()
}

pub(super) fn rfc3339(time: SystemTime) -> String {
    let time = OffsetDateTime::from(time);
    time.replace_nanosecond(0).unwrap_or(time).format(&Rfc3339).unwrap_or_default()
}

/// The two largest units of a time span.
pub(super) fn span(time: Duration) -> String {
    let seconds = time.as_secs();
    let (days, hours, minutes) = (seconds / 86_400, seconds / 3_600 % 24, seconds / 60 % 60);
    match (days, hours, minutes) {
        (0, 0, 0) => format!("{seconds}s"),
        (0, 0, _) => format!("{minutes}m {}s", seconds % 60),
        (0, _, _) => format!("{hours}h {minutes}m"),
        _ => format!("{days}d {hours}h"),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn document() -> Value {
        json!({
            "schema": "mantlet.certs/v1", "state": "ready", "cause": null, "next_step": null,
            "svid": {
                "spiffe_id": "spiffe://b.test/x", "issuer": "CN=b", "serial": "0a", "hint": null,
                "not_before": "2027-01-15T08:00:00Z", "not_after": "2027-01-15T09:00:00Z", "generation": 3,
            },
            "bundles": [
                {"trust_domain": "a.test", "authorities": []},
                {"trust_domain": "b.test", "authorities": [
                    {"not_after": "2027-01-18T08:00:00Z"}, {"not_after": "2027-01-17T08:00:00Z"},
                ]},
            ],
        })
    }

    #[test]
    fn the_table_shows_life_left_and_the_soonest_expiry_of_each_bundle_own_one_first() {
        let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000 + 1_800);
        let table = Document::parse(&document()).unwrap().table(now, Style::PLAIN);
        assert_eq!(
            table.lines().collect::<Vec<_>>(),
            [
                "id       spiffe://b.test/x",
                "issuer   CN=b",
                "serial   0a",
                "valid    30m 0s left, until 2027-01-15T09:00:00Z",
                "bundles  b.test  2 authorities, soonest expiry in 1d 23h",
                "         a.test  0 authorities",
            ]
        );
    }

    #[test]
    fn an_identity_that_lives_on_without_its_agent_says_why() {
        let mut value = document();
        value["cause"] = "cannot reach the agent".into();
        let table = Document::parse(&value).unwrap().table(SystemTime::now(), Style::PLAIN);
        assert!(table.contains("state    ready: cannot reach the agent"), "{table}");
    }

    #[test]
    fn a_document_of_another_schema_is_refused() {
        let mut value = document();
        value["schema"] = "mantlet.certs/v2".into();
        assert!(Document::parse(&value).unwrap_err().contains("mantlet.certs/v2"));
        assert!(Document::parse(&json!({})).is_err());
    }

    #[test]
    fn a_span_shows_its_two_largest_units() {
        let of = |seconds| span(Duration::from_secs(seconds));
        assert_eq!([of(0), of(59), of(61), of(3_661), of(90_061)], ["0s", "59s", "1m 1s", "1h 1m", "1d 1h"]);
    }
}
