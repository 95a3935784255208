//! As much of an API server as the injector talks to: one store of objects with resource versions and their conflicts,
//! and a record of everything that was written, in order.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::{BodyExt as _, Full};
use hyper::body::Incoming;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mantlet_testkit::TempDir;
use mantlet_testkit::wait::eventually;
use serde_json::{Value, json};
use tokio::net::TcpListener;

pub(crate) const NAMESPACE: &str = "mantlet";
const SECRET: &str = "/api/v1/namespaces/mantlet/secrets/mantlet-injector-certificate";
const MUTATING: &str = "/apis/admissionregistration.k8s.io/v1/mutatingwebhookconfigurations/mantlet-injector";
const VALIDATING: &str =
    "/apis/admissionregistration.k8s.io/v1/validatingwebhookconfigurations/mantlet-injector";

/// A running API server.
#[derive(Clone)]
pub(crate) struct Api {
    store: Arc<Mutex<Store>>,
    addr: SocketAddr,
    dir: Arc<TempDir>,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<String, Value>,
    version: u64,
    writes: Vec<Write>,
    minor: String,
    /// Every request fails.
    down: bool,
    /// Added to every answer.
    delay: Duration,
}

/// One write that was accepted.
#[derive(Clone, Debug)]
pub(crate) struct Write {
    pub(crate) method: String,
    pub(crate) path: String,
    pub(crate) body: Value,
}

// === impl Api ===

impl Api {
    /// Starts one that has our webhook configurations, as the chart makes them.
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let store = Store { minor: "34".to_owned(), ..Store::default() };
        let api = Self { store: Arc::new(Mutex::new(store)), addr, dir: Arc::new(TempDir::new()) };
        api.write_kubeconfig();
        let hook = |name: &str, path: &str| {
            let service = json!({"namespace": NAMESPACE, "name": "mantlet-injector", "path": path});
            json!({"name": name, "clientConfig": {"service": service}, "failurePolicy": "Fail", "sideEffects": "None"})
        };
        let pods = [hook("namespace.mantlet.dev", "/mutate"), hook("pod.mantlet.dev", "/mutate")];
        api.put(MUTATING, json!({"metadata": {"name": "mantlet-injector"}, "webhooks": pods}));
        let hooks = [hook("validate.mantlet.dev", "/validate")];
        api.put(VALIDATING, json!({"metadata": {"name": "mantlet-injector"}, "webhooks": hooks}));
        let served = api.clone();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let api = served.clone();
                let service = service_fn(move |request| {
                    let api = api.clone();
                    async move { Ok::<_, Infallible>(api.answer(request).await) }
                });
                let http = hyper::server::conn::http1::Builder::new();
                tokio::spawn(http.serve_connection(TokioIo::new(stream), service));
            }
        });
        api
    }

    /// The file that tells a client how to reach it.
    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("kubeconfig")
    }

    fn write_kubeconfig(&self) {
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{}", self.addr)}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        self.dir.file("kubeconfig", text.to_string());
    }

    /// Sets an object as somebody else would.
    pub(crate) fn put(&self, path: &str, mut object: Value) {
        let mut store = self.store();
        store.version += 1;
        object["metadata"]["resourceVersion"] = json!(store.version.to_string());
        store.objects.insert(path.to_owned(), object);
    }

    pub(crate) fn namespace(&self, name: &str, labels: Value) {
        let path = format!("/api/v1/namespaces/{name}");
        self.put(&path, json!({"metadata": {"name": name, "labels": labels}}));
    }

    pub(crate) fn set_secret(&self, data: &BTreeMap<&str, String>) {
        let data: BTreeMap<_, _> = data.iter().map(|(key, value)| (*key, base64(value.as_bytes()))).collect();
        let metadata = json!({"name": "mantlet-injector-certificate", "labels": {"of": "somebody"}});
        self.put(SECRET, json!({"metadata": metadata, "type": "Opaque", "data": data}));
    }

    pub(crate) fn delete_secret(&self) {
        self.store().objects.remove(SECRET);
    }

    pub(crate) fn delete_validating(&self) {
        self.store().objects.remove(VALIDATING);
    }

    /// The data of the Secret, in the clear.
    pub(crate) fn secret(&self) -> Option<BTreeMap<String, String>> {
        let store = self.store();
        let data = store.objects.get(SECRET)?["data"].as_object()?.clone();
        let text = |value: Value| String::from_utf8(unbase64(value.as_str().unwrap())).unwrap();
        Some(data.into_iter().map(|(key, value)| (key, text(value))).collect())
    }

    pub(crate) fn secret_object(&self) -> Value {
        self.store().objects[SECRET].clone()
    }

    /// The bundles of all our webhooks, as PEM.
    pub(crate) fn bundles(&self) -> Vec<String> {
        let store = self.store();
        let of = |path: &str| store.objects.get(path).and_then(|found| found["webhooks"].as_array().cloned());
        let hooks = of(MUTATING).into_iter().chain(of(VALIDATING)).flatten();
        let bundle = |hook: Value| {
            let bundle = hook["clientConfig"]["caBundle"].as_str().unwrap_or_default().to_owned();
            String::from_utf8(unbase64(&bundle)).unwrap()
        };
        hooks.map(bundle).collect()
    }

    /// The webhook configurations without what is allowed to change in them.
    pub(crate) fn configurations(&self) -> Vec<Value> {
        let store = self.store();
        let mut all: Vec<Value> =
            [MUTATING, VALIDATING].iter().map(|path| store.objects[*path].clone()).collect();
        for configuration in &mut all {
            configuration["metadata"]["resourceVersion"].take();
            for hook in configuration["webhooks"].as_array_mut().unwrap() {
                hook["clientConfig"]["caBundle"].take();
            }
        }
        all
    }

    /// Takes the bundles out, as a chart that is applied again does.
    pub(crate) fn clear_bundles(&self) {
        for path in [MUTATING, VALIDATING] {
            let mut configuration = self.store().objects[path].clone();
            for hook in configuration["webhooks"].as_array_mut().unwrap() {
                hook["clientConfig"].as_object_mut().unwrap().remove("caBundle");
            }
            self.put(path, configuration);
        }
    }

    pub(crate) fn writes(&self) -> Vec<Write> {
        self.store().writes.clone()
    }

    /// Writes to paths that contain `part`.
    pub(crate) fn writes_to(&self, part: &str) -> Vec<Write> {
        self.writes().into_iter().filter(|write| write.path.contains(part)).collect()
    }

    /// Waits until `count` Events were written, and gives them.
    pub(crate) async fn events(&self, count: usize) -> Vec<Write> {
        eventually(format!("{count} Events"), async || {
            let events = self.writes_to("/events");
            (events.len() >= count).then_some(events)
        })
        .await
    }

    pub(crate) fn set_minor(&self, minor: &str) {
        minor.clone_into(&mut self.store().minor);
    }

    pub(crate) fn set_down(&self, down: bool) {
        self.store().down = down;
    }

    pub(crate) fn set_delay(&self, delay: Duration) {
        self.store().delay = delay;
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Full<Bytes>> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let body = serde_json::from_slice(&body).unwrap_or(Value::Null);
        let (status, answer) = {
            let mut store = self.store();
            match store.down {
                true => status(500, "down"),
                false => store.handle(&parts.method, parts.uri.path(), body),
            }
        };
        let delay = self.store().delay;
        if !delay.is_zero() {
            tokio::time::sleep(delay).await;
        }
        let mut response = Response::new(Full::from(answer.to_string()));
        *response.status_mut() = StatusCode::from_u16(status).unwrap();
        response.headers_mut().insert("content-type", "application/json".parse().unwrap());
        response
    }
}

