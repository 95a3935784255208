//! Kubernetes manifests in files.

use mantlet_injector::inject::{Namespace, Operation, apply};
use mantlet_injector::{Place, places};
use serde_json::Value;

use crate::failure::Failure;

/// The documents of one file.
#[derive(Clone, Debug)]
pub(super) struct Manifests {
    file: String,
    documents: Vec<Value>,
}

// === impl Manifests ===

impl Manifests {
    pub(super) fn read(file: &str) -> Result<Self, Failure> {
        let text = crate::policy::read(file)?;
        let mut documents: Vec<Value> = serde_saphyr::from_multiple(&text).map_err(|error| {
            Failure::usage(format!("{file} cannot be read: {error}")).next("give manifests as YAML or JSON")
        })?;
        documents.retain(|document| !document.is_null());
        if documents.is_empty() {
            return Err(
                Failure::usage(format!("{file} has no manifest")).next("give manifests as YAML or JSON")
            );
        }
        Ok(Self { file: file.to_owned(), documents })
    }

    /// Every pod and pod template: the number of its document, and where in it.
    pub(super) fn places(&self) -> Result<Vec<(usize, Place)>, Failure> {
        let mut all = Vec::new();
        for (number, document) in self.documents.iter().enumerate() {
            let found = places(document)
                .map_err(|error| Failure::usage(format!("{} cannot be read", self.file)).because(&error))?;
            all.extend(found.into_iter().map(|place| (number, place)));
        }
        Ok(all)
    }

    /// The pod or pod template at `place`.
    pub(super) fn at(&self, document: usize, place: &Place) -> &Value {
        let document = self.documents.get(document);
        document.and_then(|document| document.pointer(place.pointer.as_str())).unwrap_or(&Value::Null)
    }

    pub(super) fn documents(&self) -> &[Value] {
        &self.documents
    }

    /// Changes the document of that number.
    pub(super) fn change(&mut self, document: usize, steps: &[Operation]) -> Result<(), Failure> {
        let Some(document) = self.documents.get_mut(document) else { return Ok(()) };
        apply(document, steps).map_err(|error| Failure::finding("a patch does not apply").because(&error))
    }
}

/// The namespace of a manifest.
pub(super) fn namespace(file: &str) -> Result<Namespace, Failure> {
    let manifests = Manifests::read(file)?;
    let of_kind = |document: &&Value| document.get("kind").and_then(Value::as_str) == Some("Namespace");
    let mut found = manifests.documents.iter().filter(of_kind);
    let (Some(namespace), None) = (found.next(), found.next()) else {
        return Err(Failure::usage(format!("{file} is not the manifest of one Namespace")));
    };
    let metadata = namespace.get("metadata").unwrap_or(&Value::Null);
    let labels = metadata.get("labels").and_then(Value::as_object).into_iter().flatten();
    let labels = labels.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())));
    let name = metadata.get("name").and_then(Value::as_str).unwrap_or_default().to_owned();
    Ok(Namespace { name, labels: labels.collect() })
}
