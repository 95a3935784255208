//! Requests and bytes that never stop, for whatever happens meanwhile.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::{Io, within};
use tokio::io::AsyncWriteExt;
use tokio::task::JoinHandle;
use tokio::time::Instant;

use crate::mesh::Doors;

/// Clients of each kind.
const EACH: usize = 4;

/// Clients of HTTP/1, HTTP/2 and bytes, each on one connection for as long as it lasts.
pub(crate) struct Traffic {
    stop: Arc<AtomicBool>,
    done: Arc<AtomicUsize>,
    begun: Instant,
    clients: Vec<JoinHandle<Vec<String>>>,
}

// === impl Traffic ===

impl Traffic {
    pub(crate) async fn start(doors: Doors) -> Self {
        let (stop, done) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let mut clients = Vec::new();
        for _ in 0..EACH {
            for (addr, protocol) in [(doors.h1, Protocol::Http1), (doors.h2, Protocol::H2c)] {
                let client = HttpClient::plain(addr, protocol).await;
                clients.push(tokio::spawn(requests(client, Arc::clone(&stop), Arc::clone(&done))));
            }
            let io: Io = Box::new(connect(doors.tcp).await);
            clients.push(tokio::spawn(bytes(io, Arc::clone(&stop))));
        }
        let traffic = Self { stop, done, begun: Instant::now(), clients };
        traffic.goes_on().await;
        traffic
    }

    /// Waits for fifty more answers.
    pub(crate) async fn goes_on(&self) {
        let wanted = self.answers() + 50;
        within("fifty more answers", async {
            while self.answers() < wanted {
                tokio::task::yield_now().await;
            }
        })
        .await;
    }

    /// Ends, fails if anything was lost, and gives how many answers there were and in which time.
    pub(crate) async fn nothing_was_lost(self) -> (usize, Duration) {
        let answered = (self.answers(), self.begun.elapsed());
        self.stop.store(true, Ordering::Relaxed);
        for client in self.clients {
            let lost = within("the last answer", client).await.unwrap();
            let done = self.done.load(Ordering::Relaxed);
            assert!(lost.is_empty(), "{} of {done} lost, first: {}", lost.len(), lost[0]);
        }
        answered
    }

    fn answers(&self) -> usize {
        self.done.load(Ordering::Relaxed)
    }
}

async fn requests(mut client: HttpClient, stop: Arc<AtomicBool>, done: Arc<AtomicUsize>) -> Vec<String> {
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
            done.fetch_add(1, Ordering::Relaxed);
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
