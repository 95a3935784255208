//! What an installation says about injection, checked.

use std::fmt;

use mantlet_id::{SpiffeId, TrustDomain};
use mantlet_policy::Guardrails;
use mantlet_redirect::{Cidr, ProxyPorts, Ruleset, Udp};
use serde::Deserialize;

use super::document::{Document, Image, Otherwise, Profile, Resources, WorkloadApi};
use crate::Installation;

/// What an installation says about injection, checked: what is made of it, a node can run.
#[derive(Clone, Debug, Deserialize)]
#[serde(try_from = "Document")]
pub struct Config {
    document: Document,
    trust_domain: TrustDomain,
    guardrails: Guardrails,
    fingerprint: String,
}

/// Everything that is wrong with a [`Document`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Mistakes(Vec<String>);

// === impl Config ===

impl Config {
    /// What the command line uses where there is no installation: every default.
    #[must_use]
    #[allow(clippy::expect_used, reason = "the defaults are checked by a test")]
    pub fn embedded() -> Self {
        Self::new(Document::default()).expect("the defaults are in order")
    }

    /// The checked form of `document`.
    ///
    /// # Errors
    /// Everything that is wrong with it.
    pub fn new(document: Document) -> Result<Self, Mistakes> {
        let mut mistakes = Vec::new();
        let trust_domain = TrustDomain::parse(&document.trust_domain)
            .map_err(|error| mistakes.push(format!("trustDomain: {error}")));
        let guardrails = Guardrails::parse(&document.guardrails.join("\n"))
            .map_err(|error| mistakes.push(format!("guardrails: {error}")));
        check(&document, &mut mistakes);
        match (trust_domain, guardrails) {
            (Ok(trust_domain), Ok(guardrails)) if mistakes.is_empty() => {
                let fingerprint = fingerprint(&document);
                Ok(Self { document, trust_domain, guardrails, fingerprint })
            }
            _ => Err(Mistakes(mistakes)),
        }
    }

    /// What was written.
    #[must_use]
    pub fn document(&self) -> &Document {
        &self.document
    }

    /// The trust domain of the identities.
    #[must_use]
    pub fn trust_domain(&self) -> &TrustDomain {
        &self.trust_domain
    }

    /// What annotations are checked against, in `namespace`.
    #[must_use]
    pub fn installation(&self, namespace: &str) -> Installation {
        Installation {
            trust_domain: self.trust_domain.clone(),
            namespace: namespace.to_owned(),
            guardrails: self.guardrails.clone(),
        }
    }

    /// Differs between two configurations that inject differently. It is no proof of anything: whoever
    /// writes a pod can copy it.
    #[must_use]
    pub fn fingerprint(&self) -> &str {
        &self.fingerprint
    }

    /// What becomes of connections to workloads without a sidecar.
    #[must_use]
    pub fn unmeshed(&self) -> Otherwise {
        self.document.unmeshed.unwrap_or_else(|| self.otherwise())
    }

    /// What becomes of connections to addresses outside of the cluster.
    #[must_use]
    pub fn external(&self) -> Otherwise {
        self.document.external.unwrap_or_else(|| self.otherwise())
    }

    fn otherwise(&self) -> Otherwise {
        match self.document.profile {
            Profile::Default => Otherwise::Passthrough,
            Profile::Strict => Otherwise::Refuse,
        }
    }
}

impl TryFrom<Document> for Config {
    type Error = Mistakes;

    fn try_from(document: Document) -> Result<Self, Mistakes> {
        Self::new(document)
    }
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0.join("; "))
    }
}

impl std::error::Error for Mistakes {}

// === impl Document ===

impl Document {
    /// The ports, as the rules of interception have them.
    pub(crate) fn proxy_ports(&self) -> ProxyPorts {
        let super::Ports { outbound, inbound, health, admin } = self.ports;
        ProxyPorts { outbound, inbound, health, admin }
    }

    pub(super) fn udp(&self) -> Udp {
        match self.profile {
            Profile::Default => Udp::Pass,
            Profile::Strict => Udp::RejectQuic,
        }
    }
}

