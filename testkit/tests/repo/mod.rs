//! The repository as its own tests see it. Test binaries do not run where they were built, so it is
//! found by the manifest's folder.

use std::{
    fs,
    path::{Path, PathBuf},
};

/// The workspace this crate stands in.
pub(crate) fn workspace() -> PathBuf {
    let here = Path::new(env!("CARGO_MANIFEST_DIR"));
    here.parent().expect("testkit has a parent").to_path_buf()
}

/// Every file below `root` that ends in `suffix`, in order, build folders and hidden ones left out.
pub(crate) fn files(root: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut files = Vec::new();
    let mut folders = vec![root.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the workspace") {
            let path = entry.expect("a folder entry").path();
            let name = path.file_name().unwrap_or_default().to_string_lossy();
            if path.is_dir() {
                if !name.starts_with('.') && name != "target" {
                    folders.push(path);
                }
            } else if name.ends_with(suffix) {
                files.push(path);
            }
        }
    }
    files.sort();
    files
}
