//! What the real helm makes of the chart.

use mantlet_injector::inject::Document;
use mantlet_testkit::real_peers::RealPeers;
use serde_json::{Value, json};

use crate::helm::{BARE, EVERYTHING, Helm, LEAST, NAMESPACE, SETS, config, of_kind, the};

#[tokio::test]
async fn helm_finds_nothing_to_complain_of() {
    let Some(peers) = RealPeers::find("helm_finds_nothing_to_complain_of") else { return };
    let helm = Helm::new(&peers);
    for (set, values) in SETS {
        let said = helm.run(&["lint", "--strict"], values).await.unwrap();
        assert!(!said.contains("[WARNING]") && !said.contains("[ERROR]"), "{set}: {said}");
    }
}

#[tokio::test]
async fn the_same_values_give_the_same_bytes() {
    let Some(peers) = RealPeers::find("the_same_values_give_the_same_bytes") else { return };
    for (set, values) in SETS {
        assert_eq!(Helm::new(&peers).text(values).await, Helm::new(&peers).text(values).await, "{set}");
    }
}

#[tokio::test]
async fn values_that_mean_nothing_are_refused_by_name() {
    let Some(peers) = RealPeers::find("values_that_mean_nothing_are_refused_by_name") else { return };
    let helm = Helm::new(&peers);
    for (values, named) in [
        ("profile: default", "trustDomain is required"),
        ("trustDomain: prod.test\nunconfigurd: audit", "unconfigurd"),
        ("trustDomain: prod.test\nproxy: {image: {digset: x}}", "digset"),
        ("trustDomain: prod.test\nspire: {clusterSPIFFEID: {enable: true}}", "enable"),
        ("trustDomain: prod.test\nmonitoring: {podMonitor: {enabled: 'yes'}}", "boolean"),
        ("trustDomain: prod.test\nprofile: strickt", "profile"),
        ("trustDomain: PROD.test", "trustDomain"),
        ("trustDomain: prod.test\nmeshCidrs: []", "meshCidrs"),
        ("trustDomain: prod.test\nproxy: {user: 0}", "user"),
        ("trustDomain: prod.test\nproxy: {ports: {health: 70000}}", "health"),
        ("trustDomain: prod.test\nproxy: {resources: {limits: {memory: null}}}", "memory"),
        ("trustDomain: prod.test\nproxy: {image: {digest: 'sha256:abc'}}", "digest"),
        ("trustDomain: prod.test\ninjector: {replicas: 0}", "replicas"),
    ] {
        let said = helm.run(&["template", "mantlet"], values).await.unwrap_err();
        assert!(said.contains(named), "{values}: {said}");
    }
}

#[tokio::test]
async fn webhooks_fail_closed_where_sidecars_are_asked_for_and_see_nothing_else() {
    let Some(peers) = RealPeers::find("webhooks_fail_closed") else { return };
    let helm = Helm::new(&peers);
    for (set, values) in SETS {
        let objects = helm.objects(values).await;
        for kind in ["MutatingWebhookConfiguration", "ValidatingWebhookConfiguration"] {
            for webhook in the(&objects, kind)["webhooks"].as_array().unwrap() {
                let name = format!("{set}: {}", webhook["name"]);
                // Advice to whoever wrote nothing; the pods themselves fail closed.
                let policy = if name.contains(".advice.") { "Ignore" } else { "Fail" };
                assert_eq!(webhook["failurePolicy"], policy, "{name}");
                assert_eq!(webhook["clientConfig"].get("caBundle"), None, "{name}: the injector's to write");
                let asks = |selector: &Value| {
                    let expressions = selector["matchExpressions"].as_array().cloned().unwrap_or_default();
                    expressions.contains(
                        &json!({"key": "mantlet.dev/inject", "operator": "In", "values": ["enabled"]}),
                    )
                };
                let template_asks = || {
                    let conditions = webhook["matchConditions"].as_array().unwrap();
                    conditions.iter().any(|condition| {
                        let expression = condition["expression"].as_str().unwrap();
                        condition["name"] == "enabled"
                            && expression.contains("['mantlet.dev/inject'] == 'enabled'")
                    })
                };
                // Somebody has asked, or there would be none in it.
                let has_sidecar = || {
                    let conditions = webhook["matchConditions"].as_array().unwrap();
                    conditions.iter().any(|condition| condition["name"] == "has-sidecar")
                };
                let opted_in = asks(&webhook["namespaceSelector"])
                    || asks(&webhook["objectSelector"])
                    || template_asks()
                    || has_sidecar();
                assert!(opted_in, "{name}: who asked for it?");
                let left_alone = webhook["namespaceSelector"]["matchExpressions"].as_array().unwrap();
                let left_alone =
                    left_alone.iter().find(|e| e["key"] == "kubernetes.io/metadata.name").unwrap();
                let namespaces = left_alone["values"].as_array().unwrap();
                assert_eq!(left_alone["operator"], "NotIn", "{name}");
                assert!(
                    namespaces.contains(&json!(NAMESPACE)) && namespaces.contains(&json!("kube-system")),
                    "{name}"
                );
                for rule in webhook["rules"].as_array().unwrap() {
                    for resource in rule["resources"].as_array().unwrap() {
                        let resource = resource.as_str().unwrap();
                        assert!(!resource.contains('*'), "{name}: {resource}");
                        // Debuggers only where no rule of the API server is there for them.
                        let debuggers = set == "bare" && resource == "pods/ephemeralcontainers";
                        assert!(debuggers || !resource.contains('/'), "{name}: {resource}");
                    }
                }
            }
        }
    }
}

