//! Probes and hooks.

use mantlet_injector::inject::Reason;
use serde_json::{Value, json};

use crate::invariants;
use crate::support::{Surroundings, pod};

/// The container with this probe, after the injection, and what was warned about.
fn with_probe(container: Value) -> (Value, Value, Vec<String>) {
    let here = Surroundings::default();
    let mut app = json!({"name": "app", "ports": [{"name": "http", "containerPort": 8080}, {"name": "dns", "containerPort": 53, "protocol": "UDP"}]});
    for (name, value) in container.as_object().unwrap() {
        app[name] = value.clone();
    }
    let mut pod = pod(json!({ "containers": [app] }));
    pod["metadata"]["annotations"] = json!({
        "mantlet.dev/policy": "allow ./a to GET / on 8080",
        "mantlet.dev/skip-inbound-ports": "9999",
    });
    invariants::hold(&here, &pod);
    let outcome = here.inject(&pod);
    let injected = here.injected(&pod);
    let env = injected["spec"]["initContainers"][1]["env"].as_array().unwrap().clone();
    let told = env.iter().find(|variable| variable["name"] == "MANTLET_PROBES");
    let told = told.map_or(json!(null), |told| {
        serde_json::from_str(&told["value"].as_str().unwrap().replace("$$", "$")).unwrap()
    });
    let mentions: Vec<String> =
        outcome.warnings.into_iter().filter(|w| w.contains("stays as it is")).collect();
    (injected["spec"]["containers"][0].clone(), told, mentions)
}

const TOKEN: &str = "a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5a5";

#[test]
fn every_kind_and_every_handler_goes_to_the_sidecar_and_keeps_its_timings() {
    let (app, told, warnings) = with_probe(json!({
        "startupProbe": {"grpc": {"port": 9090, "service": "x"}, "failureThreshold": 30},
        "readinessProbe": {"tcpSocket": {"port": "http"}, "periodSeconds": 7, "timeoutSeconds": 3},
        "livenessProbe": {"httpGet": {"path": "/a?b=$(HOME)&c=$$", "port": "http", "scheme": "HTTPS", "httpHeaders": [{"name": "Host", "value": "x.example"}]}, "terminationGracePeriodSeconds": 3},
        "lifecycle": {"postStart": {"httpGet": {"port": 8081}}, "preStop": {"tcpSocket": {"port": 8082}}},
    }));
    let asked = |kind: &str| json!({"path": format!("/app-health/{TOKEN}/app/{kind}"), "port": 24190, "scheme": "HTTP"});
    assert_eq!(app["startupProbe"], json!({"httpGet": asked("startup"), "failureThreshold": 30}));
    assert_eq!(
        app["readinessProbe"],
        json!({"httpGet": asked("ready"), "periodSeconds": 7, "timeoutSeconds": 3})
    );
    assert_eq!(app["livenessProbe"], json!({"httpGet": asked("live"), "terminationGracePeriodSeconds": 3}));
    assert_eq!(
        app["lifecycle"],
        json!({"postStart": {"httpGet": asked("postStart")}, "preStop": {"httpGet": asked("preStop")}})
    );
    assert_eq!(
        told,
        json!({"token": TOKEN, "probes": [
            {"container": "app", "kind": "startup", "port": 9090, "timeoutSeconds": 1, "handler": {"grpc": {"port": 9090, "service": "x"}}},
            {"container": "app", "kind": "ready", "port": 8080, "timeoutSeconds": 3, "handler": {"tcpSocket": {"port": "http"}}},
            {"container": "app", "kind": "live", "port": 8080, "timeoutSeconds": 1, "handler": {"httpGet": {"path": "/a?b=$(HOME)&c=$$", "port": "http", "scheme": "HTTPS", "httpHeaders": [{"name": "Host", "value": "x.example"}]}}},
            {"container": "app", "kind": "postStart", "port": 8081, "handler": {"httpGet": {"port": 8081}}},
            {"container": "app", "kind": "preStop", "port": 8082, "handler": {"tcpSocket": {"port": 8082}}},
        ]})
    );
    assert_eq!(warnings, [""; 0]);
}

