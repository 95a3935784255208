//! From the pod to elsewhere.

use std::io::ErrorKind;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

use mantlet_testkit::netns::{APP, Counters, POD, Place, SERVICE, both};
use mantlet_testkit::{eventually, in_namespaces};
use tokio::net::UdpSocket;

use crate::fixture::{Server, X, answered, ask, intercepted};

#[test]
fn n01_the_app_s_connection_arrives_at_the_outbound_listener_with_its_destination() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        for service in both(SERVICE, 8080) {
            assert_eq!(answered(&lab.app, service).await, format!("out {service}"));
            // Root in the pod is an application like any other.
            assert_eq!(answered(&lab.pod, service).await, format!("out {service}"));
        }
        assert_eq!(Counters::read(&lab.pod).await.packets("nat_out", "redirect"), 4);
    });
}

#[test]
fn n02_the_sidecar_s_own_connection_goes_out_directly() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        for service in both(SERVICE, 8080) {
            assert_eq!(answered(&lab.sidecar, service).await, "direct");
        }
        assert_eq!(Counters::read(&lab.pod).await.packets("nat_out", "redirect"), 0);
    });
}

#[test]
fn n03_the_sidecar_s_user_or_group_alone_exempts_nothing() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        for (user, group) in [(X, APP), (APP, X)] {
            let half = Place::user(&lab.net, user, group);
            for service in both(SERVICE, 8080) {
                assert_eq!(answered(&half, service).await, format!("out {service}"), "{user}:{group}");
            }
        }
    });
}

#[test]
fn n04_loopback_and_the_pod_s_own_address_are_reached_directly() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let loopback = [IpAddr::from(Ipv4Addr::LOCALHOST), Ipv6Addr::LOCALHOST.into()];
        let own = [both(loopback, 8081), both(POD, 8080)].concat();
        let _app = Server::app(&lab.app, own.clone()).await;
        for addr in own {
            assert_eq!(answered(&lab.app, addr).await, "direct", "{addr}");
        }
        let counters = Counters::read(&lab.pod).await;
        assert_eq!((counters.packets("nat_out", "*"), counters.packets("nat_pre", "*")), (0, 0));
    });
}

#[test]
fn n05_skipped_ports_and_networks_are_reached_directly() {
    in_namespaces!(async || {
        let lab = intercepted(
            "--skip-outbound-ports 3306,9000-9010 --skip-outbound-cidrs 10.244.2.8/30,fd00:10:244:2::/64",
        )
        .await;
        let _sidecar = Server::sidecar(&lab).await;
        let [node4, node6] = mantlet_testkit::netns::NODE;
        let addr = |ip, port| SocketAddr::new(ip, port);
        // A network skips every port of its addresses.
        let mut skipped: Vec<SocketAddr> = both(SERVICE, 8080).to_vec();
        // A port skips every address: the first and the last of a range, and DNS over TCP.
        for port in [3306, 9000, 9010, 53] {
            skipped.extend([addr(node4, port), addr(node6, port)]);
        }
        let captured = [8999, 9011, 3307, 443].map(|port| [addr(node4, port), addr(node6, port)]).concat();
        let _node = Server::app(&lab.node, [skipped.clone(), captured.clone()].concat()).await;
        for skipped in skipped {
            assert_eq!(answered(&lab.app, skipped).await, "direct", "{skipped}");
        }
        for captured in captured {
            assert_eq!(answered(&lab.app, captured).await, format!("out {captured}"));
        }
    });
}

#[test]
fn n10_without_the_sidecar_both_directions_are_refused() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        let _app = Server::app(&lab.app, both(POD, 8080)).await;
        // Never started, and killed, is the same to the rules.
        for round in ["never started", "gone"] {
            for (from, to) in [(&lab.app, both(SERVICE, 8080)), (&lab.node, both(POD, 8080))] {
                for addr in to {
                    // Its listeners go one after the other; what was in their queues is reset.
                    eventually(format!("{round}: {addr} to be refused"), async || {
                        let asked = ask(from, addr).await;
                        assert!(asked.is_err() || round == "gone", "{round}: {addr}: {asked:?}");
                        (asked == Err(ErrorKind::ConnectionRefused)).then_some(())
                    })
                    .await;
                }
            }
            let [service, _] = both(SERVICE, 8080);
            let sidecar = Server::sidecar(&lab).await;
            assert_eq!(answered(&lab.app, service).await, format!("out {service}"));
            drop(sidecar);
        }
    });
}

#[test]
fn n13_udp_passes_or_is_refused_by_the_mode_and_name_resolution_passes_always() {
    in_namespaces!(async || {
        for (arguments, refused) in [("--udp pass", None), ("--udp reject-quic", Some(443))] {
            let lab = intercepted(arguments).await;
            for service in [53, 123, 443].map(|port| both(SERVICE, port)).concat() {
                let echo = async move {
                    let socket = UdpSocket::bind(service).await.unwrap();
                    let echo = tokio::spawn(async move {
                        let mut buffer = [0; 16];
                        while let Ok((length, from)) = socket.recv_from(&mut buffer).await {
                            let _ = socket.send_to(&buffer[..length], from).await;
                        }
                    });
                    echo.abort_handle()
                };
                let echo = lab.node.run(echo).await;
                let exchange = async move {
                    let local: SocketAddr =
                        if service.is_ipv4() { "0.0.0.0:0" } else { "[::]:0" }.parse().unwrap();
                    let socket = UdpSocket::bind(local).await?;
                    socket.connect(service).await?;
                    socket.send(b"?").await?;
                    let mut answer = [0; 16];
                    let received = socket.recv(&mut answer);
                    mantlet_testkit::within(format!("UDP from {service}"), received).await
                };
                let exchanged = lab.app.run(exchange).await;
                assert_eq!(exchanged.is_err(), refused == Some(service.port()), "{arguments}: {service}");
                echo.abort();
            }
            // The next round makes a node's link of the same name.
            lab.node.command("ip link del veth0").await;
            lab.node.command("ip addr flush dev lo").await;
        }
    });
}

#[test]
fn n18_over_ten_thousand_connections_the_counters_equal_what_was_accepted() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let sidecar = Server::sidecar(&lab).await;
        let mut expected = 0;
        for (place, addrs, each) in
            [(&lab.app, both(SERVICE, 8080), 2500), (&lab.node, both(POD, 8080), 2500)]
        {
            for addr in addrs {
                let clients = async move {
                    let mut clients = tokio::task::JoinSet::new();
                    for _ in 0..50 {
                        clients.spawn(async move {
                            for _ in 0..each / 50 {
                                let mut tcp = tokio::net::TcpStream::connect(addr).await.unwrap();
                                let mut first = [0; 1];
                                tokio::io::AsyncReadExt::read_exact(&mut tcp, &mut first).await.unwrap();
                            }
                        });
                    }
                    clients.join_all().await;
                };
                mantlet_testkit::within(format!("{each} connections to {addr}"), place.run(clients)).await;
                expected += each;
            }
        }
        assert_eq!(sidecar.accepted(), expected);
        let counters = Counters::read(&lab.pod).await;
        let counted = counters.packets("nat_out", "redirect") + counters.packets("nat_pre", "redirect");
        assert_eq!(counted, expected as u64);
        // Nothing else was touched.
        assert_eq!(counters.packets("flt_out", "reject"), 0);
        assert_eq!(counters.packets("flt_in", "reject"), 0);
    });
}
