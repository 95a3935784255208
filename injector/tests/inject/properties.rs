//! The invariants, for pods that nobody has thought of.

use proptest::prelude::*;
use proptest::strategy::ValueTree as _;
use serde_json::{Map, Value, json};

use crate::invariants;
use crate::support::Surroundings;

/// An optional member: absent more often than not.
fn maybe(value: impl Strategy<Value = Value> + 'static) -> BoxedStrategy<Option<Value>> {
    prop_oneof![2 => Just(None), 3 => value.prop_map(Some)].boxed()
}

fn object(members: Vec<(&'static str, BoxedStrategy<Option<Value>>)>) -> BoxedStrategy<Value> {
    let (names, values): (Vec<_>, Vec<_>) = members.into_iter().unzip();
    values
        .prop_map(move |values| {
            let members =
                names.iter().zip(values).filter_map(|(name, value)| Some(((*name).to_owned(), value?)));
            Value::Object(members.collect::<Map<_, _>>())
        })
        .boxed()
}

fn text() -> impl Strategy<Value = String> {
    prop_oneof!["[a-z0-9 $()/?=&%\"\\\\~üλ-]{0,12}", Just("$(POD_IP)$$".to_owned())]
}

fn port() -> BoxedStrategy<Value> {
    prop_oneof![
        90 => (1_u16..=65535).prop_map(Value::from),
        10 => Just(json!("http")),
        1 => Just(json!("absent")),
        1 => Just(json!(0)),
    ]
    .boxed()
}

fn handler() -> BoxedStrategy<(&'static str, Value)> {
    let header = (text(), text()).prop_map(|(name, value)| json!({"name": name, "value": value}));
    let get = object(vec![
        ("path", maybe(text().prop_map(|path| json!(format!("/{path}"))))),
        ("port", port().prop_map(Some).boxed()),
        ("scheme", maybe(prop_oneof![Just(json!("HTTP")), Just(json!("HTTPS"))])),
        ("httpHeaders", maybe(prop::collection::vec(header, 0..3).prop_map(Value::from))),
        ("future", prop_oneof![9 => Just(None), 1 => Just(Some(json!(1)))].boxed()),
    ]);
    prop_oneof![
        3 => get.prop_map(|get| ("httpGet", get)),
        1 => port().prop_map(|port| ("tcpSocket", json!({ "port": port }))),
        1 => (1_u16..=65535, text()).prop_map(|(port, service)| ("grpc", json!({"port": port, "service": service}))),
        1 => Just(("exec", json!({"command": ["true"]}))),
    ]
    .boxed()
}

fn probe() -> impl Strategy<Value = Value> + 'static {
    (handler(), prop::option::of(1_u32..600), prop::option::of(1_u32..9)).prop_map(
        |((name, handler), timeout, period)| {
            let mut probe = json!({ name: handler });
            if let Some(timeout) = timeout {
                probe["timeoutSeconds"] = timeout.into();
            }
            if let Some(period) = period {
                probe["periodSeconds"] = period.into();
            }
            probe
        },
    )
}

fn hook() -> impl Strategy<Value = Value> + 'static {
    handler().prop_filter_map("no grpc hooks", |(name, handler)| {
        (name != "grpc").then(|| json!({ name: handler }))
    })
}

fn container(sidecar: bool) -> BoxedStrategy<Value> {
    let ports = prop_oneof![
        1 => Just(json!([])),
        5 => Just(json!([{"name": "http", "containerPort": 8080}])),
        15 => Just(
            json!([{"name": "http", "containerPort": 80}, {"name": "grpc", "containerPort": 9090}, {"containerPort": 53, "protocol": "UDP"}])
        ),
        1 => Just(json!([{"containerPort": 24143}])),
    ];
    let lifecycle = object(vec![("postStart", maybe(hook())), ("preStop", maybe(hook()))]);
    object(vec![
        ("image", Just(Some(json!("app:1"))).boxed()),
        ("ports", maybe(ports)),
        ("startupProbe", maybe(probe())),
        ("readinessProbe", maybe(probe())),
        ("livenessProbe", maybe(probe())),
        ("lifecycle", maybe(lifecycle)),
        ("future", maybe(text().prop_map(Value::from))),
        ("restartPolicy", Just(sidecar.then(|| json!("Always"))).boxed()),
        (
            "securityContext",
            prop_oneof![40 => Just(None), 1 => Just(Some(json!({"runAsUser": 14021})))].boxed(),
        ),
    ])
}

fn containers(prefix: &'static str, least: usize) -> impl Strategy<Value = Value> + 'static {
    let one = any::<bool>().prop_flat_map(move |sidecar| container(sidecar && prefix == "init"));
    prop::collection::vec(one, least..4).prop_map(move |mut list| {
        for (index, container) in list.iter_mut().enumerate() {
            container["name"] = json!(format!("{prefix}-{index}"));
        }
        Value::from(list)
    })
}

fn strings(keys: &'static [&'static str]) -> impl Strategy<Value = Value> + 'static {
    let entry = (prop::sample::select(keys), text());
    prop_oneof![
        1 => Just(Value::Null),
        4 => prop::collection::vec(entry, 0..4).prop_map(|entries| {
            Value::Object(entries.into_iter().map(|(key, value)| (key.to_owned(), value.into())).collect())
        }),
    ]
}

