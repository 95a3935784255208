//! The certificates of the tests are what their names say: the positive control of every X case.

#![allow(clippy::unwrap_used, missing_docs)]

use std::collections::BTreeSet;

use mantlet_testkit::pki::{Authority, CaOptions, KeyType, Malformed, SvidOptions};
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

const ID: &str = "spiffe://td.test/ns/shop/sa/orders";

fn parse(der: &[u8]) -> X509Certificate<'_> {
    let (rest, certificate) = X509Certificate::from_der(der).unwrap();
    assert!(rest.is_empty());
    certificate
}

#[test]
fn an_svid_is_what_the_standard_says() {
    let svid = Authority::new("td.test").svid(ID);
    let leaf = parse(svid.leaf());
    let san = leaf.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names, [GeneralName::URI(ID)]);
    let constraints = leaf.basic_constraints().unwrap().unwrap();
    assert!(constraints.critical && !constraints.value.ca);
    let usage = leaf.key_usage().unwrap().unwrap();
    assert!(usage.critical && usage.value.digital_signature());
    assert!(!usage.value.key_cert_sign() && !usage.value.crl_sign());
    let extended = leaf.extended_key_usage().unwrap().unwrap();
    assert!(extended.value.server_auth && extended.value.client_auth);
    let validity = leaf.validity();
    assert!(validity.is_valid());
    assert_eq!(validity.not_after.timestamp() - validity.not_before.timestamp(), 3610);
    assert_eq!(svid.chain.len(), 1);
}

#[test]
fn an_authority_may_sign_certificates_and_has_no_path() {
    let authority = Authority::with("td.test", &CaOptions::with_key(KeyType::P384));
    let root = parse(authority.root());
    assert!(root.basic_constraints().unwrap().unwrap().value.ca);
    assert!(root.key_usage().unwrap().unwrap().value.key_cert_sign());
    let san = root.subject_alternative_name().unwrap().unwrap();
    assert_eq!(san.value.general_names, [GeneralName::URI("spiffe://td.test")]);
}

#[test]
fn an_empty_subject_makes_the_san_critical() {
    let options = SvidOptions { common_name: None, ..SvidOptions::new(ID) };
    let svid = Authority::new("td.test").issue(&options);
    let leaf = parse(svid.leaf());
    assert_eq!(leaf.subject().iter().count(), 0);
    assert!(leaf.subject_alternative_name().unwrap().unwrap().critical);
}

#[test]
fn an_intermediate_is_presented_and_the_root_is_not() {
    let root = Authority::new("td.test");
    let svid = root.intermediate().svid(ID);
    assert_eq!(svid.chain.len(), 2);
    assert_eq!(&svid.root, root.certificate());
    assert!(!svid.chain.contains(root.certificate()));
    assert_eq!(parse(svid.leaf()).issuer(), parse(&svid.chain[1]).subject());
}

#[test]
fn no_two_certificates_share_a_serial_number() {
    let authority = Authority::new("td.test");
    let serials: BTreeSet<_> =
        (0..20).map(|_| parse(authority.svid(ID).leaf()).raw_serial().to_vec()).collect();
    assert_eq!(serials.len(), 20);
}

#[test]
fn every_clause_makes_a_certificate_of_its_own() {
    let authority = Authority::new("td.test");
    for clause in Malformed::ALL {
        let svid = authority.malformed(*clause, ID);
        let parsed = X509Certificate::from_der(svid.leaf());
        match clause {
            Malformed::TruncatedDer => assert!(parsed.is_err()),
            Malformed::TrailingBytes => assert_eq!(parsed.unwrap().0, [0]),
            Malformed::LeafTooLarge => assert!(svid.leaf().len() > 16 * 1024),
            Malformed::ChainTooLong => assert_eq!(svid.chain.len(), 9),
            _ => assert!(parsed.is_ok(), "{clause:?}"),
        }
    }
}
