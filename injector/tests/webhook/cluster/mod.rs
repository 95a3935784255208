//! With the real API server: the chart as the real helm renders it, its role, its selectors and its conditions, and the
//! built injector behind its webhooks.

mod away;
mod neighbours;
mod pods;
mod rotation;

use std::path::Path;
use std::process::Stdio;

use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::{RealPeers, free_port, run};
use mantlet_testkit::{TempDir, eventually};
use serde_json::{Value, json};
use tokio::process::Command;

use crate::injector::Injector;

const SYSTEM: &str = "mantlet-system";

/// What the API server writes down of each request that changes something.
const AUDIT: &str = r#"{
    "apiVersion": "audit.k8s.io/v1", "kind": "Policy", "omitStages": ["RequestReceived"],
    "rules": [
        {"level": "Request", "verbs": ["create", "update", "patch"], "resources": [{"group": "", "resources": ["pods"]}]},
        {"level": "None"}
    ]
}"#;

/// An API server with the chart in it. Namespace `shop` asks for sidecars, `bazaar` does not.
struct Cluster {
    server: ApiServer,
    port: u16,
    config: String,
    /// How the chart starts it.
    args: Vec<String>,
    token: String,
    /// The audit log is here; the server writes to it as long as it lives.
    files: TempDir,
}

impl Cluster {
    /// Everything but a running injector.
    async fn start(peers: &RealPeers) -> Self {
        let files = TempDir::new();
        let policy = files.file("audit.json", AUDIT);
        let log = files.path().join("audit.log");
        let flags = [
            format!("--audit-policy-file={}", policy.display()),
            format!("--audit-log-path={}", log.display()),
            "--audit-log-mode=blocking".to_owned(),
        ];
        let server = ApiServer::with(peers, &flags).await;
        server.namespace(SYSTEM, &[]).await;
        server.namespace("shop", &[("mantlet.dev/inject", "enabled")]).await;
        server.namespace("bazaar", &[]).await;
        let port = free_port();
        let (mut config, mut args, mut account) = (String::new(), Vec::new(), String::new());
        for mut object in rendered(peers).await {
            let kind = object["kind"].as_str().unwrap().to_owned();
            match kind.as_str() {
                "ConfigMap" => object["data"]["config.yaml"].as_str().unwrap().clone_into(&mut config),
                // No service network here: the same by an address.
                "MutatingWebhookConfiguration" | "ValidatingWebhookConfiguration" => {
                    for hook in object["webhooks"].as_array_mut().unwrap() {
                        let path = hook["clientConfig"]["service"]["path"].as_str().unwrap();
                        hook["clientConfig"] = json!({"url": format!("https://127.0.0.1:{port}{path}")});
                    }
                }
                // Nobody here would make pods of it.
                "Deployment" => {
                    let injector = &object["spec"]["template"]["spec"];
                    injector["serviceAccountName"].as_str().unwrap().clone_into(&mut account);
                    let all = injector["containers"][0]["args"].as_array().unwrap();
                    args = all.iter().map(|arg| arg.as_str().unwrap().to_owned()).collect();
                    continue;
                }
                "Service" | "PodDisruptionBudget" | "NetworkPolicy" => continue,
                _ => {}
            }
            // helm would say where.
            if object["metadata"]["namespace"].is_null()
                && matches!(kind.as_str(), "ServiceAccount" | "ConfigMap")
            {
                object["metadata"]["namespace"] = json!(SYSTEM);
            }
            server.create(&object).await.unwrap_or_else(|error| panic!("{kind}: {error}"));
        }
        let token = server.kubectl(&["create", "token", &account, "--namespace", SYSTEM]).await.unwrap();
        Self { server, port, config, args, token: token.trim().to_owned(), files }
    }

