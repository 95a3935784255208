//! What the kernel lists: netlink and nft text are the same rules.

use std::path::PathBuf;

use mantlet_redirect::{Cidr, Config, PortRange, Ruleset, Udp, apply};
use mantlet_testkit::netns::{Net, Place};
use mantlet_testkit::{TempDir, in_namespaces};
use serde_json::Value;

use crate::fixture::init;

/// The table as the kernel has it, without the numbers that it gave out.
async fn listed(place: &Place) -> Value {
    let listed = place.command("nft -j list table inet mantlet").await;
    let mut listed: Value = serde_json::from_str(&listed).unwrap();
    for item in listed["nftables"].as_array_mut().unwrap() {
        for kind in ["table", "set", "chain", "rule"] {
            if let Some(object) = item.get_mut(kind).and_then(Value::as_object_mut) {
                object.remove("handle");
            }
        }
    }
    listed
}

fn configs() -> Vec<(&'static str, Config)> {
    let plain = || Config::new(14021, 14022);
    let ports = |text: &str| PortRange::parse_list(text).unwrap();
    let networks = |text: &str| Cidr::parse_list(text).unwrap();
    let many_networks = (0..128_u8).map(|n| format!("10.{n}.0.0/24,fd00:{n:x}::/32")).collect::<Vec<_>>();
    vec![
        ("plain", plain()),
        (
            "every exception",
            Config {
                skip_inbound_ports: ports("9000-9100,8443,1,65535"),
                skip_outbound_ports: ports("3306,9050-9150,9100-9200,65000-65535"),
                skip_outbound_cidrs: networks("198.51.100.7,10.0.0.0/8,fd00:ec2::254,2001:db8::/32"),
                udp: Udp::RejectQuic,
                ..plain()
            },
        ),
        ("everywhere", Config { skip_outbound_cidrs: networks("0.0.0.0/0,::/0"), ..plain() }),
        (
            "neighbours",
            Config {
                skip_outbound_cidrs: networks(
                    "10.0.0.0/9,10.128.0.0/9,11.0.0.0/8,255.255.255.255,0.0.0.0,fd00::/16,fd01::/16,ffff::/16",
                ),
                ..plain()
            },
        ),
        (
            "as many as there may be",
            Config {
                skip_outbound_cidrs: networks(&many_networks.join(",")),
                skip_inbound_ports: (1..=256).map(|n| PortRange::new(n * 2, n * 2).unwrap()).collect(),
                ..plain()
            },
        ),
    ]
}

#[test]
fn the_kernel_lists_the_same_after_netlink_as_after_nft() {
    in_namespaces!(async || {
        for (name, config) in configs() {
            let ruleset = Ruleset::new(config).unwrap();
            let (ours, theirs) = (Place::root(&Net::new()), Place::root(&Net::new()));
            let dir = TempDir::new();
            let script = dir.file("rules.nft", ruleset.to_string());
            ours.run(async move { apply(&ruleset).unwrap() }).await;
            theirs.command(&format!("nft -f {}", script.display())).await;
            let (ours, theirs) = (listed(&ours).await, listed(&theirs).await);
            assert!(ours["nftables"].as_array().unwrap().len() > 30, "{ours:#}");
            assert_eq!(ours, theirs, "{name}");
        }
    });
}

#[test]
fn the_program_s_rules_are_those_it_prints() {
    in_namespaces!(async || {
        let arguments = "--uid 14100 --gid 14101 --inbound-port 15006 --outbound-port 15001 \
                         --skip-inbound-ports 8443 --skip-outbound-cidrs 10.0.0.0/8 --udp reject-quic";
        let (ours, theirs) = (Place::root(&Net::new()), Place::root(&Net::new()));
        let said = ours.command(&init(arguments)).await;
        assert_eq!(
            said,
            "mantlet-init: installed as root: inbound to port 15006, outbound to port 15001, but for user \
             14100 with group 14101\n"
        );
        let printed = ours.command(&init(&format!("--print {arguments}"))).await;
        let dir = TempDir::new();
        let script: PathBuf = dir.file("rules.nft", printed);
        theirs.command(&format!("nft -f {}", script.display())).await;
        assert_eq!(listed(&ours).await, listed(&theirs).await);
    });
}

#[test]
fn n11_applied_twice_is_applied_once_and_other_tables_are_left_alone() {
    in_namespaces!(async || {
        let place = Place::root(&Net::new());
        place.command("nft add table inet somebody_else").await;
        place.command(&init("")).await;
        let once = place.command("nft -j list ruleset").await;
        place.command(&init("")).await;
        let numbers = |text: &str| {
            let listed: Value = serde_json::from_str(text).unwrap();
            listed["nftables"].as_array().unwrap().len()
        };
        let twice = place.command("nft -j list ruleset").await;
        assert_eq!(numbers(&once), numbers(&twice));
        assert!(twice.contains("somebody_else"));
        let before = listed(&place).await;
        // Another configuration takes the place of the first, whole.
        place.command(&init("--inbound-port 15006 --outbound-port 15001")).await;
        assert_ne!(listed(&place).await, before);
        place.command(&init("")).await;
        assert_eq!(listed(&place).await, before);
    });
}

#[test]
fn rules_that_the_kernel_refuses_leave_the_old_ones_in_place() {
    in_namespaces!(async || {
        let net = Net::new();
        let (root, ordinary) = (Place::root(&net), Place::user(&net, 1000, 1000));
        root.command(&init("")).await;
        let before = listed(&root).await;
        let refused = ordinary.try_command(&init("--inbound-port 15006")).await.unwrap_err();
        assert!(refused.contains("not permitted to change this network namespace"), "{refused}");
        assert_eq!(listed(&root).await, before);
    });
}
