//! SPIFFE ID and trust domain vectors, one function per case of the case list.
#![allow(clippy::unwrap_used)]

use mantlet_id::{IdError, SpiffeId, TrustDomain, normalise_config};

fn accept(id: &str) {
    let parsed = SpiffeId::parse(id).unwrap_or_else(|e| panic!("{id:?} must be accepted: {e}"));
    assert_eq!(parsed.as_str(), id, "an id prints as it was written");
    assert_eq!(format!("{}{}", parsed.trust_domain().id_string(), parsed.path()), id);
}

fn refuse(id: &str) {
    assert!(SpiffeId::parse(id).is_err(), "{id:?} must be refused");
}

#[test]
fn i01_a_bare_trust_domain_is_a_trust_domain_id_and_no_workload() {
    assert_eq!(TrustDomain::parse_id("spiffe://trustdomain").unwrap().as_str(), "trustdomain");
    assert_eq!(SpiffeId::parse("spiffe://trustdomain"), Err(IdError::NoPath));
}

#[test]
fn i02_paths_of_either_case_are_accepted() {
    accept("spiffe://trustdomain/path");
    accept("spiffe://trustdomain/path1/path2");
    accept("spiffe://trustdomain/PATH1/PATH2");
}

#[test]
fn i03_a_uuid_path_is_accepted() {
    accept("spiffe://trustdomain/9eebccd2-12bf-40a6-b262-65fe0487d453");
}

#[test]
fn i04_underscores_and_ipv4_literals_are_trust_domains() {
    accept("spiffe://a_b.example/foo");
    accept("spiffe://1.2.3.4/service");
}

#[test]
fn i05_segments_that_only_begin_with_dots_are_accepted() {
    accept("spiffe://trustdomain/.path");
    accept("spiffe://trustdomain/..path");
    accept("spiffe://trustdomain/...");
}

#[test]
fn i06_every_allowed_byte_is_accepted() {
    for c in ('a'..='z').chain('0'..='9').chain(['.', '-', '_']) {
        accept(&format!("spiffe://trustdomain{c}/path{c}"));
    }
    for c in 'A'..='Z' {
        accept(&format!("spiffe://trustdomain/path{c}"));
    }
}

#[test]
fn i07_every_other_code_point_is_refused() {
    for c in (0..=255u8).map(char::from) {
        if !(c.is_ascii_lowercase() || c.is_ascii_digit() || matches!(c, '.' | '-' | '_' | '/')) {
            refuse(&format!("spiffe://trustdomain{c}/path"));
        }
        if !(c.is_ascii_alphanumeric() || matches!(c, '.' | '-' | '_')) {
            refuse(&format!("spiffe://trustdomain/path{c}"));
        }
    }
}

#[test]
fn i08_fragments_of_an_id_are_refused() {
    for id in ["", "s", "spiffe:/", "spiffe:path/element", "spiffe:/path/element"] {
        refuse(id);
    }
}

#[test]
fn i09_other_schemes_are_refused() {
    for id in ["http://domain.test/path/element", "192.168.2.2:6688", "xspiffe://trustdomain/path"] {
        assert_eq!(SpiffeId::parse(id), Err(IdError::Scheme));
    }
}

#[test]
fn i10_a_missing_trust_domain_is_refused() {
    for id in ["spiffe://", "spiffe:///", "spiffe:///path/element"] {
        assert_eq!(SpiffeId::parse(id), Err(IdError::NoTrustDomain));
    }
}

#[test]
fn i11_empty_segments_and_trailing_slashes_are_refused() {
    for id in [
        "spiffe://trustdomain/",
        "spiffe://trustdomain/path/",
        "spiffe://trustdomain//",
        "spiffe://trustdomain//path",
        "spiffe://trustdomain/a//b",
    ] {
        refuse(id);
    }
}

#[test]
fn i12_relative_segments_are_refused() {
    for path in ["/.", "/./path", "/path/./other", "/path/..", "/..", "/../path"] {
        assert_eq!(SpiffeId::parse(&format!("spiffe://trustdomain{path}")), Err(IdError::DotSegment));
    }
}

#[test]
fn i13_percent_encoding_is_refused() {
    refuse("spiffe://trustdomain/%F0%9F%A4%AF");
    refuse("spiffe://%F0%9F%A4%AF/path");
}

#[test]
fn i14_ports_and_user_info_are_refused() {
    refuse("spiffe://domain.test:8080/path/element");
    refuse("spiffe://user:password@test.org/path/element");
    refuse("spiffe://domain.test:/path");
}

