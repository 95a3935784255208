//! From a file's text to a policy, or to what is wrong with it.

use std::{path::Path, time::SystemTime};

use mantlet_id::TrustDomain;
use mantlet_policy::{
    Config as CompileConfig, Diagnostic, Guardrails, Latches, Limits, NamedPort, Policy, Reason, Transport,
    Unconfigured, Workload, annotations,
    registry::{self, PolicySet},
};

use crate::{
    config::{self, Config, PolicyLocation},
    watched,
};

/// What a policy was made from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Origin {
    /// There is none, or none that is usable.
    Nothing,
    /// A plain file.
    File,
    /// The pod's annotations.
    Annotations,
}

/// What one look at the file came to.
pub(super) enum Loaded {
    /// The own trust domain is not known yet.
    Waiting,
    /// A new policy.
    Policy {
        policy: Box<Policy>,
        /// Whose policy it is, where there is one of the workload's own.
        workload: Option<Workload>,
        origin: Origin,
        /// Of the text it was made from.
        digest: [u8; 32],
    },
    /// The text of the policy in force.
    Unchanged { digest: [u8; 32] },
    /// No usable policy, and why: place, code and help, several lines.
    Failed(String),
}

/// What policies are made with, all but the text.
pub(super) struct Loader {
    location: PolicyLocation,
    unconfigured: Unconfigured,
    guardrails: Guardrails,
    latches: Latches,
    trust_domain: Option<TrustDomain>,
    namespace: String,
    service_account: Option<String>,
    ports: Vec<NamedPort>,
    /// Digest of the text that the policy in force was made from.
    live: Option<[u8; 32]>,
    /// There has been a policy of the workload's own.
    configured: bool,
}

/// What stands in the file.
struct Texts {
    set: PolicySet,
    origin: Origin,
    limits: Limits,
    /// The same on every replica that has the same texts.
    digest: [u8; 32],
}

// === impl Origin ===

impl Origin {
    /// The label.
    #[must_use]
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "none",
            Self::File => "file",
            Self::Annotations => "annotations",
        }
    }
}

// === impl Loader ===

impl Loader {
    pub(super) fn new(config: &Config) -> Self {
        Self {
            location: config.policy.clone(),
            unconfigured: match config.unconfigured {
                config::Unconfigured::Deny => Unconfigured::Deny,
                config::Unconfigured::Audit => Unconfigured::Audit,
                config::Unconfigured::Permissive => Unconfigured::Permissive,
            },
            guardrails: config.guardrails.clone(),
            latches: Latches::new(),
            trust_domain: config.trust_domain.clone(),
            namespace: config.namespace.clone().unwrap_or_default(),
            service_account: config.service_account.clone(),
            ports: ports(config),
            live: None,
            configured: false,
        }
    }

    pub(super) fn path(&self) -> Option<&Path> {
        self.location.path()
    }

    /// What to do about a policy that is not usable.
    pub(super) fn next_step(&self) -> String {
        match &self.location {
            PolicyLocation::None => String::new(),
            PolicyLocation::File(path) => {
                format!("correct {} (mantlet policy check says more); it is read again at once", path.display())
            }
            PolicyLocation::Annotations(_) => {
                "correct the pod's mantlet.dev/ annotations (mantlet policy check says more), and the template's too"
                    .to_owned()
            }
        }
    }

    /// Whether the trust domain is known; without a policy nobody needs it.
    pub(super) fn has_trust_domain(&self) -> bool {
        self.trust_domain.is_some() || self.location == PolicyLocation::None
    }

    pub(super) fn set_trust_domain(&mut self, trust_domain: TrustDomain) {
        self.trust_domain = Some(trust_domain);
    }

