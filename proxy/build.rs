//! What `mantlet_build_info` says: the compiler's version, and the commit where whoever builds a release
//! names it. And how it is linked.

use std::{env, process::Command};

fn main() {
    println!("cargo::rerun-if-env-changed=BUILD_COMMIT");
    println!("cargo::rerun-if-changed=build.rs");
    let commit = env::var("BUILD_COMMIT").unwrap_or_else(|_| "unknown".to_owned());
    let rustc = env::var_os("RUSTC").unwrap_or_else(|| "rustc".into());
    let said = Command::new(rustc).arg("--version").output().ok().map(|output| output.stdout);
    let version = said.and_then(|said| String::from_utf8(said).ok());
    let version = version.as_deref().and_then(|said| said.split(' ').nth(1)).unwrap_or("unknown").to_owned();
    if packs_relocations() {
        println!("cargo::rustc-link-arg-bins=-Wl,-z,pack-relative-relocs");
    }
    println!("cargo::rustc-env=BUILD_COMMIT={commit}");
    println!("cargo::rustc-env=BUILD_RUSTC={version}");
}

/// A position-independent program relocates each pointer of its tables at start. Packed, the list of them is a
/// hundredth as large: 0.24 MB of a release. glibc reads that since 2.36, also when it is linked statically; a program
/// packed here does not start with an older one, so the machine that builds has to have it.
fn packs_relocations() -> bool {
    let is = |name: &str, value: &str| env::var(name).is_ok_and(|set| set == value);
    let at_home = env::var_os("HOST") == env::var_os("TARGET");
    at_home
        && is("PROFILE", "release")
        && is("CARGO_CFG_TARGET_OS", "linux")
        && is("CARGO_CFG_TARGET_ENV", "gnu")
        && glibc().is_some_and(|version| version >= (2, 36))
}

/// The version of this machine's C library: `glibc 2.36`.
fn glibc() -> Option<(u32, u32)> {
    let said = Command::new("getconf").arg("GNU_LIBC_VERSION").output().ok()?.stdout;
    let said = String::from_utf8(said).ok()?;
    let (major, minor) = said.trim().strip_prefix("glibc ")?.split_once('.')?;
    Some((major.parse().ok()?, minor.split('.').next()?.parse().ok()?))
}
