//! The documents under `/v1/`. Additive changes only: tools read them.

use std::time::SystemTime;

use mantlet_identity::IdentityHandle;
use serde_json::{Value, json};
use time::{OffsetDateTime, format_description::well_known::Rfc3339};

use crate::config::{Effective, Source};

/// `/v1/certs`: own identity and trusted authorities. Names, times and numbers; never a key, nor a path to one.
#[must_use]
pub fn certs(identity: &IdentityHandle) -> Value {
    let status = identity.status();
    let credentials = identity.credentials();
    let own = credentials.as_deref().map(|credentials| {
        json!({
            "spiffe_id": credentials.id().as_str(),
            "not_before": time(credentials.not_before()),
            "not_after": time(credentials.not_after()),
            "serial": credentials.serial(),
            "issuer": credentials.issuer(),
            "hint": credentials.hint(),
            "generation": credentials.generation(),
        })
    });
    let bundles =
        credentials.iter().flat_map(|credentials| credentials.bundles().iter()).map(|(domain, bundle)| {
            let authorities = bundle.authorities().iter().map(|authority| {
                json!({
                    "subject": authority.subject(),
                    "serial": authority.serial(),
                    "not_before": time(authority.not_before()),
                    "not_after": time(authority.not_after()),
                })
            });
            json!({
                "trust_domain": domain.as_str(),
                "generation": bundle.generation(),
                "not_after": bundle.not_after().map(time),
                "authorities": authorities.collect::<Vec<_>>(),
                "left_out": bundle.rejected(),
            })
        });
    json!({
        "schema": "mantlet.certs/v1",
        "state": status.state().as_str(),
        "cause": status.cause(),
        "next_step": status.next_step(),
        "stream_connected": status.stream_connected(),
        "last_refresh": status.last_refresh().map(time),
        "svid": own,
        "bundles": bundles.collect::<Vec<_>>(),
    })
}

/// `/v1/config`: each key with its effective value and where it came from. No value is a secret.
#[must_use]
pub fn config(effective: &[Effective]) -> Value {
    let shown = effective.iter().filter(|row| !row.hidden || row.source != Source::Default);
    let rows =
        shown.map(|row| json!({"key": row.key, "values": row.values, "source": row.source.to_string()}));
    json!({"schema": "mantlet.config/v1", "keys": rows.collect::<Vec<_>>()})
}

pub(super) fn time(at: SystemTime) -> Option<String> {
    OffsetDateTime::from(at).format(&Rfc3339).ok()
}

#[cfg(test)]
mod tests {
    use mantlet_identity::{Endpoint, IdentitySource, SourceConfig};

    use super::*;

    #[test]
    fn without_an_identity_the_certs_say_so_and_why() {
        let endpoint = Endpoint::parse("unix:///nowhere.sock").unwrap();
        let source = IdentitySource::new(SourceConfig::new(endpoint));
        let document = certs(&source.handle());
        assert_eq!(document["state"], "waiting");
        assert_eq!(document["svid"], Value::Null);
        assert_eq!(document["bundles"], json!([]));
    }

    #[test]
    fn the_configuration_shows_values_with_their_source() {
        let row = |key, values: &[&str], source, hidden| Effective {
            key,
            values: values.iter().map(|&value| value.to_owned()).collect(),
            source,
            hidden,
        };
        let rows = [
            row("admin", &["127.0.0.1:1"], Source::Flag, false),
            row("secret-switch", &["false"], Source::Default, true),
        ];
        let keys = &config(&rows)["keys"];
        assert_eq!(keys, &json!([{"key": "admin", "values": ["127.0.0.1:1"], "source": "flag"}]));
    }
}
