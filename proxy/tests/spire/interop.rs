//! R15: go-spiffe, spiffe-rustls and Envoy talk to a sidecar and are talked to.

use std::net::SocketAddr;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{connect, exactly};
use mantlet_testkit::eventually;
use mantlet_testkit::pki::Authority;
use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::sidecar::SidecarBuilder;
use mantlet_testkit::spire::{Entry, Spire};
use mantlet_testkit::workload::{self, Library, Mode};
use tokio::io::AsyncWriteExt;

use crate::envoy::{Envoy, Identity, Neighbours};
use crate::mesh::{CLIENT, LONG, SERVER, TRUST_DOMAIN, entry, sidecar, try_call};

const PROGRAM: &str = "spiffe://spire.test/ns/other/sa/program";
const ENVOY: &str = "spiffe://spire.test/ns/edge/sa/envoy";
const OTHER: &str = "spiffe://spire.test/ns/some/sa/other";

/// A peer that starts up meanwhile: asks until the answer is 200, and gives its text.
async fn answered(addr: SocketAddr, what: &str) -> String {
    eventually(what, async || {
        try_call(addr).await.ok().filter(|response| response.status == 200).map(|response| response.text())
    })
    .await
}

#[tokio::test]
async fn r15_go_spiffe_calls_a_sidecar_with_and_without_alpn() {
    program_calls_a_sidecar(Library::GoSpiffe, "unexpected ID").await;
}

#[tokio::test]
async fn r15_spiffe_rustls_calls_a_sidecar_with_and_without_alpn() {
    program_calls_a_sidecar(Library::SpiffeRustls, "not authorized").await;
}

#[tokio::test]
async fn r15_go_spiffe_is_called_by_a_sidecar_with_and_without_alpn() {
    program_is_called_by_a_sidecar(Library::GoSpiffe).await;
}

#[tokio::test]
async fn r15_spiffe_rustls_is_called_by_a_sidecar_with_and_without_alpn() {
    program_is_called_by_a_sidecar(Library::SpiffeRustls).await;
}

/// By either HTTP version, as bytes, and not where it expects somebody else; it says so as `refusal`.
async fn program_calls_a_sidecar(library: Library, refusal: &str) {
    let Some(peers) = RealPeers::find("r15") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "server", SERVER, LONG)).await;
    spire.create(&Entry::new(PROGRAM, &peers.program(library.client()))).await;
    let app = App::start(Protocol::Http1).await;
    let echo = TcpApp::echo().await;
    let policy = format!(
        "allow other/program to * /** on {}\nallow other/program to tcp on {}\n",
        app.port(),
        echo.port()
    );
    let server = sidecar(&spire, "server", SERVER)
        .inbound(app.addr())
        .inbound(echo.addr())
        .policy(policy)
        .start()
        .await;
    let (http, tcp) = (server.inbound(0).await, server.inbound(1).await);
    let call = async |mode, alpn, addr, expect| {
        workload::call(&peers, library, &spire.endpoint(), Mode { mode, alpn }, addr, expect).await
    };

    for (alpn, version) in
        [("h2,http/1.1", "PROTO HTTP/2.0"), ("http/1.1", "PROTO HTTP/1.1"), ("", "PROTO HTTP/1.1")]
    {
        let report = call("http", alpn, http, SERVER).await.unwrap();
        assert!(report.contains("STATUS 200") && report.contains(version), "ALPN {alpn:?}: {report}");
    }
    for seen in app.seen() {
        assert!(
            seen.header("x-forwarded-client-cert").join("").contains(&format!("URI={PROGRAM}")),
            "{seen:?}"
        );
    }
    for alpn in ["mantlet-tcp", ""] {
        let report = call("tcp", alpn, tcp, SERVER).await.unwrap();
        assert!(report.contains("BODY") && report.contains("hello"), "ALPN {alpn:?}: {report}");
    }
    let wrong = call("http", "", http, OTHER).await.unwrap_err();
    assert!(wrong.contains(refusal), "{wrong}");
}

