//! The few DER values that rcgen refuses to write, because they are wrong or unusual.

use rcgen::CustomExtension;

const SEQUENCE: u8 = 0x30;
const GENERAL_NAME_DNS: u8 = 0x82;
const GENERAL_NAME_URI: u8 = 0x86;

/// A subject alternative name with these URIs as raw bytes, in this order, valid or not.
pub(super) fn raw_uris(uris: &[&[u8]]) -> CustomExtension {
    let names = uris.iter().flat_map(|uri| tlv(GENERAL_NAME_URI, uri)).collect::<Vec<_>>();
    CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(SEQUENCE, &names))
}

/// A subject alternative name with one URI and `count` DNS names after it.
pub(super) fn uri_and_dns_names(uri: &str, count: usize) -> CustomExtension {
    let mut names = tlv(GENERAL_NAME_URI, uri.as_bytes());
    for n in 0..count {
        names.extend(tlv(GENERAL_NAME_DNS, format!("n{n}.test").as_bytes()));
    }
    CustomExtension::from_oid_content(&[2, 5, 29, 17], tlv(SEQUENCE, &names))
}

/// Critical name constraints that permit URIs of this host alone.
pub(super) fn permitted_uri(host: &str) -> CustomExtension {
    let subtree = tlv(SEQUENCE, &tlv(GENERAL_NAME_URI, host.as_bytes()));
    let content = tlv(SEQUENCE, &tlv(0xa0, &subtree));
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 30], content);
    extension.set_criticality(true);
    extension
}

/// A critical extension that nobody knows.
pub(super) fn unknown_critical() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 1], tlv(4, b"?"));
    extension.set_criticality(true);
    extension
}

/// An extension of this many bytes that means nothing: it makes a certificate large.
pub(super) fn padding(bytes: usize) -> CustomExtension {
    CustomExtension::from_oid_content(&[1, 3, 6, 1, 4, 1, 99999, 2], tlv(4, &vec![0x55; bytes]))
}

/// A keyUsage that is no BIT STRING.
pub(super) fn malformed_key_usage() -> CustomExtension {
    let mut extension = CustomExtension::from_oid_content(&[2, 5, 29, 15], tlv(4, &[0x80]));
    extension.set_criticality(true);
    extension
}

fn tlv(tag: u8, value: &[u8]) -> Vec<u8> {
    let mut out = vec![tag];
    match value.len() {
        len @ 0..=0x7f => out.push(len as u8),
        len => {
            let bytes = len.to_be_bytes();
            let significant = &bytes[bytes.iter().take_while(|byte| **byte == 0).count()..];
            out.push(0x80 | significant.len() as u8);
            out.extend_from_slice(significant);
        }
    }
    out.extend_from_slice(value);
    out
}
