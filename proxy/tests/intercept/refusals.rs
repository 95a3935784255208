//! Connections that have no business on the sidecar's listeners.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::Arc;

use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{Lab, POD, SERVICE, both};
use mantlet_testkit::pki::Authority;
use rustix::process::Signal;
use tokio::net::TcpStream;

use crate::fixture::{Pod, http_app, install, plain_get, sidecar};

const LOOPBACK: [IpAddr; 2] = [IpAddr::V4(Ipv4Addr::LOCALHOST), IpAddr::V6(Ipv6Addr::LOCALHOST)];
const INBOUND: u16 = 24143;
const OUTBOUND: u16 = 24140;

#[test]
fn d60_whoever_dials_the_sidecar_s_own_ports_is_closed() {
    in_namespaces!(async || {
        let pod = Pod::start("").await;
        let mut expected = 0.0;
        // From inside, where the rules leave loopback and the pod's own address alone.
        for addr in [both(LOOPBACK, INBOUND), both(POD, INBOUND)].concat() {
            assert_eq!(plain_get(&pod.lab.app, addr).await, "", "{addr}");
            expected += 1.0;
            pod.closed("inbound", "not_redirected", expected).await;
        }
        for (addr, count) in both(LOOPBACK, OUTBOUND).into_iter().zip([1.0, 2.0]) {
            assert_eq!(plain_get(&pod.lab.app, addr).await, "", "{addr}");
            pod.closed("outbound", "not_redirected", count).await;
        }
        // From elsewhere the rules refuse the one port and redirect the other.
        for addr in both(POD, INBOUND) {
            let refused = pod.lab.node.run(async move { TcpStream::connect(addr).await }).await;
            assert_eq!(refused.unwrap_err().kind(), std::io::ErrorKind::ConnectionRefused, "{addr}");
        }
        // Whoever may dial them may not make the pod unready by it: the rules are judged by the sidecar's own proof.
        let sidecar = Arc::clone(&pod.sidecar);
        let ready = pod.lab.pod.run(async move { sidecar.get("/readyz").await }).await;
        assert_eq!((ready.status, ready.text().as_str()), (200, "ready\n"));
    });
}

#[test]
fn n09_dialling_the_outbound_port_from_outside_is_a_loop_and_refused() {
    in_namespaces!(async || {
        let pod = Pod::start("").await;
        for (addr, count) in both(POD, OUTBOUND).into_iter().zip([1.0, 2.0]) {
            assert_eq!(plain_get(&pod.lab.node, addr).await, "", "{addr}");
            pod.closed("inbound", "loop", count).await;
        }
    });
}

#[test]
fn d60_a_destination_that_is_no_address_of_the_pod_is_not_forwarded() {
    in_namespaces!(async || {
        let pod = Pod::start("").await;
        // The kernel takes these for the pod's; nobody has told the sidecar that they are.
        let others: [IpAddr; 2] = ["10.244.1.77", "fd00:10:244:1::77"].map(|ip| ip.parse().unwrap());
        pod.lab.pod.command(&format!("ip addr add {}/32 dev eth0", others[0])).await;
        pod.lab.pod.command(&format!("ip addr add {}/128 dev eth0 nodad", others[1])).await;
        let apps = http_app(&pod.lab.app, both(others, 8080)).await;
        for (addr, count) in both(others, 8080).into_iter().zip([1.0, 2.0]) {
            assert_eq!(plain_get(&pod.lab.node, addr).await, "", "{addr}");
            pod.closed("inbound", "not_redirected", count).await;
        }
        assert!(apps.iter().all(|app| app.connections() == 0));
    });
}

#[test]
fn d60_without_rules_nothing_is_taken_and_nothing_is_guessed() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let authority = Authority::new("td.test");
        let builder = sidecar(&authority, &POD).arg("--unconfigured", "permissive");
        let sidecar = lab.pod.run(async move { Arc::new(builder.spawn()) }).await;
        let pod = Pod { lab, authority, sidecar };
        let started = Arc::clone(&pod.sidecar);
        pod.lab.pod.run(async move { started.outbound(1).await }).await;
        for (addr, count) in both(POD, INBOUND).into_iter().zip([1.0, 2.0]) {
            assert_eq!(plain_get(&pod.lab.node, addr).await, "", "{addr}");
            pod.closed("inbound", "not_redirected", count).await;
        }
    });
}

#[test]
fn n10_a_killed_sidecar_leaves_both_directions_refused() {
    in_namespaces!(async || {
        let pod = Pod::start("allow web/frontend to GET /** on 8080\n").await;
        let app = http_app(&pod.lab.app, both(POD, 8080)).await;
        let service = http_app(&pod.lab.node, both(SERVICE, 8080)).await;
        pod.sidecar.signal(Signal::KILL);
        for (place, addrs) in [(&pod.lab.node, both(POD, 8080)), (&pod.lab.app, both(SERVICE, 8080))] {
            for addr in addrs {
                mantlet_testkit::eventually(format!("{addr} to be refused"), async || {
                    let dialled = place.run(async move { TcpStream::connect(addr).await }).await;
                    let refused = std::io::ErrorKind::ConnectionRefused;
                    dialled.is_err_and(|error| error.kind() == refused).then_some(())
                })
                .await;
            }
        }
        assert!(app.iter().chain(&service).all(|app| app.connections() == 0));
    });
}

#[test]
fn n15_a_sidecar_in_a_pod_without_ipv6_takes_ipv4() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let off = async { std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap() };
        lab.pod.run(off).await;
        install(&lab).await;
        let authority = Authority::new("td.test");
        let [pod4, _] = POD;
        let builder = sidecar(&authority, &[pod4]).policy("allow web/frontend to GET /** on 8080\n");
        let sidecar = lab.pod.run(async move { Arc::new(builder.start().await) }).await;
        let _app = http_app(&lab.app, [SocketAddr::new(pod4, 8080)]).await;
        let client = mantlet_testkit::client::TlsClient::new(&authority.workload("web/frontend"));
        let mut http = client.http(SocketAddr::new(pod4, 8080), mantlet_testkit::apps::Protocol::Http1).await;
        assert_eq!(http.send(&mantlet_testkit::client::Request::get("/v4")).await.text(), "saw /v4");
        drop(sidecar);
    });
}