async fn program_is_called_by_a_sidecar(library: Library) {
    let Some(peers) = RealPeers::find("r15") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "client", CLIENT, LONG)).await;
    spire.create(&Entry::new(PROGRAM, &peers.program(library.server()))).await;
    let endpoint = spire.endpoint();
    let serve =
        async |mode, alpn| workload::serve(&peers, library, &endpoint, Mode { mode, alpn }, CLIENT).await;

    for alpn in ["h2,http/1.1", "http/1.1", ""] {
        let program = serve("http", alpn).await;
        let client =
            sidecar(&spire, "client", CLIENT).outbound(program.addr(), "other/program").start().await;
        let text = try_call(client.outbound(0).await).await.unwrap().text();
        assert!(text.contains(&format!("peer={CLIENT}")), "ALPN {alpn:?}: {text}");
    }
    for alpn in ["mantlet-tcp", ""] {
        let program = serve("tcp", alpn).await;
        let client =
            sidecar(&spire, "client", CLIENT).outbound(program.addr(), "other/program as tcp").start().await;
        let mut io = connect(client.outbound(0).await).await;
        io.write_all(b"over\n").await.unwrap();
        let expected = format!("peer={CLIENT} alpn={alpn:?} line=over\n");
        let answer = exactly(&mut (Box::new(io) as _), expected.len()).await;
        assert_eq!(String::from_utf8(answer).unwrap(), expected);
    }
    // Somebody else answers at the address.
    let program = serve("http", "h2").await;
    let client =
        sidecar(&spire, "client", CLIENT).outbound(program.addr(), "some/other as http").start().await;
    assert_eq!(try_call(client.outbound(0).await).await.unwrap().status, 502);
}

#[tokio::test]
async fn r15_envoy_with_sds_from_spire_calls_a_sidecar_and_is_called() {
    let Some(peers) = RealPeers::find("r15") else { return };
    let spire = Spire::start(&peers, TRUST_DOMAIN).await;
    spire.create(&entry(&spire, "sidecar", SERVER, LONG)).await;
    spire.create(&Entry::new(ENVOY, &peers.program("envoy"))).await;
    let identity = Identity::Sds { spire: &spire, id: ENVOY, trust_domain: TRUST_DOMAIN };
    let builder = || sidecar(&spire, "sidecar", SERVER);
    both_ways(&peers, &identity, builder, SERVER).await;
}

#[tokio::test]
async fn r15_envoy_with_static_certificates_calls_a_sidecar_and_is_called() {
    let Some(peers) = RealPeers::find("r15") else { return };
    let authority = Authority::new(TRUST_DOMAIN);
    let (ours, theirs) = (authority.svid(SERVER), authority.svid(ENVOY));
    let builder = || SidecarBuilder::new(env!("CARGO_BIN_EXE_mantlet-proxy")).identity(&ours);
    both_ways(&peers, &Identity::Static(&theirs), builder, SERVER).await;
}

/// Envoy calls a sidecar by either HTTP version, a sidecar calls Envoy, and an unexpected identity
/// at Envoy's place is refused.
async fn both_ways(
    peers: &RealPeers,
    identity: &Identity<'_>,
    builder: impl Fn() -> SidecarBuilder,
    own: &str,
) {
    let app = App::start(Protocol::Http1).await;
    let theirs = App::start(Protocol::Http1).await;
    let policy = format!("allow edge/envoy to * /** on {}\n", app.port());
    let server = builder().inbound(app.addr()).policy(policy).start().await;
    for alpn in ["h2", "http/1.1"] {
        let peer = (own, server.inbound(0).await);
        let around = Neighbours { caller: own, peer, alpn, app: theirs.addr() };
        let envoy = Envoy::start(peers, identity, around);
        answered(envoy.outbound, "Envoy to get through to the sidecar").await;
        let named = app.seen().last().cloned().unwrap().header("x-forwarded-client-cert").join("");
        assert!(named.contains(&format!("URI={ENVOY}")), "{named}");

        let client = builder().outbound(envoy.inbound, "edge/envoy").start().await;
        answered(client.outbound(0).await, "the sidecar to get through to Envoy").await;
        let named = theirs.seen().last().cloned().unwrap().header("x-forwarded-client-cert").join("");
        assert!(named.contains(&format!("URI={own}")), "{named}");

        let wrong = builder().outbound(envoy.inbound, "some/other as http").start().await;
        assert_eq!(try_call(wrong.outbound(0).await).await.unwrap().status, 502);
    }
}
