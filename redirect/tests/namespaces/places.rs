//! Pods that are set up in other ways: one version of IP, two interfaces, containers inside.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};

use mantlet_testkit::netns::{Counters, Lab, Net, POD, Place, SERVICE, both};
use mantlet_testkit::{eventually, in_namespaces};

use crate::fixture::{Server, answered, ask, init, intercepted};

#[test]
fn n15_a_pod_without_ipv6_is_intercepted() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let off = async { std::fs::write("/proc/sys/net/ipv6/conf/all/disable_ipv6", "1").unwrap() };
        lab.pod.run(off).await;
        lab.pod.command(&init("")).await;
        let said = lab.app.command(&init("--verify")).await;
        assert_eq!(said, "mantlet-init: verified; IPv4: redirected, IPv6: no route out\n");
        let _sidecar = Server::sidecar_of(&lab, &[Ipv4Addr::UNSPECIFIED.into()]).await;
        let (service, pod) = (SocketAddr::new(SERVICE[0], 8080), SocketAddr::new(POD[0], 8080));
        assert_eq!(answered(&lab.app, service).await, format!("out {service}"));
        assert_eq!(answered(&lab.node, pod).await, format!("in {pod}"));
        assert!(ask(&lab.app, SocketAddr::new(SERVICE[1], 8080)).await.is_err());
    });
}

#[test]
fn n16_a_second_interface_is_intercepted_too() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let path = lab.net.path();
        lab.node.command(&format!("ip link add veth1 type veth peer name eth1 netns {path}")).await;
        for (place, host, link) in [(&lab.node, 1, "veth1"), (&lab.pod, 5, "eth1")] {
            place.command(&format!("ip addr add 10.99.0.{host}/24 dev {link}")).await;
            place.command(&format!("ip addr add fd00:99::{host}/64 dev {link} nodad")).await;
            place.command(&format!("ip link set {link} up")).await;
        }
        let _sidecar = Server::sidecar(&lab).await;
        let addresses = |four: &str, six: &str| -> [IpAddr; 2] { [four, six].map(|ip| ip.parse().unwrap()) };
        for beyond in both(addresses("10.99.0.1", "fd00:99::1"), 8080) {
            assert_eq!(answered(&lab.app, beyond).await, format!("out {beyond}"));
        }
        for pod in both(addresses("10.99.0.5", "fd00:99::5"), 8080) {
            assert_eq!(answered(&lab.node, pod).await, format!("in {pod}"));
        }
    });
}

#[test]
fn n17_what_is_forwarded_from_an_inner_namespace_is_dropped() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let inner_net = Net::new();
        let inner = Place::root(&inner_net);
        let forward = async {
            for switch in ["ipv4/ip_forward", "ipv6/conf/all/forwarding"] {
                std::fs::write(format!("/proc/sys/net/{switch}"), "1").unwrap();
            }
        };
        lab.pod.run(forward).await;
        lab.pod
            .command(&format!("ip link add veth2 type veth peer name eth0 netns {}", inner_net.path()))
            .await;
        for (place, host, link) in [(&lab.pod, 1, "veth2"), (&inner, 2, "eth0")] {
            place.command(&format!("ip addr add 10.50.0.{host}/24 dev {link}")).await;
            place.command(&format!("ip addr add fd00:50::{host}/64 dev {link} nodad")).await;
            place.command(&format!("ip link set {link} up")).await;
        }
        for [net, gateway] in [["default", "10.50.0.1"], ["default", "fd00:50::1"]] {
            inner.command(&format!("ip route add {net} via {gateway}")).await;
        }
        for (net, pod) in ["10.50.0.0/24", "fd00:50::/64"].iter().zip(POD) {
            lab.node.command(&format!("ip route add {net} via {pod}")).await;
        }
        let service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        // Without the rules it does get out: what is seen below is their doing.
        for addr in both(SERVICE, 8080) {
            assert_eq!(answered(&inner, addr).await, "direct");
        }
        lab.pod.command(&init("")).await;
        let _sidecar = Server::sidecar(&lab).await;
        for (addr, count) in both(SERVICE, 8080).into_iter().zip(1..) {
            let dial = inner.run(async move { tokio::net::TcpStream::connect(addr).await.map(drop) });
            let dropped = eventually(format!("{addr}: a dropped packet"), async || {
                (Counters::read(&lab.pod).await.packets("flt_fwd", "*") >= count).then_some(())
            });
            tokio::select! {
                () = dropped => {}
                connected = dial => panic!("{addr}: {connected:?}"),
            }
        }
        assert_eq!(service.accepted(), 2);
        // Its way to the pod itself is like anybody's.
        for pod in both(POD, 8080) {
            assert_eq!(answered(&inner, pod).await, format!("in {pod}"));
        }
    });
}
