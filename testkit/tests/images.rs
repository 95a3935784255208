//! The images that `deploy/images/build` writes: what is in them, and that it runs on nothing else.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, clippy::indexing_slicing)]

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use mantlet_testkit::{TempDir, tools};
use serde_json::Value;

/// Each program, and the user that it runs as.
const PROGRAMS: [(&str, &str); 3] =
    [("mantlet-proxy", "14021:14021"), ("mantlet-init", "65532:65532"), ("mantlet-injector", "65532:65532")];

/// The folder with the images; without it this prints why the test is skipped, and it is required in CI.
fn images(test: &str) -> Option<PathBuf> {
    let how = "deploy/images/build --out DIR && export TEST_IMAGES=DIR";
    let folder = std::env::var_os("TEST_IMAGES").map(PathBuf::from);
    if folder.is_none() {
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{test} needs the images: {how}");
        eprintln!("SKIP {test}: the images are not built; enable: {how}");
    }
    folder
}

fn json(path: &Path) -> Value {
    serde_json::from_slice(&fs::read(path).unwrap()).unwrap()
}

fn blob(layout: &Path, descriptor: &Value) -> PathBuf {
    let (algorithm, hash) = descriptor["digest"].as_str().unwrap().split_once(':').unwrap();
    layout.join("blobs").join(algorithm).join(hash)
}

/// Manifest, configuration and layer of an image, each where its digest says.
fn parts(folder: &Path, program: &str) -> (Value, Value, PathBuf) {
    let layout = folder.join(format!("{program}.oci"));
    let index = json(&layout.join("index.json"));
    let manifest = json(&blob(&layout, &index["manifests"][0]));
    assert_eq!(manifest["layers"].as_array().unwrap().len(), 1);
    let config = json(&blob(&layout, &manifest["config"]));
    let layer = blob(&layout, &manifest["layers"][0]);
    (manifest, config, layer)
}

fn said(command: &mut Command) -> String {
    let output = command.output().unwrap();
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    assert!(output.status.success(), "{command:?}: {} {}", text(&output.stdout), text(&output.stderr));
    text(&output.stdout)
}

/// The image's file system, with what its files may do if this is root.
fn unpacked(layer: &Path) -> TempDir {
    let root = TempDir::new();
    said(
        Command::new("tar")
            .args(["--extract", "--preserve-permissions", "--xattrs", "--xattrs-include=security.*"])
            .arg("--file")
            .arg(layer)
            .arg("--directory")
            .arg(root.path()),
    );
    root
}

fn is_root() -> bool {
    rustix::process::geteuid().is_root()
}

#[test]
fn an_image_runs_one_program_as_an_ordinary_user_and_says_where_it_is_from() {
    let Some(folder) = images("an_image_runs_one_program") else { return };
    for (program, user) in PROGRAMS {
        let (manifest, config, _) = parts(&folder, program);
        assert_eq!(config["config"]["User"], user);
        assert_eq!(config["config"]["Entrypoint"], serde_json::json!([format!("/{program}")]));
        assert_eq!(config["config"].get("Env"), None);
        for key in ["version", "revision", "created", "source", "licenses", "title"] {
            let label = format!("org.opencontainers.image.{key}");
            let value = config["config"]["Labels"][&label].as_str().unwrap();
            assert!(!value.is_empty(), "{label}");
            assert_eq!(manifest["annotations"][&label], value);
        }
    }
}

#[test]
fn an_image_holds_its_program_its_licences_and_its_bill_of_materials_and_nothing_else() {
    let Some(folder) = images("an_image_holds_its_program") else { return };
    for (program, _) in PROGRAMS {
        let (_, _, layer) = parts(&folder, program);
        let listed =
            said(Command::new("tar").args(["--list", "--verbose", "--numeric-owner", "--file"]).arg(&layer));
        let entries: Vec<Vec<&str>> = listed.lines().map(|line| line.split_whitespace().collect()).collect();
        let names: BTreeSet<&str> = entries.iter().map(|entry| *entry.last().unwrap()).collect();
        let expected = [program, "licenses/", "licenses/LICENSE", "licenses/THIRD-PARTY", "sbom.cdx.json"];
        assert_eq!(names, BTreeSet::from(expected), "{program}");
        for entry in &entries {
            assert_eq!(entry[1], "0/0", "{entry:?}");
            assert!(!entry[0].contains('s') && !entry[0][5..].contains('w'), "{entry:?}");
        }
        let root = unpacked(&layer);
        let bill = json(&root.path().join("sbom.cdx.json"));
        assert_eq!(bill["metadata"]["component"]["name"], program);
        let components = bill["components"].as_array().unwrap();
        let names: BTreeSet<&str> = components.iter().map(|one| one["name"].as_str().unwrap()).collect();
        assert!(names.contains("rustix") && names.contains("glibc"), "{names:?}");
        assert_eq!(names.contains("aws-lc-sys"), program != "mantlet-init", "{names:?}");
        assert_eq!(names.contains("kube-client"), program == "mantlet-injector", "{names:?}");
        for absent in ["serde_derive", "proptest", "mantlet-devagent"] {
            assert!(!names.contains(absent), "{program} holds {absent}");
        }
        assert!(components.iter().all(|one| one["licenses"][0]["expression"].is_string()));
        let licences = fs::read_to_string(root.path().join("licenses/THIRD-PARTY")).unwrap();
        for one in components.iter().filter(|one| one.get("hashes").is_some()) {
            let line = format!("{} {} (", one["name"].as_str().unwrap(), one["version"].as_str().unwrap());
            assert!(licences.contains(&line), "{program}: no licence of {line}");
        }
    }
}

