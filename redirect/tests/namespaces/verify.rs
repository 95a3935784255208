//! `--verify`.

use mantlet_testkit::in_namespaces;
use mantlet_testkit::netns::{Lab, Net, Place, SIDECAR};

use crate::fixture::{Server, init, intercepted};

#[test]
fn n19_the_proof_succeeds_with_the_rules_and_fails_without() {
    in_namespaces!(async || {
        let lab = Lab::new().await;
        let without = lab.app.try_command(&init("--verify --timeout 1")).await.unwrap_err();
        assert!(without.contains("a connection to 192.0.2.1:20001 was not redirected"), "{without}");
        assert!(without.contains("exit status: 3"), "{without}");
        lab.pod.command(&init("")).await;
        let said = lab.app.command(&init("--verify")).await;
        assert_eq!(said, "mantlet-init: verified; IPv4: redirected, IPv6: redirected\n");
        // Edited rules are found too: the sidecar's own check cannot see that.
        lab.pod.command("nft flush chain inet mantlet nat_out").await;
        let edited = lab.app.try_command(&init("--verify --timeout 1")).await.unwrap_err();
        assert!(edited.contains("was not redirected"), "{edited}");
    });
}

#[test]
fn one_family_without_rules_is_no_proof() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        lab.pod.command("nft insert rule inet mantlet nat_out meta nfproto ipv6 return").await;
        let said = lab.app.try_command(&init("--verify --timeout 1")).await.unwrap_err();
        assert!(said.contains("[2001:db8::1]:20001 was not redirected"), "{said}");
    });
}

#[test]
fn the_proof_is_refused_where_it_would_prove_nothing() {
    in_namespaces!(async || {
        let lab = intercepted("").await;
        let exempt = lab.sidecar.try_command(&init("--verify")).await.unwrap_err();
        let expected = format!("nothing is proved by user {SIDECAR} with group {SIDECAR}");
        assert!(exempt.contains(&expected), "{exempt}");
        let sidecar = Server::sidecar(&lab).await;
        let taken = lab.app.try_command(&init("--verify")).await.unwrap_err();
        assert!(taken.contains("cannot listen on 127.0.0.1:24140"), "{taken}");
        drop(sidecar);
        let nowhere = Place::root(&Net::new());
        nowhere.command("ip link set lo up").await;
        let nowhere = nowhere.try_command(&init("--verify")).await.unwrap_err();
        assert!(nowhere.contains("without a default route"), "{nowhere}");
    });
}