    /// An injector with the rights that the chart gives it, and no other.
    async fn injector(&self, more: &[&str]) -> Injector {
        let dir = TempDir::new();
        let admin = std::fs::read_to_string(self.server.kubeconfig_path()).unwrap();
        let mut kubeconfig: Value = serde_json::from_str(&admin).unwrap();
        kubeconfig["users"][0]["user"] = json!({"token": self.token});
        let mut command = Command::new(env!("CARGO_BIN_EXE_mantlet-injector"));
        command.env_clear().env("KUBECONFIG", dir.file("kubeconfig", kubeconfig.to_string()));
        let config = dir.file("config.yaml", &self.config);
        // As the chart starts it, but for where files and listeners are here.
        for arg in &self.args {
            let (flag, value) = arg.split_once('=').unwrap();
            let value = match flag {
                "--config" => config.to_str().unwrap().to_owned(),
                "--listen" => format!("127.0.0.1:{}", self.port),
                "--admin" | "--directory-listen" => "127.0.0.1:0".to_owned(),
                _ => value.to_owned(),
            };
            command.arg(format!("{flag}={value}"));
        }
        command.env("MANTLET_NAMESPACE", SYSTEM).env("MANTLET_POD_NAME", "injector-1");
        command.args(["--names", "127.0.0.1", "--certificate-poll", "200ms"]);
        command.args(["--stop-delay", "0s", "--log-admissions", "all"]).args(more);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        Injector::run(command, dir).await
    }

    /// An injector that the API server calls and trusts.
    async fn ready(&self) -> Injector {
        let injector = self.injector(&[]).await;
        injector.event("ready").await;
        self.effective().await;
        injector
    }

    /// Waits until the API server has taken up the webhook configurations.
    async fn effective(&self) {
        let canary = pod("shop", "canary");
        eventually("a pod with a sidecar", async || {
            let created = self.server.try_create(&canary).await.ok()?;
            has_sidecar(&created).then_some(())
        })
        .await;
    }

    /// What the API server wrote down of the creation of a pod: who was called, and what came of it.
    fn audited(&self, pod: &str) -> Value {
        let text = std::fs::read_to_string(self.files.path().join("audit.log")).unwrap();
        let mut lines = text.lines().filter_map(|line| serde_json::from_str::<Value>(line).ok());
        let entry = lines
            .find(|entry| entry["verb"] == "create" && entry["requestObject"]["metadata"]["name"] == pod);
        entry.unwrap_or_else(|| panic!("{pod} in {text}"))["annotations"].clone()
    }

    /// kubectl on an object by its name.
    async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        self.server.kubectl(args).await
    }
}

/// What the chart installs where only the trust domain is said, with the directory.
async fn rendered(peers: &RealPeers) -> Vec<Value> {
    let dir = TempDir::new();
    let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart");
    let mut helm = Command::new(peers.program("helm"));
    helm.env("HOME", dir.path()).env_remove("KUBECONFIG").args(["template", "mantlet"]).arg(chart);
    helm.args(["--namespace", SYSTEM, "--set", "trustDomain=prod.test"]);
    helm.args(["--set", "directory.enabled=true"]);
    let text = run(&mut helm).await.unwrap_or_else(|error| panic!("{error}"));
    let objects: Vec<Value> = serde_saphyr::from_multiple(&text).unwrap();
    objects.into_iter().filter(|object| !object.is_null()).collect()
}

fn pod(namespace: &str, name: &str) -> Value {
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": {
            "name": name,
            "namespace": namespace,
            "annotations": {"mantlet.dev/policy": "allow shop/frontend to GET /orders on http"},
        },
        "spec": {
            "containers": [{
                "name": "app",
                "image": "web:1",
                "ports": [{"name": "http", "containerPort": 8080}],
                "readinessProbe": {"httpGet": {"path": "/ready", "port": "http"}},
            }],
        },
    })
}

fn deployment(name: &str, policy: &str) -> Value {
    let mut template = pod("shop", name);
    template["metadata"] = json!({"labels": {"app": name}, "annotations": {"mantlet.dev/policy": policy}});
    json!({
        "apiVersion": "apps/v1",
        "kind": "Deployment",
        "metadata": {"name": name, "namespace": "shop"},
        "spec": {
            "replicas": 2,
            "selector": {"matchLabels": {"app": name}},
            "template": {"metadata": template["metadata"], "spec": template["spec"]},
        },
    })
}

fn init_containers(pod: &Value) -> Vec<&str> {
    let all = pod["spec"]["initContainers"].as_array().into_iter().flatten();
    all.filter_map(|container| container["name"].as_str()).collect()
}

fn has_sidecar(pod: &Value) -> bool {
    init_containers(pod).starts_with(&["mantlet-init", "mantlet-proxy"])
}
