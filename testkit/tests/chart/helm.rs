//! The real helm on the chart of this repository.

use std::path::PathBuf;

use mantlet_injector::inject::Config;
use mantlet_testkit::TempDir;
use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::{RealPeers, run};
use serde_json::Value;
use tokio::process::Command;

use crate::chart;

/// Where the tests install it.
pub(crate) const NAMESPACE: &str = "mantlet-system";

/// What the chart needs to be told, and nothing else.
pub(crate) const LEAST: &str = "trustDomain: prod.test";

/// Everything that can be switched on, and most of what can be said.
pub(crate) const EVERYTHING: &str = r#"
trustDomain: prod.test
profile: strict
unconfigured: audit
guardrails: ["forbid plaintext", "deny mesh except ops/oncall to * /admin/** on 8080"]
meshCidrs: [10.0.0.0/8, "fd00::/8"]
unmeshed: refuse
external: passthrough
unknown: any-in-trust-domain
excludedNamespaces: [kube-system, spire]
workloadApi: {mode: hostPath, directory: /var/run/spire/sockets/, socket: api.sock}
agentDirectories: [/run/spire/agent-sockets, /opt/agent]
global: {imageRegistry: registry.test/mantlet}
imagePullSecrets: [pull]
proxy:
  image: {tag: "1.2.3", digest: "sha256:0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"}
  user: 20001
  group: 20002
  ports: {outbound: 1, inbound: 2, health: 3, admin: 4}
  log: debug
  accessLog: errors
injector:
  replicas: 3
  port: 10250
  timeoutSeconds: 3
  certificate: {life: 6h, authorityLife: 30d, settle: 500ms, poll: 1m}
  priorityClassName: system-cluster-critical
  nodeSelector: {disk: fast}
  tolerations: [{key: control, operator: Exists}]
  affinity: {nodeAffinity: {requiredDuringSchedulingIgnoredDuringExecution: {nodeSelectorTerms: [{matchExpressions: [{key: a, operator: Exists}]}]}}}
  podLabels: {team: platform}
  podAnnotations: {note: "yes"}
admissionPolicy: {liveEdits: {restricted: true, groups: [platform, "oncall \"eu\""]}}
directory: {enabled: true, port: 9443}
networkPolicy: {apiServerCidrs: [192.0.2.0/24], metricsFrom: {team: observers}}
monitoring:
  labels: {release: prometheus}
  serviceMonitor: {enabled: true}
  podMonitor: {enabled: true}
  prometheusRule: {enabled: true}
  dashboard: {enabled: true}
spire:
  clusterSPIFFEID: {enabled: true, className: spire-system-spire, federatesWith: [other.test]}
commonLabels: {owner: platform}
"#;

/// Little of anything.
pub(crate) const BARE: &str = r#"
trustDomain: prod.test
allowPrivileged: true
injector: {replicas: 1, podDisruptionBudget: {enabled: false}}
admissionPolicy: {enabled: false}
networkPolicy: {enabled: false}
nameOverride: shield
"#;

/// The values that every promise about all renderings is held to.
pub(crate) const SETS: [(&str, &str); 3] = [("least", LEAST), ("everything", EVERYTHING), ("bare", BARE)];

/// The real helm, with files of its own.
pub(crate) struct Helm {
    program: PathBuf,
    dir: TempDir,
}

// === impl Helm ===

impl Helm {
    pub(crate) fn new(peers: &RealPeers) -> Self {
        Self { program: peers.program("helm"), dir: TempDir::new() }
    }

    /// Runs it with these values.
    pub(crate) async fn run(&self, args: &[&str], values: &str) -> Result<String, String> {
        let file = self.dir.file("values.yaml", values);
        let home = self.dir.path();
        let mut command = Command::new(&self.program);
        command.env("HOME", home).env_remove("KUBECONFIG").args(args);
        command.arg(chart()).args(["--namespace", NAMESPACE]).arg("--values").arg(file);
        run(&mut command).await
    }

    /// Runs it against this API server, for the release of the tests.
    pub(crate) async fn on(&self, server: &ApiServer, verb: &str, values: &str) -> Result<String, String> {
        let mut command = Command::new(&self.program);
        command.env("HOME", self.dir.path()).env("KUBECONFIG", server.kubeconfig_path());
        command.args([verb, "mantlet", "--namespace", NAMESPACE]);
        if verb != "uninstall" {
            command.arg(chart()).arg("--values").arg(self.dir.file("values.yaml", values));
        }
        run(&mut command).await
    }

    /// What would be installed, as text.
    pub(crate) async fn text(&self, values: &str) -> String {
        self.run(&["template", "mantlet"], values).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// What would be installed.
    pub(crate) async fn objects(&self, values: &str) -> Vec<Value> {
        let text = self.text(values).await;
        let objects: Vec<Value> =
            serde_saphyr::from_multiple(&text).unwrap_or_else(|error| panic!("{error}\n{text}"));
        objects.into_iter().filter(|object| !object.is_null()).collect()
    }
}

/// The objects of one kind.
pub(crate) fn of_kind<'o>(objects: &'o [Value], kind: &str) -> Vec<&'o Value> {
    objects.iter().filter(|object| object["kind"] == kind).collect()
}

/// The only object of a kind.
pub(crate) fn the<'o>(objects: &'o [Value], kind: &str) -> &'o Value {
    let found = of_kind(objects, kind);
    assert_eq!(found.len(), 1, "objects of kind {kind}");
    found[0]
}

/// What the injector reads, checked as it checks it.
pub(crate) fn config(objects: &[Value]) -> Config {
    let texts =
        of_kind(objects, "ConfigMap").into_iter().filter_map(|map| map["data"]["config.yaml"].as_str());
    let [text] = texts.collect::<Vec<_>>()[..] else { panic!("not one configuration of the injector") };
    serde_saphyr::from_str(text).unwrap_or_else(|error| panic!("{error}\n{text}"))
}
