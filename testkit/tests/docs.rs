//! The pages of the repository point to things that exist.

mod repo;

use repo::{files, workspace};
use std::fs;

#[test]
fn every_relative_link_leads_somewhere() {
    let mut wrong = Vec::new();
    for page in files(&workspace(), ".md") {
        let text = fs::read_to_string(&page).expect("a page");
        let folder = page.parent().expect("a page stands in a folder");
        for link in links(&text) {
            let target = link.split('#').next().unwrap_or_default();
            let outside = target.contains("://") || target.starts_with("mailto:");
            if !outside && !target.is_empty() && !folder.join(target).exists() {
                wrong.push(format!("{}: {link}", page.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn every_decision_has_its_own_number_and_a_line_in_the_index() {
    let folder = workspace().join("docs/adr");
    let index = fs::read_to_string(folder.join("README.md")).expect("the index");
    let mut numbers = Vec::new();
    for page in files(&folder, ".md") {
        let name = page.file_name().unwrap_or_default().to_string_lossy();
        if name == "README.md" {
            continue;
        }
        assert!(index.contains(&format!("({name})")), "{name} is not in the index");
        let number = name.split('-').next().unwrap_or_default();
        let text = fs::read_to_string(&page).expect("a page");
        assert!(text.starts_with(&format!("# {number}: ")), "{name} begins with its number");
        for part in ["## Context", "## Decision", "## Consequences", "## Measured"] {
            assert!(text.contains(part), "{name} has no part {part}");
        }
        numbers.push(number.parse::<usize>().expect("a decision has a number"));
    }
    assert!(numbers.iter().copied().eq(1..=numbers.len()), "{numbers:?}");
}

#[test]
fn decisions_that_the_sources_cite_exist() {
    let root = workspace();
    let mut wrong = Vec::new();
    let sources = [".rs", ".toml", ".sh", ".yaml"].map(|suffix| files(&root, suffix));
    for source in sources.iter().flatten().chain([&root.join(".cargo/config.toml")]) {
        let text = fs::read_to_string(source).unwrap_or_default();
        for (at, _) in text.match_indices("docs/adr/") {
            let rest = &text[at..];
            let end = rest.find(".md").map_or(0, |end| end + ".md".len());
            let cited = &rest[..end];
            if cited.len() < 80 && !cited.is_empty() && !root.join(cited).exists() {
                wrong.push(format!("{}: {cited}", source.display()));
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn links_are_found_outside_code() {
    let text = "see [a](b.md), ![c](d.png)\n```\n[no](x)\n```\n`[no](y)` [e](f#g)";
    assert_eq!(links(text), ["b.md", "d.png", "f#g"]);
}

/// Targets of the inline links of a page; fenced and inline code do not count.
fn links(text: &str) -> Vec<String> {
    let mut found = Vec::new();
    let mut fenced = false;
    for line in text.lines() {
        if line.trim_start().starts_with("```") {
            fenced = !fenced;
            continue;
        }
        if fenced {
            continue;
        }
        // Every second piece between backticks is code.
        let prose: Vec<&str> = line.split('`').step_by(2).collect();
        for piece in prose.join("").split("](").skip(1) {
            let target = piece.split(')').next().unwrap_or_default();
            found.push(target.to_owned());
        }
    }
    found
}
