//! The shape of the workspace: what may depend on what, between crates and inside the sidecar.
//!
//! The rules keep three promises: a production sidecar cannot mint identities and does not carry a
//! Kubernetes client; who a peer is and what it may do are decided by crates that do not know each
//! other; and a reader of the sidecar can go down through its modules without ever coming back up.

mod repo;

use repo::{files, workspace};
use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    path::Path,
    process::Command,
};

/// Crate -> the crates of ours that it may be built with. Tests may use the testkit besides.
const EDGES: &[(&str, &[&str])] = &[
    ("id", &[]),
    ("proto", &[]),
    ("policy", &["id"]),
    ("identity", &["id", "proto"]),
    ("devagent", &["id", "proto"]),
    ("proxy", &["id", "identity", "policy", "proto"]),
    ("redirect", &[]),
    ("injector", &["id", "identity", "policy", "proto", "redirect"]),
    ("cli", &["devagent", "id", "identity", "injector", "policy", "proto", "proxy", "redirect"]),
    ("testkit", &["id", "proto"]),
    ("bench", &["testkit"]),
];

/// Modules of the sidecar from the top down. A module imports from lower rows only: neither from
/// above nor from its own row.
const TIERS: &[&[&str]] = &[
    &["app"],
    &["worker"],
    &["inbound", "outbound"],
    &["connection"],
    &["http", "forward", "admin"],
    &["pool"],
    &["authz"],
    &["directory", "last_word", "policy_watch", "probes", "tls", "vouch"],
    &["activity", "detect", "dns", "drain", "lifetime", "listener", "readiness", "revoke", "watched"],
    &["addr", "config", "io", "limits", "log", "metrics", "sys", "vital"],
];

