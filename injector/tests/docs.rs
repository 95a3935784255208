//! `docs/injector.md` says what the tables of keys and metrics say.
#![cfg(feature = "server")]

use std::path::Path;

use mantlet_injector::metrics::FAMILIES;

#[test]
fn the_page_of_the_injector_has_every_key_and_every_metric() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/injector.md");
    let found = std::fs::read_to_string(&path).unwrap();
    let mut metrics = "| family | type | labels | says |\n|---|---|---|---|\n".to_owned();
    for family in FAMILIES {
        let labels: Vec<String> = family.labels.iter().map(|label| format!("`{label}`")).collect();
        metrics.push_str(&format!(
            "| `{}` | {} | {} | {} |\n",
            family.name,
            family.kind,
            labels.join(", "),
            family.help
        ));
    }
    let expected = between(&found, "keys", &mantlet_injector::configuration_document());
    let expected = between(&expected, "metrics", &metrics);
    if std::env::var_os("TEST_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    assert!(found == expected, "docs/injector.md is out of date: run with TEST_BLESS=1 to write it anew");
}

/// `page` with `content` between the marks of this name.
fn between(page: &str, name: &str, content: &str) -> String {
    let (before, rest) = page.split_once(&format!("<!-- {name} -->\n")).unwrap();
    let (_, after) = rest.split_once("<!-- end -->").unwrap();
    format!("{before}<!-- {name} -->\n{content}<!-- end -->{after}")
}
