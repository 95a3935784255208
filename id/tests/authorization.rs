//! Who matches what: the rule that a pattern ends where a segment ends.

#![allow(clippy::unwrap_used)]

use mantlet_id::{PeerPattern, SpiffeId, TrustDomain};

fn matches(pattern: &str, id: &str) -> bool {
    PeerPattern::parse(pattern).unwrap().matches(&SpiffeId::parse(id).unwrap())
}

#[test]
fn p1_an_exact_pattern_admits_that_workload_and_no_other() {
    let pattern = "spiffe://td/ns/a/sa/x";
    assert!(matches(pattern, "spiffe://td/ns/a/sa/x"));
    for other in [
        "spiffe://td/ns/a/sa/xx",
        "spiffe://td/ns/a/sa/X",
        "spiffe://td/ns/a/sa",
        "spiffe://td/ns/a/sa/x/y",
        "spiffe://td2/ns/a/sa/x",
        "spiffe://d/ns/a/sa/x",
    ] {
        assert!(!matches(pattern, other), "{other}");
    }
}

#[test]
fn p2_a_wildcard_stops_at_the_segment() {
    for (pattern, inside) in
        [("spiffe://td/ns/a/*", "spiffe://td/ns/a/x"), ("spiffe://td/ns/a/**", "spiffe://td/ns/a/sa/x")]
    {
        assert!(matches(pattern, inside));
        for outside in
            ["spiffe://td/ns/ab/x", "spiffe://td/ns/a-evil/sa/x", "spiffe://td/ns/a", "spiffe://td2/ns/a/x"]
        {
            assert!(!matches(pattern, outside), "{pattern} {outside}");
        }
    }
    assert!(!matches("spiffe://td/ns/a/*", "spiffe://td/ns/a/sa/x"), "one star is one segment");
}

#[test]
fn p4_membership_of_one_trust_domain_admits_nobody_of_another() {
    let members = PeerPattern::all_of(&TrustDomain::parse("td").unwrap());
    assert!(members.matches(&SpiffeId::parse("spiffe://td/x").unwrap()));
    for other in ["spiffe://other/x", "spiffe://td.evil/x", "spiffe://evil.td/x"] {
        assert!(!members.matches(&SpiffeId::parse(other).unwrap()), "{other}");
    }
}
