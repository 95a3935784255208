//! What the kernel says is read to its end or not at all: a datagram that is cut off says less, never
//! something else, and a status file that makes no sense grants nothing.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_redirect::{Privileges, replies};

fuzz_target!(|data: &[u8]| {
    let all = replies(data);
    assert!(all.len() <= data.len() / 16);
    for end in [data.len() / 2, data.len().saturating_sub(1)] {
        assert!(all.starts_with(&replies(&data[..end])));
    }
    if let Ok(text) = std::str::from_utf8(data) {
        let found = Privileges::parse(text);
        assert!(text.contains("CapEff:") || !found.effective);
        assert!(!found.to_string().is_empty());
    }
});
