//! The annotations and labels that Mantlet knows, and reading those that make a policy.

use crate::{
    canonical::PathOptions,
    compile::{Mode, Source},
    diagnostic::{Code, Diagnostic, Fault, Position, did_you_mean},
    language::Time,
    workload::{HttpOptions, PortOptions},
};

/// The prefix of all keys.
pub const PREFIX: &str = "mantlet.dev/";
/// The policy; `mantlet.dev/policy.<fragment>` adds to it.
pub const POLICY: &str = "mantlet.dev/policy";
/// A candidate policy, evaluated in shadow. Not available yet.
pub const POLICY_NEXT: &str = "mantlet.dev/policy-next";
/// `enforce` or `audit until <time>`.
pub const MODE: &str = "mantlet.dev/mode";
/// Weakenings per port.
pub const HTTP_OPTIONS: &str = "mantlet.dev/http-options";
/// The destinations of the workload.
pub const UPSTREAMS: &str = "mantlet.dev/upstreams";

/// A key, and what it is.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct KnownKey {
    /// With prefix.
    pub key: &'static str,
    /// Where it stands.
    pub kind: KeyKind,
    /// What it does, in a few words.
    pub meaning: &'static str,
}

/// Where a key stands and when it is read.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum KeyKind {
    /// An annotation of a pod that takes effect at once.
    Live,
    /// An annotation of a pod that is read at admission.
    Admission,
    /// An annotation that Mantlet itself sets.
    Ours,
    /// A label of a namespace or pod.
    Label,
    /// An annotation of a Service.
    Service,
}

macro_rules! keys {
    ($($kind:ident $key:literal $meaning:literal;)*) => {
        /// Every key, except the fragments of the policy.
        pub const KEYS: &[KnownKey] =
            &[$(KnownKey { key: concat!("mantlet.dev/", $key), kind: KeyKind::$kind, meaning: $meaning },)*];
    };
}

keys! {
    Live "policy" "who may do what; policy.<fragment> adds to it";
    Live "policy-next" "a candidate policy, evaluated in shadow";
    Live "mode" "enforce, or audit until a time";
    Live "http-options" "what some ports are lax about";
    Live "upstreams" "which identities stand behind which destinations";
    Admission "skip-inbound-ports" "ports that are not captured on the way in";
    Admission "skip-outbound-ports" "ports that are not captured on the way out";
    Admission "skip-outbound-cidrs" "networks that are not captured on the way out";
    Admission "init-after" "init containers that run before the sidecar";
    Admission "start-hold" "identity, listen or off";
    Ours "injected-by" "the version that injected the sidecar";
    Label "inject" "enabled or disabled";
    Label "injected" "the pod has a sidecar";
    Service "served-by" "the identities that may serve it";
}

/// The annotations that make a policy.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct PolicySet {
    /// The policy texts by key.
    pub texts: Vec<(String, String)>,
    /// The mode, where one is given.
    pub mode: Option<Mode>,
    /// The options of ports.
    pub http_options: HttpOptions,
    /// The text of the upstreams.
    pub upstreams: Option<String>,
}

// === impl PolicySet ===

impl PolicySet {
    /// Picks out the annotations of a pod that make its policy.
    ///
    /// # Errors
    /// Unknown `mantlet.dev/` keys, a bad mode, bad options: a key that this version does not know may
    /// be a restriction it would not enforce.
    pub fn from_annotations<'a>(
        annotations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Result<Self, Vec<Diagnostic>> {
        let (mut set, mut findings) = (Self::default(), Vec::new());
        for (key, value) in annotations {
            if !key.starts_with(PREFIX) {
                continue;
            }
            match key {
                POLICY => set.texts.push((key.to_owned(), value.to_owned())),
                MODE => match parse_mode(value) {
                    Ok(mode) => set.mode = Some(mode),
                    Err(finding) => findings.push(*finding),
                },
                HTTP_OPTIONS => match parse_http_options(value) {
                    Ok(options) => set.http_options = options,
                    Err(finding) => findings.push(*finding),
                },
                UPSTREAMS => set.upstreams = Some(value.to_owned()),
                key => match check_key(key) {
                    Ok(()) if key.starts_with("mantlet.dev/policy.") => {
                        set.texts.push((key.to_owned(), value.to_owned()));
                    }
                    Ok(()) => {}
                    Err(finding) => findings.push(*finding),
                },
            }
        }
        set.texts.sort_unstable();
        if findings.is_empty() { Ok(set) } else { Err(findings) }
    }

    /// Whether the workload has a policy. Otherwise the installation decides what it gets.
    #[must_use]
    pub fn is_configured(&self) -> bool {
        !self.texts.is_empty() || self.mode.is_some()
    }

    /// The policy texts, as [`Policy::compile`](crate::Policy::compile) takes them.
    #[must_use]
    pub fn sources(&self) -> Vec<Source<'_>> {
        self.texts.iter().map(|(key, text)| Source { key, text }).collect()
    }
}

