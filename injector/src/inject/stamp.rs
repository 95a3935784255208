//! `mantlet.dev/injected-by`: what injected a pod, and what else it added that was not there before.

use super::config::Config;

/// The annotation.
pub const INJECTED_BY: &str = "mantlet.dev/injected-by";
const DEFAULT_CONTAINER: &str = "default-container";
const PULL_SECRET: &str = "pull-secret=";

/// The value of the annotation.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct Stamp {
    pub(super) version: String,
    pub(super) fingerprint: String,
    /// Whether the annotation of kubectl is ours.
    pub(super) default_container: bool,
    /// The pull secrets that are ours.
    pub(super) pull_secrets: Vec<String>,
}

// === impl Stamp ===

impl Stamp {
    pub(super) fn new(config: &Config, default_container: bool, pull_secrets: Vec<String>) -> Self {
        Self {
            version: env!("CARGO_PKG_VERSION").to_owned(),
            fingerprint: config.fingerprint().to_owned(),
            default_container,
            pull_secrets,
        }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        let mut parts = text.split(',');
        let (version, fingerprint) = (parts.next()?.to_owned(), parts.next()?.to_owned());
        let mut stamp = Self { version, fingerprint, default_container: false, pull_secrets: Vec::new() };
        for part in parts {
            match part.strip_prefix(PULL_SECRET) {
                Some(secret) => stamp.pull_secrets.push(secret.to_owned()),
                None if part == DEFAULT_CONTAINER => stamp.default_container = true,
                None => return None,
            }
        }
        Some(stamp)
    }

    pub(super) fn text(&self) -> String {
        let mut text = format!("{},{}", self.version, self.fingerprint);
        if self.default_container {
            text.push(',');
            text.push_str(DEFAULT_CONTAINER);
        }
        for secret in &self.pull_secrets {
            text.push(',');
            text.push_str(PULL_SECRET);
            text.push_str(secret);
        }
        text
    }

    /// Whether this version with this configuration would make the same of the same pod.
    pub(super) fn is_of(&self, config: &Config) -> bool {
        self.version == env!("CARGO_PKG_VERSION") && self.fingerprint == config.fingerprint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stamp_is_read_as_it_was_written() {
        for (default_container, secrets) in [(false, &[][..]), (true, &["a"]), (true, &["a", "b.c"])] {
            let secrets = secrets.iter().map(|secret: &&str| (*secret).to_owned()).collect();
            let stamp = Stamp::new(&Config::embedded(), default_container, secrets);
            assert_eq!(Stamp::parse(&stamp.text()), Some(stamp.clone()));
            assert!(stamp.is_of(&Config::embedded()));
        }
        for text in ["", "0.1.0", "0.1.0,0,else"] {
            assert_eq!(Stamp::parse(text), None, "{text}");
        }
    }
}
