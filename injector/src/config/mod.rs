//! Configuration of the server: flags over environment over defaults, one table of keys, every mistake at once.
//!
//! What is injected is a document of its own, see [`crate::inject::Document`].

mod keys;
mod raw;

use std::{
    ffi::OsString,
    fmt, fs,
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use mantlet_identity::Endpoint;

use self::{
    keys::{KEYS, Key, Kind, parse_duration},
    raw::{Given, PRINT_CONFIG, Raw},
};
use crate::inject;

/// A valid configuration.
#[derive(Debug)]
pub(crate) struct Config {
    pub(crate) listen: SocketAddr,
    pub(crate) admin: SocketAddr,
    pub(crate) injection: Arc<inject::Config>,
    pub(crate) namespace: String,
    pub(crate) service: String,
    /// Further names in the certificate.
    pub(crate) names: Vec<String>,
    pub(crate) secret: String,
    pub(crate) webhook_configuration: String,
    pub(crate) pod_name: String,
    pub(crate) authority_life: Duration,
    pub(crate) certificate_life: Duration,
    pub(crate) settle: Duration,
    pub(crate) poll: Duration,
    pub(crate) max_connections: usize,
    pub(crate) head_timeout: Duration,
    pub(crate) connection_age: Duration,
    /// The Workload API of the directory; there is none without it.
    pub(crate) workload_api: Option<Endpoint>,
    pub(crate) directory_listen: SocketAddr,
    pub(crate) directory_max_connections: usize,
    pub(crate) stop_delay: Duration,
    pub(crate) drain_deadline: Duration,
    pub(crate) admissions: Admissions,
    pub(crate) log: String,
}

/// Which admissions have a line in the log.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Admissions {
    /// Refusals and failures.
    Denied,
    /// Those, and injections.
    Changed,
    /// All.
    All,
}

/// What the command line asks for.
#[derive(Debug)]
pub(crate) enum Loaded {
    /// Run with this.
    Run(Box<Config>),
    /// Print this and exit with success.
    Print(String),
}

/// Everything that is wrong with a command line.
#[derive(Debug)]
pub(crate) struct Mistakes(Vec<String>);

/// Longest value that is repeated in a message.
const SHOWN: usize = 200;
/// Largest document of injections: more than a ConfigMap can hold.
const LARGEST: u64 = 2 << 20;

/// Reads the configuration from the arguments (without the program's name) and the environment.
///
/// # Errors
/// Everything that is wrong with them: exit code 2.
pub(crate) fn load(
    program: &'static str,
    arguments: impl IntoIterator<Item = OsString>,
    environment: impl IntoIterator<Item = (OsString, OsString)>,
) -> Result<Loaded, Mistakes> {
    let command_line = std::iter::once(OsString::from(program)).chain(arguments);
    let matches = match raw::command(program).try_get_matches_from(command_line) {
        Ok(matches) => matches,
        Err(error) if error.exit_code() == 0 => return Ok(Loaded::Print(error.render().to_string())),
        Err(error) => return Err(Mistakes(vec![error.to_string().trim_end().to_owned()])),
    };
    let mut mistakes = Mistakes(Vec::new());
    let raw = Raw::collect(&matches, environment, &mut mistakes);
    let config = Reader { raw: &raw, mistakes: &mut mistakes }.config();
    match config {
        Some(config) if mistakes.0.is_empty() => Ok(match matches.get_flag(PRINT_CONFIG) {
            true => Loaded::Print(print(&raw, &config)),
            false => Loaded::Run(Box::new(config)),
        }),
        _ => Err(mistakes),
    }
}

/// The keys, as `docs/injector.md` shows them.
#[must_use]
pub fn document() -> String {
    let mut text = "| flag | environment | default | meaning |\n|---|---|---|---|\n".to_owned();
    for Key { flag, environment, default, kind, meaning } in KEYS {
        let default = match default {
            None => "required".to_owned(),
            Some("") => "none".to_owned(),
            Some(default) => format!("`{default}`"),
        };
        let accepts = kind.accepts();
        text.push_str(&format!(
            "| `--{flag}` | `{environment}` | {default} | {meaning} Accepted: {accepts}. |\n"
        ));
    }
    text
}

