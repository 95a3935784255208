//! What parses, quoted again as Kubernetes does it, parses to the same; and no value becomes a key.
#![no_main]

use std::fmt::Write as _;

use libfuzzer_sys::fuzz_target;
use mantlet_policy::annotations::parse;

fuzz_target!(|file: &[u8]| {
    let Ok(annotations) = parse(file) else { return };
    let lines = file.split(|byte| *byte == b'\n').filter(|line| !line.is_empty()).count();
    assert_eq!(annotations.len(), lines, "one annotation per line, whatever the values say");
    let mut quoted = String::new();
    for (key, value) in &annotations {
        let _ = write!(quoted, "{key}=\"");
        for c in value.chars() {
            match c {
                '"' | '\\' => quoted.extend(['\\', c]),
                '\n' => quoted.push_str("\\n"),
                c if c.is_control() => {
                    let _ = write!(quoted, "\\u{:04x}", u32::from(c));
                }
                c if u32::from(c) > 0xffff => {
                    let _ = write!(quoted, "\\U{:08x}", u32::from(c));
                }
                c => quoted.push(c),
            }
        }
        quoted.push_str("\"\n");
    }
    assert_eq!(parse(quoted.trim_end_matches('\n').as_bytes()), Ok(annotations));
});