#[test]
fn i15_queries_and_fragments_are_refused() {
    for end in ["?query=1", "?#fragment-1", "?", "#"] {
        refuse(&format!("spiffe://domain.test/path/element{end}"));
        refuse(&format!("spiffe://domain.test{end}"));
    }
}

#[test]
fn i16_ipv6_literals_are_refused() {
    refuse("spiffe://[::1]/service");
}

#[test]
fn i17_blanks_and_dollars_are_refused() {
    refuse("spiffe://example.com/foo%20bar");
    refuse("spiffe://example.com/foo bar");
    refuse("spiffe://trust$domain/x");
    refuse("spiffe://trustdomain/path$");
}

#[test]
fn i18_length_limits_are_exact() {
    accept(&format!("spiffe://{}/x", "a".repeat(255)));
    assert_eq!(SpiffeId::parse(&format!("spiffe://{}/x", "a".repeat(256))), Err(IdError::TrustDomainTooLong));
    let head = "spiffe://td/";
    accept(&format!("{head}{}", "a".repeat(2048 - head.len())));
    assert_eq!(SpiffeId::parse(&format!("{head}{}", "a".repeat(2049 - head.len()))), Err(IdError::TooLong));
}

#[test]
fn i19_upper_case_is_refused_from_peers_and_folded_in_configuration() {
    for id in ["SPIFFE://trustdomain/path", "spiffe://Example.com/foo"] {
        assert_eq!(SpiffeId::parse(id), Err(IdError::UpperCase));
        let (folded, changed) = normalise_config(id);
        assert!(changed);
        accept(&folded);
    }
    assert_eq!(normalise_config("spiffe://td/Path"), ("spiffe://td/Path".to_owned(), false));
    // Unicode case folding would turn the Kelvin sign into an ASCII k: one id would become another.
    assert_eq!(normalise_config("spiffe://\u{212a}/p").0, "spiffe://\u{212a}/p");
}

#[test]
fn i20_ids_are_built_from_segments_that_are_checked() {
    let td = TrustDomain::parse("td").unwrap();
    assert_eq!(SpiffeId::from_segments(&td, ["foo", "bar"]).unwrap().path(), "/foo/bar");
    for bad in ["", "/", "/foo", "foo/bar", ".", "..", "$"] {
        assert!(SpiffeId::from_segments(&td, [bad]).is_err(), "{bad:?}");
    }
    assert_eq!(SpiffeId::from_segments(&td, []), Err(IdError::NoPath));
    assert_eq!(SpiffeId::workload(&td, "shop", "api").unwrap().ns_sa(), Some(("shop", "api")));
}

#[test]
fn t1_names_addresses_and_underscores_are_trust_domains() {
    for name in ["trustdomain", "1.2.3.4", "trust_domain_name.example.com"] {
        assert_eq!(TrustDomain::parse(name).unwrap().as_str(), name);
    }
}

#[test]
fn t2_the_id_of_a_trust_domain_gives_its_name() {
    assert_eq!(TrustDomain::parse_id("spiffe://trustdomain").unwrap().as_str(), "trustdomain");
    assert_eq!(SpiffeId::parse("spiffe://trustdomain/path").unwrap().trust_domain().as_str(), "trustdomain");
}

#[test]
fn t3_an_empty_trust_domain_is_refused() {
    assert!(TrustDomain::parse("").is_err());
    for id in ["", "spiffe://", "spiffe:///path"] {
        assert!(TrustDomain::parse_id(id).is_err());
    }
}

#[test]
fn t4_ids_of_other_schemes_name_no_trust_domain() {
    for id in ["spiffe:/trustdomain/path", "http://domain.test", "://domain.test"] {
        assert!(TrustDomain::parse_id(id).is_err());
        assert!(TrustDomain::parse(id).is_err());
    }
}

#[test]
fn t5_a_trailing_slash_is_no_trust_domain() {
    for id in ["spiffe://trustdomain/", "spiffe://trustdomain/path/"] {
        assert!(TrustDomain::parse_id(id).is_err());
        assert!(SpiffeId::parse(id).is_err());
    }
}

#[test]
fn t6_names_with_other_characters_are_refused() {
    for name in ["trustdomain!", " domain.test ", "domain.test:80", "[::1]", "Domain.test"] {
        assert!(TrustDomain::parse(name).is_err(), "{name:?}");
        assert!(TrustDomain::parse_id(&format!("spiffe://{name}")).is_err(), "{name:?}");
    }
}

#[test]
fn t7_a_bundle_key_has_no_path() {
    assert!(TrustDomain::parse_id("spiffe://td").is_ok());
    assert!(TrustDomain::parse_id("spiffe://td/x").is_err());
    assert!(TrustDomain::parse_id("td").is_err());
}