#[tokio::test]
async fn the_injector_may_do_no_more_than_it_does() {
    let Some(peers) = RealPeers::find("the_injector_may_do_no_more_than_it_does") else { return };
    let objects = Helm::new(&peers).objects(EVERYTHING).await;
    let mut rules = Vec::new();
    for kind in ["ClusterRole", "Role"] {
        for rule in the(&objects, kind)["rules"].as_array().unwrap() {
            for word in ["apiGroups", "resources", "verbs"] {
                assert!(!rule[word].as_array().unwrap().contains(&json!("*")), "{rule}");
            }
            for resource in rule["resources"].as_array().unwrap() {
                for verb in rule["verbs"].as_array().unwrap() {
                    let named = if rule.get("resourceNames").is_some() { " by name" } else { "" };
                    let line =
                        format!("{kind} {} {}{named}", verb.as_str().unwrap(), resource.as_str().unwrap());
                    rules.push(line);
                }
            }
        }
    }
    let secrets = rules.iter().filter(|rule| rule.contains("secrets")).collect::<Vec<_>>();
    assert!(secrets.iter().all(|rule| rule.starts_with("Role ")), "{secrets:?}");
    assert!(
        secrets.iter().all(|rule| rule.ends_with(" by name") || *rule == "Role create secrets"),
        "{secrets:?}"
    );
    for rule in &rules {
        let (role, what) = rule.split_once(' ').unwrap();
        if role == "ClusterRole" && !rule.ends_with(" by name") {
            let harmless =
                what.starts_with("get ") || what.starts_with("list ") || what.starts_with("watch ");
            assert!(harmless || what.ends_with(" events"), "{rule}");
        }
        for never in
            ["pods/", "deployments", "roles", "serviceaccounts", "nodes/", "impersonate", "escalate", "bind"]
        {
            assert!(!what.contains(never), "{rule}");
        }
    }
    // Who is where in the cluster is the directory's to read.
    let without = Helm::new(&peers).objects(&format!("{LEAST}\ndirectory: {{enabled: false}}")).await;
    let reads = |objects: &[Value], resource: &str| {
        let rules = the(objects, "ClusterRole")["rules"].as_array().unwrap().clone();
        let mut rules = rules.into_iter();
        let rule = rules.find(|rule| rule["resources"].as_array().unwrap().contains(&json!(resource)));
        rule.map(|rule| rule["verbs"].clone())
    };
    for resource in ["pods", "services", "endpointslices"] {
        assert_eq!(reads(&objects, resource), Some(json!(["get", "list", "watch"])), "{resource}");
        assert_eq!(reads(&without, resource), None, "{resource}");
    }
}

