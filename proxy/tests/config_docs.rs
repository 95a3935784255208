//! `docs/configuration.md` says what the table of keys says.

use std::path::Path;

#[test]
fn the_configuration_page_is_what_the_table_says() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/configuration.md");
    let expected = mantlet_proxy::config::document();
    if std::env::var_os("TEST_BLESS").is_some() {
        std::fs::write(&path, &expected).unwrap();
    }
    let found = std::fs::read_to_string(&path).unwrap_or_default();
    assert!(
        found == expected,
        "docs/configuration.md is out of date: run with TEST_BLESS=1 to write it anew"
    );
}