fn pods() -> impl Strategy<Value = Value> {
    const LABELS: &[&str] = &["app", "a/b", "a~b", "mantlet.dev/injected"];
    const ANNOTATIONS: &[&str] = &[
        "x",
        "a/b~c",
        "kubectl.kubernetes.io/default-container",
        "mantlet.dev/skip-inbound-ports",
        "mantlet.dev/init-after",
    ];
    let metadata = object(vec![
        ("name", maybe(Just(json!("api")))),
        ("labels", maybe(strings(&LABELS[..3]))),
        ("annotations", maybe(strings(&ANNOTATIONS[..3]))),
    ]);
    let volumes = prop_oneof![
        5 => Just(json!([])),
        5 => Just(json!(null)),
        5 => Just(json!([{"name": "data", "emptyDir": {}}])),
        5 => Just(json!([{"name": "spiffe", "csi": {"driver": "csi.spiffe.io", "readOnly": true}}])),
        1 => Just(json!([{"name": "mantlet-admin", "emptyDir": {}}])),
    ];
    let secrets =
        prop_oneof![Just(json!([{"name": "theirs"}])), Just(json!([{"name": "pull"}, {"name": "theirs"}]))];
    let spec = object(vec![
        ("containers", containers("app", 1).prop_map(Some).boxed()),
        ("initContainers", maybe(prop_oneof![1 => Just(Value::Null), 4 => containers("init", 0)])),
        ("volumes", maybe(volumes)),
        ("imagePullSecrets", maybe(secrets)),
        ("resources", prop_oneof![4 => Just(None), 1 => Just(Some(json!({"limits": {"cpu": "1"}})))].boxed()),
        ("future", maybe(text().prop_map(Value::from))),
    ]);
    (maybe(metadata), spec).prop_map(|(metadata, spec)| match metadata {
        Some(metadata) => json!({"kind": "Pod", "metadata": metadata, "spec": spec}),
        None => json!({"kind": "Pod", "spec": spec}),
    })
}

/// Anything at all, with names that mean something here and there.
fn anything() -> impl Strategy<Value = Value> {
    const NAMES: &[&str] = &[
        "metadata",
        "labels",
        "annotations",
        "spec",
        "containers",
        "initContainers",
        "name",
        "ports",
        "livenessProbe",
        "httpGet",
        "port",
        "lifecycle",
        "preStop",
        "volumes",
        "securityContext",
        "mantlet.dev/injected-by",
        "env",
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i64>().prop_map(Value::from),
        text().prop_map(Value::from),
        prop::sample::select(&["mantlet-proxy", "mantlet-init", "app", "Pod"][..]).prop_map(Value::from),
    ];
    leaf.prop_recursive(6, 64, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
            prop::collection::vec((prop::sample::select(NAMES), inner), 0..6).prop_map(|entries| {
                Value::Object(entries.into_iter().map(|(name, value)| (name.to_owned(), value)).collect())
            }),
        ]
    })
}

/// Enough to find what is wrong with one pod in thirty; more where everything is asked for.
fn cases() -> u32 {
    if std::env::var_os("TEST_REQUIRE_ALL").is_some() { 2000 } else { 96 }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: cases(), failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn the_invariants_hold_for_every_pod(pod in pods()) {
        invariants::hold(&Surroundings::default(), &pod);
    }

    #[test]
    fn they_hold_with_pull_secrets_and_folders_of_the_node(pod in pods()) {
        let here = Surroundings::with(|document| {
            document.image_pull_secrets = vec!["pull".to_owned()];
            document.workload_api = mantlet_injector::inject::WorkloadApi::HostPath {
                directory: "/run/spire/agent-sockets".to_owned(),
                socket: "agent.sock".to_owned(),
            };
        });
        let outcome = here.inject(&pod);
        if !outcome.operations().is_empty() {
            let injected = crate::support::patched(&pod, &outcome);
            prop_assert_eq!(here.inject(&injected).reason().as_str(), "already_injected");
            let mut removed = injected.clone();
            let operations = mantlet_injector::inject::uninject(&injected).expect("an injected pod");
            mantlet_injector::inject::apply(&mut removed, &operations).expect("the patch applies");
            prop_assert_eq!(&removed["spec"]["imagePullSecrets"], &pod["spec"]["imagePullSecrets"]);
        }
    }

    #[test]
    fn nothing_that_may_come_ends_in_a_panic(object in anything()) {
        let here = Surroundings::default();
        let _ = here.inject(&object);
        let _ = mantlet_injector::inject::uninject(&object);
        let _ = mantlet_injector::inject::refuse_ephemeral(&object, &here.config);
        let _ = mantlet_injector::places(&object);
    }
}

#[test]
fn the_pods_that_are_made_up_are_injected_more_often_than_refused() {
    let mut runner = proptest::test_runner::TestRunner::deterministic();
    let here = Surroundings::default();
    let strategy = pods();
    let injected = (0..200).filter(|_| {
        let pod = strategy.new_tree(&mut runner).expect("a pod").current();
        here.inject(&pod).verdict() == mantlet_injector::inject::Verdict::Injected
    });
    let injected = injected.count();
    assert!(injected > 100, "{injected} of 200");
}
