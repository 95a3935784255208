//! Manifests with the traits of thirteen that people use, and what becomes of them.
//!
//! `injector/tests/manifests/*.yaml` are our own; each names the public manifest whose traits it has.
//! Beside each stands what it becomes, read by hand: `TEST_BLESS=1` writes it anew, and a person looks at
//! the difference. Where every test is required, as in CI, nothing is written. Version and fingerprint are
//! left out: they change without the result changing.

use std::fmt::Write as _;
use std::path::Path;

use mantlet_injector::inject::{Outcome, Reason, uninject};
use mantlet_injector::{Place, places};
use mantlet_policy::probes::{Handler, Kind, Port, Probe, Probes, Scheme};
use serde_json::{Value, json};

use crate::invariants;
use crate::support::{Surroundings, patched};

/// A pod template of a manifest.
struct Template {
    place: Place,
    pod: Value,
    outcome: Outcome,
}

/// The pod templates of a manifest, and what became of them; compared with what is written beside it.
fn manifest(name: &str) -> Vec<Template> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/manifests");
    let text = std::fs::read_to_string(folder.join(format!("{name}.yaml"))).expect("a manifest");
    let documents: Vec<Value> = serde_saphyr::from_multiple(&text).expect("YAML");
    let here = Surroundings::default();
    let mut templates = Vec::new();
    let mut shown = String::new();
    for document in &documents {
        for place in places(document).expect("a readable manifest") {
            let pod = document.pointer(place.pointer.as_str()).expect("a pod").clone();
            let outcome = here.inject(&pod);
            let _ = writeln!(shown, "# {} {} at \"{}\"", place.kind, place.name, place.pointer);
            let _ = writeln!(shown, "{} {}", outcome.verdict(), outcome.reason());
            for warning in &outcome.warnings {
                let _ = writeln!(shown, "warning: {warning}");
            }
            for operation in outcome.operations() {
                let operation = serde_json::to_string(operation).expect("JSON");
                let _ = writeln!(shown, "{operation}");
            }
            invariants::hold(&here, &pod);
            templates.push(Template { place, pod, outcome });
        }
    }
    let stamp = format!("{},{}", env!("CARGO_PKG_VERSION"), here.config.fingerprint());
    let shown = shown.replace(&stamp, "VERSION,FINGERPRINT");
    let shown = shown.replace(&format!(":{}\"", env!("CARGO_PKG_VERSION")), ":VERSION\"");
    let golden = folder.join(format!("{name}.golden"));
    if std::env::var_os("TEST_BLESS").is_some() {
        let required = std::env::var_os("TEST_REQUIRE_ALL").is_some();
        assert!(!required, "{name}: with TEST_REQUIRE_ALL nobody reads what TEST_BLESS writes");
        std::fs::write(&golden, &shown).expect("a writable folder");
    }
    let expected = std::fs::read_to_string(&golden).unwrap_or_default();
    assert_eq!(shown, expected, "{name}: differs from {}", golden.display());
    templates
}

/// The probes that the sidecar of an injected template is told.
fn told(template: &Template) -> Vec<Probe> {
    let injected = patched(&template.pod, &template.outcome);
    let ours = injected["spec"]["initContainers"].as_array().unwrap();
    let proxy = ours.iter().find(|container| container["name"] == "mantlet-proxy").unwrap();
    let value = proxy["env"].as_array().unwrap().iter().find(|variable| variable["name"] == "MANTLET_PROBES");
    let Some(value) = value else { return Vec::new() };
    let probes: Probes = serde_json::from_str(&value["value"].as_str().unwrap().replace("$$", "$")).unwrap();
    probes.probes
}

fn init_containers(template: &Template) -> Vec<String> {
    let injected = patched(&template.pod, &template.outcome);
    let list = injected["spec"]["initContainers"].as_array().unwrap();
    list.iter().map(|container| container["name"].as_str().unwrap().to_owned()).collect()
}

fn assert_injected(templates: &[Template]) {
    for Template { place, outcome, .. } in templates {
        assert_eq!(outcome.reason(), Reason::Injected, "{}: {}", place.name, outcome.message());
    }
}

#[test]
fn m01_a_shop_with_probes_of_every_kind_is_injected_and_still_probes() {
    let templates = manifest("m01-shop");
    assert_injected(&templates);
    let [mail, front, store, load] = templates.as_slice() else { panic!("four deployments") };
    assert!(
        told(mail).iter().all(|probe| matches!(&probe.handler, Handler::Grpc(grpc) if grpc.port == 8080))
    );
    let cookie = |kind| {
        let probes = told(front);
        let probe = probes.iter().find(|probe| probe.kind == kind).expect("a probe");
        let Handler::HttpGet(get) = &probe.handler else { panic!("{probe:?}") };
        get.http_headers.as_ref().expect("headers")[0].value.clone()
    };
    assert_eq!((cookie(Kind::Ready), cookie(Kind::Live)), ("session=ready".into(), "session=live".into()));
    assert!(
        told(store).iter().all(|probe| matches!(probe.handler, Handler::TcpSocket(_)) && probe.port == 6379)
    );
    assert_eq!(init_containers(load), ["mantlet-init", "mantlet-proxy", "front-check"]);
}

