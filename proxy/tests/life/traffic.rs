//! Requests and bytes that never stop, for whatever happens meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::{Io, within};
use tokio::io::AsyncWriteExt;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::mesh::Doors;

/// Clients of each kind.
const EACH: usize = 8;

/// Clients of HTTP/1, HTTP/2 and bytes, each on one connection for as long as it lasts.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    done: watch::Sender<usize>,
    clients: Vec<JoinHandle<Vec<String>>>,
}

// === impl Traffic ===

impl Traffic {
    pub(crate) async fn start(doors: Doors) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), watch::Sender::new(0));
        let mut clients = Vec::new();
        for _ in 0..EACH {
            for (addr, protocol) in [(doors.h1, Protocol::Http1), (doors.h2, Protocol::H2c)] {
                let client = HttpClient::plain(addr, protocol).await;
                clients.push(tokio::spawn(requests(client, Arc::clone(&stop), done.clone())));
            }
            let io: Io = Box::new(connect(doors.tcp).await);
            clients.push(tokio::spawn(bytes(io, Arc::clone(&stop))));
        }
        let traffic = Self { stop, done, clients };
        traffic.goes_on().await;
        traffic
    }

    /// Waits for twenty more answers, which are more than one for each client.
    pub(crate) async fn goes_on(&self) {
        let wanted = self.answers() + 20;
        let mut done = self.done.subscribe();
        within("twenty more answers", done.wait_for(|done| *done >= wanted))
            .await
            .expect("the sender is ours");
    }

    /// How many answers there were in a second, by the clock, while this went on.
    pub(crate) async fn rate_of(&self, what: impl Future<Output = ()>) -> f64 {
        let (before, begun) = (self.answers(), Instant::now());
        what.await;
        (self.answers() - before) as f64 / begun.elapsed().as_secs_f64()
    }

    /// Ends, and fails if anything was lost.
    pub(crate) async fn nothing_was_lost(self) {
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let lost = within("the last answer", client).await.unwrap();
            assert!(lost.is_empty(), "{} of {} lost, first: {}", lost.len(), *self.done.borrow(), lost[0]);
        }
    }

    fn answers(&self) -> usize {
        *self.done.borrow()
    }
}

async fn requests(mut client: HttpClient, stop: Arc<AtomicBool>, done: watch::Sender<usize>) -> Vec<String> {
    let (get, post) = (Request::get("/"), Request::new("POST", "/").body("not to be sent twice"));
    let mut lost = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        for request in [&get, &post] {
            match client.try_send(request).await {
                Ok(response) if response.status == 200 => {}
                Ok(response) => lost.push(format!("{} {:?}", response.status, response.error())),
                Err(error) => {
                    // The app's own connection must outlive everything.
                    lost.push(error.to_string());
                    return lost;
                }
            }
            done.send_modify(|done| *done += 1);
        }
    }
    lost
}

/// One connection that stays open the whole time.
async fn bytes(mut io: Io, stop: Arc<AtomicBool>) -> Vec<String> {
    while !stop.load(Ordering::Relaxed) {
        if let Err(error) = io.write_all(b"there and back").await {
            return vec![format!("bytes: {error}")];
        }
        let _ = io.flush().await;
        assert_eq!(exactly(&mut io, 14).await, b"there and back");
        // Bytes are not what is counted: they leave the machine to the requests.
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Vec::new()
}