#[tokio::test]
async fn sidecars_are_told_where_the_directory_is_and_who_it_must_be() {
    let Some(peers) = RealPeers::find("sidecars_are_told_where_the_directory_is") else { return };
    let helm = Helm::new(&peers);
    let without = helm.objects(&format!("{LEAST}\ndirectory: {{enabled: false}}")).await;
    assert_eq!(config(&without).document().directory, None);
    for mode in ["{mode: csi}", "{mode: hostPath, directory: /run/agent}"] {
        let values = format!("{LEAST}\nworkloadApi: {mode}\nspire: {{clusterSPIFFEID: {{enabled: true}}}}");
        let objects = helm.objects(&values).await;
        let directory = config(&objects).document().directory.clone().unwrap();
        assert_eq!(directory.address, format!("mantlet-injector.{NAMESPACE}.svc:8444"));
        let spec = &the(&objects, "Deployment")["spec"]["template"]["spec"];
        let account = spec["serviceAccountName"].as_str().unwrap();
        assert_eq!(directory.id, format!("spiffe://prod.test/ns/{NAMESPACE}/sa/{account}"));
        // The port that the Service gives leads to what listens.
        let ports = the(&objects, "Service")["spec"]["ports"].as_array().unwrap().clone();
        let port = ports.iter().find(|port| port["port"] == 8444).unwrap();
        let container = &spec["containers"][0];
        let ports = container["ports"].as_array().unwrap();
        let target = ports.iter().find(|known| known["name"] == port["targetPort"]).unwrap();
        assert_eq!(target["containerPort"], 8444);
        assert!(container["args"].as_array().unwrap().contains(&json!("--directory-listen=[::]:8444")));
        // Its identity: a volume, the socket in it, and who gives it.
        let api = "--workload-api=unix:///run/mantlet/workload-api/spire-agent.sock";
        assert!(container["args"].as_array().unwrap().contains(&json!(api)));
        let volumes = spec["volumes"].as_array().unwrap();
        let volume = volumes.iter().find(|volume| volume["name"] == "workload-api").unwrap();
        assert!(
            volume["csi"]["driver"] == "csi.spiffe.io" || volume["hostPath"]["path"] == "/run/agent",
            "{volume}"
        );
        // Admission starts where there is no agent yet.
        assert!(volume["csi"].is_object() || volume["hostPath"]["type"] == "DirectoryOrCreate", "{volume}");
        let identities = of_kind(&objects, "ClusterSPIFFEID");
        let own = identities.iter().find(|id| id["metadata"]["name"] == "mantlet-injector").unwrap();
        assert_eq!(
            own["spec"]["workloadSelectorTemplates"],
            json!([format!("k8s:container-name:{}", container["name"].as_str().unwrap())])
        );
        let labels = &the(&objects, "Deployment")["spec"]["template"]["metadata"]["labels"];
        for (key, value) in own["spec"]["podSelector"]["matchLabels"].as_object().unwrap() {
            assert_eq!(labels[key], *value);
        }
        assert_eq!(own["spec"]["namespaceSelector"]["matchLabels"]["kubernetes.io/metadata.name"], NAMESPACE);
        let rules = the(&objects, "NetworkPolicy")["spec"]["ingress"].as_array().unwrap();
        assert!(rules.iter().any(|rule| rule["ports"][0]["port"] == "directory"), "{rules:?}");
    }
}

#[tokio::test]
async fn the_injector_runs_as_the_strictest_pod_security_wants_it() {
    let Some(peers) = RealPeers::find("the_injector_runs_as_the_strictest") else { return };
    let helm = Helm::new(&peers);
    for (set, values) in SETS {
        let objects = helm.objects(values).await;
        let deployment = the(&objects, "Deployment");
        let template = &deployment["spec"]["template"];
        assert_eq!(template["metadata"]["labels"]["mantlet.dev/inject"], "disabled", "{set}");
        let spec = &template["spec"];
        let security = &spec["securityContext"];
        assert_eq!(security["runAsNonRoot"], true, "{set}");
        assert!(security["runAsUser"].as_u64().unwrap() > 0, "{set}");
        assert_eq!(security["seccompProfile"]["type"], "RuntimeDefault", "{set}");
        for container in spec["containers"].as_array().unwrap() {
            let security = &container["securityContext"];
            assert_eq!(security["allowPrivilegeEscalation"], false, "{set}");
            assert_eq!(security["readOnlyRootFilesystem"], true, "{set}");
            assert_eq!(security["capabilities"], json!({"drop": ["ALL"]}), "{set}");
            assert!(container["resources"]["limits"]["memory"].is_string(), "{set}");
        }
        let rolling = &deployment["spec"]["strategy"]["rollingUpdate"];
        assert_eq!(rolling, &json!({"maxSurge": 1, "maxUnavailable": 0}), "{set}");
        assert_eq!(spec["topologySpreadConstraints"].as_array().unwrap().len(), 2, "{set}");
    }
}

#[tokio::test]
async fn a_changed_configuration_is_a_new_rollout() {
    let Some(peers) = RealPeers::find("a_changed_configuration_is_a_new_rollout") else { return };
    let helm = Helm::new(&peers);
    let template =
        async |values: &str| the(&helm.objects(values).await, "Deployment")["spec"]["template"].clone();
    let before = template(LEAST).await;
    assert_eq!(before, template(&format!("{LEAST}\nmonitoring: {{podMonitor: {{enabled: true}}}}")).await);
    assert_ne!(before, template(&format!("{LEAST}\nunconfigured: audit")).await);
}