#[test]
fn what_the_kubelet_does_by_itself_and_what_is_open_anyway_stays() {
    for probe in [
        json!({"exec": {"command": ["true"]}}),
        json!({"httpGet": {"port": 9999}}),
        json!({"httpGet": {"port": 24190, "path": "/readyz"}}),
        json!({"periodSeconds": 1}),
        json!({}),
    ] {
        let (app, told, warnings) = with_probe(json!({ "livenessProbe": probe }));
        assert_eq!((&app["livenessProbe"], &told, warnings.len()), (&probe, &json!(null), 0));
    }
    let hook = json!({"preStop": {"sleep": {"seconds": 5}}});
    assert_eq!(with_probe(json!({ "lifecycle": hook })).0["lifecycle"], hook);
}

#[test]
fn what_is_not_known_stays_and_is_warned_about() {
    for probe in [
        json!({"httpGet": {"port": 8080, "fieldOfTheFuture": 1}}),
        json!({"grpc": {"port": 8080, "mode": "tls"}}),
        json!({"http3Get": {"port": 8080}}),
        json!({"httpGet": {"port": 8080, "scheme": "H2C"}}),
        json!({"tcpSocket": {"port": 70000}}),
        json!({"httpGet": {"port": 8080, "host": "10.0.0.1"}}),
        json!({"tcpSocket": {"port": 8080, "host": "10.0.0.1"}}),
    ] {
        let (app, told, warnings) = with_probe(json!({ "readinessProbe": probe }));
        assert_eq!((&app["readinessProbe"], &told), (&probe, &json!(null)));
        let [warning] = warnings.as_slice() else { panic!("{probe}: {warnings:?}") };
        assert!(warning.contains("readinessProbe of container \"app\""), "{warning}");
    }
}

#[test]
fn a_probe_on_a_port_that_its_container_does_not_have_is_refused_with_those_it_has() {
    let here = Surroundings::default();
    let spec = json!({"containers": [
        {"name": "app", "ports": [{"name": "http", "containerPort": 80}], "livenessProbe": {"httpGet": {"port": "htp"}}},
        // A name of another container does not count, as it does not for the kubelet.
        {"name": "other", "readinessProbe": {"tcpSocket": {"port": "http"}}},
    ]});
    let outcome = here.inject(&pod(spec));
    assert_eq!(outcome.reason(), Reason::ProbePort);
    let message = outcome.message();
    assert!(
        message.contains(
            "livenessProbe of container \"app\": the container declares no port \"htp\"; there is \"http\""
        ),
        "{message}"
    );
    assert!(message.contains("readinessProbe of container \"other\""), "{message}");
}

#[test]
fn probes_of_a_sidecar_that_is_gone_are_refused() {
    let here = Surroundings::default();
    let probed = pod(json!({"containers": [{"name": "app", "livenessProbe": {"tcpSocket": {"port": 1}}}]}));
    let mut injected = here.injected(&probed);
    injected["spec"].as_object_mut().unwrap().remove("initContainers");
    injected["spec"].as_object_mut().unwrap().remove("volumes");
    assert_eq!(here.inject(&injected).reason(), Reason::Tampered);
}

#[test]
fn a_native_sidecar_of_the_pod_is_probed_by_ours_too() {
    let here = Surroundings::default();
    let mut pod = pod(json!({}));
    pod["spec"]["initContainers"] = json!([
        {"name": "first"},
        {"name": "logs", "restartPolicy": "Always", "startupProbe": {"httpGet": {"port": 2020}}},
    ]);
    invariants::hold(&here, &pod);
    let injected = here.injected(&pod);
    let path = format!("/app-health/{TOKEN}/logs/startup");
    assert_eq!(injected["spec"]["initContainers"][3]["startupProbe"]["httpGet"]["path"], json!(path));
}
