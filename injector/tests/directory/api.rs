//! As much of an API server as the directory talks to: lists in pages, watches from a version on, 410 for versions that
//! are forgotten, and a record of the Events.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::{Arc, Mutex, MutexGuard};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode};
use http_body_util::combinators::UnsyncBoxBody;
use http_body_util::{BodyExt, Full, StreamBody};
use hyper::body::{Frame, Incoming};
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use mantlet_testkit::{TempDir, eventually};
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;

pub(crate) const PODS: &str = "/api/v1/pods";
pub(crate) const SERVICES: &str = "/api/v1/services";
pub(crate) const SLICES: &str = "/apis/discovery.k8s.io/v1/endpointslices";
const ALL: [&str; 3] = [PODS, SERVICES, SLICES];

type Body = UnsyncBoxBody<Bytes, Infallible>;

/// A running API server.
#[derive(Clone)]
pub(crate) struct Api {
    store: Arc<Mutex<Store>>,
    changed: watch::Sender<u64>,
    dir: Arc<TempDir>,
}

#[derive(Default)]
struct Store {
    objects: BTreeMap<&'static str, BTreeMap<String, Value>>,
    version: u64,
    history: Vec<Happened>,
    /// Watches from before this version are too late.
    forgotten: u64,
    /// Watches of an earlier age than this end.
    age: u64,
    /// Every request fails.
    down: bool,
    /// Lists stop after their first page.
    broken_pages: bool,
    events: Vec<Value>,
    lists: BTreeMap<&'static str, usize>,
    watches: BTreeMap<&'static str, usize>,
}

#[derive(Clone)]
struct Happened {
    version: u64,
    path: &'static str,
    line: Bytes,
}

// === impl Api ===

