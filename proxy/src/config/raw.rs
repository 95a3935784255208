//! What the operator wrote, before anything is checked: strings with their source.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{
    error::{Mistake, Mistakes},
    keys::{Id, KEYS, Key, Kind, PREFIX, SECTIONS},
};

/// Where a value came from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// A command-line flag.
    Flag,
    /// An environment variable.
    Environment,
    /// Nobody said anything.
    Default,
}

/// The values of one key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Given {
    /// Where they came from.
    pub source: Source,
    /// One value, or several for a repeatable key.
    pub values: Vec<String>,
}

/// Everything that was given, by key; flags have already won over the environment.
#[derive(Debug, Default)]
pub(super) struct Raw(BTreeMap<Id, Given>);

/// The command line, built from the table.
#[must_use]
pub fn command(program: &'static str) -> Command {
    let base = Command::new(program)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The Mantlet sidecar: mutual TLS with SPIFFE identities and policy per service identity.")
        .after_help(
            "Flags win over the environment, which wins over the defaults. Every mistake is reported at once, with \
             exit code 2.\n\nExample:\n  mantlet-proxy --workload-api unix:///run/spire/agent.sock --policy ./policy \
             \\\n    --inbound 10.0.0.7:8443=127.0.0.1:8080 --trust-domain prod.example",
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the effective configuration with the source of each value, and exit"),
        );
    let socket = KEYS.iter().filter(|key| key.id == Id::AdminSocket).map(argument);
    let drain = Command::new(DRAIN)
        .about("Ask the running sidecar to drain, by its Unix socket: for a container's preStop hook")
        .args(socket);
    let socket = KEYS.iter().filter(|key| key.id == Id::AdminSocket).map(argument);
    let log_level = Command::new(LOG_LEVEL)
        .about("Set the level of the running sidecar's process log for a while, by its Unix socket")
        .after_help(
            "Example:\n  mantlet-proxy log-level debug --for 10m --admin-socket /run/mantlet/admin.sock",
        )
        .arg(Arg::new(LEVEL).required(true).value_name("LEVEL").value_parser(LEVELS))
        .arg(
            Arg::new(FOR)
                .long(FOR)
                .value_name("DURATION")
                .default_value("10m")
                .help("After this time it is the configured level again; 1s to 1d"),
        )
        .args(socket);
    // Sections are added in order, so that the help reads like the documentation.
    SECTIONS
        .iter()
        .flat_map(|section| KEYS.iter().filter(move |key| key.section == *section))
        .fold(base, |command, key| command.arg(argument(key)))
        .subcommand(drain)
        .subcommand(log_level)
}

/// The verbs, which talk to a running sidecar.
pub(super) const DRAIN: &str = "drain";
pub(super) const LOG_LEVEL: &str = "log-level";
/// Arguments of `log-level`.
pub(super) const LEVEL: &str = "level";
pub(super) const FOR: &str = "for";
const LEVELS: [&str; 6] = ["off", "error", "warn", "info", "debug", "trace"];
/// Id of the one flag that is not a key.
pub(super) const PRINT_CONFIG: &str = "print-config";

fn argument(key: &'static Key) -> Arg {
    let arg = Arg::new(key.flag)
        .long(key.flag)
        .help(help(key))
        .help_heading(key.section)
        .hide(key.hidden)
        .value_name(key.placeholder);
    match key.kind {
        Kind::Switch => arg.action(ArgAction::SetTrue),
        _ if key.repeatable => arg.action(ArgAction::Append),
        _ => arg.action(ArgAction::Set),
    }
}

fn help(key: &Key) -> String {
    let default = match key.default {
        Some(default) => format!("default: {default}"),
        None => key.unset.to_owned(),
    };
    format!("{} [{}; env: {}]", key.meaning, default, key.environment)
}

// === impl Raw ===

impl Raw {
    /// Puts flags and environment together; whatever is wrong already here goes to `mistakes`.
    pub(super) fn collect(
        matches: &ArgMatches,
        environment: impl IntoIterator<Item = (OsString, OsString)>,
        mistakes: &mut Mistakes,
    ) -> Self {
        let mut raw = Self::default();
        for (name, value) in environment {
            // A name that is not UTF-8 is none of ours.
            let Ok(name) = name.into_string() else { continue };
            match KEYS.iter().find(|key| key.environment == name) {
                Some(key) => raw.insert_variable(key, value, mistakes),
                None => check_unknown(&name, &value, mistakes),
            }
        }
        for key in KEYS {
            if let Some(values) = flag_values(key, matches) {
                raw.0.insert(key.id, Given { source: Source::Flag, values });
            }
        }
        raw
    }

    fn insert_variable(&mut self, key: &Key, value: OsString, mistakes: &mut Mistakes) {
        let value = match value.into_string() {
            Ok(value) => value,
            Err(value) => {
                mistakes.add(Mistake {
                    key: key.environment.to_owned(),
                    value: Some(value.to_string_lossy().into_owned()),
                    problem: "not UTF-8".to_owned(),
                    accepts: key.kind.accepts(),
                });
                return;
            }
        };
        let values = if key.repeatable {
            value.lines().map(str::trim).filter(|line| !line.is_empty()).map(str::to_owned).collect()
        } else {
            vec![value]
        };
        self.0.insert(key.id, Given { source: Source::Environment, values });
    }

