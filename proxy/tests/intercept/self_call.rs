//! A pod that calls itself.

use std::net::SocketAddr;

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{HttpClient, Request, Response};
use mantlet_testkit::directory::{Directory, INJECTOR, Protocol as Speaks, endpoint, meshed};
use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{POD, Place, both};

use crate::fixture::{Pod, http_app};

/// Where the directory is, as the sidecar reaches it.
const DIRECTORY: &str = "127.0.0.1:9444";
/// An address of a Service, which nobody has by himself.
const SERVICE: &str = "10.96.0.7:80";

async fn get(place: &Place, addr: &str, path: &'static str) -> Response {
    let addr: SocketAddr = addr.parse().unwrap();
    let get = async move {
        let mut http = HttpClient::plain(addr, Protocol::Http1).await;
        http.send(&Request::get(path).header("connection", "close")).await
    };
    place.run(get).await
}

#[test]
fn a_call_to_the_own_pod_is_judged_like_any_peer_s() {
    in_namespaces!(async || {
        let [pod4, pod6] = both(POD, 8080);
        let pod = Pod::with("allow ./orders to GET /self on 8080\n", |builder| {
            builder
                .arg("--outbound", format!("127.0.0.1:15004={pod4} is shop/orders as http"))
                .arg("--outbound", format!("127.0.0.1:15006={pod6} is shop/orders"))
                .arg("--outbound", format!("127.0.0.1:15000={pod4} is shop/other as http"))
        })
        .await;
        let apps = http_app(&pod.lab.app, [pod4, pod6]).await;
        for listener in ["127.0.0.1:15004", "127.0.0.1:15006"] {
            let answered = get(&pod.lab.app, listener, "/self").await;
            assert_eq!((answered.status, answered.text().as_str()), (200, "saw /self"), "{listener}");
            // There is no implicit allow: the sidecar being exempt from the rules is no way around policy.
            let denied = get(&pod.lab.app, listener, "/other").await;
            assert_eq!((denied.status, denied.denied().as_deref()), (403, Some("default")), "{listener}");
        }
        // And whom it expects there it must meet there.
        let other = get(&pod.lab.app, "127.0.0.1:15000", "/self").await;
        assert_eq!((other.status, other.error().as_deref()), (502, Some("tls")));
        let requests: usize = apps.iter().map(|app| app.seen().len()).sum();
        assert_eq!(requests, 2);
    });
}

#[test]
fn a_service_that_the_directory_leads_to_the_own_pod_is_judged_like_any_peer_s() {
    in_namespaces!(async || {
        let [pod4, pod6] = both(POD, 8080);
        let pod = Pod::with("allow ./orders to GET /self on 8080\n", |builder| {
            builder
                .arg("--outbound", format!("127.0.0.1:15004={SERVICE}"))
                .arg("--mesh-cidrs", "10.96.0.0/16")
                .arg("--directory", DIRECTORY)
                .arg("--directory-id", format!("spiffe://td.test/ns/{}", INJECTOR.replace('/', "/sa/")))
        })
        .await;
        let svid = pod.authority.workload(INJECTOR);
        let directory =
            pod.lab.pod.run(async move { Directory::start_as(&svid, DIRECTORY.parse().unwrap()) });
        let directory = directory.await;
        let own = [pod4, pod6].map(|addr| endpoint(addr, "shop/orders", Speaks::Http));
        directory.say(SERVICE.parse().unwrap(), meshed(own));
        let apps = http_app(&pod.lab.app, [pod4, pod6]).await;
        for _ in 0..4 {
            let answered = get(&pod.lab.app, "127.0.0.1:15004", "/self").await;
            assert_eq!((answered.status, answered.text().as_str()), (200, "saw /self"));
            let denied = get(&pod.lab.app, "127.0.0.1:15004", "/other").await;
            assert_eq!((denied.status, denied.denied().as_deref()), (403, Some("default")));
        }
        let requests: usize = apps.iter().map(|app| app.seen().len()).sum();
        assert_eq!(requests, 4);
    });
}