#[test]
fn crates_depend_only_on_the_crates_they_may() {
    let metadata = cargo(&["metadata", "--no-deps", "--format-version", "1"]);
    let metadata: serde_json::Value = serde_json::from_str(&metadata).expect("cargo metadata");
    let allowed: BTreeMap<_, _> = EDGES.iter().copied().collect();
    let mut wrong = Vec::new();
    let mut seen = BTreeSet::new();
    for package in metadata["packages"].as_array().expect("packages") {
        let name = short(&package["name"]).expect("every package of the workspace is ours");
        seen.insert(name);
        let Some(may) = allowed.get(name) else {
            wrong.push(format!("{name}: not in the table EDGES"));
            continue;
        };
        for dependency in package["dependencies"].as_array().expect("dependencies") {
            let Some(on) = short(&dependency["name"]) else {
                continue;
            };
            let for_tests = dependency["kind"] == "dev";
            if !may.contains(&on) && (!for_tests || on == "cli") {
                wrong.push(format!("{name} depends on {on}"));
            }
        }
    }
    for (name, _) in EDGES {
        if !seen.contains(name) {
            wrong.push(format!("{name}: in the table EDGES, not in the workspace"));
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn a_production_sidecar_can_neither_mint_identities_nor_talk_to_kubernetes() {
    let tree = tree("mantlet-proxy");
    for unwanted in ["rcgen", "kube", "mantlet-devagent", "ring", "openssl"] {
        assert!(!tree.contains(unwanted), "{unwanted} in the sidecar");
    }
}

#[test]
fn the_command_line_carries_no_kubernetes_client() {
    let tree = tree("mantlet-cli");
    for unwanted in ["kube", "k8s-openapi", "ring", "openssl"] {
        assert!(!tree.contains(unwanted), "{unwanted} in the command line");
    }
}

#[test]
fn the_injector_has_one_provider_of_cryptography() {
    let tree = tree("mantlet-injector");
    assert!(tree.contains("kube") && tree.contains("aws-lc-rs"));
    for unwanted in ["ring", "openssl", "native-tls", "mantlet-proxy", "mantlet-devagent"] {
        assert!(!tree.contains(unwanted), "{unwanted} in the injector");
    }
}

#[test]
fn the_init_binary_stays_tiny() {
    let tree = tree("mantlet-redirect");
    assert!(tree.len() <= 6, "{tree:?}");
}

#[test]
fn the_sidecar_s_modules_import_only_downward() {
    let src = workspace().join("proxy/src");
    let tier_of = |module: &str| TIERS.iter().position(|tier| tier.contains(&module));
    let mut wrong = Vec::new();
    for path in files(&src, ".rs") {
        let file = path.strip_prefix(&src).expect("below src");
        let Some(home) = Module::of(file) else {
            continue;
        };
        let shown = file.display();
        let Some(tier) = tier_of(&home.name) else {
            wrong.push(format!("{shown}: module {} is in no tier", home.name));
            continue;
        };
        let text = fs::read_to_string(&path).expect("a source file");
        for import in imports(&text, home.depth) {
            if import == home.name {
                continue;
            }
            match tier_of(&import) {
                None => wrong.push(format!("{shown}: crate::{import} is no module of a tier")),
                Some(t) if t < tier => wrong.push(format!("{shown}: imports {import} from above")),
                Some(t) if t == tier => {
                    wrong.push(format!("{shown}: imports {import} from its own tier"));
                }
                Some(_) => {}
            }
        }
    }
    assert!(wrong.is_empty(), "{wrong:#?}");
}

#[test]
fn imports_are_found_in_every_form() {
    let found = |text, depth| imports(text, depth).into_iter().collect::<Vec<_>>();
    assert_eq!(found("use crate::addr::ClientAddr;", 1), ["addr"]);
    assert_eq!(found("use crate::{addr, drain::{self, Token}, tls::X};", 1), ["addr", "drain", "tls"]);
    assert_eq!(found("fn f() { crate::pool::g() }", 1), ["pool"]);
    assert_eq!(found("/// see [`crate::app`]\n// crate::app", 1), [""; 0]);
    assert_eq!(found("use super::drain;", 1), ["drain"]);
    assert_eq!(found("use super::sibling;", 2), [""; 0]);
    assert_eq!(found("use super::super::drain;", 2), ["drain"]);
    assert_eq!(found("#[cfg(test)]\nmod tests { use crate::app; }", 1), [""; 0]);
}

/// Where a file stands below `src`: `http/server.rs` is module `http`, two levels deep.
struct Module {
    name: String,
    depth: usize,
}

// === impl Module ===

impl Module {
    /// `None` for the crate's roots and for test modules.
    fn of(file: &Path) -> Option<Module> {
        let mut parts: Vec<_> =
            file.with_extension("").iter().map(|part| part.to_string_lossy().into_owned()).collect();
        if parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        if parts.last().is_some_and(|last| last == "tests") {
            return None;
        }
        let name = parts.first()?.clone();
        let root = parts.len() == 1 && (name == "lib" || name == "main");
        (!root && name != "bin").then_some(Module { name, depth: parts.len() })
    }
}

/// The top-level modules that the code of a file names by `crate::` or by enough `super::`.
/// Comments and test modules do not count.
fn imports(text: &str, depth: usize) -> BTreeSet<String> {
    let code: String = text
        .split("#[cfg(test)]\nmod ")
        .next()
        .unwrap_or_default()
        .lines()
        .map(|line| line.split("//").next().unwrap_or_default())
        .collect::<Vec<_>>()
        .join("\n");
    let up = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for root in ["crate::", up.as_str()] {
        for (at, _) in code.match_indices(root) {
            let before = code[..at].chars().next_back();
            if before.is_some_and(|c| c.is_alphanumeric() || matches!(c, '_' | '$' | ':')) {
                continue;
            }
            heads(&code[at + root.len()..], &mut found);
        }
    }
    found
}

/// The first name of a path, or of each member of a `{..}` group.
fn heads(path: &str, found: &mut BTreeSet<String>) {
    let name = |s: &str| -> String {
        s.trim_start().chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else {
        found.insert(name(path));
        return;
    };
    let mut level = 0;
    let mut start = 0;
    for (at, c) in group.char_indices() {
        match c {
            '{' => level += 1,
            '}' if level > 0 => level -= 1,
            ',' | '}' if level == 0 => {
                found.insert(name(&group[start..at]));
                start = at + 1;
                if c == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    found.remove("");
}

/// The crate's folder name, if it is one of ours.
fn short(package: &serde_json::Value) -> Option<&str> {
    package.as_str()?.strip_prefix("mantlet-")
}

/// Names of all crates that a package is built from.
fn tree(package: &str) -> BTreeSet<String> {
    let listed = cargo(&["tree", "-e", "normal", "-p", package, "--prefix", "none"]);
    let names = listed.lines().filter_map(|line| line.split(' ').next());
    names.filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

/// Cargo's answer about this workspace, without touching the network or the lock file.
fn cargo(arguments: &[&str]) -> String {
    let output = Command::new(env!("CARGO"))
        .args(arguments)
        .args(["--locked", "--offline"])
        .current_dir(workspace())
        .output()
        .expect("cargo runs");
    let error = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "cargo {arguments:?}: {error}");
    String::from_utf8(output.stdout).expect("cargo writes UTF-8")
}