fn check(document: &Document, mistakes: &mut Vec<String>) {
    // The init container refuses what its own rules forbid; better here than in every pod.
    let mut rules = mantlet_redirect::Config::new(document.user, document.group);
    rules.ports = document.proxy_ports();
    mistakes.extend(Ruleset::new(rules).err().into_iter().flatten().map(|problem| problem.to_string()));
    for (name, image) in [("proxy", &document.images.proxy), ("init", &document.images.init)] {
        mistakes.extend(image_mistake(image).map(|mistake| format!("images.{name}: {mistake}")));
    }
    let resources = &document.resources;
    for (name, resources) in [("proxy", &resources.proxy), ("init", &resources.init)] {
        mistakes.extend(resource_mistakes(resources).map(|mistake| format!("resources.{name}: {mistake}")));
    }
    if document.init_user == document.user || document.init_user == u32::MAX {
        mistakes.push(format!("initUser: {} is not possible", document.init_user));
    }
    let (WorkloadApi::Csi { socket, .. } | WorkloadApi::HostPath { socket, .. }) = &document.workload_api;
    if socket.is_empty() || socket.contains('/') || socket.starts_with('.') {
        mistakes.push(format!("workloadApi: \"{}\" is no file name", socket.escape_debug()));
    }
    let mut directories = document.agent_directories.clone();
    match &document.workload_api {
        WorkloadApi::Csi { driver, .. } if driver.is_empty() => {
            mistakes.push("workloadApi: the driver has no name".to_owned());
        }
        WorkloadApi::Csi { .. } => {}
        WorkloadApi::HostPath { directory, .. } => directories.push(directory.clone()),
    }
    for directory in directories.iter().filter(|directory| !is_directory(directory)) {
        mistakes.push(format!("\"{}\" is no folder of a node: write /a/b", directory.escape_debug()));
    }
    if document.agent_drivers.iter().any(String::is_empty) {
        mistakes.push("agentDrivers: a driver has no name".to_owned());
    }
    for network in &document.mesh_cidrs {
        mistakes.extend(Cidr::parse(network).err().map(|problem| format!("meshCidrs: {problem}")));
    }
    if let Some(directory) = &document.directory {
        let port = directory
            .address
            .rsplit_once(':')
            .and_then(|(host, port)| port.parse::<u16>().ok().filter(|port| *port > 0 && !host.is_empty()));
        if port.is_none() {
            mistakes.push("directory: write the address as host:port".to_owned());
        }
        mistakes.extend(SpiffeId::parse(&directory.id).err().map(|error| format!("directory: {error}")));
    }
    for secret in document.image_pull_secrets.iter().filter(|name| !is_name(name)) {
        mistakes.push(format!("imagePullSecrets: \"{}\" is no name", secret.escape_debug()));
    }
    // A guardrail with a line break in it would be two.
    for line in document.guardrails.iter().filter(|line| line.chars().any(char::is_control)) {
        mistakes.push(format!("guardrails: \"{}\" is more than one line", line.escape_debug()));
    }
}

fn image_mistake(image: &Image) -> Option<String> {
    let plain = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
    if !plain(&image.name) || image.name.contains('@') {
        return Some(format!(
            "\"{}\" is no name and tag; a digest is a field of its own",
            image.name.escape_debug()
        ));
    }
    let digest = image.digest.as_deref()?;
    let hex = digest.strip_prefix("sha256:").unwrap_or_default();
    let valid = hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
    (!valid).then(|| format!("\"{}\" is no digest: write sha256:..", digest.escape_debug()))
}

fn resource_mistakes(resources: &Resources) -> impl Iterator<Item = String> {
    let Resources { requests, limits } = resources;
    let needed =
        [("requests", requests, "cpu"), ("requests", requests, "memory"), ("limits", limits, "memory")];
    let missing = needed.into_iter().filter(|(_, map, name)| !map.contains_key(*name));
    let missing = missing.map(|(list, _, name)| format!("{list} need {name}"));
    let wrong = requests.iter().chain(limits).filter(|(_, amount)| !is_quantity(amount));
    missing.chain(wrong.map(|(name, amount)| format!("{name}: \"{}\" is no quantity", amount.escape_debug())))
}

