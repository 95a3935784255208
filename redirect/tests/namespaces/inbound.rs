//! From elsewhere to the pod.

use std::io::ErrorKind;

use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{Counters, POD, both};

use crate::fixture::{HEALTH, INBOUND, OUTBOUND, Server, answered, ask, intercepted};

#[test]
fn n06_a_connection_to_the_app_s_port_arrives_at_the_inbound_listener_with_its_destination() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        let _app = Server::app(&lab.app, both(POD, 8080)).await;
        for pod in both(POD, 8080) {
            assert_eq!(answered(&lab.node, pod).await, format!("in {pod}"));
        }
        // So does one to a port where nobody listens: the sidecar answers for all of them.
        for pod in both(POD, 9) {
            assert_eq!(answered(&lab.node, pod).await, format!("in {pod}"));
        }
        assert_eq!(Counters::read(&lab.pod).await.packets("nat_pre", "redirect"), 4);
    });
}

#[test]
fn n07_the_health_port_and_skipped_ports_are_reached_as_they_are() {
    in_namespaces!(async || {
        let lab = intercepted("--skip-inbound-ports 8443,9000-9002").await;
        let _sidecar = Server::sidecar(&lab).await;
        let skipped = [8443, 9000, 9002].map(|port| both(POD, port)).concat();
        let _app = Server::app(&lab.app, skipped.clone()).await;
        for health in both(POD, HEALTH) {
            assert_eq!(answered(&lab.node, health).await, "health");
        }
        for skipped in skipped {
            assert_eq!(answered(&lab.node, skipped).await, "direct", "{skipped}");
        }
    });
}

#[test]
fn n08_dialling_the_inbound_listener_itself_is_refused() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let sidecar = Server::sidecar(&lab).await;
        for inbound in both(POD, INBOUND) {
            assert_eq!(ask(&lab.node, inbound).await, Err(ErrorKind::ConnectionRefused), "{inbound}");
        }
        assert_eq!(sidecar.accepted(), 0);
        assert_eq!(Counters::read(&lab.pod).await.packets("flt_in", "reject"), 2);
    });
}

#[test]
fn n09_dialling_the_outbound_listener_from_outside_arrives_inbound_with_that_port() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let _sidecar = Server::sidecar(&lab).await;
        // By the port the sidecar knows it for a loop; that it refuses it is tested with the sidecar.
        for outbound in both(POD, OUTBOUND) {
            assert_eq!(answered(&lab.node, outbound).await, format!("in {outbound}"));
        }
    });
}