    /// Looks at the file and compiles what is new.
    pub(super) fn load(&mut self, now: SystemTime) -> Loaded {
        let texts = match &self.location {
            PolicyLocation::None => Ok(Texts::none()),
            PolicyLocation::File(path) => Texts::of_file(path),
            PolicyLocation::Annotations(path) => Texts::of_annotations(path),
        };
        let texts = match texts {
            Ok(texts) if self.live == Some(texts.digest) => {
                return Loaded::Unchanged { digest: texts.digest };
            }
            Ok(texts) => texts,
            Err(error) => return Loaded::Failed(error),
        };
        let Texts { set, origin, limits, digest } = texts;
        if !set.is_configured() {
            self.live = Some(digest);
            let policy = match self.configured {
                // Whoever deletes lines opens nothing by it, whatever the installation gives to newcomers.
                true => Policy::deny_all(Reason::NoPolicy),
                false => Policy::unconfigured(self.unconfigured),
            };
            return Loaded::Policy { policy: Box::new(policy), workload: None, origin, digest };
        }
        let Some(trust_domain) = self.trust_domain.clone() else { return Loaded::Waiting };
        let workload = Workload {
            trust_domain,
            namespace: self.namespace.clone(),
            service_account: self.service_account.clone(),
            ports: self.ports.clone(),
        };
        let config = CompileConfig {
            workload: &workload,
            limits,
            guardrails: &self.guardrails,
            mode: set.mode.unwrap_or_default(),
            http_options: &set.http_options,
            latches: &self.latches,
            now,
        };
        match Policy::compile(&set.sources(), &config) {
            Ok(policy) => {
                self.configured = true;
                self.live = Some(digest);
                Loaded::Policy { policy: Box::new(policy), workload: Some(workload), origin, digest }
            }
            Err(found) => Loaded::Failed(report(&found)),
        }
    }
}

// === impl Texts ===

impl Texts {
    fn none() -> Self {
        Self { set: PolicySet::default(), origin: Origin::Nothing, limits: Limits::FILES, digest: [0; 32] }
    }

    fn of_file(path: &Path) -> Result<Self, String> {
        let text = watched::read(path).map_err(|error| error.to_string())?;
        let digest = watched::sha256(text.as_bytes());
        // The key is what messages call the text. Not a bare `policy.txt`: that would be the fragment `txt`.
        let shown = path.display();
        let key = if path.components().count() > 1 { shown.to_string() } else { format!("./{shown}") };
        let set = PolicySet { texts: vec![(key, text)], ..PolicySet::default() };
        Ok(Self { set, origin: Origin::File, limits: Limits::FILES, digest })
    }

    fn of_annotations(path: &Path) -> Result<Self, String> {
        let text = watched::read(path).map_err(|error| error.to_string())?;
        let all =
            annotations::parse(text.as_bytes()).map_err(|error| format!("{}: {error}", path.display()))?;
        // Other people's annotations come and go; only a change of ours is a change.
        let ours = || all.iter().filter(|(key, _)| key.starts_with(registry::PREFIX));
        let set = PolicySet::from_annotations(ours().map(|(key, value)| (key.as_str(), value.as_str())))
            .map_err(|found| report(&found))?;
        // A NUL stands in no annotation key, and a length in front of each value keeps neighbours apart.
        let digest = ours().fold(Vec::new(), |mut bytes, (key, value)| {
            bytes.extend_from_slice(format!("{key}\0{}\0{value}", value.len()).as_bytes());
            bytes
        });
        let digest = watched::sha256(&digest);
        Ok(Self { set, origin: Origin::Annotations, limits: Limits::ANNOTATIONS, digest })
    }
}

/// The ports that rules without `on` cover: those that are declared, else those that inbound listeners serve.
fn ports(config: &Config) -> Vec<NamedPort> {
    if !config.ports.is_empty() {
        return config.ports.clone();
    }
    let mut ports: Vec<u16> = config.inbound.iter().map(|listener| listener.upstream.port()).collect();
    ports.sort_unstable();
    ports.dedup();
    ports.into_iter().map(|port| NamedPort { name: None, port, transport: Transport::Tcp }).collect()
}

fn report(found: &[Diagnostic]) -> String {
    found.iter().map(Diagnostic::to_string).collect::<Vec<_>>().join("\n")
}