/// A number with a suffix, as Kubernetes has them: `100m`, `1.5`, `64Mi`.
fn is_quantity(text: &str) -> bool {
    const SUFFIXES: [&str; 15] =
        ["", "n", "u", "m", "k", "M", "G", "T", "P", "Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];
    let end = text.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = text.split_at_checked(end).unwrap_or((text, ""));
    SUFFIXES.contains(&suffix) && number.starts_with(|c: char| c.is_ascii_digit()) && {
        let (whole, part) = number.split_once('.').unwrap_or((number, "0"));
        whole.len() <= 15 && (1..=3).contains(&part.len()) && !part.contains('.')
    }
}

/// An absolute path of the node without detours.
fn is_directory(path: &str) -> bool {
    let mut parts = path.split('/');
    parts.next() == Some("")
        && path.len() > 1
        && parts.all(|part| !matches!(part, "" | "." | "..") && !part.contains(|c: char| c.is_control()))
}

fn is_name(name: &str) -> bool {
    (1..=253).contains(&name.len())
        && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || matches!(b, b'.' | b'-'))
}

/// FNV-1a, 64 bits, of the document as JSON: stable from one build to the next.
fn fingerprint(document: &Document) -> String {
    let text = serde_json::to_string(document).unwrap_or_default();
    let hash = text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(byte)).wrapping_mul(0x0100_0000_01b3)
    });
    format!("{hash:016x}")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(text: &str) -> Result<Config, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    #[test]
    fn the_defaults_are_in_order() {
        let config = Config::embedded();
        assert_eq!(config.document(), parsed("{}").unwrap().document());
        assert_eq!(config.fingerprint().len(), 16);
        assert_eq!((config.unmeshed(), config.external()), (Otherwise::Passthrough, Otherwise::Passthrough));
    }

    #[test]
    fn a_field_that_does_not_exist_is_an_error() {
        for text in [
            r#"{"trustdomain": "x"}"#,
            r#"{"images": {"sidecar": {}}}"#,
            r#"{"workloadApi": {"csi": {"path": "/x"}}}"#,
            r#"{"ports": {"metrics": 1}}"#,
            r#"{"unconfigured": "allow"}"#,
        ] {
            assert!(parsed(text).is_err(), "{text}");
        }
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let mistakes = parsed(
            r#"{
              "trustDomain": "A", "user": 1337, "ports": {"health": 24140}, "guardrails": ["forbid all"],
              "images": {"proxy": {"name": "x@sha256:1"}, "init": {"name": "x", "digest": "sha256:1"}},
              "resources": {"proxy": {"requests": {"cpu": "much"}, "limits": {}}},
              "workloadApi": {"hostPath": {"directory": "run/../x", "socket": "a/b"}},
              "meshCidrs": ["10.0.0.1/8"], "directory": {"address": "x", "id": "y"}, "imagePullSecrets": ["A"]
            }"#,
        )
        .unwrap_err();
        for part in [
            "trustDomain",
            "user 1337",
            "cannot both have port 24140",
            "guardrail 1",
            "images.proxy",
            "images.init",
            "requests need memory",
            "limits need memory",
            "cpu: \"much\"",
            "a/b",
            "run/../x",
            "meshCidrs",
            "host:port",
            "directory: ",
            "imagePullSecrets",
        ] {
            assert!(mistakes.contains(part), "{part}: {mistakes}");
        }
    }

    #[test]
    fn the_profile_decides_what_nobody_has_said() {
        let config = parsed(r#"{"profile": "strict", "external": "passthrough"}"#).unwrap();
        assert_eq!((config.unmeshed(), config.external()), (Otherwise::Refuse, Otherwise::Passthrough));
        assert_eq!(config.document().udp(), Udp::RejectQuic);
    }

    #[test]
    fn the_fingerprint_is_stable_and_tells_configurations_apart() {
        let of = |text: &str| parsed(text).unwrap().fingerprint().to_owned();
        assert_eq!(of(r#"{"log": "info"}"#), of("{}"));
        assert_ne!(of(r#"{"log": "debug"}"#), of("{}"));
    }

    #[test]
    fn quantities() {
        for good in ["0", "100m", "1.5", "64Mi", "1Gi", "2k"] {
            assert!(is_quantity(good), "{good}");
        }
        for bad in ["", "m", "-1", "1.", "1.2.3", "1 Mi", "1mi", "1e3", ".5"] {
            assert!(!is_quantity(bad), "{bad}");
        }
    }
}
