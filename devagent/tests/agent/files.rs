//! The entries file and stored authorities.

use std::fs;

use mantlet_devagent::{BindError, CaStorage, Config, Server};
use tonic::Code;

use crate::support::{Agent, domain, mine, own_uid, scratch, within};

fn entry(path: &str) -> String {
    format!("[[entry]]\nid = \"spiffe://a.test/{path}\"\nuid = {}\n", own_uid())
}

#[tokio::test(flavor = "multi_thread")]
async fn the_entries_file_is_live_and_a_mistake_in_it_keeps_the_last_good_entries() {
    let directory = scratch();
    let file = directory.join("entries.toml");
    fs::write(&file, entry("one")).unwrap();
    let agent = Agent::start_with(directory, |config| config.entries_file = Some(file.clone()));
    let mut stream = agent.svids().await.unwrap();
    let first = stream.next().await.unwrap();
    assert_eq!(first.svids[0].spiffe_id, "spiffe://a.test/one");

    fs::write(&file, entry("one") + &entry("two")).unwrap();
    let second = stream.next().await.unwrap();
    assert_eq!(second.svids.len(), 2);
    assert_eq!(second.svids[0], first.svids[0], "an unchanged entry keeps its SVID");

    fs::write(&file, entry("one") + "[[entry]]\nidd = 1\n").unwrap();
    let problem = within(async {
        loop {
            match agent.handle.entries_problem() {
                Some(problem) => return problem,
                None => tokio::task::yield_now().await,
            }
        }
    })
    .await;
    assert!(problem.contains("entries.toml: line 5: unknown field `idd`"), "{problem}");
    assert_eq!(agent.handle.entries().len(), 2);

    fs::write(&file, "").unwrap();
    assert_eq!(stream.end().await.code(), Code::PermissionDenied);
    assert_eq!(agent.handle.entries_problem(), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn entries_of_the_program_stay_when_the_file_changes() {
    let directory = scratch();
    let file = directory.join("entries.toml");
    fs::write(&file, entry("file")).unwrap();
    let agent = Agent::start_with(directory, |config| config.entries_file = Some(file.clone()));
    agent.handle.add_entry(mine("spiffe://a.test/program")).unwrap();
    let mut stream = agent.svids().await.unwrap();
    assert_eq!(stream.next().await.unwrap().svids.len(), 2);
    fs::write(&file, "# nothing\n").unwrap();
    let message = stream.next().await.unwrap();
    assert_eq!(message.svids.len(), 1);
    assert_eq!(message.svids[0].spiffe_id, "spiffe://a.test/program");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_does_not_start_with_a_bad_entries_file_and_says_where_the_mistake_is() {
    let directory = scratch();
    let bind = |text: Option<&str>| {
        let mut config = Config::new(directory.join("agent.sock"), domain("a.test"));
        config.entries_file = Some(directory.join("entries.toml"));
        if let Some(text) = text {
            fs::write(directory.join("entries.toml"), text).unwrap();
        }
        Server::bind(config).err().unwrap()
    };
    assert!(matches!(bind(None), BindError::EntriesFile { .. }));
    let error = bind(Some("\n[[entry]]\nid = \"spiffe://A.test/x\"\nuid = 1\n")).to_string();
    assert!(error.contains("entries.toml: line 2: id") && error.contains("lower case"), "{error}");
    assert!(!directory.join("agent.sock").exists(), "nothing is left behind");
}

#[tokio::test(flavor = "multi_thread")]
async fn an_authority_survives_a_restart_or_is_thrown_away_by_choice() {
    let directory = scratch();
    let start = |ca: CaStorage| Agent::start_with(directory.clone(), |config| config.ca = ca);
    let stored = || CaStorage::Directory(directory.join("ca"));

    let agent = start(stored());
    let first = agent.handle.bundle(&domain("a.test"));
    agent.handle.prepare_authority(&domain("a.test")).unwrap();
    agent.stop().await;
    let agent = start(stored());
    assert!(agent.handle.bundle(&domain("a.test")).starts_with(&first));
    agent.handle.activate_authority(&domain("a.test")).expect("what was prepared is still prepared");
    agent.stop().await;

    let agent = start(CaStorage::Memory);
    let thrown_away = agent.handle.bundle(&domain("a.test"));
    agent.stop().await;
    let agent = start(CaStorage::Memory);
    assert_ne!(agent.handle.bundle(&domain("a.test")), thrown_away);
    assert_ne!(agent.handle.bundle(&domain("a.test")), first);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_agent_takes_over_the_path_of_one_that_was_killed() {
    let directory = scratch();
    let socket = directory.join("agent.sock");
    // What a killed agent leaves: a socket file that nobody listens on.
    drop(std::os::unix::net::UnixListener::bind(&socket).unwrap());
    assert!(socket.exists());
    let agent = Agent::start_with(directory, |_| {});
    agent.handle.add_entry(mine("spiffe://a.test/x")).unwrap();
    agent.svids().await.unwrap().next().await.unwrap();
}
