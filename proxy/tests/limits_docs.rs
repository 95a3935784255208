//! `docs/limits.md` says what the table of limits says, and the table names metrics that exist.

use std::path::Path;

use mantlet_proxy::{
    config::keys::KEYS,
    limits::{Number, TABLE},
    metrics::{Limit, Metrics, Options},
};

const HEAD: &str = "<!-- Generated from proxy/src/limits.rs; proxy/tests/limits_docs.rs checks it. -->

# Limits

Every limit is on by default. At each, one peer or one request is refused; other connections go on. What is
counted is named with its labels: an alert on `mantlet_limits_reached_total` sees all that matter.

| limit | number | what happens at it | counted in |
|---|---|---|---|
";

fn number(number: Number) -> String {
    let bytes = |bytes: u64| match bytes {
        bytes if bytes.is_multiple_of(1024) => format!("{} KiB", bytes / 1024),
        bytes => format!("{bytes} bytes"),
    };
    match number {
        Number::Key(flag) => {
            let key = KEYS.iter().find(|key| key.flag == flag).expect("a key of the configuration");
            format!("`--{flag}`: {}", key.default.unwrap_or(key.unset))
        }
        Number::Count(count) => count.to_string(),
        Number::PerSecond(count) => format!("{count} in a second"),
        Number::Bytes(count) => bytes(count),
        Number::Time(time) => format!("{} s", time.as_secs()),
        Number::Kernel(what) => what.to_owned(),
    }
}

#[test]
fn the_page_is_what_the_table_says() {
    let rows = TABLE.iter().map(|row| {
        let metric = if row.metric == "-" { "-".to_owned() } else { format!("`{}`", row.metric) };
        format!("| {} | {} | {} | {metric} |\n", row.what, number(row.number), row.refusal)
    });
    let expected = HEAD.to_owned() + &rows.collect::<String>();
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/limits.md");
    if std::env::var_os("TEST_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(found == expected, "docs/limits.md is out of date: run with TEST_BLESS=1 to write it anew");
}

#[test]
fn every_limit_has_a_metric_that_exists_and_every_metric_a_limit() {
    let metrics = Metrics::new(Options::default());
    let exposed = metrics.encode();
    for row in TABLE.iter().filter(|row| row.metric != "-") {
        let family = row.metric.split('{').next().unwrap_or_default();
        assert!(metrics.describe().iter().any(|known| known.name == family), "{}", row.metric);
        if row.metric.contains("limit=") || row.metric.contains("closed") {
            let labels = row.metric.split(['{', '}']).nth(1).unwrap_or_default();
            let series = exposed.lines().any(|line| line.starts_with(family) && line.contains(labels));
            assert!(series, "{}", row.metric);
        }
    }
    for limit in Limit::ALL {
        let label = format!("limit=\"{limit}\"");
        assert!(TABLE.iter().any(|row| row.metric.contains(&label)), "{limit} is in no row");
    }
}
