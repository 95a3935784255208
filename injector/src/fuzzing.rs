//! What the fuzz targets reach into. Built under `cfg(fuzzing)` alone.

#[allow(dead_code, reason = "the webhook uses the rest, and may not be built here")]
#[path = "webhook/review.rs"]
mod review;

use serde_json::Value;

/// What is read of an AdmissionReview.
#[derive(Debug, PartialEq)]
pub struct Review {
    /// What the answer repeats.
    pub uid: String,
    /// Group and kind of the object.
    pub kind: (String, String),
    /// The part of it, if it is one.
    pub sub_resource: Option<String>,
    /// In capitals.
    pub operation: &'static str,
    /// Where the object is.
    pub namespace: String,
    /// As people know it.
    pub name: String,
    /// Whether it is a pod.
    pub is_pod: bool,
    /// Whether nothing is to be kept.
    pub is_dry_run: bool,
    /// The object, and what it was before; in words, why one cannot be read.
    pub objects: [Result<Option<Value>, String>; 2],
}

/// Reads the body of a request.
///
/// # Errors
/// What the caller is told.
pub fn review(body: &[u8]) -> Result<Review, String> {
    let request = review::parse(body).map_err(|error| error.to_string())?;
    let objects = [request.object(), request.old_object()].map(|read| read.map_err(|e| e.to_string()));
    let object = objects[0].as_ref().ok().and_then(Option::as_ref);
    Ok(Review {
        kind: (request.kind.group.clone().into_owned(), request.kind.kind.clone().into_owned()),
        sub_resource: request.sub_resource.as_deref().map(str::to_owned),
        operation: request.operation.as_str(),
        namespace: request.namespace().to_owned(),
        name: request.display_name(object),
        is_pod: request.is_pod(),
        is_dry_run: request.is_dry_run(),
        uid: request.uid.clone(),
        objects,
    })
}