    /// What was given for `key`, or its default; no values where it has neither.
    pub(super) fn given(&self, key: &Key) -> Given {
        self.0.get(&key.id).cloned().unwrap_or_else(|| Given {
            source: Source::Default,
            values: key.default.map(str::to_owned).into_iter().collect(),
        })
    }
}

fn flag_values(key: &Key, matches: &ArgMatches) -> Option<Vec<String>> {
    match key.kind {
        Kind::Switch => matches.get_flag(key.flag).then(|| vec!["true".to_owned()]),
        _ => matches.get_many::<String>(key.flag).map(|values| values.cloned().collect()),
    }
}

fn check_unknown(name: &str, value: &OsString, mistakes: &mut Mistakes) {
    if !name.starts_with(PREFIX) || is_service_link(name, &value.to_string_lossy()) {
        return;
    }
    let nearest = KEYS
        .iter()
        .filter(|key| !key.hidden)
        .map(|key| (distance(name, key.environment), key.environment))
        .min()
        .filter(|(distance, _)| *distance <= 3);
    mistakes.add(Mistake {
        key: name.to_owned(),
        value: Some(value.to_string_lossy().into_owned()),
        problem: match nearest {
            Some((_, known)) => format!("unknown key, did you mean {known}?"),
            None => "unknown key".to_owned(),
        },
        accepts: "the keys that --help lists".to_owned(),
    });
}

/// Whether Kubernetes made this variable for a Service whose name begins with `mantlet`
/// (kubelet `envvars.FromServices`): nobody asked for it, so it cannot be a mistake.
fn is_service_link(name: &str, value: &str) -> bool {
    if name.ends_with("_SERVICE_HOST") {
        return true;
    }
    if let Some((_, rest)) = name.rsplit_once("_SERVICE_PORT") {
        return rest.is_empty() || rest.starts_with('_');
    }
    if name.ends_with("_PORT") && value.contains("://") {
        // `MANTLET_ADMIN_PORT=9000` is no link but a slip: the kubelet writes tcp://ip:port.
        return true;
    }
    let parts: Vec<&str> = name.split('_').collect();
    let is_protocol = |part: &str| matches!(part, "TCP" | "UDP" | "SCTP");
    let is_number = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
    match parts.as_slice() {
        [.., "PORT", number, protocol, "PROTO" | "PORT" | "ADDR"] | [.., "PORT", number, protocol] => {
            is_number(number) && is_protocol(protocol)
        }
        _ => false,
    }
}

/// Levenshtein distance; both are short names of ASCII.
fn distance(a: &str, b: &str) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.bytes().enumerate() {
        let mut diagonal = i;
        let mut left = i + 1;
        if let Some(first) = row.first_mut() {
            *first = left;
        }
        for (cell, y) in row.iter_mut().skip(1).zip(b.bytes()) {
            let substituted = diagonal + usize::from(x != y);
            diagonal = *cell;
            left = substituted.min(diagonal + 1).min(left + 1);
            *cell = left;
        }
    }
    row.last().copied().unwrap_or(a.len())
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flag => "flag",
            Self::Environment => "environment",
            Self::Default => "default",
        })
    }
}

impl Source {
    /// How the operator wrote `key` there.
    #[must_use]
    pub fn spelling(self, key: &Key) -> String {
        match self {
            Self::Environment => key.environment.to_owned(),
            Self::Flag | Self::Default => format!("--{}", key.flag),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn service_links_of_a_service_named_mantlet_are_not_mistakes() {
        for (name, value) in [
            ("MANTLET_SERVICE_HOST", "10.96.0.7"),
            ("MANTLET_INJECTOR_SERVICE_HOST", "10.96.0.7"),
            ("MANTLET_SERVICE_PORT", "443"),
            ("MANTLET_SERVICE_PORT_HTTPS", "443"),
            ("MANTLET_PORT", "tcp://10.96.0.7:443"),
            ("MANTLET_PORT_443_TCP", "tcp://10.96.0.7:443"),
            ("MANTLET_PORT_443_TCP_PROTO", "tcp"),
            ("MANTLET_PORT_443_TCP_PORT", "443"),
            ("MANTLET_PORT_443_TCP_ADDR", "10.96.0.7"),
            ("MANTLET_DNS_PORT_53_UDP", "udp://10.96.0.7:53"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for (name, value) in [
            ("MANTLET_ADMIN_PORT", "24190"),
            ("MANTLET_PORTS_443", "x"),
            ("MANTLET_PORT_HTTP_TCP", "x"),
            ("MANTLET_SERVICE_PORTS", "x"),
        ] {
            assert!(!is_service_link(name, value), "{name}");
        }
    }

    #[test]
    fn no_key_of_ours_looks_like_a_service_link() {
        for key in KEYS.iter().filter(|key| key.environment.starts_with(PREFIX)) {
            assert!(!is_service_link(key.environment, "tcp://1.2.3.4:5"), "{}", key.environment);
        }
    }

    #[test]
    fn distance_counts_single_edits() {
        for (a, b, expected) in
            [("", "", 0), ("abc", "abc", 0), ("abc", "abd", 1), ("abc", "ab", 1), ("", "ab", 2)]
        {
            assert_eq!(distance(a, b), expected, "{a} {b}");
        }
    }
}
