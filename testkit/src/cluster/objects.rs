//! What the tests ask the cluster for, and how they talk with it. All of it is for threads that have
//! [entered](Cluster::enter) the node.

use std::time::Duration;

use serde_json::{Value, json};

use super::Cluster;

/// How long a pod may take to become what it should, on the busiest machine.
const PATIENCE: Duration = Duration::from_secs(120);

/// A pod with the application of the tests, or the template of one.
#[derive(Clone, Debug)]
pub struct Pod {
    name: String,
    object: Value,
}

// === impl Pod ===

impl Pod {
    /// A pod whose one container `app` runs the application with these arguments. A port `KIND=NUMBER` among them is
    /// declared under the name of its kind.
    pub fn new(name: &str, args: &[&str]) -> Self {
        let port = |arg: &&str| {
            let (kind, number) = arg.split_once('=')?;
            let number: u16 = number.parse().ok().filter(|number| *number >= 1024)?;
            Some(json!({"name": kind, "containerPort": number}))
        };
        let ports: Vec<Value> = args.iter().filter_map(port).collect();
        let object = json!({
            "apiVersion": "v1", "kind": "Pod",
            "metadata": {"name": name, "labels": {"app": name}, "annotations": {}},
            "spec": {
                "terminationGracePeriodSeconds": 10,
                "containers": [{
                    "name": "app", "image": "mantlet-test-app:1", "imagePullPolicy": "Never", "args": args, "ports": ports,
                }],
            },
        });
        Self { name: name.to_owned(), object }
    }

    /// A pod that waits to be told whom to call.
    pub fn caller(name: &str) -> Self {
        Self::new(name, &["serve", "linger=0"])
    }

    /// The service account that it runs as.
    #[must_use]
    pub fn account(self, name: &str) -> Self {
        self.with("/spec", "serviceAccountName", json!(name))
    }

    /// An annotation.
    #[must_use]
    pub fn annotate(self, key: &str, value: &str) -> Self {
        self.with("/metadata/annotations", key, json!(value))
    }

    /// A label.
    #[must_use]
    pub fn label(self, key: &str, value: &str) -> Self {
        self.with("/metadata/labels", key, json!(value))
    }

    /// Sets a field of the application's container.
    #[must_use]
    pub fn container(self, key: &str, value: Value) -> Self {
        self.with("/spec/containers/0", key, value)
    }

    /// Sets a field of the object that this pointer names (RFC 6901).
    ///
    /// # Panics
    /// When nothing is there.
    #[must_use]
    pub fn with(mut self, pointer: &str, key: &str, value: Value) -> Self {
        let at = self.object.pointer_mut(pointer).unwrap_or_else(|| panic!("{pointer}: no such place"));
        at[key] = value;
        self
    }

    /// As a pod.
    pub fn pod(&self) -> Value {
        self.object.clone()
    }

    /// As the template of a Deployment.
    pub fn deployment(&self, replicas: u32) -> Value {
        self.workload("Deployment", json!({"replicas": replicas}))
    }

    /// As the template of a StatefulSet, with this Service.
    pub fn stateful_set(&self, replicas: u32, service: &str) -> Value {
        self.workload("StatefulSet", json!({"replicas": replicas, "serviceName": service}))
    }

    fn workload(&self, kind: &str, mut spec: Value) -> Value {
        let labels = &self.object["metadata"]["labels"];
        spec["selector"] = json!({"matchLabels": {"app": self.name}});
        spec["template"] = json!({
            "metadata": {"labels": labels, "annotations": self.object["metadata"]["annotations"]},
            "spec": self.object["spec"],
        });
        json!({"apiVersion": "apps/v1", "kind": kind, "metadata": {"name": self.name}, "spec": spec})
    }

    /// A Service in front of it, of all ports that it declares, over both families.
    pub fn service(&self, headless: bool) -> Value {
        let declared = self.object["spec"]["containers"][0]["ports"].as_array().cloned().unwrap_or_default();
        let port = |port: &Value| json!({"name": port["name"], "port": port["containerPort"]});
        let ports: Vec<Value> = declared.iter().map(port).collect();
        let mut spec =
            json!({"selector": {"app": self.name}, "ports": ports, "ipFamilyPolicy": "RequireDualStack"});
        if headless {
            spec["clusterIP"] = json!("None");
        }
        json!({"apiVersion": "v1", "kind": "Service", "metadata": {"name": self.name}, "spec": spec})
    }
}

/// The same object in a namespace.
#[must_use]
pub fn in_namespace(namespace: &str, mut object: Value) -> Value {
    object["metadata"]["namespace"] = json!(namespace);
    object
}

// === impl Cluster ===

impl Cluster {
    /// Runs kubectl as administrator and gives what it printed.
    ///
    /// # Errors
    /// All that it printed, when it failed.
    pub async fn kubectl(&self, args: &[&str]) -> Result<String, String> {
        let (good, out, said) = self.kubectl_said(args, None).await;
        if good { Ok(out) } else { Err(format!("kubectl {args:?}: {out}{said}")) }
    }

