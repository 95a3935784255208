//! Checking annotations where somebody writes them.
//!
//! The Deployment with a bad policy is refused, not the pod that a controller makes of it an hour later. A change that
//! leaves the annotations alone is none of ours: scaling, a status, an image must go on whatever stands in them.

use std::time::SystemTime;

use serde_json::Value;

use super::{
    Answer, Judged, Webhook,
    review::{Operation, Request, Unreadable},
};
use crate::{
    check,
    inject::{PROXY, refuse_ephemeral},
    metrics::Admission,
    templates,
};

/// What our annotations begin with.
const OURS: &str = "mantlet.dev/";
/// The part of a pod that gains debug containers.
const EPHEMERAL: &str = "ephemeralcontainers";

// === impl Webhook ===

impl Webhook {
    pub(super) fn validate(&self, request: &Request<'_>) -> Result<Judged, Unreadable> {
        let writes = matches!(request.operation, Operation::Create | Operation::Update);
        let sub_resource = request.sub_resource.as_deref().unwrap_or_default();
        let object = match request.object()? {
            Some(object) if writes && matches!(sub_resource, "" | EPHEMERAL) => object,
            object => {
                let name = request.display_name(object.as_ref());
                return Ok(Judged { answer: Answer::allow(), admission: Admission::NotOurs, name });
            }
        };
        let name = request.display_name(Some(&object));
        let (answer, admission) = match sub_resource {
            EPHEMERAL => self.ephemeral(&object),
            _ => self.annotations(request, &object)?,
        };
        Ok(Judged { answer, admission, name })
    }

    fn annotations(&self, request: &Request<'_>, object: &Value) -> Result<(Answer, Admission), Unreadable> {
        if request.operation == Operation::Update
            && let Some(old) = request.old_object()?
            && ours(&old) == ours(object)
        {
            return Ok((Answer::allow(), Admission::Unchanged));
        }
        let installation = self.config.installation(request.namespace());
        let report = match check(object, &installation, SystemTime::now()) {
            Ok(report) => report,
            Err(error) => return Ok((Answer::invalid(&error.to_string()), Admission::Invalid)),
        };
        let warnings = report.warnings.iter().map(|warning| warning.headline());
        if report.errors.is_empty() {
            return Ok((Answer::allow().warn(warnings), Admission::Valid));
        }
        let errors: Vec<String> = report.errors.iter().map(ToString::to_string).collect();
        let name = request.display_name(Some(object));
        let heading = match errors.len() {
            1 => format!("{} {name}: ", request.kind.kind),
            several => format!("{} {name}: {several} mistakes\n", request.kind.kind),
        };
        let message = format!("{heading}{}", errors.join("\n"));
        Ok((Answer::invalid(&message).warn(warnings), Admission::Invalid))
    }

    /// Containers that are added to a running pod to look into it: not to walk around its sidecar.
    fn ephemeral(&self, object: &Value) -> (Answer, Admission) {
        // By what it is made of, which stays as it is; whoever adds a container may have changed its labels.
        let init = object.pointer("/spec/initContainers").and_then(Value::as_array);
        let has_sidecar = init.into_iter().flatten().any(|container| container["name"] == PROXY);
        let problems = if has_sidecar { refuse_ephemeral(object, &self.config) } else { Vec::new() };
        if problems.is_empty() {
            return (Answer::allow(), Admission::Valid);
        }
        let texts: Vec<&str> = problems.iter().map(|problem| problem.text.as_str()).collect();
        (Answer::forbidden(&texts.join("\n")), Admission::Ephemeral)
    }
}

/// Our annotations in every pod template of an object; what cannot be read is like nothing else.
fn ours(object: &Value) -> Option<Vec<Vec<(String, String)>>> {
    let of_template = |template: crate::Template| {
        template.annotations.into_iter().filter(|(key, _)| key.starts_with(OURS)).collect()
    };
    templates(object).ok().map(|templates| templates.into_iter().map(of_template).collect())
}
