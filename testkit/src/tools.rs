//! Programs of the distribution that some tests run.

use std::path::PathBuf;

/// The program `name` on the PATH. Without it this prints why the test is skipped and how to enable it, and the test
/// returns; with `TEST_REQUIRE_ALL=1`, as in CI, the test fails instead.
///
/// # Panics
/// When it is required and not there.
pub fn find(test: &str, name: &str, package: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    let found = std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file());
    if found.is_none() {
        let how = format!("apt-get install {package}");
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
        assert!(!required, "{test} needs {name}: {how}");
        eprintln!("SKIP {test}: {name} is not installed; enable: {how}");
    }
    found
}
