//! What parses answers every question without a conflict that its lines do not have, and a catch-all at
//! the end leaves nothing without an answer. What is said about who serves a Service names somebody, or is an error.
#![no_main]

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;
use mantlet_policy::{
    Limits, Workload,
    upstreams::{Lookup, parse, served_by},
};

fuzz_target!(|input: (&str, u128, u16)| {
    let (text, address, port) = input;
    let workload = Workload::new(TrustDomain::parse("td.test").expect("a name"), "shop");
    if let Ok(ids) = served_by(text, &workload) {
        assert!((1..=256).contains(&ids.len()));
    }
    let Ok(upstreams) = parse("u", text, &workload, &Limits::ANNOTATIONS) else { return };
    let v4 = IpAddr::V4(Ipv4Addr::from((address & 0xffff_ffff) as u32));
    let v6 = IpAddr::V6(Ipv6Addr::from(address));
    for ip in [v4, v6] {
        let nobody = upstreams.lookup(ip, port, |_, _| false);
        assert!(!matches!(nobody, Lookup::Conflict { .. }), "networks alone never disagree at run time");
        let everybody = upstreams.lookup(ip, port, |_, _| true);
        if nobody != Lookup::None {
            assert!(everybody != Lookup::None, "a name never takes an answer away");
        }
    }
    if upstreams.otherwise().is_none() {
        let more = format!("{text}\n* refuse\n");
        if let Ok(upstreams) = parse("u", &more, &workload, &Limits::FILES) {
            assert!(upstreams.lookup(v4, port, |_, _| false) != Lookup::None);
        }
    }
});
