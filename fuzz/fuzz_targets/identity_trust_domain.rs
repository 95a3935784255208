//! What parses as a trust domain is printed as it came in, has an id that parses back, and is one for the
//! reference library.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_id::TrustDomain;

fuzz_target!(|text: &str| {
    if let Ok(domain) = TrustDomain::parse(text) {
        assert_eq!(domain.as_str(), text);
        assert_eq!(TrustDomain::parse_id(&domain.id_string()).as_ref(), Ok(&domain));
        assert_eq!(spiffe::TrustDomain::new(text).expect("the reference library takes it").as_str(), text);
    }
    if let Ok(domain) = TrustDomain::parse_id(text) {
        assert_eq!(domain.id_string(), text);
        assert_eq!(TrustDomain::parse(domain.as_str()), Ok(domain));
    }
});
