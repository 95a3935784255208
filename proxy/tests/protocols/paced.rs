//! A reader that takes a megabyte in a second, and a sender that would send a gigabyte in one.

use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::time::{Duration, Instant};

use tokio::task::JoinSet;
use tokio::time::{sleep, timeout};

use crate::bodies::{ALL, Carrier, Direction, MIB, Receiving, Transfer, receive, send};
use crate::memory::{Memory, full_size};

/// What a sidecar may hold of a body, at any moment.
const ALLOWANCE: u64 = 8_000_000;
/// What the reader takes in a second.
const PACE: f64 = 1e6;
/// More than the sockets and both sidecars take together; a sender that nobody slows down is far past it.
const UNDER_WAY: usize = 24 * MIB;

/// Takes a megabyte in a second for this time, then as much as it can.
async fn read(mut to: Receiving, length: usize, slow: Duration, sent: &AtomicUsize) {
    let (begun, mut received) = (Instant::now(), 0);
    while begun.elapsed() < slow {
        let due = (begun.elapsed().as_secs_f64() * PACE) as usize;
        receive(&mut to, &mut received, due.min(length)).await;
        // The pace is what is tested: nothing is waited for.
        sleep(Duration::from_millis(5)).await;
    }
    let under_way = sent.load(Relaxed) - received;
    eprintln!("after {slow:?}: {received} bytes are read, {under_way} under way");
    assert!(received > 0 && under_way < UNDER_WAY, "{received} bytes are read, {under_way} under way");
    receive(&mut to, &mut received, length).await;
}

/// One transfer from its first byte to its last; what the sidecars held at most.
async fn transfer(carrier: Carrier, direction: Direction, length: usize, slow: Duration) {
    let Transfer { mut from, to, sidecars, before, _rest } = Transfer::open(carrier, direction, length).await;
    let sent = AtomicUsize::new(0);
    let sending = async {
        send(&mut from, &sent, length).await.unwrap();
        from.end();
    };
    let mut most = [0; 2];
    let watching = async {
        loop {
            for n in [0, 1] {
                most[n] = Memory::of(&sidecars[n]).since(before[n]).max(most[n]);
            }
            sleep(Duration::from_millis(50)).await;
        }
    };
    // As long as a sidecar that moves 2 MiB in a second would need.
    let patience = slow + Duration::from_secs((length / MIB / 2) as u64 + 30);
    tokio::select! {
        done = timeout(patience, async { tokio::join!(sending, read(to, length, slow, &sent)) }) => {
            done.expect("the body within its time");
        }
        () = watching => {}
    }
    eprintln!("{carrier:?} {direction:?}: grown by {most:?} bytes");
    assert!(most.iter().all(|most| *most <= ALLOWANCE), "{carrier:?} {direction:?}: {most:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_gibibyte_each_way_past_a_reader_of_a_megabyte_a_second_costs_at_most_eight_megabytes() {
    // A gibibyte in CI; less where somebody waits for the result, yet more than fits between the two ends.
    let (length, slow) = match full_size() {
        true => (1024 * MIB, Duration::from_secs(10)),
        false => (48 * MIB, Duration::from_secs(2)),
    };
    let mut all = JoinSet::new();
    for (carrier, direction) in ALL {
        all.spawn(transfer(carrier, direction, length, slow));
    }
    all.join_all().await;
}
