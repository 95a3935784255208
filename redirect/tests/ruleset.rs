//! The text of the rules, and what nft says about it.

use std::io::Write as _;
use std::process::{Command, Stdio};

use mantlet_redirect::{Cidr, Config, PortRange, Problem, ProxyPorts, Ruleset, Udp};

/// The rules of a pod with nothing of its own.
const PLAIN: &str = include_str!("plain.nft");
/// Those of one with every exception there is.
const FULL: &str = include_str!("full.nft");

fn ports(text: &str) -> Vec<PortRange> {
    PortRange::parse_list(text).unwrap()
}

fn plain() -> Config {
    Config::new(14021, 14021)
}

fn full() -> Config {
    Config {
        skip_inbound_ports: ports("9000-9100,8443"),
        skip_outbound_ports: ports("3306,9050-9150,9100-9200"),
        skip_outbound_cidrs: Cidr::parse_list("198.51.100.7,10.0.0.0/8,fd00:ec2::254,2001:db8::/32").unwrap(),
        udp: Udp::RejectQuic,
        ..Config::new(14021, 14022)
    }
}

fn text(config: Config) -> String {
    Ruleset::new(config).unwrap().to_string()
}

fn problems(change: impl FnOnce(&mut Config)) -> Vec<Problem> {
    let mut config = plain();
    change(&mut config);
    Ruleset::new(config).unwrap_err()
}

/// What nft says about `script`, without anything being changed.
fn nft_check(script: &str) -> Result<Result<(), String>, String> {
    let run = |command: &[&str]| -> Result<(bool, String), String> {
        let mut child = Command::new(command[0])
            .args(&command[1..])
            .env("LC_ALL", "C")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::piped())
            .spawn()
            .map_err(|error| format!("{}: {error}", command[0]))?;
        // nft may refuse to start before it reads.
        let _ = child.stdin.take().unwrap().write_all(script.as_bytes());
        let output = child.wait_with_output().unwrap();
        Ok((output.status.success(), String::from_utf8_lossy(&output.stderr).into_owned()))
    };
    // In a network namespace of its own where that is possible; otherwise here, where it needs root.
    let mut refusals = Vec::new();
    for command in [&["unshare", "-rn", "nft", "-c", "-f", "-"][..], &["nft", "-c", "-f", "-"]] {
        match run(command) {
            Ok((true, _)) => return Ok(Ok(())),
            // Its verdicts name the place, and so does the kernel's refusal to listen at all.
            Ok((false, said)) if said.contains("/dev/stdin:") && !said.contains("not permitted") => {
                return Ok(Err(said));
            }
            Ok((false, said)) | Err(said) => refusals.push(said),
        }
    }
    Err(refusals.join("; "))
}

#[test]
fn the_text_of_a_plain_pod() {
    assert_eq!(text(plain()), PLAIN);
}

#[test]
fn the_text_with_every_exception() {
    assert_eq!(text(full()), FULL);
}

#[test]
fn the_order_of_the_exceptions_does_not_matter() {
    let mut config = full();
    config.skip_inbound_ports.reverse();
    config.skip_outbound_ports.reverse();
    config.skip_outbound_cidrs.reverse();
    config.skip_outbound_cidrs.extend(Cidr::parse_list("10.1.0.0/16").unwrap());
    config.skip_inbound_ports.extend(ports("9001,24190"));
    assert_eq!(text(config), FULL);
}

#[test]
fn the_proxy_is_exempt_by_user_and_group_together_only() {
    for line in FULL.lines().filter(|line| line.contains("skuid") || line.contains("skgid")) {
        assert!(line.contains("meta skuid 14021 meta skgid 14022 "), "{line}");
    }
}

#[test]
fn ids_that_others_run_as_are_refused() {
    for id in [0, 1000, 1337, 65532, u32::MAX] {
        assert_eq!(problems(|config| config.proxy_uid = id), [Problem::TakenId { what: "user", id }]);
        assert_eq!(problems(|config| config.proxy_gid = id), [Problem::TakenId { what: "group", id }]);
    }
}

#[test]
fn listeners_need_ports_of_their_own() {
    let found = problems(|config| {
        config.ports = ProxyPorts { outbound: 24143, inbound: 24143, health: 0, admin: 24191 };
    });
    let same = Problem::SamePort { what: "inbound", other: "outbound", port: 24143 };
    assert_eq!(found, [same, Problem::NoProxyPort { what: "health" }]);
}

#[test]
fn the_ports_of_the_proxy_cannot_be_skipped() {
    let found = problems(|config| {
        config.skip_inbound_ports = ports("24190,24100-24142,24191");
        config.skip_outbound_ports = ports("24143");
    });
    let proxy = |list, range: &str, what, port| Problem::ProxyPort {
        list,
        range: PortRange::parse(range).unwrap(),
        what,
        port,
    };
    let expected = [
        proxy("skip-inbound-ports", "24100-24142", "outbound", 24140),
        proxy("skip-inbound-ports", "24191", "admin", 24191),
        proxy("skip-outbound-ports", "24143", "inbound", 24143),
    ];
    assert_eq!(found, expected);
    assert_eq!(
        found[0].to_string(),
        "skip-inbound-ports: 24100-24142 has the proxy's outbound port 24140 in it: leave it out"
    );
}

#[test]
fn lists_have_a_limit_and_all_problems_are_told_at_once() {
    let found = problems(|config| {
        config.proxy_uid = 0;
        config.skip_inbound_ports = vec![PortRange::new(80, 80).unwrap(); 257];
        config.skip_outbound_ports = vec![PortRange::new(80, 80).unwrap(); 257];
        config.skip_outbound_cidrs = vec![Cidr::parse("10.0.0.0/8").unwrap(); 257];
    });
    let many = |list| Problem::TooMany { list, entries: 257, most: 256 };
    let expected = [
        Problem::TakenId { what: "user", id: 0 },
        many("skip-inbound-ports"),
        many("skip-outbound-ports"),
        many("skip-outbound-cidrs"),
    ];
    assert_eq!(found, expected);
}

#[test]
fn nft_takes_the_text() {
    let everywhere = Config { skip_outbound_cidrs: Cidr::parse_list("0.0.0.0/0,::/0").unwrap(), ..plain() };
    // In one transaction after itself, as after a restart.
    let again = text(plain()) + &text(full());
    for script in [text(plain()), text(full()), text(everywhere), again] {
        match nft_check(&script) {
            Ok(verdict) => assert_eq!(verdict, Ok(()), "{script}"),
            Err(why) => {
                let how = "as root: apt-get install nftables (kernel with nf_tables and user namespaces)";
                let required = std::env::var_os("TEST_REQUIRE_ALL").is_some_and(|value| value == "1");
                assert!(!required, "nft cannot be run: {why}; enable: {how}");
                eprintln!("SKIP nft_takes_the_text: nft cannot be run: {why}; enable: {how}");
                return;
            }
        }
    }
    // The check does check: a set that is not there, and a word that is none.
    for (right, wrong) in [("@out_skip4", "@elsewhere"), ("redirect to", "redirekt to")] {
        let said = nft_check(&PLAIN.replace(right, wrong));
        assert!(matches!(said, Ok(Err(_))), "{wrong}: {said:?}");
    }
}
