//! Tests as an ordinary user, on a machine where they are run by root.

use std::path::Path;
use std::process::Command;

use super::{INSIDE, NEEDED, WAYS};
use crate::TempDir;

/// An ordinary user that every machine has: `nobody`.
const NOBODY: &str = "65534";
/// `$1`: a folder for what is mounted; `$2`: the folder of the programs; the rest is run as nobody. All mounts are
/// in a namespace that ends with it.
const SCRIPT: &str = r#"
set -eu
scratch=$1 programs=$2
shift 2
mount --bind "$scratch/ids" /etc/subuid
mount --bind "$scratch/ids" /etc/subgid
# The programs are found by their own path. A folder above them that is closed to others is covered with one that is not.
closed=
path=$programs
while [ "$path" != / ]; do
  case $(stat -c %A "$path") in *x|*t) ;; *) closed=$path ;; esac
  path=$(dirname "$path")
done
if [ -n "$closed" ]; then
  mount --bind "$programs" "$scratch/programs"
  mount -t tmpfs -o mode=755 none "$closed"
  mkdir -p "$programs"
  mount --bind "$scratch/programs" "$programs"
fi
cd /
exec setpriv --reuid 65534 --regid 65534 --clear-groups "$@"
"#;

/// Runs these tests of this test program again as an ordinary user with a range of users, where this process is
/// root; otherwise they have been run by such a user anyway. `built` is a program of the same folder that they use.
/// Where that cannot be done it prints why and how it could, and returns; with `TEST_REQUIRE_ALL=1` it fails instead.
///
/// # Panics
/// When one of the tests fails.
pub fn as_ordinary_user(test: &str, built: &str, tests: &[&str]) {
    if !rustix::process::getuid().is_root() || std::env::var_os(INSIDE).is_some() {
        return;
    }
    let scratch = TempDir::new();
    scratch.file("ids", format!("{NOBODY}:200000:65536\nnobody:200000:65536\n"));
    std::fs::create_dir(scratch.path().join("programs")).expect("a folder");
    let program = std::env::current_exe().expect("the test's program");
    let folder = Path::new(built).parent().expect("a program in a folder");
    assert!(program.starts_with(folder), "{} is not in {}", program.display(), folder.display());
    let as_nobody = || {
        let mut command = Command::new("unshare");
        command.args(["--mount", "--propagation", "private", "sh", "-c", SCRIPT, "sh"]);
        command.arg(scratch.path()).arg(folder).env_remove("HOME");
        command
    };
    let [_, ordinary] = WAYS;
    let possible = as_nobody().args(ordinary).args(["sh", "-c", NEEDED]).output().expect("unshare runs");
    if !possible.status.success() {
        let why = String::from_utf8_lossy(&possible.stderr).trim().to_owned();
        let how = "apt-get install uidmap iproute2 nftables, on a kernel with user namespaces";
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{test} needs namespaces of an ordinary user: {why}; enable: {how}");
        return eprintln!("SKIP {test}: no namespaces of an ordinary user: {why}; enable: {how}");
    }
    for name in tests {
        let mut again = as_nobody();
        again.arg(&program).args([name, "--exact", "--nocapture", "--test-threads=1"]);
        let output = again.env("TEST_REQUIRE_ALL", "1").output().expect("unshare runs");
        let said = String::from_utf8_lossy(&output.stdout) + String::from_utf8_lossy(&output.stderr);
        assert!(output.status.success() && said.contains("1 passed"), "{name} as an ordinary user:\n{said}");
    }
}
