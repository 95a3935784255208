//! What a policy belongs to.

use std::collections::BTreeMap;
use std::time::SystemTime;

use mantlet_policy::registry::{POLICY, PolicySet, UPSTREAMS};
use mantlet_policy::{
    Code, Config, Diagnostic, Guardrails, Latches, Limits, Mode, Policy, Report, Source, Workload,
};

use mantlet_redirect::ProxyPorts;

use crate::admission::Admission;
use crate::template::Mighty;
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
    mighty: Vec<Mighty>,
    is_injected: bool,
    init_containers: Vec<String>,
    proxy_ports: ProxyPorts,
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
            mighty: template.mighty,
            is_injected: false,
            init_containers: template.init_containers,
            proxy_ports: ProxyPorts::default(),
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
            mighty: Vec::new(),
            is_injected: false,
            init_containers: Vec::new(),
            proxy_ports: ProxyPorts::default(),
            latches: Latches::new(),
        }
    }

    /// The same, of a pod that gets a sidecar with these ports.
    pub(crate) fn injected(self, proxy_ports: ProxyPorts) -> Self {
        Self { proxy_ports, is_injected: true, ..self }
    }

    /// What is read at admission; where it is wrong, which [`report`](Self::report) says, nothing.
    pub(crate) fn admission(&self) -> Admission {
        self.read_admission().unwrap_or_default()
    }

    fn read_admission(&self) -> Result<Admission, Vec<Diagnostic>> {
        Admission::read(&self.annotations, &self.init_containers, self.proxy_ports)
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
        let (set, mut errors) = self.readable();
        let mut report = mantlet_policy::check(&set.sources(), &self.config(&set, now));
        let mut warnings = Vec::new();
        match self.read_admission() {
            Ok(admission) => warnings = admission.warnings(),
            Err(findings) => errors.extend(findings),
        }
        if !errors.is_empty() {
            // A wrong key may be the one that was meant to hold the policy.
            report.warnings.retain(|warning| warning.code != Code::NoPolicy);
        }
        errors.append(&mut report.errors);
        warnings.append(&mut report.warnings);
        let mut report = Report { errors, warnings };
        if let Some(text) = &set.upstreams {
            let parsed = mantlet_policy::upstreams::parse(UPSTREAMS, text, &self.workload, &self.limits);
            report.errors.extend(parsed.err().into_iter().flatten());
        }
        if self.host_network && set.is_configured() {
            let help = "remove hostNetwork, or the mantlet.dev annotations";
            let message = "a hostNetwork pod cannot be captured";
            report.errors.push(Diagnostic::general(Code::HostNetwork, "", message, help));
        }
        if self.is_injected || set.is_configured() {
            report.warnings.extend(self.past_the_sidecar());
        }
        report
    }

    /// One warning for all containers: the API server passes few on.
    fn past_the_sidecar(&self) -> Option<Diagnostic> {
        // Nearly every pod leaves its user to its image. Whoever asks about a policy is not told of that.
        let found: Vec<&Mighty> =
            self.mighty.iter().filter(|mighty| mighty.is_root || self.is_injected).collect();
        let mut capabilities: Vec<&str> =
            found.iter().flat_map(|mighty| mighty.capabilities.iter().copied()).collect();
        capabilities.sort_unstable();
        capabilities.dedup();
        let named: Vec<String> =
            found.iter().map(|mighty| format!("\"{}\"", mighty.container.escape_debug())).collect();
        let who = match named.as_slice() {
            [] => return None,
            [one] => format!("container {one}"),
            [one, more @ ..] => format!("container {one} and {} more", more.len()),
        };
        let message = format!("{who} may be root with {}", capabilities.join(", "));
        let help = "they lead past the sidecar; write drop: [ALL]";
        Some(Diagnostic::general(Code::PastTheSidecar, "", message, help))
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

    /// What can be read of the annotations, and what is wrong with the rest: one wrong key does not hide
    /// the mistakes in the others.
    fn readable(&self) -> (PolicySet, Vec<Diagnostic>) {
        match self.set() {
            Ok(set) => (set, Vec::new()),
            Err(errors) => {
                let good = |key: &str| !errors.iter().any(|error| error.source == key);
                let rest = self.annotations.iter().filter(|(key, _)| good(key));
                let rest =
                    PolicySet::from_annotations(rest.map(|(key, value)| (key.as_str(), value.as_str())));
                (rest.unwrap_or_default(), errors)
            }
        }
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
