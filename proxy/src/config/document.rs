//! The configuration, written for people: `docs/configuration.md` and `--print-config`.

use std::fmt::Write as _;

use super::{
    Effective, Source,
    keys::{KEYS, Key, SECTIONS},
};

/// The text of `docs/configuration.md`. A test holds the file equal to it.
#[must_use]
pub fn document() -> String {
    let mut text = String::from(
        "# Configuration of the sidecar\n\n\
         <!-- Generated from proxy/src/config/keys.rs; a test compares. To write it anew:\n     \
         TEST_BLESS=1 cargo test -p mantlet-proxy --test config_docs -->\n\n\
         Flags win over the environment, which wins over the defaults. Every mistake is reported at once, with exit \
         code 2. `mantlet-proxy --print-config` shows the effective value of each key and where it came from.\n\n\
         - Durations are whole numbers with a unit (`500ms`, `30s`, `5m`, `12h`, `7d`); bare numbers are refused.\n\
         - An unknown `MANTLET_*` variable is a mistake, except those that Kubernetes makes for a Service whose name \
         begins with `mantlet` (`*_SERVICE_HOST`, `*_SERVICE_PORT*`, `*_PORT`, `*_PORT_<n>_<PROTO>*`).\n\
         - A repeatable key takes its flag several times, or one value per line of its variable.\n\
         - Policy is not configuration: it is a watched file, and a change takes effect at once.\n",
    );
    for section in SECTIONS {
        let _ = write!(text, "\n## {section}\n");
        KEYS.iter()
            .filter(|key| key.section == *section && !key.hidden)
            .for_each(|key| describe(&mut text, key));
    }
    text
}

fn describe(text: &mut String, key: &Key) {
    let default = match key.default {
        Some(default) => format!("`{default}`"),
        None => key.unset.to_owned(),
    };
    let repeatable = if key.repeatable { " (repeatable)" } else { "" };
    let _ = write!(
        text,
        "\n### `--{} {}`{repeatable}\n\n{}\n\n- Environment: `{}`\n- Default: {default}\n- Accepted: {}\n",
        key.flag,
        key.placeholder,
        key.meaning,
        key.environment,
        key.kind.accepts(),
    );
}

/// The text of `--print-config`: one line per value, aligned, with its source.
#[must_use]
pub fn print(effective: &[Effective]) -> String {
    let shown = || effective.iter().filter(|row| !row.hidden || row.source != Source::Default);
    let rows = || {
        shown().flat_map(|row| {
            let values = if row.values.is_empty() { vec!["-".to_owned()] } else { row.values.clone() };
            values.into_iter().map(move |value| (row.key, escape(&value), row.source))
        })
    };
    let keys = rows().map(|(key, ..)| key.len()).max().unwrap_or(0);
    let values = rows().map(|(_, value, _)| value.chars().count()).max().unwrap_or(0).min(60);
    rows().fold(String::new(), |mut text, (key, value, source)| {
        let _ = writeln!(text, "{key:keys$}  {value:values$}  ({source})");
        text
    })
}

fn escape(value: &str) -> String {
    value.chars().flat_map(|c| if c.is_control() { c.escape_default().collect() } else { vec![c] }).collect()
}