/// Whether an annotation key of a pod is known.
///
/// # Errors
/// [`Code::UnknownKey`], with the key that was probably meant.
pub fn check_key(key: &str) -> Result<(), Box<Diagnostic>> {
    let finding =
        |message: String, help: String| Box::new(Diagnostic::general(Code::UnknownKey, key, message, help));
    if key == POLICY_NEXT {
        return Err(finding(
            format!("{key} is not available yet"),
            "use \"audit\" in front of single rules".into(),
        ));
    }
    if let Some(fragment) = key.strip_prefix("mantlet.dev/policy.") {
        let valid = (1..=40).contains(&fragment.len())
            && fragment
                .bytes()
                .all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-');
        let help = "a fragment is 1 to 40 of a-z 0-9 -";
        return if valid {
            Ok(())
        } else {
            Err(finding(format!("\"{fragment}\" is no fragment name"), help.into()))
        };
    }
    match KEYS.iter().find(|known| known.key == key) {
        Some(known) => match known.kind {
            KeyKind::Live | KeyKind::Admission | KeyKind::Ours => Ok(()),
            KeyKind::Label => Err(finding(format!("{key} is a label"), "move it to metadata.labels".into())),
            KeyKind::Service => Err(finding(format!("{key} belongs on a Service"), "move it there".into())),
        },
        None => {
            let help = match did_you_mean(key, KEYS.iter().map(|known| known.key)) {
                Some(near) => format!("did you mean {near}?"),
                None => "remove it, or see docs/policy.md for the keys that exist".to_owned(),
            };
            Err(finding(format!("unknown annotation {key}"), help))
        }
    }
}

/// Whether a label of a pod or namespace is known.
///
/// # Errors
/// [`Code::UnknownKey`], with the key that was probably meant.
pub fn check_label(key: &str) -> Result<(), Box<Diagnostic>> {
    let labels = || KEYS.iter().filter(|known| known.kind == KeyKind::Label).map(|known| known.key);
    if labels().any(|label| label == key) {
        return Ok(());
    }
    let (message, help) = match did_you_mean(key, labels()) {
        Some(near) => (format!("unknown label {key}"), format!("did you mean {near}?")),
        None if check_key(key).is_ok() => {
            (format!("{key} is an annotation"), "move it to metadata.annotations".to_owned())
        }
        None => {
            let known: Vec<&str> = labels().collect();
            (format!("unknown label {key}"), format!("there are {}", known.join(" and ")))
        }
    };
    Err(Box::new(Diagnostic::general(Code::UnknownKey, key, message, help)))
}

/// `enforce` or `audit until <time>`.
///
/// # Errors
/// P040-P042, P080 for anything else.
pub fn parse_mode(text: &str) -> Result<Mode, Box<Diagnostic>> {
    let finding =
        |code, message: String, help: &str| Box::new(Diagnostic::general(code, MODE, message, help));
    let words: Vec<&str> = text.split_whitespace().take(4).collect();
    match words.as_slice() {
        ["enforce"] => Ok(Mode::Enforce),
        ["audit", "until", time] => Time::parse(time).map(Mode::AuditUntil).map_err(|code| {
            finding(
                code,
                format!("\"{time}\": {}", code.summary()),
                "write \"audit until 2026-12-01T18:00Z\"",
            )
        }),
        ["audit", ..] => {
            let help = "write \"audit until 2026-12-01T18:00Z\"";
            Err(finding(Code::AuditNeedsUntil, "audit needs an end".into(), help))
        }
        words => {
            let near = words.first().and_then(|word| did_you_mean(word, ["enforce", "audit"]));
            let help = near
                .map_or("write \"enforce\" or \"audit until 2026-12-01T18:00Z\"".to_owned(), |near| {
                    format!("did you mean \"{near}\"?")
                });
            let shown: String = text.chars().take(60).collect();
            Err(finding(Code::UnknownKey, format!("unknown mode \"{}\"", shown.escape_debug()), &help))
        }
    }
}

