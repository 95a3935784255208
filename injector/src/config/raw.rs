//! What the operator wrote, before anything is checked.

use std::{collections::BTreeMap, ffi::OsString, fmt};

use clap::{Arg, ArgAction, ArgMatches, Command};

use super::{
    Mistakes,
    keys::{KEYS, Key, PREFIX},
};

/// The one flag that is not a key.
pub(super) const PRINT_CONFIG: &str = "print-config";

/// Where a value came from.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(super) enum Source {
    Flag,
    Environment,
    Default,
}

/// The value of one key.
#[derive(Clone, Debug)]
pub(super) struct Given {
    pub(super) source: Source,
    pub(super) value: Option<String>,
}

/// Everything that was given, by flag; flags have already won over the environment.
#[derive(Debug, Default)]
pub(super) struct Raw(BTreeMap<&'static str, Given>);

/// The command line, built from the table.
pub(super) fn command(program: &'static str) -> Command {
    let base = Command::new(program)
        // The last one holds: whoever starts it may add to what a chart has written.
        .args_override_self(true)
        .version(env!("CARGO_PKG_VERSION"))
        .about("The Mantlet injector: the admission webhook that adds the sidecar to pods and checks annotations.")
        .after_help(
            "Flags win over the environment, which wins over the defaults. Every mistake is reported at once, with \
             exit code 2.\nThe API server is found by the service account's files, outside of a cluster by KUBECONFIG.",
        )
        .arg(
            Arg::new(PRINT_CONFIG)
                .long(PRINT_CONFIG)
                .action(ArgAction::SetTrue)
                .help("Print the effective configuration with the source of each value, and exit"),
        );
    KEYS.iter().fold(base, |command, key| {
        let default =
            key.default.map_or_else(|| "required".to_owned(), |default| format!("default: {default}"));
        let help = format!("{} [{default}; env: {}]", key.meaning, key.environment);
        let arg = Arg::new(key.flag).long(key.flag).value_name(key.kind.placeholder()).help(help);
        command.arg(arg)
    })
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
            let value = value.to_string_lossy().into_owned();
            match KEYS.iter().find(|key| key.environment == name) {
                Some(key) => {
                    raw.0.insert(key.flag, Given { source: Source::Environment, value: Some(value) });
                }
                None if name.starts_with(PREFIX) && !is_service_link(&name, &value) => {
                    mistakes.0.push(format!("{name}: unknown key; accepted: the keys that --help lists"));
                }
                None => {}
            }
        }
        for key in KEYS {
            if let Some(value) = matches.get_one::<String>(key.flag) {
                raw.0.insert(key.flag, Given { source: Source::Flag, value: Some(value.clone()) });
            }
        }
        raw
    }

    /// What was given for `key`, or its default.
    pub(super) fn given(&self, key: &Key) -> Given {
        let default = || Given { source: Source::Default, value: key.default.map(str::to_owned) };
        self.0.get(key.flag).cloned().unwrap_or_else(default)
    }
}

/// Whether Kubernetes made this variable for a Service whose name begins with `mantlet`, as our own does: nobody asked
/// for it, so it cannot be a mistake (kubelet, `envvars.FromServices`).
fn is_service_link(name: &str, value: &str) -> bool {
    let is_port = |rest: &str| {
        let mut parts = rest.split('_');
        let number = parts.next().is_some_and(|n| !n.is_empty() && n.bytes().all(|b| b.is_ascii_digit()));
        number && matches!(parts.next(), Some("TCP" | "UDP" | "SCTP"))
    };
    name.ends_with("_SERVICE_HOST")
        || name.rsplit_once("_SERVICE_PORT").is_some_and(|(_, rest)| rest.is_empty() || rest.starts_with('_'))
        || (name.ends_with("_PORT") && value.contains("://"))
        || name.split_once("_PORT_").is_some_and(|(_, rest)| is_port(rest))
}

// === impl Source ===

impl Source {
    /// How the operator wrote `key` there.
    pub(super) fn spelling(self, key: &Key) -> String {
        match self {
            Self::Environment => key.environment.to_owned(),
            Self::Flag | Self::Default => format!("--{}", key.flag),
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_variables_of_our_own_service_are_no_mistakes() {
        for (name, value) in [
            ("MANTLET_INJECTOR_SERVICE_HOST", "10.96.0.7"),
            ("MANTLET_INJECTOR_SERVICE_PORT", "443"),
            ("MANTLET_INJECTOR_SERVICE_PORT_HTTPS", "443"),
            ("MANTLET_INJECTOR_PORT", "tcp://10.96.0.7:443"),
            ("MANTLET_INJECTOR_PORT_443_TCP", "tcp://10.96.0.7:443"),
            ("MANTLET_INJECTOR_PORT_443_TCP_ADDR", "10.96.0.7"),
        ] {
            assert!(is_service_link(name, value), "{name}");
        }
        for name in ["MANTLET_HEALTH_PORT", "MANTLET_LISTENS", "MANTLET_PORT_HTTP"] {
            assert!(!is_service_link(name, "24190"), "{name}");
        }
        assert!(KEYS.iter().all(|key| !is_service_link(key.environment, "tcp://1.2.3.4:5")));
    }
}
