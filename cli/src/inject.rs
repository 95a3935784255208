//! `mantlet inject` and `mantlet uninject`: what the webhook would do to manifests, offline.

mod diff;
mod explain;
mod manifests;
mod yaml;

use std::io::Read as _;
use std::process::ExitCode;
use std::time::SystemTime;

use clap::{Args, ValueEnum};
use mantlet_injector::Place;
use mantlet_injector::inject::{
    Config, Decision, Document, Input, Namespace, Outcome, Scope, Token, inject, uninject,
};

use self::manifests::Manifests;
use crate::failure::Failure;
use crate::output::Output;

const INJECT: &str = "\
Examples:
  mantlet inject -f deploy.yaml | kubectl apply -f -
  helm template . | mantlet inject -f - --config mantlet.yaml --diff
  mantlet inject -f pod.yaml --explain --namespace ns.yaml

Without --namespace every pod template is injected that does not say no; with it,
labels decide as they do at admission. Where one is refused, nothing is written.

Exit codes: 0 all is well, 1 something is refused, 2 usage.";

const UNINJECT: &str = "\
Examples:
  mantlet uninject -f injected.yaml
  kubectl get deploy api -o yaml | mantlet uninject -f -

Exit codes: 0 all is well, 1 a sidecar cannot be taken out, 2 usage.";

/// Arguments of `mantlet inject`.
#[derive(Debug, Args)]
#[command(after_help = INJECT)]
pub(crate) struct InjectArgs {
    /// The manifests, YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Show what would change, in place of the result
    #[arg(long, conflicts_with = "explain")]
    diff: bool,
    /// Say what becomes of each pod template, and why, in place of the result
    #[arg(long)]
    explain: bool,
    /// The manifest of the namespace, whose labels decide
    #[arg(long, value_name = "FILE")]
    namespace: Option<String>,
    /// The configuration of the installation, YAML or JSON [default: its defaults]
    #[arg(long, value_name = "FILE")]
    config: Option<String>,
    /// Part of the paths of probes, 32 digits from 0 to f [default: random]
    #[arg(long, value_name = "HEX")]
    probe_token: Option<String>,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Arguments of `mantlet uninject`.
#[derive(Debug, Args)]
#[command(after_help = UNINJECT)]
pub(crate) struct UninjectArgs {
    /// The manifests, YAML or JSON; - is standard input
    #[arg(short, long, value_name = "FILE")]
    file: String,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Form,
}

/// Form of manifests.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq, ValueEnum)]
enum Form {
    // Documents with --- between them; text for people, where there is no manifest.
    #[default]
    Yaml,
    // One document a line.
    Json,
}

/// What became of one pod template.
struct Injected {
    document: usize,
    place: Place,
    namespace: Namespace,
    scope: Scope,
    outcome: Outcome,
}

pub(crate) fn run(arguments: &InjectArgs, output: &Output) -> Result<ExitCode, Failure> {
    let manifests = Manifests::read(&arguments.file)?;
    let config = match &arguments.config {
        Some(file) => configuration(file)?,
        None => Config::embedded(),
    };
    let namespace = arguments.namespace.as_deref().map(manifests::namespace).transpose()?;
    let token = token(arguments.probe_token.as_deref())?;
    let now = SystemTime::now();
    let mut all = Vec::new();
    for (document, place) in manifests.places()? {
        let object = manifests.at(document, &place);
        let (namespace, scope) = match &namespace {
            Some(given) => (of_namespace(given, &place)?, Scope::Labels),
            None => {
                let name = place.namespace.clone().unwrap_or_else(|| "default".to_owned());
                (Namespace { name, labels: Default::default() }, Scope::Asked)
            }
        };
        let input = Input { object, namespace: &namespace, config: &config, token: &token, now, scope };
        let outcome = inject(&input);
        all.push(Injected { document, place, namespace, scope, outcome });
    }
    let code = match all.iter().any(|one| matches!(one.outcome.decision, Decision::Denied(_))) {
        true => ExitCode::FAILURE,
        false => ExitCode::SUCCESS,
    };
    if arguments.explain {
        explain::show(&all, &manifests, arguments.output == Form::Json, output);
        return Ok(code);
    }
    explain::notes(&all, output);
    if code != ExitCode::SUCCESS {
        // Half of a manifest must not be applied.
        return Ok(code);
    }
    let mut after = manifests.clone();
    for one in &all {
        let steps = one.outcome.operations().iter().map(|step| step.below(&one.place.pointer));
        let steps: Vec<_> = steps.collect();
        after.change(one.document, &steps)?;
    }
    if arguments.diff {
        diff::show(&manifests, &after, output);
    } else {
        write(&after, arguments.output, output);
    }
    Ok(code)
}

pub(crate) fn run_uninject(arguments: &UninjectArgs, output: &Output) -> Result<ExitCode, Failure> {
    let mut manifests = Manifests::read(&arguments.file)?;
    let mut code = ExitCode::SUCCESS;
    for (document, place) in manifests.places()? {
        match uninject(manifests.at(document, &place)) {
            Ok(steps) => {
                let steps: Vec<_> = steps.iter().map(|step| step.below(&place.pointer)).collect();
                manifests.change(document, &steps)?;
            }
            Err(problems) => {
                code = ExitCode::FAILURE;
                for problem in problems {
                    let name = explain::name(&place, place.namespace.as_deref());
                    output.note(&format!("{} {name}: {problem}", output.err.cross()));
                }
            }
        }
    }
    if code == ExitCode::SUCCESS {
        write(&manifests, arguments.output, output);
    }
    Ok(code)
}

fn write(manifests: &Manifests, form: Form, output: &Output) {
    for (number, document) in manifests.documents().iter().enumerate() {
        match form {
            Form::Json => output.line(&document.to_string()),
            Form::Yaml => {
                if number > 0 {
                    output.line("---");
                }
                output.line(yaml::text(document).trim_end_matches('\n'));
            }
        }
    }
}

fn configuration(file: &str) -> Result<Config, Failure> {
    let text = crate::policy::read(file)?;
    let wrong = |error: &dyn std::error::Error| {
        Failure::usage(format!("{file} is no configuration of an installation")).because(error)
    };
    let document: Document = serde_saphyr::from_str(&text).map_err(|error| wrong(&error))?;
    Config::new(document).map_err(|error| wrong(&error))
}

/// `given`, for a template that is in it.
fn of_namespace(given: &Namespace, place: &Place) -> Result<Namespace, Failure> {
    match &place.namespace {
        Some(other) if *other != given.name => Err(Failure::usage(format!(
            "{} {} is in namespace {other}, and --namespace is about {}",
            place.kind, place.name, given.name
        ))
        .next("give the manifest of its namespace, or one namespace at a time")),
        _ => Ok(given.clone()),
    }
}

fn token(given: Option<&str>) -> Result<Token, Failure> {
    if let Some(text) = given {
        return Token::parse(text)
            .ok_or_else(|| Failure::usage("--probe-token has 32 digits from 0 to f, in lower case"));
    }
    let mut bytes = [0; 16];
    std::fs::File::open("/dev/urandom")
        .and_then(|mut source| source.read_exact(&mut bytes))
        .map_err(|error| Failure::finding("/dev/urandom gives no random bytes").because(&error))?;
    Ok(Token::new(bytes))
}
