//! The only URI of a SAN extension is found exactly where there is exactly one, whatever stands beside it.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use mantlet_identity::HandshakeReason;
use mantlet_identity::fuzzing::single_uri;

#[derive(Arbitrary, Debug)]
enum Input<'a> {
    /// Bytes as they come.
    Raw(&'a [u8]),
    /// A well-formed list of names: the tag number and the content of each.
    Names(Vec<(u8, &'a [u8])>),
}

fuzz_target!(|input: Input<'_>| match input {
    Input::Raw(bytes) => {
        let _ = single_uri(bytes);
    }
    Input::Names(names) => {
        let entries: Vec<_> = names.iter().map(|(tag, content)| (0x80 | tag % 31, *content)).collect();
        let extension = element(0x30, &entries.iter().flat_map(|(tag, c)| element(*tag, c)).collect::<Vec<_>>());
        let uris: Vec<_> = entries.iter().filter(|(tag, _)| *tag == 0x86).collect();
        match (single_uri(&extension), uris.as_slice()) {
            (Ok(uri), [(_, only)]) => assert_eq!(uri, *only),
            (Err(HandshakeReason::SanNotSingleUri), uris) => assert_ne!(uris.len(), 1),
            (Err(HandshakeReason::CertLimits), _) => assert!(entries.len() > 64),
            (outcome, _) => panic!("{outcome:?} for {entries:?}"),
        }
    }
});

fn element(tag: u8, content: &[u8]) -> Vec<u8> {
    let mut all = vec![tag];
    if content.len() < 0x80 {
        all.push(content.len() as u8);
    } else {
        let length = content.len().to_be_bytes();
        let length = &length[length.iter().take_while(|byte| **byte == 0).count()..];
        all.push(0x80 | length.len() as u8);
        all.extend(length);
    }
    all.extend(content);
    all
}