/// One port per line: `8080: merge-slashes encoded-slash h2c`.
///
/// # Errors
/// P080 at the first line that is not so.
pub fn parse_http_options(text: &str) -> Result<HttpOptions, Box<Diagnostic>> {
    let mut options = HttpOptions::default();
    for (number, line) in (1_u32..).zip(text.lines()) {
        if line.trim().is_empty() || line.trim_start().starts_with('#') {
            continue;
        }
        let finding = |word: &str, message: String, help: String| {
            let column =
                line.find(word).and_then(|at| line.get(..at)).map_or(0, |front| front.chars().count());
            let column = u32::try_from(column).unwrap_or(0) + 1;
            let width = u32::try_from(word.chars().count()).unwrap_or(1).max(1);
            let position = Position { line: number, column, width };
            Box::new(Diagnostic::at(
                HTTP_OPTIONS,
                text,
                position,
                Fault::new(Code::UnknownKey, message, help),
            ))
        };
        let (port, names) = line.split_once(':').unwrap_or(("", line));
        let port = match port.trim().parse::<u16>() {
            Ok(port) if port > 0 => port,
            _ => {
                return Err(finding(
                    line.trim(),
                    "no port in front".into(),
                    "write \"8080: merge-slashes\"".into(),
                ));
            }
        };
        if options.ports.iter().any(|(other, _)| *other == port) {
            return Err(finding(line.trim(), format!("port {port} is there twice"), "join the lines".into()));
        }
        let mut found = PortOptions { path: PathOptions::default(), h2c: false };
        for name in names.split_whitespace() {
            match name {
                "merge-slashes" => found.path.merge_slashes = true,
                "encoded-slash" => found.path.encoded_slash = true,
                "h2c" => found.h2c = true,
                "keep-params" | "double-escape" => {
                    let message = format!("option \"{name}\" is not available yet");
                    return Err(finding(name, message, "such requests are refused".into()));
                }
                unknown => {
                    let help = match did_you_mean(unknown, ["merge-slashes", "encoded-slash", "h2c"]) {
                        Some(near) => format!("did you mean \"{near}\"?"),
                        None => "there are merge-slashes, encoded-slash and h2c".to_owned(),
                    };
                    return Err(finding(unknown, format!("unknown option \"{unknown}\""), help));
                }
            }
        }
        options.ports.push((port, found));
    }
    Ok(options)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_policy_of_a_pod_is_picked_out_of_its_annotations() {
        let annotations = [
            ("other/key", "x"),
            ("mantlet.dev/policy.platform", "b"),
            ("mantlet.dev/policy", "a"),
            ("mantlet.dev/mode", "audit until 2026-12-01T18:00Z"),
            ("mantlet.dev/http-options", "8080: merge-slashes h2c\n"),
            ("mantlet.dev/skip-inbound-ports", "1"),
        ];
        let set = PolicySet::from_annotations(annotations).unwrap();
        assert_eq!(set.sources().iter().map(|source| source.text).collect::<Vec<_>>(), ["a", "b"]);
        assert!(set.is_configured() && matches!(set.mode, Some(Mode::AuditUntil(_))));
        assert!(set.http_options.of(8080).path.merge_slashes && set.http_options.of(8080).h2c);
        assert!(!PolicySet::from_annotations([("other/key", "x")]).unwrap().is_configured());
    }

    #[test]
    fn an_unknown_key_is_an_error_that_names_the_likely_one() {
        let help = |key| check_key(key).unwrap_err().help;
        assert_eq!(help("mantlet.dev/polcy"), "did you mean mantlet.dev/policy?");
        assert_eq!(help("mantlet.dev/inject"), "move it to metadata.labels");
        assert!(check_key("mantlet.dev/policy.").is_err());
        assert!(check_key("mantlet.dev/policy.Platform").is_err());
        assert!(check_key(POLICY_NEXT).unwrap_err().message.contains("not available yet"));
        assert!(check_key("mantlet.dev/policy.platform-1").is_ok());
    }

    #[test]
    fn a_label_that_is_unknown_or_an_annotation_is_an_error() {
        let help = |key| check_label(key).unwrap_err().help;
        assert_eq!(help("mantlet.dev/injct"), "did you mean mantlet.dev/inject?");
        assert_eq!(help("mantlet.dev/policy"), "move it to metadata.annotations");
        assert_eq!(help("mantlet.dev/x"), "there are mantlet.dev/inject and mantlet.dev/injected");
        assert!(check_label("mantlet.dev/inject").is_ok() && check_label("mantlet.dev/injected").is_ok());
    }

    #[test]
    fn an_audit_needs_an_end() {
        let code = |text| parse_mode(text).unwrap_err().code;
        assert_eq!(code("audit"), Code::AuditNeedsUntil);
        assert_eq!(code("audit until"), Code::AuditNeedsUntil);
        assert_eq!(code("audit until 2026-12-01"), Code::TimeNeedsZone);
        assert_eq!(code("audit until soon"), Code::BadTime);
        assert_eq!(code("enforced"), Code::UnknownKey);
        assert_eq!(code(""), Code::UnknownKey);
        assert_eq!(parse_mode(" enforce "), Ok(Mode::Enforce));
    }

    #[test]
    fn options_that_are_unknown_or_not_there_yet_are_errors() {
        let message = |text| parse_http_options(text).unwrap_err().message;
        assert_eq!(message("8080: merge-slash"), "unknown option \"merge-slash\"");
        assert_eq!(message("8080: keep-params"), "option \"keep-params\" is not available yet");
        assert_eq!(message("merge-slashes"), "no port in front");
        assert_eq!(message("1: h2c\n1: h2c"), "port 1 is there twice");
    }
}
