//! What can be said of the chart by its files alone, on any machine.

use std::collections::BTreeSet;
use std::fs;

use serde_json::Value;

use crate::{chart, workspace};

fn read(name: &str) -> String {
    fs::read_to_string(chart().join(name)).unwrap()
}

fn yaml(name: &str) -> Value {
    serde_saphyr::from_str(&read(name)).unwrap()
}

fn schema() -> Value {
    serde_json::from_str(&read("values.schema.json")).unwrap()
}

#[test]
fn the_chart_is_of_the_version_that_it_installs() {
    let manifest: toml::Table =
        toml::from_str(&fs::read_to_string(workspace().join("Cargo.toml")).unwrap()).unwrap();
    let version = manifest["workspace"]["package"]["version"].as_str().unwrap();
    assert_eq!(yaml("Chart.yaml")["appVersion"], version);
}

#[test]
fn the_schema_and_the_values_have_the_same_keys() {
    let (schema, values) = (schema(), yaml("values.yaml"));
    let mut wrong = Vec::new();
    compare(&schema, &schema, &values, "values", &mut wrong);
    assert!(wrong.is_empty(), "{wrong:#?}");
}

/// The parts of `values` whose keys the chart decides are exactly the schema's, and no others are let in.
fn compare(root: &Value, schema: &Value, values: &Value, path: &str, wrong: &mut Vec<String>) {
    let schema = match schema["$ref"].as_str() {
        Some(name) => root.pointer(name.trim_start_matches('#')).unwrap(),
        None => schema,
    };
    let (Some(properties), Some(values)) = (schema["properties"].as_object(), values.as_object()) else {
        return;
    };
    // `global` is every chart's.
    if path != "values.global" && schema["additionalProperties"] != Value::Bool(false) {
        wrong.push(format!("{path}: the schema lets further keys in"));
    }
    let keys = |map: &serde_json::Map<String, Value>| map.keys().cloned().collect::<BTreeSet<_>>();
    for key in keys(properties).symmetric_difference(&keys(values)) {
        wrong.push(format!("{path}.{key}: in one of schema and values only"));
    }
    for (key, value) in values {
        compare(
            root,
            &properties.get(key).cloned().unwrap_or_default(),
            value,
            &format!("{path}.{key}"),
            wrong,
        );
    }
}

#[test]
fn every_section_and_key_of_the_values_is_explained() {
    let text = read("values.yaml");
    let mut last_comment = false;
    for line in text.lines() {
        let top = line.chars().next().is_some_and(char::is_alphabetic);
        assert!(!top || last_comment, "no comment above: {line}");
        // One comment may stand above several keys.
        last_comment = line.starts_with('#') || (last_comment && top);
    }
}

#[test]
fn nothing_in_the_templates_differs_from_one_rendering_to_the_next() {
    for entry in fs::read_dir(chart().join("templates")).unwrap() {
        let path = entry.unwrap().path();
        let text = fs::read_to_string(&path).unwrap();
        for word in [
            "lookup ",
            "rand",
            "genCA",
            "genSelf",
            "genSigned",
            "genPrivate",
            "now",
            "uuidv4",
            "derivePassword",
        ] {
            let called = text.contains(&format!("({word}")) || text.contains(&format!("{{ {word}"));
            assert!(!called, "{}: {word}", path.display());
        }
    }
}

#[test]
fn alerts_and_dashboard_of_the_chart_are_those_that_are_tested() {
    for name in ["alerts.yaml", "dashboard.json"] {
        let tested = fs::canonicalize(workspace().join("deploy/observability").join(name)).unwrap();
        let shipped = fs::canonicalize(chart().join("files").join(name)).unwrap();
        assert_eq!(tested, shipped);
    }
}

#[test]
fn the_page_lists_every_value() {
    let path = workspace().join("docs/kubernetes.md");
    let page = fs::read_to_string(&path).unwrap();
    let (begin, end) = ("<!-- values -->\n", "<!-- end -->");
    let (before, rest) = page.split_once(begin).unwrap();
    let (_, after) = rest.split_once(end).unwrap();
    let wanted = format!("{before}{begin}{}{end}{after}", table());
    if std::env::var_os("TEST_BLESS").is_some_and(|value| value == "1") {
        fs::write(&path, wanted).unwrap();
    } else {
        assert!(
            page == wanted,
            "docs/kubernetes.md is not what values.yaml says: run this test with TEST_BLESS=1"
        );
    }
}

/// Every value with its default and the comment above it.
fn table() -> String {
    let values = yaml("values.yaml");
    let mut table = "| value | default | meaning |\n|---|---|---|\n".to_owned();
    let (mut path, mut comment): (Vec<(usize, String)>, Vec<String>) = (Vec::new(), Vec::new());
    for line in read("values.yaml").lines().skip_while(|line| !line.is_empty()) {
        let text = line.trim_start();
        let depth = line.len() - text.len();
        if let Some(words) = text.strip_prefix("# ") {
            comment.push(words.to_owned());
            continue;
        }
        let key = text.split_once(':').map(|(key, _)| key).filter(|key| !key.starts_with(['-', '{']));
        let Some(key) = key else {
            comment.clear();
            continue;
        };
        path.retain(|(above, _)| *above < depth);
        let within_a_value =
            path.iter().any(|(_, name)| ["resources", "metricsFrom"].contains(&name.as_str()));
        path.push((depth, key.to_owned()));
        let names: Vec<&str> = path.iter().map(|(_, name)| name.as_str()).collect();
        let value = names.iter().fold(&values, |value, name| &value[*name]);
        // A section is its keys; a map of free keys is one value.
        let section = value
            .as_object()
            .is_some_and(|map| !map.is_empty() && !["resources", "metricsFrom", "labels"].contains(&key));
        if !within_a_value && (!section || !comment.is_empty()) {
            let default = if section { String::new() } else { format!("`{value}`") };
            let meaning = comment.join(" ").replace('|', "\\|");
            table.push_str(&format!("| `{}` | {default} | {meaning} |\n", names.join(".")));
        }
        comment.clear();
    }
    table
}
