//! The harness of the real peers, proved with no sidecar in between: what these programs say to each
//! other is what a sidecar has to match.

#![allow(clippy::unwrap_used)]

use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::spire::{Entry, Spire};
use mantlet_testkit::workload::{self, Library, Mode};

const SERVER: &str = "spiffe://spire.test/ns/a/sa/server";
const CLIENT: &str = "spiffe://spire.test/ns/a/sa/client";

#[tokio::test]
async fn programs_of_other_libraries_with_identities_from_spire_talk_to_each_other() {
    let Some(peers) = RealPeers::find("programs_of_other_libraries") else { return };
    let spire = Spire::start(&peers, "spire.test").await;
    for library in Library::ALL {
        spire.create(&Entry::new(SERVER, &peers.program(library.server()))).await;
        spire.create(&Entry::new(CLIENT, &peers.program(library.client()))).await;
    }
    let api = spire.endpoint();

    for (called, calling) in [
        (Library::GoSpiffe, Library::GoSpiffe),
        (Library::GoSpiffe, Library::SpiffeRustls),
        (Library::SpiffeRustls, Library::GoSpiffe),
    ] {
        for (mode, reported) in [
            (Mode { mode: "http", alpn: "h2,http/1.1" }, "PROTO HTTP/2.0"),
            (Mode { mode: "http", alpn: "" }, "PROTO HTTP/1.1"),
            (Mode { mode: "tcp", alpn: "" }, "line=hello"),
        ] {
            let server = workload::serve(&peers, called, &api, mode, CLIENT).await;
            let report = workload::call(&peers, calling, &api, mode, server.addr(), SERVER).await.unwrap();
            assert!(report.contains(&format!("PEER {SERVER}")), "{report}");
            assert!(report.contains(&format!("peer={CLIENT}")), "{report}");
            assert!(report.contains(reported), "{report}");

            workload::call(&peers, calling, &api, mode, server.addr(), CLIENT).await.unwrap_err();
        }
    }
}

#[tokio::test]
async fn spire_survives_its_agent_and_its_server() {
    let Some(peers) = RealPeers::find("spire_survives_its_agent_and_its_server") else { return };
    let mut spire = Spire::start(&peers, "spire.test").await;
    spire.kill_agent().await;
    spire.start_agent().await;
    spire.kill_server().await;
    spire.start_server().await;
    let entry = spire.create(&Entry::new(SERVER, &peers.program("gospiffe-server")).ttl(20)).await;
    spire.delete(&entry).await;
}
