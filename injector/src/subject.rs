//! What a policy belongs to.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mantlet_policy::registry::{POLICY, PolicySet, UPSTREAMS};
use mantlet_policy::{
    Code, Config, Diagnostic, Guardrails, Latches, Limits, Mode, Policy, Report, Source, Workload,
};

use crate::{Installation, Template};

/// One policy and what it belongs to: a pod template, or nothing but a text.
#[derive(Debug)]
pub struct Subject {
    name: String,
    workload: Workload,
    annotations: BTreeMap<String, String>,
    guardrails: Guardrails,
    limits: Limits,
    host_network: bool,
    may_change_user: Vec<String>,
    latches: Latches,
}

/// A policy that can be asked.
#[derive(Debug)]
pub struct Ready {
    /// The annotations it was made of.
    pub set: PolicySet,
    /// The policy.
    pub policy: Policy,
}

// === impl Subject ===

impl Subject {
    /// A pod template in `installation`.
    #[must_use]
    pub fn of_template(template: Template, installation: &Installation) -> Self {
        let namespace = template.namespace.unwrap_or_else(|| installation.namespace.clone());
        Self {
            name: format!("{} {namespace}/{}", template.kind, template.name),
            workload: Workload {
                trust_domain: installation.trust_domain.clone(),
                namespace,
                service_account: Some(template.service_account),
                ports: template.ports,
            },
            annotations: template.annotations,
            guardrails: installation.guardrails.clone(),
            limits: Limits::ANNOTATIONS,
            host_network: template.host_network,
            may_change_user: template.may_change_user,
            latches: Latches::new(),
        }
    }

    /// The text of one policy, outside of any pod.
    #[must_use]
    pub fn of_text(name: String, text: String, workload: Workload, guardrails: Guardrails) -> Self {
        Self {
            name,
            workload,
            annotations: BTreeMap::from([(POLICY.to_owned(), text)]),
            guardrails,
            limits: Limits::FILES,
            host_network: false,
            may_change_user: Vec::new(),
            latches: Latches::new(),
        }
    }

    /// As people refer to it.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What its short forms refer to.
    #[must_use]
    pub fn workload(&self) -> &Workload {
        &self.workload
    }

    /// Everything that is wrong or strange, as admission sees it.
    #[must_use]
    pub fn report(&self, now: SystemTime) -> Report {
        let set = match self.set() {
            Ok(set) => set,
            Err(errors) => return Report { errors, warnings: Vec::new() },
        };
        let mut report = mantlet_policy::check(&set.sources(), &self.config(&set, now));
        if let Some(text) = &set.upstreams {
            let parsed = mantlet_policy::upstreams::parse(UPSTREAMS, text, &self.workload, &self.limits);
            report.errors.extend(parsed.err().into_iter().flatten());
        }
        if self.host_network && set.is_configured() {
            let help = "remove hostNetwork, or the mantlet.dev annotations";
            let message = "a hostNetwork pod cannot be captured";
            report.errors.push(Diagnostic::general(Code::HostNetwork, "", message, help));
        }
        for container in self.may_change_user.iter().filter(|_| set.is_configured()) {
            let message = format!("container \"{container}\" may become the proxy's user");
            let help = "run it as another user than 0, or drop the capability SETUID (drop: [ALL])";
            report.warnings.push(Diagnostic::general(Code::ProxyUser, "", message, help));
        }
        report
    }

    /// The compiled policy.
    ///
    /// # Errors
    /// What is wrong with it.
    pub fn ready(&self, now: SystemTime) -> Result<Ready, Vec<Diagnostic>> {
        let set = self.set()?;
        let policy = Policy::compile(&set.sources(), &self.config(&set, now))?;
        Ok(Ready { set, policy })
    }

    /// What `set`, of this subject, is compiled with.
    #[must_use]
    pub fn config<'a>(&'a self, set: &'a PolicySet, now: SystemTime) -> Config<'a> {
        Config {
            workload: &self.workload,
            limits: self.limits,
            guardrails: &self.guardrails,
            mode: set.mode.unwrap_or(Mode::Enforce),
            http_options: &set.http_options,
            latches: &self.latches,
            now,
        }
    }

    fn set(&self) -> Result<PolicySet, Vec<Diagnostic>> {
        PolicySet::from_annotations(
            self.annotations.iter().map(|(key, value)| (key.as_str(), value.as_str())),
        )
    }
}

// === impl Ready ===

impl Ready {
    /// The policy texts.
    #[must_use]
    pub fn sources(&self) -> Vec<Source<'_>> {
        self.set.sources()
    }
}
