//! Rules that are replaced, and rules that are lost, under traffic.

use std::io::ErrorKind;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use mantlet_redirect::{Config, PortRange, Ruleset, apply};
use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{POD, SERVICE, SIDECAR, both};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::fixture::{Server, ask, intercepted};

#[test]
fn no_connection_passes_while_the_rules_are_replaced() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        let _app = Server::app(&lab.app, both(POD, 8080)).await;
        let over = Arc::new(AtomicBool::new(false));
        let done = Arc::clone(&over);
        let replacing = std::thread::spawn({
            let net = lab.net.clone();
            move || {
                let rules = ["9000", "9000-9999,25"].map(|ports| {
                    let skip_outbound_ports = PortRange::parse_list(ports).unwrap();
                    Ruleset::new(Config { skip_outbound_ports, ..Config::new(SIDECAR, SIDECAR) }).unwrap()
                });
                net.enter();
                for ruleset in rules.iter().cycle().take(300) {
                    apply(ruleset).unwrap();
                }
                done.store(true, Ordering::Relaxed);
            }
        });
        let mut asked = 0;
        while !over.load(Ordering::Relaxed) || asked < 40 {
            for (from, addrs, word) in
                [(&lab.app, both(SERVICE, 8080), "out"), (&lab.node, both(POD, 8080), "in")]
            {
                for addr in addrs {
                    assert_eq!(ask(from, addr).await, Ok(format!("{word} {addr}")), "connection {asked}");
                    asked += 1;
                }
            }
        }
        replacing.join().unwrap();
    });
}

#[test]
fn n11_a_connection_outlives_the_replacement_of_the_rules() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        for service in both(SERVICE, 8080) {
            let connect = async move {
                let mut tcp = TcpStream::connect(service).await.unwrap();
                let mut said = vec![0; format!("out {service}\n").len()];
                tcp.read_exact(&mut said).await.unwrap();
                tcp
            };
            let mut tcp = lab.app.run(connect).await;
            lab.pod
                .run(async { apply(&Ruleset::new(Config::new(SIDECAR, SIDECAR)).unwrap()).unwrap() })
                .await;
            let echo = async move {
                tcp.write_all(b"still here").await.unwrap();
                let mut said = [0; 10];
                tcp.read_exact(&mut said).await.unwrap();
                said
            };
            assert_eq!(&lab.app.run(echo).await, b"still here");
        }
    });
}

#[test]
fn n11_a_nat_half_that_is_lost_lets_nothing_out_in_the_clear() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _service = Server::app(&lab.node, both(SERVICE, 8080)).await;
        let _app = Server::app(&lab.app, both(POD, 8080)).await;
        for chain in ["nat_pre", "nat_out"] {
            lab.pod.command(&format!("nft flush chain inet mantlet {chain}")).await;
        }
        for (from, addrs) in [(&lab.app, both(SERVICE, 8080)), (&lab.node, both(POD, 8080))] {
            for addr in addrs {
                assert_eq!(ask(from, addr).await, Err(ErrorKind::ConnectionRefused), "{addr}");
            }
        }
    });
}
