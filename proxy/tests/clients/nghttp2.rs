//! nghttp2's client and its load generator.

use mantlet_testkit::apps::{App, Protocol, Reply};
use mantlet_testkit::real_peers::{installed, run};
use tokio::process::Command;

use crate::common::Inbound;

const ALLOW: &str = "allow web/frontend to GET,POST /**\n";

#[tokio::test]
async fn nghttp_gets_and_posts_through_two_sidecars() {
    let Some(nghttp) = installed("nghttp", "nghttp", "nghttp2-client") else { return };
    let app = App::with(Protocol::H2c, |seen| async { Reply::ok(seen.body).trailer("x-sum", "9") }).await;
    let inbound = Inbound::start(app.addr(), ALLOW).await;
    let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
    let body = mantlet_testkit::TempDir::new();
    let file = body.file("body", "from a file");
    // nghttp sends its body with a trailer of its own, and priorities that nobody uses.
    let mut command = Command::new(&nghttp);
    command.args(["-v", "--trailer", "x-part: 1", "-H", "te: trailers", "-d"]);
    command.arg(&file).arg(format!("http://{addr}/a?b=c"));
    let said = run(&mut command).await.unwrap();
    assert!(said.contains(":status: 200") && said.contains("from a file"), "{said}");
    assert!(said.contains("x-sum: 9"), "{said}");
    let seen = app.only();
    assert_eq!((seen.method.as_str(), seen.target.as_str()), ("POST", "/a?b=c"));
    assert_eq!(seen.trailer("x-part"), ["1"]);

    let mut command = Command::new(&nghttp);
    command.args(["-v", "-H", ":method: DELETE"]).arg(format!("http://{addr}/a"));
    let said = run(&mut command).await.unwrap();
    assert!(said.contains(":status: 403") && said.contains("x-mantlet-denied: default"), "{said}");
}

#[tokio::test]
async fn h2load_loses_no_request_by_either_version() {
    let Some(h2load) = installed("h2load", "h2load", "nghttp2-client") else { return };
    for (protocol, version) in [(Protocol::H2c, "--no-tls-proto=h2c"), (Protocol::Http1, "--h1")] {
        let app = App::start(protocol).await;
        let inbound = Inbound::start(app.addr(), ALLOW).await;
        let (_caller, addr) = inbound.caller("web/frontend", " as http").await;
        let mut command = Command::new(&h2load);
        command.args(["-n", "2000", "-c", "8", "-m", "20", version]).arg(format!("http://{addr}/load"));
        let said = run(&mut command).await.unwrap();
        let all = "2000 total, 2000 started, 2000 done, 2000 succeeded, 0 failed, 0 errored, 0 timeout";
        assert!(said.contains(all), "{version}: {said}");
        assert_eq!(app.seen().len(), 2000, "{version}");
    }
}