#[test]
fn images_are_small() {
    let Some(folder) = images("images_are_small") else { return };
    for (program, most) in [("mantlet-proxy", 10_000_000), ("mantlet-init", 2_000_000)] {
        let size = fs::metadata(folder.join(format!("{program}.tar"))).unwrap().len();
        assert!(size <= most, "{program}: {size} bytes");
    }
    let (_, _, layer) = parts(&folder, "mantlet-init");
    let init = fs::metadata(unpacked(&layer).path().join("mantlet-init")).unwrap().len();
    assert!(init <= 1_500_000, "mantlet-init: {init} bytes");
}

#[test]
fn programs_start_where_there_is_nothing_else() {
    let Some(folder) = images("programs_start_where_there_is_nothing_else") else { return };
    for (program, _) in PROGRAMS {
        let (_, _, layer) = parts(&folder, program);
        let root = unpacked(&layer);
        let mut command = Command::new("unshare");
        // Root of its own namespace, if it is not root of this one: only root may change the root folder.
        command.args(if is_root() { &[][..] } else { &["--map-root-user"][..] });
        command.arg("--root").arg(root.path()).arg(format!("/{program}")).arg("--version");
        assert!(said(&mut command).contains(env!("CARGO_PKG_VERSION")), "{program}");
    }
}

#[test]
fn an_ordinary_user_installs_the_rules_by_the_capability_of_the_file() {
    let test = "an_ordinary_user_installs_the_rules";
    let Some(folder) = images(test) else { return };
    if !is_root() {
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{test} needs root");
        eprintln!("SKIP {test}: only root can give a file a capability; enable: run it as root");
        return;
    }
    let (_, _, layer) = parts(&folder, "mantlet-init");
    let root = unpacked(&layer);
    said(Command::new("chmod").arg("755").arg(root.path()));
    let install = || {
        let mut command = Command::new("unshare");
        command
            .args(["--net", "chroot", "--userspec=65532:65532", "--groups="])
            .arg(root.path())
            .arg("/mantlet-init");
        command.output().unwrap()
    };
    let done = install();
    assert!(done.status.success(), "{}", String::from_utf8_lossy(&done.stderr));

    // It is the capability that did it: a copy has none, and says what it lacks.
    let program = root.path().join("mantlet-init");
    let copy = root.path().join("copy");
    fs::copy(&program, &copy).unwrap();
    fs::rename(&copy, &program).unwrap();
    let refused = install();
    let told = String::from_utf8_lossy(&refused.stderr);
    assert_eq!(refused.status.code(), Some(1), "{told}");
    assert!(told.contains("NET_ADMIN"), "{told}");
}

#[test]
fn other_programs_read_the_images_and_see_the_same_one_in_both_forms() {
    let test = "other_programs_read_the_images";
    let Some(folder) = images(test) else { return };
    let Some(skopeo) = tools::find(test, "skopeo", "skopeo") else { return };
    for (program, _) in PROGRAMS {
        let version = env!("CARGO_PKG_VERSION");
        let layout = format!("oci:{}:{version}", folder.join(format!("{program}.oci")).display());
        let archive = format!("docker-archive:{}", folder.join(format!("{program}.tar")).display());
        let config = |image: &str| -> Value {
            let text = said(Command::new(&skopeo).args(["inspect", "--config", image]));
            serde_json::from_str(&text).unwrap()
        };
        assert_eq!(config(&layout), config(&archive));
        // Reading every byte of it, and holding it to its digests.
        let copied = TempDir::new();
        let to = format!("dir:{}", copied.path().display());
        for image in [&layout, &archive] {
            said(Command::new(&skopeo).args(["--insecure-policy", "copy", "--quiet", image, &to]));
        }
    }
}
