//! Mantlet in the cluster: our chart by the real helm.

use std::path::Path;
use std::time::Duration;

use serde_json::{Value, json};

use super::config::AGENT_FOLDER;
use super::{Cluster, TRUST_DOMAIN};

/// The namespace of the release.
pub const SYSTEM: &str = "mantlet-system";

/// Values of the chart.
#[derive(Clone, Debug)]
pub struct Installation {
    values: Value,
}

impl Default for Installation {
    /// One replica, and the agent's socket as this node has it.
    fn default() -> Self {
        let values = json!({
            "trustDomain": TRUST_DOMAIN,
            "workloadApi": {"mode": "hostPath", "directory": AGENT_FOLDER, "socket": "spire-agent.sock"},
            "networkPolicy": {"apiServerPorts": [super::config::API_PORT]},
            "injector": {"replicas": 1},
            // The node has few processors, and the tests have many pods.
            "proxy": {"resources": {"requests": {"cpu": "5m", "memory": "40Mi"}, "limits": {"memory": "256Mi"}}},
        });
        Self { values }
    }
}

// === impl Installation ===

impl Installation {
    /// The same with another value.
    #[must_use]
    pub fn with(mut self, key: &str, value: Value) -> Self {
        self.values[key] = value;
        self
    }
}

// === impl Cluster ===

impl Cluster {
    /// Installs the chart, or upgrades it to these values, and waits until it serves: until the API server calls it.
    ///
    /// # Panics
    /// When it does not come about.
    pub async fn install(&self, installation: &Installation) {
        self.helm_values(installation, &["upgrade", "--install", "mantlet"]).await;
        // Those of before answer as before, until they are gone.
        self.until("the injectors of before to be gone", async || {
            let deployment = self.get(SYSTEM, "deployment/mantlet-injector").await;
            let pods = self.get(SYSTEM, "pods").await;
            let replicas = deployment["spec"]["replicas"].as_u64()?;
            let pods = pods["items"].as_array()?.len() as u64;
            (pods == replicas).then_some(())
        })
        .await;
        let probe = super::Pod::new("probe", &["serve"]).label("mantlet.dev/inject", "enabled").pod();
        let file = self.dir().join("probe.json");
        std::fs::write(&file, super::in_namespace("default", probe).to_string()).expect("the folder is ours");
        let file = file.to_str().expect("a path in UTF-8");
        let args = ["create", "--dry-run=server", "--output=json", "--filename", file];
        self.until("the API server to call the webhook", async || {
            let text = self.kubectl(&args).await.ok()?;
            text.contains("mantlet-proxy").then_some(())
        })
        .await;
    }

    async fn helm_values(&self, installation: &Installation, words: &[&str]) {
        let chart = Path::new(env!("CARGO_MANIFEST_DIR")).join("../deploy/chart");
        let values = self.dir().join("values.json");
        std::fs::write(&values, installation.values.to_string()).expect("the folder is ours");
        let chart = chart.to_str().expect("a path in UTF-8");
        let values = values.to_str().expect("a path in UTF-8");
        let mut all = words.to_vec();
        all.extend([chart, "--namespace", SYSTEM, "--create-namespace", "--values", values]);
        all.extend(["--wait", "--timeout", "120s"]);
        if let Err(error) = self.helm(&all).await {
            let pods =
                self.kubectl(&["describe", "pods", "--namespace", SYSTEM]).await.unwrap_or_else(|said| said);
            let logs = [
                "logs",
                "--namespace",
                SYSTEM,
                "--selector=app.kubernetes.io/component=injector",
                "--tail=50",
            ];
            panic!("{error}\n{pods}\n{}", self.kubectl(&logs).await.unwrap_or_else(|said| said));
        }
    }

    /// Kills every injector where it stands. The kubelet starts them again.
    pub fn kill_injectors(&self) {
        let node = self.dir().file_name().unwrap_or_default().to_string_lossy();
        for pid in super::node::processes() {
            let read =
                |file: &str| std::fs::read_to_string(format!("/proc/{pid}/{file}")).unwrap_or_default();
            // The kernel keeps 15 characters of a program's name.
            if read("comm").trim() == "mantlet-injecto" && read("cgroup").contains(&*node) {
                let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
                let _ = rustix::process::kill_process(pid, rustix::process::Signal::KILL);
            }
        }
    }

    /// The metrics of an injector.
    ///
    /// # Panics
    /// When none gives them.
    pub async fn injector_metrics(&self) -> String {
        let pods = self.get(SYSTEM, "pods").await;
        let pod = &pods["items"][0];
        let ports = pod["spec"]["containers"][0]["ports"].as_array().expect("ports");
        let port = ports.iter().find(|port| port["name"] == "metrics").expect("a port for metrics");
        let address = pod["status"]["podIP"].as_str().expect("an address");
        let url = format!("http://{address}:{}/metrics", port["containerPort"]);
        let answer = crate::wait::within("metrics", super::objects::http_get(&url)).await;
        answer.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// The real helm.
    ///
    /// # Errors
    /// What it said.
    pub async fn helm(&self, args: &[&str]) -> Result<String, String> {
        let mut helm = tokio::process::Command::new(self.program("helm"));
        helm.env("KUBECONFIG", self.dir().join("kubeconfig")).env("HOME", self.dir()).args(args);
        helm.kill_on_drop(true);
        let done = tokio::time::timeout(Duration::from_secs(150), helm.output()).await;
        let output =
            done.map_err(|_| format!("helm {args:?}: no end"))?.map_err(|error| error.to_string())?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        match output.status.success() {
            true => Ok(text),
            false => Err(format!("helm {args:?}: {text}{}", String::from_utf8_lossy(&output.stderr))),
        }
    }
}
