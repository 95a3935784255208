//! The node that all scenarios share.

use std::path::{Path, PathBuf};
use std::sync::{OnceLock, PoisonError, RwLock};

use mantlet_testkit::cluster::{self, Cluster, Installation};
use mantlet_testkit::real_peers::RealPeers;

/// The program that starts the node and becomes its first process.
pub(crate) fn program() -> &'static Path {
    Path::new(env!("CARGO_BIN_EXE_cluster"))
}

/// What a node needs. Without it this prints why the test is skipped and how to enable it; with `TEST_REQUIRE_ALL=1`,
/// as in CI, the test fails instead.
pub(crate) fn peers(test: &str) -> Option<RealPeers> {
    let peers = RealPeers::find(test)?;
    let images = std::env::var_os("TEST_IMAGES").map(PathBuf::from);
    let missing = cluster::possible().err().or_else(|| match images {
        Some(folder) if folder.join("mantlet-proxy.tar").exists() => None,
        _ => {
            Some("no images; enable: deploy/images/build && export TEST_IMAGES=$PWD/target/images".to_owned())
        }
    });
    let Some(why) = missing else { return Some(peers) };
    let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
    assert!(!required, "{test} needs a cluster: {why}");
    eprintln!("SKIP {test}: no cluster: {why}");
    None
}

/// Runs a scenario beside others.
pub(crate) fn scenario(test: &str, body: impl AsyncFnOnce(&Cluster) + Send) {
    let Some(cluster) = shared(test) else { return };
    let _beside = TURN.read().unwrap_or_else(PoisonError::into_inner);
    perform(cluster, body);
    clear(cluster, test);
}

/// Runs a scenario that changes what all others rely on, and changes it back: nobody else runs meanwhile.
pub(crate) fn alone(test: &str, body: impl AsyncFnOnce(&Cluster) + Send) {
    let Some(cluster) = shared(test) else { return };
    let _alone = TURN.write().unwrap_or_else(PoisonError::into_inner);
    let done = std::panic::catch_unwind(std::panic::AssertUnwindSafe(|| perform(cluster, body)));
    if let Err(panic) = done {
        // The others fail for reasons of their own.
        perform(cluster, async |cluster| cluster.install(&Installation::default()).await);
        std::panic::resume_unwind(panic);
    }
    clear(cluster, test);
}

/// Deletes a scenario's namespaces, which begin with its name: the node is small.
fn clear(cluster: &Cluster, test: &str) {
    assert!(!test.contains('-'), "{test}: what follows a hyphen would be cleared with what stands before it");
    perform(cluster, async |cluster| {
        let all = cluster.must(&["get", "namespaces", "--output=name"]).await;
        let prefix = format!("namespace/{test}");
        let its = all.lines().filter(|name| *name == prefix || name.starts_with(&format!("{prefix}-")));
        let args: Vec<&str> = ["delete", "--wait=false"].into_iter().chain(its).collect();
        if args.len() > 2 {
            cluster.must(&args).await;
        }
    });
}

static TURN: RwLock<()> = RwLock::new(());

/// The node with Mantlet in it. It ends with this process, which closes the pipe that it listens to.
fn shared(test: &str) -> Option<&'static Cluster> {
    static CLUSTER: OnceLock<Cluster> = OnceLock::new();
    let peers = peers(test)?;
    let start = || {
        let cluster = Cluster::start(program(), &peers);
        perform(&cluster, async |cluster| cluster.install(&Installation::default()).await);
        cluster
    };
    Some(CLUSTER.get_or_init(start))
}

/// In a thread of its own, which is in the node's network.
pub(crate) fn perform(cluster: &Cluster, body: impl AsyncFnOnce(&Cluster) + Send) {
    let run = || {
        cluster.enter();
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("runtime");
        runtime.block_on(body(cluster));
    };
    let done = std::thread::scope(|scope| scope.spawn(run).join());
    if let Err(panic) = done {
        std::panic::resume_unwind(panic);
    }
}