/// Every key with its value and where that came from, and the document of injections with its defaults.
fn print(raw: &Raw, config: &Config) -> String {
    let mut text = String::new();
    for key in KEYS {
        let Given { source, value } = raw.given(key);
        text.push_str(&format!("{} = {:?}  # {source}\n", key.flag, value.unwrap_or_default()));
    }
    let injection = serde_json::to_string_pretty(config.injection.document()).unwrap_or_default();
    format!("{text}\n{injection}\n")
}

struct Reader<'a> {
    raw: &'a Raw,
    mistakes: &'a mut Mistakes,
}

// === impl Reader ===

impl Reader<'_> {
    fn config(mut self) -> Option<Config> {
        let listen = self.address(&keys::LISTEN);
        let admin = self.address(&keys::ADMIN);
        let injection = self.injection();
        let namespace = self.name(&keys::NAMESPACE);
        let service = self.name(&keys::SERVICE);
        let names = self.checked(&keys::NAMES, names);
        let secret = self.name(&keys::SECRET);
        let webhook_configuration = self.name(&keys::WEBHOOK_CONFIGURATION);
        let pod_name = self.name(&keys::POD_NAME);
        let authority_life = self.duration(&keys::AUTHORITY_LIFE);
        let certificate_life = self.duration(&keys::CERTIFICATE_LIFE);
        let settle = self.duration(&keys::SETTLE);
        let poll = self.duration(&keys::POLL);
        let max_connections = self.count(&keys::MAX_CONNECTIONS);
        let head_timeout = self.duration(&keys::HEAD_TIMEOUT);
        let connection_age = self.duration(&keys::CONNECTION_AGE);
        let workload_api = self.checked(&keys::WORKLOAD_API, |text| match text {
            "" => Some(None),
            text => Endpoint::parse(text).ok().map(Some),
        });
        let directory_listen = self.address(&keys::DIRECTORY_LISTEN);
        let directory_max_connections = self.count(&keys::DIRECTORY_MAX_CONNECTIONS);
        let stop_delay = self.duration(&keys::STOP_DELAY);
        let drain_deadline = self.duration(&keys::DRAIN_DEADLINE);
        let admissions = self.word(&keys::LOG_ADMISSIONS);
        let log = self.word(&keys::LOG);
        if let (Some(authority), Some(certificate)) = (authority_life, certificate_life)
            && authority < certificate * 3
        {
            // The next authority comes at two thirds of the life of the last: a certificate must fit in what is left.
            self.mistakes.0.push("--authority-life: less than three times --certificate-life".to_owned());
        }
        Some(Config {
            listen: listen?,
            admin: admin?,
            injection: Arc::new(injection?),
            namespace: namespace?,
            service: service?,
            names: names?,
            secret: secret?,
            webhook_configuration: webhook_configuration?,
            pod_name: pod_name?,
            authority_life: authority_life?,
            certificate_life: certificate_life?,
            settle: settle?,
            poll: poll?,
            max_connections: max_connections?,
            head_timeout: head_timeout?,
            connection_age: connection_age?,
            workload_api: workload_api?,
            directory_listen: directory_listen?,
            directory_max_connections: directory_max_connections?,
            stop_delay: stop_delay?,
            drain_deadline: drain_deadline?,
            admissions: match admissions?.as_str() {
                "denied" => Admissions::Denied,
                "all" => Admissions::All,
                _ => Admissions::Changed,
            },
            log: log?,
        })
    }

    fn checked<T>(&mut self, key: &Key, parse: impl FnOnce(&str) -> Option<T>) -> Option<T> {
        let Given { source, value } = self.raw.given(key);
        let Some(value) = value else {
            self.mistakes.0.push(format!("--{}: missing; accepted: {}", key.flag, key.kind.accepts()));
            return None;
        };
        let parsed = parse(&value);
        if parsed.is_none() {
            // Debug escapes control characters: a value is not allowed to draw on the terminal.
            let shown: String = value.chars().take(SHOWN).collect();
            let (name, accepts) = (source.spelling(key), key.kind.accepts());
            self.mistakes.0.push(format!("{name} {shown:?}: not understood; accepted: {accepts}"));
        }
        parsed
    }

    fn address(&mut self, key: &Key) -> Option<SocketAddr> {
        self.checked(key, |text| text.parse().ok())
    }

    fn name(&mut self, key: &Key) -> Option<String> {
        self.checked(key, |text| is_name(text).then(|| text.to_owned()))
    }

    fn count(&mut self, key: &Key) -> Option<usize> {
        let Kind::Count(least, most) = key.kind else { return None };
        self.checked(key, |text| text.parse().ok().filter(|count| (least..=most).contains(count)))
    }

    fn duration(&mut self, key: &Key) -> Option<Duration> {
        let Kind::Duration(least, most) = key.kind else { return None };
        let bounds = Duration::from_secs(least)..=Duration::from_secs(most);
        self.checked(key, |text| parse_duration(text).filter(|duration| bounds.contains(duration)))
    }

    fn word(&mut self, key: &Key) -> Option<String> {
        let Kind::Choice(words) = key.kind else { return None };
        self.checked(key, |text| words.contains(&text).then(|| text.to_owned()))
    }

    /// The document of injections; what is wrong in it is told with everything else.
    fn injection(&mut self) -> Option<inject::Config> {
        let file = self.checked(&keys::CONFIG, |text| (!text.is_empty()).then(|| text.to_owned()))?;
        let read = || {
            if fs::metadata(&file).map_err(|error| error.to_string())?.len() > LARGEST {
                return Err(format!("larger than {LARGEST} bytes"));
            }
            let text = fs::read_to_string(&file).map_err(|error| error.to_string())?;
            serde_saphyr::from_str(&text).map_err(|error| error.to_string())
        };
        let found: Result<inject::Config, String> = read();
        found.map_err(|problem| self.mistakes.0.push(format!("--config {file:?}: {problem}"))).ok()
    }
}

