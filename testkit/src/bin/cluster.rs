//! A real cluster of one node, for exploring and for the tests; CONTRIBUTING.md says how.
//!
//! ```text
//! cluster up [--bare]        starts one, with Mantlet in it, and leaves it running
//! cluster kubectl ARGS...    kubectl as its administrator
//! cluster run COMMAND...     any program in its namespaces
//! cluster down               ends it; fails if anything is left of it
//! cluster figures            measures on a node of its own what Mantlet costs a pod
//! ```
#![allow(clippy::print_stdout)]

use std::path::{Path, PathBuf};
use std::process::ExitCode;

use mantlet_testkit::cluster::{self, Cluster, Installation, Parts};
use mantlet_testkit::real_peers::RealPeers;

fn main() -> ExitCode {
    let args: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = args.iter().map(String::as_str).collect();
    match act(&words) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("cluster: {error}");
            ExitCode::FAILURE
        }
    }
}

fn act(words: &[&str]) -> Result<ExitCode, String> {
    let peers = RealPeers::find("cluster").ok_or("the programs of the cluster are not built")?;
    let left = cluster::left_folder();
    match words {
        ["up", rest @ ..] => up(&peers, rest),
        ["kubectl", args @ ..] => {
            let cluster = Cluster::attach(&peers, &left)?;
            run(cluster.inside(&cluster.program("kubectl")).args(args))
        }
        ["run", program, args @ ..] => {
            run(Cluster::attach(&peers, &left)?.inside(Path::new(program)).args(args))
        }
        ["down"] => {
            Cluster::attach(&peers, &left)?.down()?;
            Ok(ExitCode::SUCCESS)
        }
        ["figures"] => figures(&peers),
        // For the test of what a killed owner leaves behind: nothing.
        ["hold"] => {
            let program = std::env::current_exe().map_err(|error| error.to_string())?;
            let cluster = Cluster::start(&program, &peers);
            println!("{} {}", cluster.first_process(), cluster.dir().display());
            loop {
                std::thread::park();
            }
        }
        // What runs inside; not for people.
        ["serve", dir, how] => {
            let parts = Parts { peers, images: images(), app: beside("cluster-app") };
            let runtime = tokio::runtime::Runtime::new().map_err(|error| error.to_string())?;
            let serve = || runtime.block_on(cluster::serve(Path::new(dir), parts, *how == "--attached"));
            // The first process is to end when a part does not start, and must not wait for its standard input.
            match std::panic::catch_unwind(std::panic::AssertUnwindSafe(serve)) {
                Ok(()) => Ok(ExitCode::SUCCESS),
                Err(_) => std::process::exit(101),
            }
        }
        _ => Err("usage: cluster up [--bare] | kubectl ARGS.. | run COMMAND.. | down | figures".to_owned()),
    }
}

fn up(peers: &RealPeers, rest: &[&str]) -> Result<ExitCode, String> {
    cluster::possible()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let dir = cluster::left_folder();
    if Cluster::attach(peers, &dir).is_ok() {
        return Err("one runs already; end it: cluster down".to_owned());
    }
    if rest != ["--bare"] {
        need_images()?;
    }
    let cluster = Cluster::leave(&program, peers, &dir);
    if rest != ["--bare"] {
        on_node(&cluster, cluster.install(&Installation::default()))?;
    }
    println!("The node runs, its files are in {}. Try: cluster kubectl get pods -A", dir.display());
    Ok(ExitCode::SUCCESS)
}

fn figures(peers: &RealPeers) -> Result<ExitCode, String> {
    cluster::possible()?;
    need_images()?;
    let program = std::env::current_exe().map_err(|error| error.to_string())?;
    let cluster = Cluster::start(&program, peers);
    let lines = on_node(&cluster, async {
        cluster.install(&Installation::default()).await;
        cluster::figures(&cluster).await
    })?;
    for line in lines {
        println!("{line}");
    }
    cluster.down()?;
    Ok(ExitCode::SUCCESS)
}

/// In the node's network, where this thread stays.
fn on_node<T>(cluster: &Cluster, what: impl Future<Output = T>) -> Result<T, String> {
    cluster.enter();
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    Ok(runtime.map_err(|error| error.to_string())?.block_on(what))
}

fn need_images() -> Result<(), String> {
    match images() {
        Some(_) => Ok(()),
        None => {
            Err("TEST_IMAGES names no folder with images; make them: deploy/images/build --out FOLDER"
                .to_owned())
        }
    }
}

fn images() -> Option<PathBuf> {
    std::env::var_os("TEST_IMAGES").map(PathBuf::from)
}

fn beside(name: &str) -> PathBuf {
    std::env::current_exe().expect("a program").with_file_name(name)
}

fn run(command: &mut std::process::Command) -> Result<ExitCode, String> {
    let status = command.status().map_err(|error| error.to_string())?;
    Ok(if status.success() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}
