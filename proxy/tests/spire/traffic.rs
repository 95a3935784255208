//! Requests that never stop, for whatever happens meanwhile.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use mantlet_testkit::{eventually, within};
use tokio::task::JoinHandle;

use crate::mesh::try_call;

/// Two callers that send one request after the other, each on a connection of its own.
#[derive(Debug)]
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    callers: Vec<JoinHandle<Vec<String>>>,
}

// === impl Traffic ===

impl Traffic {
    /// Begins, and waits for the first answers.
    pub(crate) async fn start(outbound: SocketAddr) -> Self {
        let stop = Arc::new(AtomicBool::new(false));
        let done = Arc::new(AtomicUsize::new(0));
        let callers =
            (0..2).map(|_| tokio::spawn(call_on(outbound, Arc::clone(&stop), Arc::clone(&done)))).collect();
        let traffic = Self { stop, done, callers };
        traffic.goes_on().await;
        traffic
    }

    /// Waits for twenty more answers.
    pub(crate) async fn goes_on(&self) {
        let wanted = self.done.load(Ordering::Relaxed) + 20;
        eventually("twenty more requests", async || {
            (self.done.load(Ordering::Relaxed) >= wanted).then_some(())
        })
        .await;
    }

    /// Ends, and fails if any request was lost.
    pub(crate) async fn nothing_was_lost(self) {
        self.stop.store(true, Ordering::Relaxed);
        for caller in self.callers {
            let lost = within("the last request", caller).await.unwrap();
            assert!(
                lost.is_empty(),
                "{} of {} requests lost, first: {}",
                lost.len(),
                self.done.load(Ordering::Relaxed),
                lost[0]
            );
        }
    }
}

async fn call_on(outbound: SocketAddr, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
    let mut lost = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        match try_call(outbound).await {
            Ok(response) if response.status == 200 => {}
            Ok(response) => {
                lost.push(format!("{} {:?} {}", response.status, response.headers, response.text()))
            }
            Err(error) => lost.push(error.to_string()),
        }
        done.fetch_add(1, Ordering::Relaxed);
    }
    lost
}
