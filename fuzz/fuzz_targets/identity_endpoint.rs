//! What parses as a Workload API address is printed in a form that parses to the same; what is refused says
//! why in one line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_identity::Endpoint;

fuzz_target!(|text: &str| {
    match Endpoint::parse(text) {
        Ok(endpoint) => {
            if let Some(path) = endpoint.path() {
                assert!(path.is_absolute());
            }
            // A path is printed as it is used, without its escapes.
            if !text.contains('%') {
                assert_eq!(Endpoint::parse(&endpoint.to_string()), Ok(endpoint));
            }
        }
        Err(error) => assert!(!error.to_string().is_empty()),
    }
});
