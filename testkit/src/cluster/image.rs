//! Images of the tests: a program and the libraries that it loads, as an archive for `ctr images import`. No daemon,
//! no base image, no registry.

use std::path::{Path, PathBuf};

use serde_json::json;
use tokio::process::Command;

use crate::real_peers::run;

/// Files by their place in the image, and what runs.
#[derive(Clone, Debug)]
pub struct Image {
    name: String,
    files: Vec<(PathBuf, PathBuf)>,
    entrypoint: Vec<String>,
}

/// What stands in a pod for the pod itself. It waits, and lets children that nobody waits for go.
const PAUSE: &str = r"
#include <signal.h>
#include <sys/wait.h>
#include <unistd.h>
static void end(int s) { _exit(0); }
static void child(int s) { while (waitpid(-1, 0, WNOHANG) > 0); }
int main(void) {
  signal(SIGTERM, end); signal(SIGINT, end); signal(SIGCHLD, child);
  for (;;) pause();
}
";

// === impl Image ===

impl Image {
    /// A program, with what the loader would load for it.
    ///
    /// # Panics
    /// When `ldd` does not say.
    pub async fn of_program(name: &str, program: &Path) -> Self {
        let file = program.file_name().expect("a program").to_string_lossy().into_owned();
        let inside = PathBuf::from(format!("/{file}"));
        let mut files = vec![(inside.clone(), program.to_owned())];
        let said = run(Command::new("ldd").arg(program)).await.unwrap_or_else(|error| panic!("{error}"));
        for line in said.lines() {
            let path = line.split_ascii_whitespace().find(|word| word.starts_with('/'));
            files.extend(path.map(|path| (PathBuf::from(path), PathBuf::from(path))));
        }
        Self { name: name.to_owned(), files, entrypoint: vec![inside.display().to_string()] }
    }

    /// Adds a file under this path.
    #[must_use]
    pub fn with(mut self, inside: &str, file: &Path) -> Self {
        self.files.push((inside.into(), file.to_owned()));
        self
    }

    /// Writes the archive into this folder, which must not be there yet.
    ///
    /// # Panics
    /// When a file cannot be read.
    pub async fn write(&self, folder: &Path) -> PathBuf {
        let root = folder.join("root");
        for (inside, file) in &self.files {
            let to = root.join(inside.strip_prefix("/").expect("a path from the root"));
            std::fs::create_dir_all(to.parent().expect("a folder")).expect("folder");
            std::fs::copy(file, &to).unwrap_or_else(|error| panic!("{}: {error}", file.display()));
        }
        std::fs::create_dir_all(root.join("tmp")).expect("folder");
        let archive = async |name: &str, of: &Path, what: &[&str]| {
            let file = folder.join(name);
            let mut tar = Command::new("tar");
            tar.args(["--create", "--owner=0", "--group=0", "--file"]).arg(&file).arg("--directory").arg(of);
            run(tar.args(what)).await.unwrap_or_else(|error| panic!("{error}"));
            file
        };
        let layer = archive("layer.tar", &root, &["."]).await;
        let sum = run(Command::new("sha256sum").arg(&layer)).await.unwrap_or_else(|error| panic!("{error}"));
        let digest = sum.split(' ').next().expect("a digest");
        let config = json!({
            "architecture": match std::env::consts::ARCH { "aarch64" => "arm64", _ => "amd64" },
            "os": "linux",
            "config": {"Entrypoint": self.entrypoint},
            "rootfs": {"type": "layers", "diff_ids": [format!("sha256:{digest}")]},
        });
        let manifest = json!([{"Config": "config.json", "RepoTags": [self.name], "Layers": ["layer.tar"]}]);
        for (name, content) in [("config.json", config), ("manifest.json", manifest)] {
            std::fs::write(folder.join(name), content.to_string()).expect("the folder is ours");
        }
        archive("image.tar", folder, &["config.json", "manifest.json", "layer.tar"]).await
    }
}

/// The archive of the pause image.
pub(super) async fn pause(folder: &Path) -> PathBuf {
    std::fs::create_dir_all(folder).expect("the folder is ours");
    let (source, program) = (folder.join("pause.c"), folder.join("pause"));
    std::fs::write(&source, PAUSE).expect("the folder is ours");
    let mut compiler = Command::new("cc");
    compiler.args(["-Os", "-s", "-static", "-o"]).arg(&program).arg(&source);
    run(&mut compiler).await.unwrap_or_else(|error| panic!("{error}"));
    let image = Image {
        name: "mantlet-pause:1".to_owned(),
        files: vec![("/pause".into(), program)],
        entrypoint: vec!["/pause".to_owned()],
    };
    image.write(&folder.join("image")).await
}
