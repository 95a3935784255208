//! Whatever comes as an AdmissionReview: no panic; what is read is what another reader finds there, and written again
//! it is read the same; what is refused is refused in words that are no longer than what was sent and a line.
#![no_main]

use libfuzzer_sys::fuzz_target;
use mantlet_injector::fuzzing::{Review, review};
use serde_json::{Value, json};

/// Words of ours in a refusal, and what the reader of JSON adds.
const LINE: usize = 512;

fuzz_target!(|data: &[u8]| {
    let read = match review(data) {
        Ok(read) => read,
        Err(refusal) => {
            // A character that is shown escaped takes up to eight.
            assert!(!refusal.is_empty() && refusal.len() <= LINE + 8 * data.len());
            return;
        }
    };
    assert!((1..=256).contains(&read.uid.len()) && read.namespace.len() <= 253);
    assert!(read.name.chars().count() <= 253);
    assert_eq!(read.is_pod, read.kind == (String::new(), "Pod".to_owned()));
    // Nested deeper than one document may be, the parts may still be read.
    if let Ok(whole) = serde_json::from_slice::<Value>(data) {
        same(&read, &whole["request"]);
    }
    if let [Ok(object), Ok(old)] = &read.objects {
        let written = json!({
            "apiVersion": "admission.k8s.io/v1",
            "kind": "AdmissionReview",
            "request": {
                "uid": read.uid,
                "kind": {"group": read.kind.0, "version": "v1", "kind": read.kind.1},
                "subResource": read.sub_resource,
                "name": read.name.trim_end_matches('*'),
                "namespace": read.namespace,
                "operation": read.operation,
                "dryRun": read.is_dry_run,
                "object": object,
                "oldObject": old,
            },
        });
        let again = review(written.to_string().as_bytes()).expect("what was read can be written");
        assert_eq!(Review { name: read.name.clone(), ..again }, read);
    }
});

/// What another reader finds in the request.
fn same(read: &Review, request: &Value) {
    let text = |name: &str| request[name].as_str().unwrap_or_default().to_owned();
    assert_eq!((&read.uid, &read.namespace), (&text("uid"), &text("namespace")));
    assert_eq!(read.operation, text("operation"));
    assert_eq!(read.sub_resource.as_deref(), request["subResource"].as_str());
    assert_eq!(read.kind.1, request["kind"]["kind"]);
    assert_eq!(read.is_dry_run, request["dryRun"] == true);
    for (read, name) in read.objects.iter().zip(["object", "oldObject"]) {
        let found = Some(&request[name]).filter(|value| !value.is_null());
        assert_eq!(read.as_ref().map(Option::as_ref), Ok(found), "{name}");
    }
}