#[tokio::test]
async fn images_come_from_where_the_values_say() {
    let Some(peers) = RealPeers::find("images_come_from_where_the_values_say") else { return };
    let helm = Helm::new(&peers);
    let digest = "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef";
    let objects = helm.objects(EVERYTHING).await;
    let config = config(&objects);
    let proxy = &config.document().images.proxy;
    assert_eq!(proxy.name, "registry.test/mantlet/mantlet-proxy:1.2.3");
    assert_eq!(proxy.digest.as_deref(), Some(digest));
    let injector = |objects: &[Value]| {
        the(objects, "Deployment")["spec"]["template"]["spec"]["containers"][0]["image"]
            .as_str()
            .unwrap()
            .to_owned()
    };
    assert_eq!(injector(&objects), "registry.test/mantlet/mantlet-injector:0.1.0");
    for (repository, image) in [
        ("team/injector", "registry.test/team/injector:0.1.0"),
        ("other.test/injector", "other.test/injector:0.1.0"),
        ("localhost/injector", "localhost/injector:0.1.0"),
        ("mirror:5000/injector", "mirror:5000/injector:0.1.0"),
    ] {
        let values = format!(
            "{LEAST}\nglobal: {{imageRegistry: registry.test}}\ninjector: {{image: {{repository: '{repository}', digest: '{digest}'}}}}"
        );
        assert_eq!(injector(&helm.objects(&values).await), format!("{image}@{digest}"));
    }
}

#[tokio::test]
async fn what_is_switched_off_is_not_there() {
    let Some(peers) = RealPeers::find("what_is_switched_off_is_not_there") else { return };
    let helm = Helm::new(&peers);
    let (least, everything, bare) =
        (helm.objects(LEAST).await, helm.objects(EVERYTHING).await, helm.objects(BARE).await);
    for (kind, counts) in [
        ("ValidatingAdmissionPolicy", [3, 4, 0]),
        ("ValidatingAdmissionPolicyBinding", [5, 6, 0]),
        ("NetworkPolicy", [1, 1, 0]),
        ("PodDisruptionBudget", [1, 1, 0]),
        ("ServiceMonitor", [0, 1, 0]),
        ("PodMonitor", [0, 1, 0]),
        ("PrometheusRule", [0, 1, 0]),
        ("ClusterSPIFFEID", [0, 2, 0]),
        ("ConfigMap", [1, 2, 1]),
    ] {
        let found = [&least, &everything, &bare].map(|objects| of_kind(objects, kind).len());
        assert_eq!(found, counts, "{kind}");
    }
    assert_eq!(the(&bare, "Deployment")["metadata"]["name"], "mantlet-shield-injector");
}

#[tokio::test]
async fn the_injector_takes_what_the_chart_writes() {
    let Some(peers) = RealPeers::find("the_injector_takes_what_the_chart_writes") else { return };
    let helm = Helm::new(&peers);
    for (_, values) in SETS {
        config(&helm.objects(values).await);
    }
    // Whoever says nothing gets what the command line gives, which knows no directory.
    let least = config(&helm.objects(&format!("{LEAST}\ndirectory: {{enabled: false}}")).await);
    let mut defaults = Document { trust_domain: "prod.test".to_owned(), ..Document::default() };
    defaults.excluded_namespaces.push(NAMESPACE.to_owned());
    defaults.excluded_namespaces.sort();
    assert_eq!(least.document(), &defaults);
}

#[tokio::test]
async fn the_injector_is_started_with_flags_that_it_has() {
    let Some(peers) = RealPeers::find("the_injector_is_started_with_flags_that_it_has") else { return };
    // Generated from the injector's table of keys.
    let documented = std::fs::read_to_string(crate::workspace().join("docs/injector.md")).unwrap();
    let objects = Helm::new(&peers).objects(LEAST).await;
    let container = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    for argument in container["args"].as_array().unwrap() {
        let (flag, value) = argument.as_str().unwrap().split_once('=').unwrap();
        assert!(documented.contains(&format!("| `{flag}` |")), "{flag}");
        assert!(!value.is_empty(), "{flag}");
        // Lives of certificates are the same whether the chart says them or nobody does.
        let life = flag.starts_with("--certificate-") || flag == "--authority-life";
        let row = documented.lines().find(|line| line.starts_with(&format!("| `{flag}` |"))).unwrap();
        assert!(!life || row.contains(&format!("| `{value}` |")), "{argument}: {row}");
    }
    let objects = Helm::new(&peers).objects(EVERYTHING).await;
    let container = &the(&objects, "Deployment")["spec"]["template"]["spec"]["containers"][0];
    for argument in [
        "--authority-life=30d",
        "--certificate-life=6h",
        "--certificate-settle=500ms",
        "--certificate-poll=1m",
    ] {
        assert!(container["args"].as_array().unwrap().contains(&json!(argument)), "{argument}: {container}");
    }
    for variable in container["env"].as_array().unwrap() {
        let name = variable["name"].as_str().unwrap();
        assert!(documented.contains(&format!("| `{name}` |")), "{name}");
    }
}
