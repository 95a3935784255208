//! curl, as an application behind a sidecar and as a peer with an SVID of its own.

use std::path::Path;

use mantlet_testkit::TempDir;
use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::real_peers::{installed, run};
use tokio::process::Command;

use crate::common::{Inbound, app_and_inbound};

const ALLOW: &str = "allow web/frontend to GET,HEAD,PUT /**\n";

async fn curl(program: &Path, arguments: &[&str]) -> String {
    let mut command = Command::new(program);
    command.args(["--silent", "--show-error", "--include", "--max-time", "25"]).args(arguments);
    run(&mut command).await.unwrap()
}

/// An app that says how long the body was and which version it was asked in.
async fn measuring(protocol: Protocol) -> App {
    App::with(protocol, |seen| async move {
        let expect = seen.header("expect").len();
        Reply::ok(format!("{} {} bytes, {expect} expectations", seen.version, seen.body.len()))
            .header("trailer", "x-sum")
            .trailer("x-sum", "9")
    })
    .await
}

#[tokio::test]
async fn curl_uploads_and_reads_trailers_by_every_version() {
    let Some(program) = installed("curl", "curl", "curl") else { return };
    let dir = TempDir::new();
    // Above a mebibyte curl waits for 100 Continue.
    let file = dir.file("large", vec![b'x'; 3 << 20]).display().to_string();
    for (protocol, version, status) in [
        (Protocol::Http1, "--http1.0", "HTTP/1.0"),
        (Protocol::Http1, "--http1.1", "HTTP/1.1"),
        (Protocol::H2c, "--http2-prior-knowledge", "HTTP/2"),
    ] {
        let app = measuring(protocol).await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let url = format!("http://{addr}/up");
        let said = curl(&program, &[version, "-H", "TE: trailers", "-T", &file, &url]).await;
        assert!(said.contains(&format!("{status} 200")), "{said}");
        assert!(said.contains(&format!("{status} 3145728 bytes, 0 expectations")), "{said}");
        let chunked = ["-H", "Transfer-Encoding: chunked", "-H", "TE: trailers", "-T", &file, &url];
        if version == "--http1.1" {
            let said = curl(&program, &chunked).await;
            assert!(said.contains("3145728 bytes") && said.contains("x-sum: 9"), "{said}");
        }
        let said = curl(&program, &[version, "--head", &url]).await;
        assert!(said.contains(&format!("{status} 200")), "{said}");
        let said = curl(&program, &[version, "-X", "DELETE", &url]).await;
        assert!(
            said.contains(&format!("{status} 403")) && said.contains("x-mantlet-denied: default"),
            "{said}"
        );
    }
}

#[tokio::test]
async fn curl_with_an_svid_is_a_peer_by_either_version() {
    let Some(program) = installed("curl", "curl", "curl") else { return };
    let (app, inbound) = app_and_inbound(Protocol::Http1, ALLOW).await;
    let svid = inbound.authority.workload("web/frontend");
    let dir = TempDir::new();
    let (cert, key) = (dir.file("cert", svid.chain_pem()), dir.file("key", svid.key_pem()));
    let url = format!("https://{}/a", inbound.addr);
    for (version, status) in [("--http1.1", "HTTP/1.1 200"), ("--http2", "HTTP/2 200")] {
        // An SVID names no host: curl cannot check whom it reaches, the sidecar checks curl.
        let (cert, key) = (cert.display().to_string(), key.display().to_string());
        let said = curl(&program, &[version, "--insecure", "--cert", &cert, "--key", &key, &url]).await;
        assert!(said.contains(status) && said.contains("hello"), "{said}");
        let named = app.seen().last().unwrap().header("x-forwarded-client-cert").join("");
        assert!(named.contains(&format!("URI={}", svid.id)), "{named}");
    }
    let stranger = run(Command::new(&program).args(["--silent", "--insecure", &url])).await;
    assert!(stranger.is_err(), "no certificate, no answer: {stranger:?}");
}