/// Names of DNS and addresses, as a certificate has them.
fn names(text: &str) -> Option<Vec<String>> {
    let parts = text.split(',').map(str::trim).filter(|part| !part.is_empty());
    parts
        .map(|part| match part.parse::<IpAddr>() {
            Ok(address) => Some(address.to_string()),
            Err(_) => is_name(part).then(|| part.to_owned()),
        })
        .collect()
}

/// RFC 1123, as Kubernetes has it.
fn is_name(text: &str) -> bool {
    let letter = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    let label = |label: &str| {
        let bytes = label.as_bytes();
        (1..=63).contains(&bytes.len())
            && bytes.iter().all(|b| letter(*b) || *b == b'-')
            && bytes.first().is_some_and(|b| letter(*b))
            && bytes.last().is_some_and(|b| letter(*b))
    };
    text.len() <= 253 && text.split('.').all(label)
}

// === impl Admissions ===

impl Admissions {
    /// Whether an answer of this result has a line.
    pub(crate) fn includes(self, result: &str) -> bool {
        match self {
            Self::Denied => matches!(result, "denied" | "error"),
            Self::Changed => matches!(result, "denied" | "error" | "injected"),
            Self::All => true,
        }
    }
}

// === impl Mistakes ===

impl fmt::Display for Mistakes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let count = self.0.len();
        writeln!(f, "{count} {} in the configuration", if count == 1 { "mistake" } else { "mistakes" })?;
        self.0.iter().try_for_each(|mistake| writeln!(f, "  {mistake}"))
    }
}

impl std::error::Error for Mistakes {}
