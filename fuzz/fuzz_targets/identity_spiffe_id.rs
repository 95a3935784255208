//! What parses as a SPIFFE id is printed as it came in, its parts make it up, and the reference library
//! agrees. (It does not hold the other way round: the reference library folds upper case.)
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_id::{SpiffeId, normalise_config};

fuzz_target!(|text: &str| {
    if let Ok(id) = SpiffeId::parse(text) {
        assert_eq!(id.as_str(), text);
        assert_eq!(format!("spiffe://{}{}", id.trust_domain().as_str(), id.path()), text);
        let path: String = id.segments().map(|segment| format!("/{segment}")).collect();
        assert_eq!(path, id.path());
        assert!(!path.is_empty() && text.len() <= 2048);
        let reference = spiffe::SpiffeId::new(text).expect("the reference library takes it");
        assert_eq!(reference.to_string(), text);
        assert_eq!(normalise_config(text), (text.to_owned(), false));
    }
    let (folded, changed) = normalise_config(text);
    assert_eq!(changed, folded != text);
    assert_eq!(normalise_config(&folded).0, folded);
});
