//! `mantlet certs --bundle`: whom a bundle document or a bundle map makes one trust.

use std::collections::BTreeMap;
use std::path::Path;
use std::time::SystemTime;

use mantlet_id::TrustDomain;
use mantlet_identity::{Authority, BundleDocument, parse_bundle, parse_bundle_map};
use serde_json::{Value, json};

use super::document::{left, rfc3339, span};
use crate::failure::Failure;
use crate::output::{Output, Style};

/// Reads the file; without a trust domain it has to be a map, which names them.
pub(super) fn read(
    path: &Path,
    trust_domain: Option<&TrustDomain>,
) -> Result<BTreeMap<TrustDomain, BundleDocument>, Failure> {
    let shown = path.display();
    let text = std::fs::read(path)
        .map_err(|error| Failure::usage(format!("cannot read the bundle {shown}")).because(&error))?;
    let now = SystemTime::now();
    let parsed = match trust_domain {
        Some(name) => {
            parse_bundle(name, &text, now).map(|document| BTreeMap::from([(name.clone(), document)]))
        }
        None => parse_bundle_map(&text, now),
    };
    parsed.map_err(|error| match trust_domain {
        Some(_) => Failure::finding(format!("{shown} is no SPIFFE bundle document")).because(&error),
        None => Failure::finding(format!("{shown} is no SPIFFE bundle map"))
            .because(&error)
            .next("a document of one trust domain does not say whose it is: --trust-domain NAME"),
    })
}

/// Shows each bundle; one that trusts nobody is said to.
pub(super) fn show(bundles: &BTreeMap<TrustDomain, BundleDocument>, json: bool, output: &Output) {
    let now = SystemTime::now();
    if json {
        let bundles: Vec<Value> = bundles.iter().map(|(name, document)| value(name, document)).collect();
        output.line(&json!({ "schema": "mantlet.bundles/v1", "bundles": bundles }).to_string());
    }
    for (name, document) in bundles {
        if !json {
            output.line(&table(name, document, now, output.out));
        }
        if document.bundle().authorities().is_empty() {
            output.note(&format!(
                "{} {name} has no authority: nobody of it is trusted",
                output.err.warn("warning:")
            ));
        }
    }
}

fn value(name: &TrustDomain, document: &BundleDocument) -> Value {
    let authority = |authority: &Authority| {
        json!({
            "subject": authority.subject(), "serial": authority.serial(),
            "not_before": rfc3339(authority.not_before()), "not_after": rfc3339(authority.not_after()),
        })
    };
    json!({
        "trust_domain": name.as_str(),
        "authorities": document.bundle().authorities().iter().map(authority).collect::<Vec<_>>(),
        "rejected": document.bundle().rejected(),
        "ignored_keys": document.ignored(),
        "sequence": document.sequence(),
        "refresh_hint_seconds": document.refresh_hint().map(|hint| hint.as_secs()),
    })
}

fn table(name: &TrustDomain, document: &BundleDocument, now: SystemTime, style: Style) -> String {
    let mut rows = vec![("bundle", style.bold(name.as_str()))];
    for authority in document.bundle().authorities() {
        let life = format!(
            "{} left, until {}",
            span(left(authority.not_after(), now)),
            rfc3339(authority.not_after())
        );
        rows.push(("trusts", format!("{}  serial {}, {life}", authority.subject(), authority.serial())));
    }
    let mut count = |label, count: usize, what: &str| {
        if count > 0 {
            rows.push((label, style.warn(&format!("{count} {what}"))));
        }
    };
    count("rejected", document.bundle().rejected(), "certificates that are no usable authority");
    count("ignored", document.ignored(), "keys that are not for X.509 or bring no certificate");
    if let Some(sequence) = document.sequence() {
        rows.push(("sequence", sequence.to_string()));
    }
    if let Some(hint) = document.refresh_hint() {
        rows.push(("refresh", format!("every {}", span(hint))));
    }
    let row = |(label, text): &(&str, String)| format!("{} {text}", style.dim(&format!("{label:<8}")));
    rows.iter().map(row).collect::<Vec<_>>().join("\n")
}