#[test]
fn m02_plain_deployments_with_a_service_account_each_are_injected() {
    let templates = manifest("m02-books");
    assert_eq!(templates.len(), 2);
    assert_injected(&templates);
    assert!(templates.iter().all(|template| told(template).is_empty()));
}

#[test]
fn m03_grpc_services_and_a_pod_without_ports_are_injected() {
    let templates = manifest("m03-votes");
    assert_injected(&templates);
    assert_eq!(templates[0].place.namespace.as_deref(), Some("votes"));
}

#[test]
fn m04_a_database_whose_init_container_clones_is_injected_in_front_of_it() {
    let templates = manifest("m04-mysql");
    assert_injected(&templates);
    assert_eq!(
        init_containers(&templates[0]),
        ["mantlet-init", "mantlet-proxy", "init-mysql", "clone-mysql"]
    );
    // The kubelet runs commands inside the pod by itself.
    assert!(told(&templates[0]).is_empty());
}

#[test]
fn m05_a_job_with_a_native_sidecar_and_no_metadata_is_injected() {
    let templates = manifest("m05-job");
    assert_injected(&templates);
    assert_eq!(init_containers(&templates[0]), ["mantlet-init", "mantlet-proxy", "logshipper"]);
    let injected = patched(&templates[0].pod, &templates[0].outcome);
    assert_eq!(injected["metadata"]["labels"], json!({"mantlet.dev/injected": "true"}));
}

#[test]
fn m06_a_daemon_set_on_the_host_network_is_skipped() {
    let templates = manifest("m06-node-exporter");
    assert_eq!(templates[0].outcome.reason(), Reason::HostNetwork);
}

#[test]
fn m07_https_probes_on_a_named_port_are_kept() {
    let templates = manifest("m07-metrics-server");
    assert_injected(&templates);
    let probes = told(&templates[0]);
    assert_eq!(probes.len(), 2);
    for probe in probes {
        let Handler::HttpGet(get) = &probe.handler else { panic!("{probe:?}") };
        assert_eq!((probe.port, &get.port), (10250, &Port::Name("https".to_owned())));
        assert_eq!(get.scheme, Some(Scheme::Https));
    }
}

#[test]
fn m08_query_strings_of_probes_are_kept_and_init_containers_have_the_sidecar() {
    let templates = manifest("m08-argo");
    assert_injected(&templates);
    let probes = told(&templates[0]);
    let live = probes.iter().find(|probe| probe.kind == Kind::Live).expect("a liveness probe");
    let Handler::HttpGet(get) = &live.handler else { panic!("{live:?}") };
    assert_eq!((get.path.as_deref(), live.timeout_seconds), (Some("/healthz?full=true"), Some(5)));
    for template in &templates {
        assert_eq!(init_containers(template)[..2], ["mantlet-init", "mantlet-proxy"]);
    }
}

#[test]
fn m09_a_long_grace_period_and_a_pre_stop_hook_are_kept() {
    let templates = manifest("m09-cassandra");
    assert_injected(&templates);
    let injected = patched(&templates[0].pod, &templates[0].outcome);
    assert_eq!(injected["spec"]["terminationGracePeriodSeconds"], 1800);
    assert_eq!(injected["spec"]["containers"], templates[0].pod["spec"]["containers"]);
}

#[test]
fn m10_a_broker_whose_annotations_are_null_is_injected() {
    let templates = manifest("m10-kafka");
    assert_injected(&templates);
    let removed = {
        let mut injected = patched(&templates[0].pod, &templates[0].outcome);
        let operations = uninject(&injected).unwrap();
        mantlet_injector::inject::apply(&mut injected, &operations).unwrap();
        injected
    };
    assert_eq!(removed["metadata"], json!({"labels": {"app": "kafka"}}));
}

#[test]
fn m11_a_name_server_is_injected_with_the_warning_about_udp() {
    let templates = manifest("m11-coredns");
    assert_injected(&templates);
    assert!(templates[0].outcome.warnings.iter().any(|warning| warning.contains("W208")));
    let injected = patched(&templates[0].pod, &templates[0].outcome);
    let env = injected["spec"]["initContainers"][1]["env"].to_string();
    assert!(env.contains("dns=53/udp,dns-tcp=53/tcp,metrics=9153/tcp"), "{env}");
}

#[test]
fn m12_a_windows_pod_is_skipped() {
    let templates = manifest("m12-windows");
    assert_eq!(templates[0].outcome.reason(), Reason::Windows);
}

#[test]
fn m13_a_log_collector_with_host_paths_is_injected_and_told_about_its_scrapes() {
    let templates = manifest("m13-fluent-bit");
    assert_injected(&templates);
    assert!(templates[0].outcome.warnings.iter().any(|warning| warning.contains("prometheus.io/port 2020")));
}

#[test]
fn what_belongs_to_the_cluster_itself_is_left_alone_in_kube_system() {
    for name in ["m07-metrics-server", "m11-coredns"] {
        for Template { mut pod, .. } in manifest(name) {
            let mut here = Surroundings::default();
            here.namespace.name = "kube-system".to_owned();
            assert_eq!(here.inject(&pod).reason(), Reason::ExcludedNamespace);
            pod["metadata"]["labels"]["mantlet.dev/inject"] = json!("enabled");
            assert_eq!(here.inject(&pod).reason(), Reason::CannotInject);
        }
    }
}
