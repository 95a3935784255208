//! Whether the rules that redirect are still there.
//!
//! One odd connection says nothing, so no connection ever changes readiness. What does is a connection
//! of our own to ourselves: the kernel tracks it only while something in this network namespace asks it
//! to, and the rules are what asks. That finds a lost table. A table that somebody edited is found by
//! `mantlet-init --verify` alone, which runs as another user than the sidecar, whose connections the
//! rules leave alone.

use std::{io, net::Ipv4Addr, time::Duration};

use tokio::{
    net::{TcpListener, TcpStream},
    time,
};

use crate::{readiness::Blocker, sys};

/// Between two checks.
const INTERVAL: Duration = Duration::from_secs(10);
/// Between two checks, once one has failed.
const RETRY: Duration = Duration::from_secs(1);
/// So many failures in a row are no accident.
const PATIENCE: u32 = 3;

/// Keeps the readiness of the interception true.
pub(super) async fn watch(blocker: Blocker) {
    let mut failures = 0;
    loop {
        match is_tracked().await {
            Ok(true) => {
                failures = 0;
                blocker.clear();
            }
            Ok(false) => failures += 1,
            // The sidecar is short of something; whoever lacks it says so.
            Err(_) => {}
        }
        if failures >= PATIENCE {
            blocker.set(
                "interception missing: nothing in this network namespace redirects connections",
                "run mantlet-init in this pod before the sidecar, or replace the pod if its rules were deleted",
            );
        }
        time::sleep(if failures == 0 { INTERVAL } else { RETRY }).await;
    }
}

/// Whether the kernel tracks the connections of this network namespace.
async fn is_tracked() -> io::Result<bool> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await?;
    let probe = TcpStream::connect(listener.local_addr()?).await?;
    Ok(sys::original_destination(&probe).is_some())
}
