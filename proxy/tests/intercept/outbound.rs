//! Connections of the application to elsewhere.

use std::net::SocketAddr;
use std::sync::Arc;

use mantlet_testkit::apps::{App, Protocol, TcpApp};
use mantlet_testkit::client::{HttpClient, Request, connect, exactly};
use mantlet_testkit::netns::{POD, Place, SERVICE, SIDECAR, both};
use mantlet_testkit::sidecar::{Sidecar, SidecarBuilder};
use mantlet_testkit::{Io, TempDir, in_namespaces};
use rustix::process::Signal;

use crate::fixture::{Pod, http_app};

const GREETING: &str = "5.7.44-log\n";

/// A pod with these upstreams lines.
pub(crate) async fn pod_with(policy: &str, lines: &str) -> (Pod, TempDir) {
    let dir = TempDir::new();
    let path = dir.file("upstreams", lines);
    std::os::unix::fs::chown(dir.path(), Some(SIDECAR), Some(SIDECAR)).unwrap();
    let pod = Pod::with(policy, |builder| builder.arg("--upstreams", path.display().to_string())).await;
    (pod, dir)
}

/// A workload elsewhere: its sidecar at this address, in front of an app that nobody else reaches.
pub(crate) async fn workload(
    pod: &Pod,
    short: &str,
    addr: SocketAddr,
    app: SocketAddr,
    what: &str,
) -> Sidecar {
    SidecarBuilder::new(env!("CARGO_BIN_EXE_mantlet-proxy"))
        .identity(&pod.authority.workload(short))
        .arg("--inbound", format!("{addr}={app}"))
        .policy(format!("allow shop/orders to {what} on {}\n", app.port()))
        .start()
        .await
}

/// The status and text that the application gets for a GET.
pub(crate) async fn get(place: &Place, addr: SocketAddr, path: &'static str) -> (u16, String) {
    let get = async move {
        let mut http = HttpClient::plain(addr, Protocol::Http1).await;
        let response = http.send(&Request::get(path).header("connection", "close")).await;
        (response.status, response.text())
    };
    place.run(get).await
}

#[test]
fn an_unknown_address_is_asked_for_its_protocol_and_a_server_may_speak_first() {
    in_namespaces!(async || {
        let pod = Pod::with("allow ./orders to GET / on 8080\n", |builder| {
            builder.arg("--unknown", "any-in-trust-domain")
        })
        .await;
        for service in both(SERVICE, 7000) {
            // A database that greets before its client says anything.
            let database = TcpApp::banner(GREETING).await;
            let mut mysql = workload(&pod, "data/mysql", service, database.addr(), "tcp").await;
            let greeted = async move {
                let mut io: Io = Box::new(connect(service).await);
                exactly(&mut io, GREETING.len()).await
            };
            assert_eq!(pod.lab.app.run(greeted).await, GREETING.as_bytes(), "{service}");
            mysql.signal(Signal::KILL);
            mysql.exited().await;
            // An HTTP application takes its place.
            let app = App::start(Protocol::Http1).await;
            let _web = workload(&pod, "shop/web", service, app.addr(), "GET /**").await;
            assert_eq!(get(&pod.lab.app, service, "/x").await, (200, "hello".to_owned()), "{service}");
            assert_eq!(app.only().target, "/x");
        }
    });
}

#[test]
fn a_pod_that_calls_itself_through_a_service_address_meets_its_own_policy() {
    in_namespaces!(async || {
        let service = SocketAddr::new(SERVICE[0], 8080);
        let pod_addr = SocketAddr::new(POD[0], 8080);
        let lines = format!("{service} is shop/orders as http\n");
        let (pod, _lines) = pod_with("allow ./orders to GET /self on 8080\n", &lines).await;
        // What a service is on a node: the address is rewritten to an endpoint, which is the caller.
        let forward = async { std::fs::write("/proc/sys/net/ipv4/ip_forward", "1").unwrap() };
        pod.lab.node.run(forward).await;
        for line in [
            "nft add table ip service".to_owned(),
            "nft add chain ip service pre { type nat hook prerouting priority -100 ; }".to_owned(),
            "nft add chain ip service post { type nat hook postrouting priority 100 ; }".to_owned(),
            format!(
                "nft add rule ip service pre ip daddr {} tcp dport 8080 dnat to {pod_addr}",
                service.ip()
            ),
            format!("nft add rule ip service post ip daddr {} masquerade", pod_addr.ip()),
        ] {
            pod.lab.node.command(&line).await;
        }
        let apps: Vec<Arc<App>> = http_app(&pod.lab.app, [pod_addr]).await;
        assert_eq!(get(&pod.lab.app, service, "/self").await, (200, "saw /self".to_owned()));
        assert_eq!(get(&pod.lab.app, service, "/other").await.0, 403);
        assert_eq!(apps[0].only().target, "/self");
    });
}
