//! Lists of ports and networks that parse are printed so that they parse to the same; valid rules made of
//! them name each set once and do not depend on the order.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_redirect::{Cidr, Config, PortRange, Ruleset};

fuzz_target!(|text: &str| {
    let (first, rest) = text.split_once('\n').unwrap_or((text, ""));
    let (ports, networks) = (PortRange::parse_list(first), Cidr::parse_list(rest));
    if let Err(problems) = &ports {
        assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
    }
    if let Err(problems) = &networks {
        assert!(problems.iter().all(|problem| !problem.to_string().is_empty()));
    }
    let (ports, networks) = (ports.unwrap_or_default(), networks.unwrap_or_default());
    for range in &ports {
        assert_eq!(PortRange::parse(&range.to_string()).as_ref(), Ok(range));
    }
    for network in &networks {
        assert_eq!(Cidr::parse(&network.to_string()).as_ref(), Ok(network));
    }
    let mut config = Config::new(14021, 14021);
    config.skip_outbound_ports = ports;
    config.skip_outbound_cidrs = networks;
    let Ok(rules) = Ruleset::new(config.clone()) else { return };
    assert_eq!(rules.to_string().matches("set out_skip {").count(), 1);
    config.skip_outbound_ports.reverse();
    config.skip_outbound_cidrs.reverse();
    assert_eq!(Ruleset::new(config), Ok(rules));
});
