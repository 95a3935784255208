//! Callers from elsewhere.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use mantlet_testkit::apps::Protocol;
use mantlet_testkit::client::{Request, TlsClient};
use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{NODE, POD, both};

use crate::fixture::{Pod, http_app, plain_get};

#[test]
fn n06_a_peer_reaches_the_port_it_dialled_and_policy_is_about_that_port() {
    in_namespaces!(async || {
        let pod =
            Pod::start("allow web/frontend to GET /hello on 8080\nallow web/frontend to GET /** on 8081\n")
                .await;
        let _first = http_app(&pod.lab.app, both(POD, 8080)).await;
        let _second = http_app(&pod.lab.app, both(POD, 8081)).await;
        let client = TlsClient::new(&pod.authority.workload("web/frontend"));
        for (port, path, status) in
            [(8080, "/hello", 200), (8080, "/other", 403), (8081, "/other", 200), (8082, "/hello", 403)]
        {
            for addr in both(POD, port) {
                let mut http = client.http(addr, Protocol::Http1).await;
                let response = http.send(&Request::get(path)).await;
                assert_eq!(response.status, status, "{addr}{path}: {response:?}");
                if status == 200 {
                    assert_eq!(response.text(), format!("saw {path}"));
                }
            }
        }
        let stranger = TlsClient::new(&pod.authority.workload("web/other"));
        let mut http = stranger.http(both(POD, 8080)[0], Protocol::Http1).await;
        assert_eq!(http.send(&Request::get("/hello")).await.status, 403);
    });
}

#[test]
fn d59_plaintext_is_refused_over_ipv6_as_over_ipv4() {
    in_namespaces!(async || {
        let pod = Pod::start("allow web/frontend to GET /** on 8080\n").await;
        let apps = http_app(&pod.lab.app, both(POD, 8080)).await;
        for addr in both(POD, 8080) {
            // At most a TLS alert comes back, which a client of HTTP takes for garbage.
            let said = plain_get(&pod.lab.node, addr).await;
            assert!(!said.contains("HTTP"), "{addr}: {said}");
        }
        pod.closed("inbound", "tls", 2.0).await;
        assert!(apps.iter().all(|app| app.connections() == 0));
    });
}

/// Delivery is to the address that was dialled: rewritten to loopback, as meshes once did, it would open
/// what the app meant for itself.
#[test]
fn d73_what_an_app_serves_on_loopback_alone_is_reached_by_nobody_else() {
    in_namespaces!(async || {
        let pod = Pod::start("allow ops/dev to GET /** on 9999\nallow ops/dev to GET /** on 8080\n").await;
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), IpAddr::from(Ipv6Addr::LOCALHOST)];
        let hidden = http_app(&pod.lab.app, [both(loopback, 9999), both(loopback, 9998)].concat()).await;
        let client = TlsClient::new(&pod.authority.workload("ops/dev"));
        // With a rule for the port, and without.
        for (port, status) in [(9999, 502), (9998, 403)] {
            for addr in both(POD, port) {
                let response = client.http(addr, Protocol::Http1).await.send(&Request::get("/x")).await;
                assert_eq!(response.status, status, "{addr}: {response:?}");
            }
        }
        assert!(hidden.iter().all(|app| app.connections() == 0));
    });
}

#[test]
fn a_caller_s_address_is_its_own_in_both_families() {
    in_namespaces!(async || {
        let [node4, node6] = NODE;
        let policy = format!(
            "allow plaintext({node4}/32) to GET /** on 8080\nallow plaintext({node6}/128) to GET /** on 8081\n"
        );
        let pod = Pod::start(&policy).await;
        let _apps = http_app(&pod.lab.app, [both(POD, 8080), both(POD, 8081)].concat()).await;
        for (port, allowed) in [(8080, [true, false]), (8081, [false, true])] {
            for (addr, allowed) in both(POD, port).into_iter().zip(allowed) {
                let said = plain_get(&pod.lab.node, addr).await;
                assert_eq!(said.contains("saw /plain"), allowed, "{addr}: {said}");
            }
        }
    });
}
