//! Adding the sidecar to a pod that is being created.

use std::{
    collections::BTreeMap,
    time::{Instant, SystemTime},
};

use rustls::crypto::aws_lc_rs;
use serde_json::Value;
use tokio::time;
use tracing::error;

use super::{
    Answer, Judged, Webhook,
    review::{Operation, Request, Unreadable},
};
use crate::{
    events::{Event, Owner},
    inject::{Decision, Input, Namespace, Outcome, Reason, Scope, Token, Verdict, inject},
    metrics::Admission,
};

// === impl Webhook ===

impl Webhook {
    /// What becomes of a pod. Only its creation is ours: whoever changes a pod later changes what runs.
    pub(super) async fn mutate(
        &self,
        request: &Request<'_>,
        deadline: Instant,
    ) -> Result<Judged, Unreadable> {
        let sub_resource = request.sub_resource.as_deref().unwrap_or_default();
        let ours = request.operation == Operation::Create && request.is_pod() && sub_resource.is_empty();
        let object = match request.object()? {
            Some(object) if ours => object,
            object => {
                let name = request.display_name(object.as_ref());
                return Ok(Judged { answer: Answer::allow(), admission: Admission::NotOurs, name });
            }
        };
        let name = request.display_name(Some(&object));
        let Some(token) = token() else {
            let answer = Answer::forbidden("no random numbers, try again");
            return Ok(Judged { answer, admission: Admission::Failed, name });
        };
        let mut outcome = self.outcome(&object, request.namespace(), false, &token, deadline).await;
        if outcome.reason() == Reason::NotEnabled {
            // What is remembered may be older than the label that the API server has called us for.
            outcome = self.outcome(&object, request.namespace(), true, &token, deadline).await;
        }
        let reason = outcome.reason();
        if !request.is_dry_run() {
            self.tell_owner(&object, request.namespace(), &outcome);
        }
        let (answer, admission) = match answer(&outcome) {
            Ok(answer) => (answer.warn(outcome.warnings), Admission::Pod(reason)),
            Err(error) => {
                error!(event = "patch_unwritable", %error, "a defect of this program");
                (Answer::forbidden("the patch cannot be written"), Admission::Failed)
            }
        };
        Ok(Judged { answer, admission, name })
    }

    async fn outcome(
        &self,
        object: &Value,
        namespace: &str,
        fresh: bool,
        token: &Token,
        deadline: Instant,
    ) -> Outcome {
        let labels = self.namespaces.labels(namespace, fresh);
        let labels = time::timeout_at(deadline.into(), labels).await.ok().flatten();
        // The API server calls us for what its selectors say. Where our own look is not possible, theirs holds: a pod
        // that should have a sidecar must not go without one because a question has failed.
        let scope = if labels.is_some() { Scope::Labels } else { Scope::Asked };
        let labels: BTreeMap<String, String> = labels.as_deref().cloned().unwrap_or_default();
        let namespace = Namespace { name: namespace.to_owned(), labels };
        let now = SystemTime::now();
        inject(&Input { object, namespace: &namespace, config: &self.config, token, now, scope })
    }

    /// A pod that is refused does not exist, and whoever wants it looks at its owner.
    fn tell_owner(&self, object: &Value, namespace: &str, outcome: &Outcome) {
        let (is_warning, reason) = match outcome.verdict() {
            Verdict::Injected => (false, "Injected"),
            Verdict::Denied => (true, "InjectionDenied"),
            // Said by whoever wrote it, or nobody's business.
            Verdict::Skipped if matches!(outcome.reason(), Reason::HostNetwork | Reason::Windows) => {
                (false, "InjectionSkipped")
            }
            Verdict::Skipped => return,
        };
        if let Some(owner) = Owner::of(object) {
            let message = outcome.message();
            self.events.record(Event { namespace: namespace.to_owned(), owner, is_warning, reason, message });
        }
    }
}

fn answer(outcome: &Outcome) -> Result<Answer, serde_json::Error> {
    Ok(match &outcome.decision {
        Decision::Injected { operations, .. } => Answer::patch(operations)?,
        Decision::Skipped(_) => Answer::allow(),
        Decision::Denied(problems) => {
            let written_wrong = |reason| {
                matches!(
                    reason,
                    Reason::Malformed | Reason::BadLabel | Reason::PolicyInvalid | Reason::ProbePort
                )
            };
            match problems.iter().all(|problem| written_wrong(problem.reason)) {
                true => Answer::invalid(&outcome.message()),
                false => Answer::forbidden(&outcome.message()),
            }
        }
    })
}

fn token() -> Option<Token> {
    let mut random = [0; 16];
    aws_lc_rs::default_provider().secure_random.fill(&mut random).ok()?;
    Some(Token::new(random))
}
