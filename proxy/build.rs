//! What `mantlet_build_info` says: the compiler's version, and the commit where whoever builds a release
//! names it.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let commit = env::var("BUILD_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().ok().map(|output| output.stdout);
    let version = said.and_then(|said| String::from_utf8(said).ok());
    let version = version.as_deref().and_then(|said| said.split(' ').nth(1)).unwrap_or("unknown").to_owned();
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_RUSTC={version}");
}
