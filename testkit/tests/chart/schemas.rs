//! The chart's objects against what the real API server says an object looks like.

use std::path::Path;

use mantlet_testkit::kubernetes::ApiServer;
use mantlet_testkit::real_peers::{RealPeers, run};
use mantlet_testkit::{TempDir, eventually};
use serde_json::{Map, Value, json};
use tokio::process::Command;

use crate::helm::{Helm, NAMESPACE, SETS};

#[tokio::test]
async fn the_api_server_knows_every_field_of_every_object() {
    let Some(peers) = RealPeers::find("the_api_server_knows_every_field") else { return };
    let helm = Helm::new(&peers);
    let server = ApiServer::start(&peers).await;
    server.namespace(NAMESPACE, &[]).await;
    let crds = peers.program("crds");
    server.kubectl(&["create", "--filename", crds.to_str().unwrap()]).await.unwrap();
    let own = ["/openapi/v3/apis/spire.spiffe.io/v1alpha1", "/openapi/v3/apis/monitoring.coreos.com/v1"];
    let schemas = TempDir::new();
    for path in own {
        eventually(path, async || {
            let text = server.kubectl(&["get", "--raw", path]).await.ok()?;
            let document: Value = serde_json::from_str(&text).ok()?;
            // Definitions come one by one.
            (write(&document, schemas.path()) >= if path.contains("spire") { 2 } else { 3 }).then_some(())
        })
        .await;
    }
    let index = server.get("/openapi/v3").await;
    for path in index["paths"].as_object().unwrap().keys().filter(|path| path.contains("v1")) {
        write(&server.get(&format!("/openapi/v3/{path}")).await, schemas.path());
    }

    for (set, values) in SETS {
        let text = helm.text(values).await;
        let file = server.dir().file(&format!("{set}.yaml"), &text);
        let said =
            check(&peers, schemas.path(), &file).await.unwrap_or_else(|error| panic!("{set}: {error}"));
        assert!(said.contains("Invalid: 0, Errors: 0, Skipped: 0"), "{set}: {said}");
        // The server itself, which also compiles what is CEL.
        let file = file.to_str().unwrap();
        let applied =
            ["apply", "--dry-run=server", "--validate=strict", "--filename", file, "--namespace", NAMESPACE];
        server.kubectl(&applied).await.unwrap_or_else(|error| panic!("{set}: {error}"));

        // And the check does bite.
        let wrong = text.replace("unhealthyPodEvictionPolicy", "unhealthyPodEvictionPolice");
        if wrong != text {
            let file = server.dir().file("wrong.yaml", &wrong);
            let said = check(&peers, schemas.path(), &file).await.unwrap_err();
            assert!(said.contains("unhealthyPodEvictionPolice"), "{said}");
        }
    }
}

async fn check(peers: &RealPeers, schemas: &Path, file: &Path) -> Result<String, String> {
    let pattern = schemas.join("{{.ResourceKind}}_{{.Group}}_{{.ResourceAPIVersion}}.json");
    let mut command = Command::new(peers.program("kubeconform"));
    command.args(["-strict", "-summary", "-schema-location"]).arg(pattern).arg(file);
    run(&mut command).await
}

/// Writes a schema for each kind in a document of the API server, which lets in no field that it does not name.
fn write(document: &Value, folder: &Path) -> usize {
    let Some(schemas) = document["components"]["schemas"].as_object() else { return 0 };
    let mut closed = Value::Object(schemas.clone());
    close(&mut closed);
    let components = json!({ "schemas": closed });
    let mut written = 0;
    for (name, schema) in schemas {
        // A kind that is all by itself; options of requests have many.
        let Some([kind]) = schema["x-kubernetes-group-version-kind"].as_array().map(Vec::as_slice) else {
            continue;
        };
        let (group, version) = (kind["group"].as_str().unwrap(), kind["version"].as_str().unwrap());
        // The core group has no name; kubeconform calls it by its version.
        let group = if group.is_empty() { version } else { group };
        let file = format!("{}_{group}_{version}.json", kind["kind"].as_str().unwrap().to_lowercase());
        let schema = json!({"$ref": format!("#/components/schemas/{name}"), "components": components});
        std::fs::write(folder.join(file), schema.to_string()).unwrap();
        written += usize::from(!name.ends_with("List"));
    }
    written
}

fn close(schema: &mut Value) {
    match schema {
        Value::Object(map) => {
            map.values_mut().for_each(close);
            let open = map.contains_key("additionalProperties") || keeps_unknown(map);
            if map.get("properties").is_some_and(Value::is_object) && !open {
                map.insert("additionalProperties".to_owned(), json!(false));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(close),
        _ => {}
    }
}

fn keeps_unknown(map: &Map<String, Value>) -> bool {
    map.get("x-kubernetes-preserve-unknown-fields") == Some(&json!(true))
}
