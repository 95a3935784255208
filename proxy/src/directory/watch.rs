//! The text of the lines, watched: understood completely before it is put in force, the last good one
//! kept.

use std::{
    path::PathBuf,
    sync::{Arc, OnceLock},
};

use mantlet_id::TrustDomain;
use mantlet_identity::IdentityHandle;
use mantlet_policy::{
    Diagnostic, Limits, Workload, annotations, registry,
    upstreams::{self, Upstreams},
};

use super::Lines;
use crate::{
    config::UpstreamsLocation,
    log::Log,
    metrics::Metrics,
    readiness::Blocker,
    watched::{self, FileWatch},
};

/// Loads and follows the lines, on the control thread.
pub struct LinesWatch {
    /// Where they are.
    pub location: UpstreamsLocation,
    /// The own namespace, which `./account` belongs to.
    pub namespace: String,
    /// Where they go.
    pub lines: Lines,
    /// The own trust domain, once it is known.
    pub own: Arc<OnceLock<TrustDomain>>,
    /// Tells the own trust domain.
    pub identity: IdentityHandle,
    /// Set while there are no lines in force that could be.
    pub blocker: Blocker,
    /// Counts.
    pub metrics: Arc<Metrics>,
    /// Says each load.
    pub log: Log,
}

/// What a look at the text came to, so that the same is not said twice.
#[derive(PartialEq)]
enum Seen {
    Text(String),
    Error(String),
}

// === impl LinesWatch ===

impl LinesWatch {
    /// Follows the text and the own trust domain. Never returns while there is something to follow.
    pub async fn run(self) {
        let mut identity = self.identity.subscribe();
        let path = self.path();
        // Watched before it is read, so that no change falls between the two.
        let mut file = path.as_deref().map(FileWatch::new);
        let mut seen = None;
        loop {
            self.learn_domain();
            self.look(&mut seen);
            let waits_for_domain = self.own.get().is_none();
            tokio::select! {
                () = changed(file.as_mut()) => {}
                changed = identity.changed(), if waits_for_domain => if changed.is_err() { return },
            }
        }
    }

    fn path(&self) -> Option<PathBuf> {
        match &self.location {
            UpstreamsLocation::None => None,
            UpstreamsLocation::File(path) | UpstreamsLocation::Annotations(path) => Some(path.clone()),
        }
    }

    fn learn_domain(&self) {
        if let (None, Some(credentials)) = (self.own.get(), self.identity.credentials()) {
            // Nobody else sets it.
            let _ = self.own.set(credentials.id().trust_domain().clone());
        }
    }

    fn look(&self, seen: &mut Option<Seen>) {
        let text = match self.text() {
            Ok(text) => text,
            Err(error) => return self.failed(error, seen),
        };
        if *seen == Some(Seen::Text(text.clone())) {
            return;
        }
        if self.own.get().is_none() && !text.trim().is_empty() {
            let cause = "the own trust domain is not known yet, and short identities belong to it";
            return self.blocker.set(cause, "wait for the identity, or set --trust-domain");
        }
        match self.parse(&text) {
            Ok(upstreams) => {
                self.lines.replace(upstreams);
                self.blocker.clear();
                self.metrics.upstreams_reloaded(true);
                if seen.is_some() || !text.is_empty() {
                    self.log.event("upstreams_loaded", &[]);
                }
                *seen = Some(Seen::Text(text));
            }
            Err(error) => self.failed(error, seen),
        }
    }

    /// The text as it stands; none at all is a text that says nothing.
    fn text(&self) -> Result<String, String> {
        match &self.location {
            UpstreamsLocation::None => Ok(String::new()),
            UpstreamsLocation::File(path) => watched::read(path).map_err(|error| error.to_string()),
            UpstreamsLocation::Annotations(path) => {
                let text = watched::read(path).map_err(|error| error.to_string())?;
                let all = annotations::parse(text.as_bytes())
                    .map_err(|error| format!("{}: {error}", path.display()))?;
                let mut ours = all.into_iter().filter(|(key, _)| key == registry::UPSTREAMS);
                Ok(ours.next().map(|(_, value)| value).unwrap_or_default())
            }
        }
    }

    fn parse(&self, text: &str) -> Result<Upstreams, String> {
        let Some(trust_domain) = self.own.get().cloned() else { return Ok(Upstreams::default()) };
        let workload = Workload {
            trust_domain,
            namespace: self.namespace.clone(),
            service_account: None,
            ports: Vec::new(),
        };
        let (source, limits) = match &self.location {
            UpstreamsLocation::File(path) => (path.display().to_string(), Limits::FILES),
            _ => (registry::UPSTREAMS.to_owned(), Limits::ANNOTATIONS),
        };
        upstreams::parse(&source, text, &workload, &limits)
            .map_err(|found| found.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n"))
    }

    fn failed(&self, error: String, seen: &mut Option<Seen>) {
        if *seen == Some(Seen::Error(error.clone())) {
            return;
        }
        tracing::error!(event = "upstreams_rejected", "{error}");
        self.log.event("upstreams_rejected", &[("error", error.as_str().into())]);
        self.metrics.upstreams_reloaded(false);
        if !self.lines.are_in_force() {
            let headline = error.lines().next().unwrap_or_default();
            let next = "correct them; they are read again at once";
            self.blocker.set(format!("the upstreams are not usable: {headline}"), next);
        }
        *seen = Some(Seen::Error(error));
    }
}

async fn changed(file: Option<&mut FileWatch>) {
    match file {
        Some(file) => file.changed().await,
        None => std::future::pending().await,
    }
}