impl Api {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let addr = listener.local_addr().unwrap();
        let store = Arc::new(Mutex::new(Store { version: 1, ..Store::default() }));
        let api = Self { store, changed: watch::Sender::new(0), dir: Arc::new(TempDir::new()) };
        let text = json!({
            "apiVersion": "v1", "kind": "Config", "current-context": "test",
            "clusters": [{"name": "test", "cluster": {"server": format!("http://{addr}")}}],
            "users": [{"name": "test", "user": {"token": "test"}}],
            "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        });
        api.dir.file("kubeconfig", text.to_string());
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

    pub(crate) fn kubeconfig(&self) -> std::path::PathBuf {
        self.dir.path().join("kubeconfig")
    }

    /// Sets an object, as its path says what it is.
    pub(crate) fn put(&self, path: &'static str, object: Value) {
        self.put_all(path, [object]);
    }

    pub(crate) fn put_all(&self, path: &'static str, objects: impl IntoIterator<Item = Value>) {
        let mut store = self.store();
        for object in objects {
            store.set(path, object);
        }
        drop(store);
        self.wake();
    }

    pub(crate) fn delete(&self, path: &'static str, namespace: &str, name: &str) {
        let mut store = self.store();
        let mut object =
            store.objects.get_mut(path).unwrap().remove(&format!("{namespace}/{name}")).expect("it is there");
        store.version += 1;
        object["metadata"]["resourceVersion"] = json!(store.version.to_string());
        store.note(path, "DELETED", &object);
        drop(store);
        self.wake();
    }

    /// Nothing answers any more, and what is open ends.
    pub(crate) fn set_down(&self, down: bool) {
        let mut store = self.store();
        store.down = down;
        store.age += 1;
        drop(store);
        self.wake();
    }

    /// Ends all watches, and forgets what has happened until now.
    pub(crate) fn forget(&self) {
        let mut store = self.store();
        // The version of everything else in a cluster moves on as well.
        store.version += 10;
        store.forgotten = store.version;
        store.history.clear();
        store.age += 1;
        drop(store);
        self.wake();
    }

    /// Ends all watches.
    pub(crate) fn cut(&self) {
        self.store().age += 1;
        self.wake();
    }

    pub(crate) fn break_pages(&self, broken: bool) {
        self.store().broken_pages = broken;
    }

    pub(crate) fn lists(&self, path: &'static str) -> usize {
        self.store().lists.get(path).copied().unwrap_or_default()
    }

    pub(crate) fn watches(&self, path: &'static str) -> usize {
        self.store().watches.get(path).copied().unwrap_or_default()
    }

    pub(crate) fn events(&self) -> Vec<Value> {
        self.store().events.clone()
    }

    /// Waits for an Event with this reason.
    pub(crate) async fn event(&self, reason: &str) -> Value {
        eventually(format!("Event {reason}"), async || {
            self.events().into_iter().find(|event| event["reason"] == reason)
        })
        .await
    }

    fn wake(&self) {
        self.changed.send_modify(|n| *n += 1);
    }

    fn store(&self) -> MutexGuard<'_, Store> {
        self.store.lock().unwrap()
    }

    async fn answer(&self, request: Request<Incoming>) -> Response<Body> {
        let (parts, body) = request.into_parts();
        let body = body.collect().await.map(|body| body.to_bytes()).unwrap_or_default();
        let query: BTreeMap<&str, &str> = parts
            .uri
            .query()
            .unwrap_or_default()
            .split('&')
            .filter_map(|pair| pair.split_once('='))
            .collect();
        let path = ALL.into_iter().find(|known| *known == parts.uri.path());
        let mut store = self.store();
        match (parts.method, path) {
            _ if store.down => status(500, "down"),
            (Method::GET, Some(path)) if query.get("watch") == Some(&"true") => {
                let from: u64 = query["resourceVersion"].parse().unwrap();
                if from < store.forgotten {
                    return status(410, "Expired");
                }
                *store.watches.entry(path).or_default() += 1;
                let age = store.age;
                drop(store);
                self.watch(path, from, age)
            }
            (Method::GET, Some(path)) => store.list(path, &query),
            (Method::GET, None) if parts.uri.path() == "/version" => {
                json_body(200, &json!({"major": "1", "minor": "34"}))
            }
            (Method::POST, None) if parts.uri.path().ends_with("/events") => {
                let event: Value = serde_json::from_slice(&body).unwrap();
                store.events.push(event.clone());
                json_body(201, &event)
            }
            _ => status(404, "NotFound"),
        }
    }

    /// What happens after `from`, until the age is over.
    fn watch(&self, path: &'static str, from: u64, age: u64) -> Response<Body> {
        let (sender, receiver) = mpsc::channel(64);
        let (api, mut changed) = (self.clone(), self.changed.subscribe());
        tokio::spawn(async move {
            let mut seen = from;
            loop {
                let lines: Vec<Happened> = {
                    let store = api.store();
                    if store.age != age {
                        return;
                    }
                    // Found from the end: the history of a large cluster is long.
                    let fresh = store.history.iter().rev().take_while(|entry| entry.version > seen);
                    fresh.cloned().collect()
                };
                for entry in lines.into_iter().rev() {
                    seen = entry.version;
                    if entry.path == path && sender.send(Ok(Frame::data(entry.line))).await.is_err() {
                        return;
                    }
                }
                tokio::select! {
                    _ = changed.changed() => {}
                    () = sender.closed() => return,
                }
            }
        });
        Response::new(BodyExt::boxed_unsync(StreamBody::new(ReceiverStream::new(receiver))))
    }
}

// === impl Store ===

impl Store {
    fn set(&mut self, path: &'static str, mut object: Value) {
        self.version += 1;
        object["metadata"]["resourceVersion"] = json!(self.version.to_string());
        let metadata = &object["metadata"];
        let key =
            format!("{}/{}", metadata["namespace"].as_str().unwrap(), metadata["name"].as_str().unwrap());
        let old = self.objects.entry(path).or_default().insert(key, object.clone());
        self.note(path, if old.is_some() { "MODIFIED" } else { "ADDED" }, &object);
    }

    fn note(&mut self, path: &'static str, kind: &str, object: &Value) {
        let line = format!("{{\"type\":\"{kind}\",\"object\":{object}}}\n");
        self.history.push(Happened { version: self.version, path, line: line.into() });
    }

    fn list(&mut self, path: &'static str, query: &BTreeMap<&str, &str>) -> Response<Body> {
        let from: usize = query.get("continue").map_or(0, |token| token.parse().unwrap());
        if from > 0 && self.broken_pages {
            return status(500, "broken");
        }
        if from == 0 {
            *self.lists.entry(path).or_default() += 1;
        }
        let limit: usize = query["limit"].parse().unwrap();
        let all = self.objects.entry(path).or_default();
        let items: Vec<&Value> = all.values().skip(from).take(limit).collect();
        let more = from + items.len() < all.len();
        let metadata = json!({
            "resourceVersion": self.version.to_string(),
            "continue": if more { (from + items.len()).to_string() } else { String::new() },
        });
        json_body(200, &json!({"kind": "List", "apiVersion": "v1", "metadata": metadata, "items": items}))
    }
}

fn status(code: u16, reason: &str) -> Response<Body> {
    let text = json!({
        "kind": "Status", "apiVersion": "v1", "status": "Failure", "code": code, "reason": reason, "message": reason,
    });
    json_body(code, &text)
}

fn json_body(code: u16, value: &Value) -> Response<Body> {
    let mut response = Response::new(BodyExt::boxed_unsync(Full::from(value.to_string())));
    *response.status_mut() = StatusCode::from_u16(code).unwrap();
    response.headers_mut().insert("content-type", "application/json".parse().unwrap());
    response
}
