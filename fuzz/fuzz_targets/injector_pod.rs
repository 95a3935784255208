//! Whatever JSON comes as a pod: no panic; what is injected is injected once and can be taken out; what is
//! refused is refused with a reason.
#![no_main]

use std::time::{Duration, SystemTime};

use libfuzzer_sys::fuzz_target;
use mantlet_injector::inject::{
    Config, Input, Namespace, Reason, Scope, Token, Verdict, apply, inject, refuse_ephemeral, uninject,
};
use mantlet_injector::{Installation, check, places};
use serde_json::Value;

fuzz_target!(|data: &[u8]| {
    let Ok(object) = serde_json::from_slice::<Value>(data) else { return };
    let (config, token) = (Config::embedded(), Token::new([7; 16]));
    let namespace = Namespace { name: "shop".to_owned(), labels: Default::default() };
    let now = SystemTime::UNIX_EPOCH + Duration::from_secs(1_800_000_000);
    let of = |object: &Value| {
        inject(&Input { object, namespace: &namespace, config: &config, token: &token, now, scope: Scope::Asked })
    };
    let installation: Installation = config.installation("shop");
    let _ = (places(&object), check(&object, &installation, now), refuse_ephemeral(&object, &config));
    let had_sidecar = uninject(&object).map(|steps| !steps.is_empty());
    let outcome = of(&object);
    assert!(!outcome.message().is_empty() && outcome.warnings.len() <= 15);
    if outcome.verdict() != Verdict::Injected {
        assert!(outcome.operations().is_empty());
        return;
    }
    let mut injected = object.clone();
    apply(&mut injected, outcome.operations()).expect("a patch applies to what it was made for");
    assert_eq!(of(&injected).reason(), Reason::AlreadyInjected);
    let steps = uninject(&injected).expect("what was injected can be taken out");
    let mut removed = injected.clone();
    apply(&mut removed, &steps).expect("it applies");
    assert_eq!(uninject(&removed), Ok(Vec::new()));
    if had_sidecar == Ok(false) {
        // Put in again, it is the same: nothing got lost on the way.
        let mut again = removed.clone();
        apply(&mut again, of(&removed).operations()).expect("it applies");
        assert_eq!(again, injected);
    }
});
