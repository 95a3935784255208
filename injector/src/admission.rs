//! The annotations that are read once, when a pod is admitted.

use std::collections::BTreeMap;
use std::fmt::Display;

use mantlet_policy::{Code, Diagnostic, Position};
use mantlet_redirect::{Cidr, PortRange, ProxyPorts, Ruleset};

const SKIP_INBOUND: &str = "mantlet.dev/skip-inbound-ports";
const SKIP_OUTBOUND: &str = "mantlet.dev/skip-outbound-ports";
const SKIP_CIDRS: &str = "mantlet.dev/skip-outbound-cidrs";
pub(crate) const INIT_AFTER: &str = "mantlet.dev/init-after";
const START_HOLD: &str = "mantlet.dev/start-hold";

/// What they say.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) struct Admission {
    /// Ports that reach the application as they are.
    pub(crate) skip_inbound_ports: Vec<PortRange>,
    /// Destination ports that are not captured.
    pub(crate) skip_outbound_ports: Vec<PortRange>,
    /// Destination networks that are not captured.
    pub(crate) skip_outbound_cidrs: Vec<Cidr>,
    /// The init containers that run before the sidecar.
    pub(crate) init_after: Vec<String>,
    /// What the other containers wait for.
    pub(crate) start_hold: Hold,
}

/// What the other containers wait for.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) enum Hold {
    /// The sidecar's identity.
    #[default]
    Identity,
    /// The sidecar's listeners.
    Listen,
    /// Nothing.
    Off,
}

// === impl Admission ===

impl Admission {
    /// Reads them, for a pod that has these init containers of its own.
    ///
    /// # Errors
    /// Everything that is wrong with them.
    pub(crate) fn read<S: AsRef<str>>(
        annotations: &BTreeMap<String, String>,
        init_containers: &[S],
        ports: ProxyPorts,
    ) -> Result<Self, Vec<Diagnostic>> {
        let mut findings = Vec::new();
        let value = |key: &str| annotations.get(key).map_or("", String::as_str);
        let mut read = Self {
            skip_inbound_ports: list(SKIP_INBOUND, value(SKIP_INBOUND), PortRange::parse, &mut findings),
            skip_outbound_ports: list(SKIP_OUTBOUND, value(SKIP_OUTBOUND), PortRange::parse, &mut findings),
            skip_outbound_cidrs: list(SKIP_CIDRS, value(SKIP_CIDRS), Cidr::parse, &mut findings),
            ..Self::default()
        };
        let named = |name: &str| {
            let known = init_containers.iter().any(|known| known.as_ref() == name);
            known.then(|| name.to_owned()).ok_or_else(|| {
                let there: Vec<&str> = init_containers.iter().map(AsRef::as_ref).collect();
                let there = if there.is_empty() { "none".to_owned() } else { there.join(", ") };
                format!("the pod has no init container \"{}\"; there is {there}", name.escape_debug())
            })
        };
        read.init_after = list(INIT_AFTER, value(INIT_AFTER), named, &mut findings);
        match annotations.get(START_HOLD).map(|hold| hold.trim()) {
            None | Some("identity") => {}
            Some("listen") => read.start_hold = Hold::Listen,
            Some("off") => read.start_hold = Hold::Off,
            Some(other) => {
                let message = format!("unknown start-hold \"{}\"", shortened(other));
                let help = "write identity, listen or off";
                findings.push(Diagnostic::general(Code::AnnotationValue, START_HOLD, message, help));
            }
        }
        // The entries of the sidecar itself, too many entries: what the init container would refuse.
        let mut rules = mantlet_redirect::Config::new(14021, 14021);
        rules.ports = ports;
        rules.skip_inbound_ports = read.skip_inbound_ports.clone();
        rules.skip_outbound_ports = read.skip_outbound_ports.clone();
        rules.skip_outbound_cidrs = read.skip_outbound_cidrs.clone();
        for problem in Ruleset::new(rules).err().into_iter().flatten() {
            let text = problem.to_string();
            let lists = [SKIP_INBOUND, SKIP_OUTBOUND, SKIP_CIDRS];
            let name = |key: &&&str| key.rsplit('/').next().is_some_and(|name| text.starts_with(name));
            let source = lists.iter().find(name).copied().unwrap_or(SKIP_INBOUND);
            findings.push(Diagnostic::general(Code::AnnotationValue, source, text.clone(), ""));
        }
        if findings.is_empty() { Ok(read) } else { Err(findings) }
    }

    /// Whether `port` reaches the application as it is.
    pub(crate) fn skips_inbound(&self, port: u16) -> bool {
        self.skip_inbound_ports.iter().any(|range| range.contains(port))
    }

    /// What its owner should know about it.
    pub(crate) fn warnings(&self) -> Vec<Diagnostic> {
        let mut warnings = Vec::new();
        let mut warn = |key: &str, message: String, help: &str| {
            warnings.push(Diagnostic::general(Code::NotCaptured, key, message, help));
        };
        if !self.skip_inbound_ports.is_empty() {
            let ports = joined(&self.skip_inbound_ports);
            let help = "anybody who reaches the pod reaches them without identity or policy";
            warn(SKIP_INBOUND, format!("inbound ports are not captured: {ports}"), help);
        }
        if self.skip_outbound_ports.iter().any(|range| range.contains(443)) {
            let help = "name networks with skip-outbound-cidrs, or pass them through with upstreams";
            warn(SKIP_OUTBOUND, "outbound port 443 is not captured, wherever it leads".to_owned(), help);
        }
        let everything = self.skip_outbound_cidrs.iter().filter(|cidr| cidr.to_string().ends_with("/0"));
        for cidr in everything {
            let help = "nothing of that family is captured on the way out";
            warn(SKIP_CIDRS, format!("outbound network {cidr} is not captured"), help);
        }
        if !self.init_after.is_empty() {
            let names = self.init_after.join(", ");
            let help = "they, and what stands before them, talk without identity";
            warn(INIT_AFTER, format!("init containers run before interception: {names}"), help);
        }
        warnings
    }
}