    /// The same, where it must succeed.
    ///
    /// # Panics
    /// When it fails.
    pub async fn must(&self, args: &[&str]) -> String {
        self.kubectl(args).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Applies an object; gives what kubectl said, warnings of the API server included.
    ///
    /// # Errors
    /// The same, where the API server refuses it.
    pub async fn try_apply(&self, namespace: &str, object: &Value) -> Result<String, String> {
        let args = ["apply", "--namespace", namespace, "--filename", "-"];
        let (good, out, said) = self.kubectl_said(&args, Some(object.to_string())).await;
        if good { Ok(format!("{out}{said}")) } else { Err(format!("{out}{said}")) }
    }

    /// Applies an object.
    ///
    /// # Panics
    /// When the API server refuses it.
    pub async fn apply(&self, namespace: &str, object: &Value) -> String {
        self.try_apply(namespace, object).await.unwrap_or_else(|error| panic!("{error}\n{object}"))
    }

    /// Makes a namespace whose pods get sidecars, these service accounts in it, and their registration entries.
    pub async fn meshed(&self, namespace: &str, accounts: &[&str]) {
        self.namespace(namespace, &[("mantlet.dev/inject", "enabled")], accounts).await;
        for account in accounts.iter().chain(&["default"]) {
            self.register(namespace, account, &[]).await;
        }
    }

    /// Makes a namespace with these labels and service accounts.
    pub async fn namespace(&self, name: &str, labels: &[(&str, &str)], accounts: &[&str]) {
        let labels: serde_json::Map<String, Value> =
            labels.iter().map(|(key, value)| ((*key).to_owned(), json!(value))).collect();
        let object =
            json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": name, "labels": labels}});
        self.apply(name, &object).await;
        for account in accounts {
            let object = json!({"apiVersion": "v1", "kind": "ServiceAccount", "metadata": {"name": account}});
            self.apply(name, &object).await;
        }
        // The controller makes it, and no pod can be created before.
        let args = ["wait", "--for=create", "serviceaccount/default", "--namespace", name, "--timeout=60s"];
        self.must(&args).await;
    }

    /// Registers the sidecars of a service account's pods, as SPIRE's controller manager would; gives the entry's id.
    ///
    /// # Panics
    /// When SPIRE will not.
    pub async fn register(&self, namespace: &str, account: &str, more: &[&str]) -> String {
        let domain = super::TRUST_DOMAIN;
        let (id, parent) =
            (format!("spiffe://{domain}/ns/{namespace}/sa/{account}"), format!("spiffe://{domain}/node"));
        let selectors = [
            format!("k8s:ns:{namespace}"),
            format!("k8s:sa:{account}"),
            "k8s:container-name:mantlet-proxy".to_owned(),
        ];
        let mut args = vec!["entry", "create", "-output", "json", "-parentID", &parent, "-spiffeID", &id];
        args.extend(selectors.iter().flat_map(|selector| ["-selector", selector.as_str()]));
        args.extend(more);
        let answer: Value = serde_json::from_str(&self.spire(&args).await).expect("an answer as JSON");
        let entry = &answer["results"][0]["entry"]["id"];
        entry.as_str().unwrap_or_else(|| panic!("no entry was created: {answer}")).to_owned()
    }

    /// The command line of SPIRE's server.
    ///
    /// # Panics
    /// When it fails.
    pub async fn spire(&self, args: &[&str]) -> String {
        let mut command = tokio::process::Command::new(self.program("spire-server"));
        command.args(args).arg("-socketPath").arg(self.dir().join("spire/server.sock"));
        crate::real_peers::run(&mut command).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Waits until a pod is ready.
    ///
    /// # Panics
    /// After two minutes, with what the cluster has to say about it.
    pub async fn ready(&self, namespace: &str, pod: &str) {
        let what = format!("pod/{pod}");
        let waiting = ["wait", "--for=condition=Ready", &what, "--namespace", namespace, "--timeout=120s"];
        if let Err(error) = self.kubectl(&waiting).await {
            panic!("{error}\n{}", self.about(namespace, pod).await);
        }
    }

    /// Applies a pod and waits until it is ready.
    pub async fn run(&self, namespace: &str, pod: &Pod) {
        self.apply(namespace, &pod.pod()).await;
        self.ready(namespace, &pod.name).await;
    }

    /// Waits until a Deployment or StatefulSet is as it should be.
    ///
    /// # Panics
    /// After two minutes.
    pub async fn rolled_out(&self, namespace: &str, what: &str) {
        let waiting = ["rollout", "status", what, "--namespace", namespace, "--timeout=120s"];
        if let Err(error) = self.kubectl(&waiting).await {
            let pods = self
                .kubectl(&["describe", "pods", "--namespace", namespace])
                .await
                .unwrap_or_else(|said| said);
            panic!("{error}\n{pods}");
        }
    }

    /// An object as the API server has it.
    ///
    /// # Panics
    /// When there is none.
    pub async fn get(&self, namespace: &str, what: &str) -> Value {
        let text = self.must(&["get", what, "--namespace", namespace, "--output=json"]).await;
        serde_json::from_str(&text).unwrap_or_else(|error| panic!("{what}: {error}"))
    }

    /// Runs the application once more in a pod's container, and gives the last line that it printed.
    ///
    /// # Panics
    /// When it could not be run.
    pub async fn call(&self, namespace: &str, pod: &str, args: &[&str]) -> Value {
        let mut all = vec!["exec", "--namespace", namespace, "--container=app", pod, "--", "/cluster-app"];
        all.extend(args);
        let said = self.must(&all).await;
        let last = said.lines().last().unwrap_or_default();
        serde_json::from_str(last).unwrap_or_else(|error| panic!("{args:?}: {error}: {said}"))
    }

    /// The metrics of a pod's sidecar.
    pub async fn metrics(&self, namespace: &str, pod: &str) -> String {
        let url = format!("http://{}:24190/metrics", self.pod_address(namespace, pod).await);
        let answer = crate::wait::within("metrics", http_get(&url)).await;
        answer.unwrap_or_else(|error| panic!("{url}: {error}"))
    }

    /// A pod's first address.
    ///
    /// # Panics
    /// When it has none.
    pub async fn pod_address(&self, namespace: &str, pod: &str) -> String {
        let object = self.get(namespace, &format!("pod/{pod}")).await;
        object["status"]["podIP"]
            .as_str()
            .unwrap_or_else(|| panic!("{pod} has no address: {object}"))
            .to_owned()
    }

    /// The id of a running container, init containers included.
    ///
    /// # Panics
    /// When there is none.
    pub async fn container_id(&self, namespace: &str, pod: &str, container: &str) -> String {
        self.until("a running container", async || {
            let object = self.get(namespace, &format!("pod/{pod}")).await;
            let lists =
                ["initContainerStatuses", "containerStatuses"].map(|list| object["status"][list].clone());
            let mut statuses = lists.iter().filter_map(Value::as_array).flatten();
            let found = statuses
                .find(|status| status["name"] == container && status["state"]["running"].is_object())?;
            Some(found["containerID"].as_str()?.rsplit('/').next()?.to_owned())
        })
        .await
    }

    /// Sends a signal to every process of a container.
    ///
    /// # Panics
    /// When it has none.
    pub fn signal(&self, container_id: &str, signal: rustix::process::Signal) {
        let is_its = |pid: &i32| {
            let groups = std::fs::read_to_string(format!("/proc/{pid}/cgroup")).unwrap_or_default();
            groups.contains(container_id)
        };
        let mut count = 0;
        for pid in super::node::processes().filter(is_its) {
            let pid = rustix::process::Pid::from_raw(pid).expect("not zero");
            count += usize::from(rustix::process::kill_process(pid, signal).is_ok());
        }
        assert!(count > 0, "no process of {container_id}");
    }

    /// What a container has printed.
    pub async fn logs(&self, namespace: &str, pod: &str, container: &str) -> String {
        self.must(&["logs", "--namespace", namespace, "--container", container, pod]).await
    }

    /// Asks until there is an answer.
    ///
    /// # Panics
    /// After two minutes.
    pub async fn until<T>(&self, what: &str, mut ask: impl AsyncFnMut() -> Option<T>) -> T {
        let begun = tokio::time::Instant::now();
        loop {
            if let Some(answer) = ask().await {
                return answer;
            }
            assert!(begun.elapsed() < PATIENCE, "waited {} s for: {what}", PATIENCE.as_secs());
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    async fn about(&self, namespace: &str, pod: &str) -> String {
        let mut text = String::new();
        for args in [
            vec!["describe", "pod", pod, "--namespace", namespace],
            vec!["logs", pod, "--namespace", namespace, "--all-containers", "--tail=30"],
        ] {
            text += &self.kubectl(&args).await.unwrap_or_else(|error| error);
        }
        text
    }

    async fn kubectl_said(&self, args: &[&str], input: Option<String>) -> (bool, String, String) {
        use std::process::Stdio;

        use tokio::io::AsyncWriteExt as _;
        let mut command = self.kubectl_command(args);
        command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
        let mut child = command.spawn().expect("kubectl runs");
        let mut stdin = child.stdin.take().expect("a pipe");
        if let Some(input) = input {
            stdin.write_all(input.as_bytes()).await.expect("kubectl reads");
        }
        drop(stdin);
        let done = tokio::time::timeout(PATIENCE * 2, child.wait_with_output()).await;
        let output = done.unwrap_or_else(|_| panic!("kubectl {args:?}: no end")).expect("kubectl runs");
        let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
        (output.status.success(), text(&output.stdout), text(&output.stderr))
    }
}

/// One GET over plain HTTP, from the node.
pub(super) async fn http_get(url: &str) -> Result<String, String> {
    let mut command = tokio::process::Command::new("curl");
    crate::real_peers::run(command.args(["--silent", "--show-error", "--fail", "--max-time", "10", url]))
        .await
}
