//! What changes on an open stream: SVIDs, authorities, entries, the end.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use mantlet_devagent::Cause;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;
use tonic::Code;

use crate::support::{Agent, certificates, domain, mine, scratch, signer, within};

#[tokio::test(flavor = "multi_thread")]
async fn an_svid_is_renewed_at_half_life_with_a_new_key_and_a_new_serial() {
    let ttl = Duration::from_secs(2);
    let agent = Agent::start_with(scratch(), |config| config.svid_ttl = ttl);
    let mut issued = agent.handle.issuances();
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    let mut seen = BTreeSet::new();
    let begin = Instant::now();
    for _ in 0..4 {
        let message = stream.next().await.unwrap();
        let svid = &message.svids[0];
        let leaf = &certificates(&svid.x509_svid)[0];
        let left = leaf.validity().not_after.timestamp() - unix_now();
        assert!(left >= 1, "it is replaced long before it expires: {left}");
        assert!(seen.insert(svid.x509_svid_key.clone()));
    }
    // Three renewals; whole seconds make a life of 2 to 3 s, half of it give or take a tenth.
    let took = begin.elapsed();
    assert!(took >= Duration::from_millis(2_600), "{took:?}");
    let mut causes = Vec::new();
    while let Ok(issuance) = issued.try_recv() {
        causes.push(issuance.cause);
    }
    assert_eq!(causes, [Cause::First, Cause::HalfLife, Cause::HalfLife, Cause::HalfLife]);
}

#[tokio::test(flavor = "multi_thread")]
async fn another_caller_of_the_same_entry_does_not_make_the_first_one_rotate() {
    let agent = Agent::start();
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let first = agent.svids().await.unwrap().next().await.unwrap();
    let second = agent.svids().await.unwrap().next().await.unwrap();
    assert_eq!(first, second);
    agent.handle.rotate_svids();
    let third = agent.svids().await.unwrap().next().await.unwrap();
    assert_ne!(first.svids[0].x509_svid, third.svids[0].x509_svid);
}

#[tokio::test(flavor = "multi_thread")]
async fn removing_the_last_entry_ends_the_open_stream_with_permission_denied() {
    let agent = Agent::start();
    let one = agent.handle.add_entry(mine("spiffe://a.test/one")).unwrap();
    let two = agent.handle.add_entry(mine("spiffe://a.test/two")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    assert_eq!(stream.next().await.unwrap().svids.len(), 2);
    assert!(agent.handle.remove_entry(one));
    assert!(!agent.handle.remove_entry(one));
    let message = stream.next().await.unwrap();
    assert_eq!(message.svids.len(), 1);
    assert_eq!(message.svids[0].spiffe_id, "spiffe://a.test/two");
    assert!(agent.handle.remove_entry(two));
    let status = stream.end().await;
    assert_eq!((status.code(), status.message()), (Code::PermissionDenied, "no identity issued"));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_rotates_in_three_steps_without_a_moment_of_distrust() {
    let agent = Agent::start();
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    let first = stream.next().await.unwrap();
    assert_eq!(certificates(&first.svids[0].bundle).len(), 1);

    agent.handle.prepare_authority(&domain("a.test")).unwrap();
    let prepared = stream.next().await.unwrap();
    assert_eq!(certificates(&prepared.svids[0].bundle).len(), 2);
    assert_eq!(prepared.svids[0].x509_svid, first.svids[0].x509_svid);

    agent.handle.activate_authority(&domain("a.test")).unwrap();
    let activated = stream.next().await.unwrap();
    assert_ne!(activated.svids[0].x509_svid, first.svids[0].x509_svid);
    assert_eq!(signer(&activated), Some(0));
    let (old, new) = (&first.svids[0].bundle, &activated.svids[0].bundle);
    assert!(new.ends_with(old), "the old authority is still trusted");

    agent.handle.retire_authority(&domain("a.test")).unwrap();
    let retired = stream.next().await.unwrap();
    assert_eq!(retired.svids[0].x509_svid, activated.svids[0].x509_svid);
    assert_eq!(certificates(&retired.svids[0].bundle).len(), 1);
    assert_eq!(signer(&retired), Some(0));
    assert!(agent.handle.prepare_authority(&domain("c.test")).is_err());
}

#[tokio::test(flavor = "multi_thread")]
async fn the_control_socket_rotates_and_reports_line_by_line() {
    let agent = Agent::start_with(scratch(), |config| {
        config.control = Some(config.socket.with_file_name("control.sock"));
    });
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    let first = stream.next().await.unwrap();
    let mut control = Control::open(&agent).await;

    assert_eq!(control.send("svid rotate").await, ["ok"]);
    assert_ne!(stream.next().await.unwrap(), first);
    assert_eq!(control.send("ca activate").await, ["error: no authority is prepared: prepare one first"]);
    assert_eq!(control.send("ca prepare b.test").await, ["ok"]);
    assert_eq!(control.send("ca prepare").await, ["ok"]);
    assert_eq!(certificates(&stream.next().await.unwrap().svids[0].bundle).len(), 2);
    assert_eq!(control.send("ca activate a.test").await, ["ok"]);
    assert_eq!(control.send("ca retire").await, ["ok"]);
    let status = control.send("status").await;
    assert!(status[0].starts_with("authority a.test ") && status[0].contains(" active "), "{status:?}");
    assert!(status.iter().any(|line| line.starts_with("authority b.test ") && line.contains(" prepared ")));
    assert!(status.iter().any(|line| line.starts_with("entry spiffe://a.test/x uid=")), "{status:?}");
    for bad in ["", "ca", "ca prepare x y", "svid", "quit now"] {
        let answer = control.send(bad).await;
        assert!(answer[0].starts_with("error: ") && answer[0].contains("commands are"), "{answer:?}");
    }
    assert!(control.send("ca prepare c.test").await[0].contains("not served"));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stop_ends_streams_with_unavailable_and_removes_the_socket() {
    let agent = Agent::start();
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    stream.next().await.unwrap();
    let socket = agent.socket.clone();
    let directory = agent.stop().await;
    assert_eq!(stream.end().await.code(), Code::Unavailable);
    assert!(!socket.exists());
    std::fs::remove_dir(directory).expect("nothing else is left there");
}

struct Control(BufReader<UnixStream>);

impl Control {
    async fn open(agent: &Agent) -> Self {
        let path = agent.socket.with_file_name("control.sock");
        Self(BufReader::new(UnixStream::connect(path).await.unwrap()))
    }

    async fn send(&mut self, command: &str) -> Vec<String> {
        self.0.get_mut().write_all(format!("{command}\n").as_bytes()).await.unwrap();
        let mut lines = Vec::new();
        loop {
            let mut line = String::new();
            within(self.0.read_line(&mut line)).await.unwrap();
            let line = line.trim_end().to_owned();
            let last = line == "ok" || line.starts_with("error: ");
            lines.push(line);
            if last {
                return lines;
            }
        }
    }
}

fn unix_now() -> i64 {
    let now = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap();
    i64::try_from(now.as_secs()).unwrap()
}
