//! Identities for injected pods, as `deploy/spire` asks SPIRE for them.

use mantlet_testkit::real_peers::RealPeers;
use mantlet_testkit::spire::Spire;
use serde_json::{Value, json};

use crate::helm::{Helm, config, of_kind};
use crate::pods::injected_by;
use crate::workspace;

fn read(name: &str) -> String {
    std::fs::read_to_string(workspace().join("deploy/spire").join(name)).unwrap()
}

#[tokio::test]
async fn the_controller_manager_gives_an_identity_to_the_sidecar_alone() {
    let Some(peers) = RealPeers::find("the_controller_manager_gives_an_identity") else { return };
    let values = format!("{}\ntrustDomain: prod.example", read("values.yaml"));
    let objects = Helm::new(&peers).objects(&values).await;
    let asked = of_kind(&objects, "ClusterSPIFFEID");
    let asked = &asked.iter().find(|asked| asked["metadata"]["name"] == "mantlet").unwrap()["spec"];
    assert_eq!(asked["workloadSelectorTemplates"], json!(["k8s:container-name:mantlet-proxy"]));
    let id = "spiffe://{{ .TrustDomain }}/ns/{{ .PodMeta.Namespace }}/sa/{{ .PodSpec.ServiceAccountName }}";
    assert_eq!(asked["spiffeIDTemplate"], id);
    // Who has a sidecar keeps its identity when the chart goes; the injector goes with it.
    let kept = |name: &str| {
        let objects = of_kind(&objects, "ClusterSPIFFEID").into_iter();
        let mut found = objects.filter(|object| object["metadata"]["name"] == name);
        found.next().unwrap()["metadata"]["annotations"]["helm.sh/resource-policy"] == "keep"
    };
    assert!(kept("mantlet") && !kept("mantlet-injector"));
    // It selects what the injector makes.
    let pod = injected_by(&config(&objects), "shop");
    for (key, value) in asked["podSelector"]["matchLabels"].as_object().unwrap() {
        assert_eq!(pod["metadata"]["labels"][key], *value);
    }
    let containers = pod["spec"]["initContainers"].as_array().unwrap();
    assert!(containers.iter().any(|container| container["name"] == "mantlet-proxy"));
}

#[tokio::test]
async fn spire_takes_the_plain_entries() {
    let Some(peers) = RealPeers::find("spire_takes_the_plain_entries") else { return };
    let spire = Spire::start(&peers, "prod.example").await;
    let file = spire.dir().file("entries.json", read("entries.json"));
    spire.server_cli(&["entry", "create", "-data", file.to_str().unwrap()]).await;
    let shown = spire.json(&["entry", "show", "-spiffeID", "spiffe://prod.example/ns/shop/sa/orders"]).await;
    let [entry] = shown["entries"].as_array().unwrap().as_slice() else { panic!("{shown}") };
    let selectors: Vec<&str> = values(&entry["selectors"]);
    assert!(selectors.contains(&"container-name:mantlet-proxy"), "{shown}");
}

fn values(selectors: &Value) -> Vec<&str> {
    selectors.as_array().unwrap().iter().map(|selector| selector["value"].as_str().unwrap()).collect()
}