// === impl Store ===

impl Store {
    fn handle(&mut self, method: &Method, path: &str, body: Value) -> (u16, Value) {
        if path == "/version" {
            return (200, json!({"major": "1", "minor": self.minor}));
        }
        let found = self.objects.get(path).cloned();
        let (written_to, object) = match (method.as_str(), found) {
            ("GET", Some(found)) => return (200, found),
            ("POST", _) => {
                let path = format!("{path}/{}", body["metadata"]["name"].as_str().unwrap());
                if self.objects.contains_key(&path) {
                    return status(409, "AlreadyExists");
                }
                (path, body.clone())
            }
            (_, None) => return status(404, "NotFound"),
            ("PUT", Some(found)) => {
                let (seen, is) =
                    (&body["metadata"]["resourceVersion"], &found["metadata"]["resourceVersion"]);
                if seen != is {
                    return status(409, "Conflict");
                }
                (path.to_owned(), body.clone())
            }
            ("PATCH", Some(mut found)) => {
                if !patch(&mut found, &body) {
                    return status(422, "Invalid");
                }
                (path.to_owned(), found)
            }
            _ => return status(405, "MethodNotAllowed"),
        };
        self.version += 1;
        let mut object = object;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        self.objects.insert(written_to.clone(), object.clone());
        self.writes.push(Write { method: method.to_string(), path: written_to, body });
        (if method == Method::POST { 201 } else { 200 }, object)
    }
}

/// A JSON patch of the operations that we use, or a merge patch of one level.
fn patch(object: &mut Value, patch: &Value) -> bool {
    let Some(steps) = patch.as_array() else {
        for (key, value) in patch.as_object().unwrap() {
            object[key] = value.clone();
        }
        return true;
    };
    steps.iter().all(|step| {
        let path = step["path"].as_str().unwrap();
        match step["op"].as_str().unwrap() {
            "test" => object.pointer(path) == Some(&step["value"]),
            "add" => {
                let (parent, key) = path.rsplit_once('/').unwrap();
                let Some(parent) = object.pointer_mut(parent) else { return false };
                parent[key] = step["value"].clone();
                true
            }
            other => panic!("{other}"),
        }
    })
}

fn status(code: u16, reason: &str) -> (u16, Value) {
    (
        code,
        json!({"kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason}),
    )
}

const ALPHABET: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

pub(crate) fn base64(bytes: &[u8]) -> String {
    let mut text = String::new();
    for chunk in bytes.chunks(3) {
        let n = chunk.iter().fold(0, |n, byte| n << 8 | usize::from(*byte)) << (8 * (3 - chunk.len()));
        for at in 0..4 {
            let letter = ALPHABET[n >> (18 - 6 * at) & 63];
            text.push(if at <= chunk.len() { char::from(letter) } else { '=' });
        }
    }
    text
}

pub(crate) fn unbase64(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    for chunk in text.as_bytes().chunks(4) {
        let value = |byte: &u8| ALPHABET.iter().position(|letter| letter == byte);
        let values: Vec<usize> = chunk.iter().filter_map(value).collect();
        let n = values.iter().fold(0, |n, value| n << 6 | value) << (6 * (4 - values.len()));
        bytes.extend((0..values.len().saturating_sub(1)).map(|at| (n >> (16 - 8 * at)) as u8));
    }
    bytes
}