/// A comma-separated list as the init container takes it.
pub(crate) fn joined<T: Display>(items: &[T]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join(",")
}

/// The items of a comma-separated list, and a finding for each that is wrong, at its place.
fn list<T, E: Display>(
    key: &str,
    value: &str,
    parse: impl Fn(&str) -> Result<T, E>,
    findings: &mut Vec<Diagnostic>,
) -> Vec<T> {
    let mut items = Vec::new();
    if value.trim().is_empty() {
        return items;
    }
    for item in value.split(',') {
        match parse(item.trim()) {
            Ok(parsed) => items.push(parsed),
            Err(problem) => {
                // `item` is a part of `value`: what is in front of it is the difference of the two.
                let offset = (item.as_ptr() as usize).saturating_sub(value.as_ptr() as usize);
                let offset = offset + (item.len() - item.trim_start().len());
                findings.push(at(key, value, offset, item.trim(), &problem.to_string()));
            }
        }
    }
    items
}

fn at(key: &str, value: &str, offset: usize, item: &str, problem: &str) -> Diagnostic {
    let number = |count: usize| u32::try_from(count).unwrap_or(u32::MAX);
    let before = value.get(..offset).unwrap_or_default();
    let start = before.rfind('\n').map_or(0, |at| at + 1);
    let column = before.get(start..).unwrap_or_default().chars().count();
    let line = value.get(start..).and_then(|rest| rest.lines().next()).unwrap_or_default();
    let (message, help) = problem.split_once(": ").unwrap_or((problem, ""));
    let mut finding = Diagnostic::general(Code::AnnotationValue, key, message, help);
    finding.position = Some(Position {
        line: number(before.matches('\n').count() + 1),
        column: number(column + 1),
        width: number(item.chars().count().max(1)),
    });
    finding.excerpt = line.chars().map(|c| if c.is_control() { ' ' } else { c }).take(120).collect();
    finding
}

fn shortened(text: &str) -> String {
    text.chars().take(60).flat_map(char::escape_debug).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(entries: &[(&str, &str)]) -> Result<Admission, Vec<String>> {
        let annotations =
            entries.iter().map(|(key, value)| (format!("mantlet.dev/{key}"), (*value).to_owned())).collect();
        let read = Admission::read(&annotations, &["vault-agent-init", "migrate"], ProxyPorts::default());
        read.map_err(|findings| findings.iter().map(ToString::to_string).collect())
    }

    #[test]
    fn lists_are_what_the_init_container_takes() {
        let read = read(&[
            ("skip-inbound-ports", "8443, 9000-9100"),
            ("skip-outbound-cidrs", "10.0.0.0/8,fd00::/8"),
            ("init-after", "vault-agent-init"),
            ("start-hold", "listen"),
        ])
        .unwrap();
        assert!(read.skips_inbound(8443) && read.skips_inbound(9050) && !read.skips_inbound(8080));
        assert_eq!(joined(&read.skip_outbound_cidrs), "10.0.0.0/8,fd00::/8");
        assert_eq!(
            (read.init_after.as_slice(), read.start_hold),
            (&["vault-agent-init".to_owned()][..], Hold::Listen)
        );
        assert_eq!(
            Admission::read(&BTreeMap::new(), &[""; 0], ProxyPorts::default()),
            Ok(Admission::default())
        );
    }

    #[test]
    fn every_wrong_item_is_told_with_its_place() {
        let findings = read(&[
            ("skip-inbound-ports", "8443, http,\n70000"),
            ("skip-outbound-ports", "24143"),
            ("skip-outbound-cidrs", "10.0.0.1/8"),
            ("init-after", "migrate, valt"),
            ("start-hold", "forever"),
        ])
        .unwrap_err();
        let expected = [
            "mantlet.dev/skip-inbound-ports:1:7: P081 \"http\" is no port\n  8443, http,\n        ^^^^ write 8080 or 9000-9100, from 1 to 65535",
            "mantlet.dev/skip-inbound-ports:2:1: P081 \"70000\" is no port\n  70000\n  ^^^^^ write 8080 or 9000-9100, from 1 to 65535",
            "mantlet.dev/skip-outbound-cidrs:1:1: P081 10.0.0.1 is an address in 10.0.0.0/8\n  10.0.0.1/8\n  ^^^^^^^^^^ write 10.0.0.0/8, or the address alone",
            "mantlet.dev/init-after:1:10: P081 the pod has no init container \"valt\"; there is vault-agent-init, migrate\n  migrate, valt\n           ^^^^",
            "mantlet.dev/start-hold: P081 unknown start-hold \"forever\"\n  write identity, listen or off",
            "mantlet.dev/skip-outbound-ports: P081 skip-outbound-ports: 24143 has the proxy's inbound port 24143 in it: leave it out",
        ];
        assert_eq!(findings, expected);
    }

    #[test]
    fn what_is_not_captured_is_warned_about() {
        let read = read(&[
            ("skip-inbound-ports", "1,2"),
            ("skip-outbound-ports", "400-500"),
            ("skip-outbound-cidrs", "::/0"),
            ("init-after", "migrate"),
        ])
        .unwrap();
        let keys: Vec<String> = read.warnings().into_iter().map(|warning| warning.source).collect();
        assert_eq!(keys, [SKIP_INBOUND, SKIP_OUTBOUND, SKIP_CIDRS, INIT_AFTER]);
        assert!(Admission::default().warnings().is_empty());
    }
}
