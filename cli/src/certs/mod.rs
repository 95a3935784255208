//! `mantlet certs`: an identity and whom it trusts, from a Workload API or from a running sidecar; or whom a
//! bundle document makes one trust.

mod bundle;
mod document;

use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::pin;
use std::time::{Duration, SystemTime};

use clap::Args;
use mantlet_devagent::parse_duration;
use mantlet_id::TrustDomain;
use mantlet_identity::{
    Endpoint, IdentityErrorKind, IdentityHandle, IdentitySource, IdentityStatus, SourceConfig,
};
use mantlet_proxy::admin::documents;
use serde_json::Value;

use self::document::Document;
use crate::admin;
use crate::arguments::Format;
use crate::failure::Failure;
use crate::output::Output;
use crate::runtime::{block_on, termination};

const EXAMPLES: &str = "\
Examples:
  mantlet certs --workload-api unix:///run/spire/sockets/agent.sock
  SPIFFE_ENDPOINT_SOCKET=unix:///tmp/agent.sock mantlet certs -o json
  mantlet certs --admin 127.0.0.1:24190     # of a running sidecar
  mantlet certs -w                          # again at each change, until Ctrl-C
  mantlet certs --bundle partner.json --trust-domain partner.example

Exit codes: 0 there is an identity, 1 there is none, 2 usage, 3 nobody answers.";

/// How long an answer may take when nothing else is asked for.
const PATIENCE: Duration = Duration::from_secs(5);
/// How often a sidecar is asked while one watches.
const POLL: Duration = Duration::from_secs(1);

/// Arguments of `mantlet certs`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES)]
pub(crate) struct CertsArgs {
    /// Address of the Workload API [default: $SPIFFE_ENDPOINT_SOCKET]
    #[arg(long, value_name = "ADDRESS")]
    workload_api: Option<String>,
    /// Ask the running sidecar with this admin address instead; repeat it, or separate several by commas
    #[arg(long, value_name = "ADDRESS", value_delimiter = ',', conflicts_with_all = ["workload_api", "hint", "wait"])]
    admin: Vec<SocketAddr>,
    /// Show whom this SPIFFE bundle document or bundle map makes one trust instead
    #[arg(long, value_name = "FILE", conflicts_with_all = ["workload_api", "admin", "hint", "wait", "watch"])]
    bundle: Option<PathBuf>,
    /// Whose bundle the document is; a map says that itself
    #[arg(long, value_name = "NAME", requires = "bundle", value_parser = trust_domain)]
    trust_domain: Option<TrustDomain>,
    /// Take the SVID with this hint
    #[arg(long, value_name = "TEXT")]
    hint: Option<String>,
    /// Wait this long for an identity instead of failing at the first refusal
    #[arg(long, value_name = "DURATION", value_parser = parse_duration)]
    wait: Option<Duration>,
    /// Print again at each change
    #[arg(short, long)]
    watch: bool,
    /// Form of the output
    #[arg(short, long, value_enum, default_value_t)]
    output: Format,
}

pub(crate) fn run(arguments: &CertsArgs, output: &Output) -> Result<(), Failure> {
    if let Some(path) = &arguments.bundle {
        let bundles = bundle::read(path, arguments.trust_domain.as_ref())?;
        bundle::show(&bundles, arguments.output == Format::Json, output);
        return Ok(());
    }
    if !arguments.admin.is_empty() {
        return block_on(ask(arguments, output));
    }
    let endpoint =
        Endpoint::configured_or_env(arguments.workload_api.as_deref(), |name| std::env::var_os(name))
            .map_err(|error| {
                Failure::usage("the address of the Workload API cannot be used")
                    .because(&error)
                    .next("for example: mantlet certs --workload-api unix:///run/spire/sockets/agent.sock")
            })?;
    if let Some(warning) = endpoint.warning() {
        output.note(&format!("{} {warning}", output.err.warn("warning:")));
    }
    block_on(follow(arguments, endpoint, output))
}

fn trust_domain(name: &str) -> Result<TrustDomain, mantlet_id::IdError> {
    TrustDomain::parse(name)
}

/// What sidecars say, once or at each change.
async fn ask(arguments: &CertsArgs, output: &Output) -> Result<(), Failure> {
    let ended = termination()?;
    let asking = async {
        let mut last = vec![None; arguments.admin.len()];
        loop {
            let mut failed = None;
            for (addr, last) in arguments.admin.iter().zip(&mut last) {
                if let Err(failure) = ask_one(arguments, *addr, last, output).await {
                    // Said by the caller, with its exit code; one before it here.
                    if let Some(earlier) = failed.replace(failure) {
                        output.failure(&earlier);
                    }
                }
            }
            match failed {
                Some(failure) => return Err(failure),
                None if arguments.watch => tokio::time::sleep(POLL).await,
                None => return Ok(()),
            }
        }
    };
    tokio::select! {
        () = ended => Ok(()),
        result = asking => result,
    }
}

async fn ask_one(
    arguments: &CertsArgs,
    addr: SocketAddr,
    last: &mut Option<Document>,
    output: &Output,
) -> Result<(), Failure> {
    let mut value = admin::fetch(addr, "/v1/certs").await?;
    let now = Document::parse(&value).map_err(|problem| {
        Failure::finding(format!("what answers on {addr} is no sidecar of this version: {problem}"))
    })?;
    if last.as_ref() == Some(&now) {
        return Ok(());
    }
    if let (true, Some(object)) = (arguments.admin.len() > 1, value.as_object_mut()) {
        object.insert("admin".to_owned(), addr.to_string().into());
        if arguments.output == Format::Table && arguments.admin.first() != Some(&addr) {
            output.line("");
        }
    }
    *last = Some(now);
    write(&value, arguments.output, output)
}

/// What a Workload API gives, once or at each change.
async fn follow(arguments: &CertsArgs, endpoint: Endpoint, output: &Output) -> Result<(), Failure> {
    let ended = termination()?;
    let mut config = SourceConfig::new(endpoint);
    config.hint.clone_from(&arguments.hint);
    let source = IdentitySource::new(config);
    let handle = source.handle();
    let mut source = pin!(source.run());
    tokio::select! {
        never = &mut source => match never {},
        () = ended => Ok(()),
        result = print(arguments, &handle, output) => result,
    }
}

async fn print(arguments: &CertsArgs, handle: &IdentityHandle, output: &Output) -> Result<(), Failure> {
    let mut version = handle.subscribe();
    let patience = arguments.wait.unwrap_or(PATIENCE);
    let mut last = match tokio::time::timeout(patience, first(arguments, handle)).await {
        Ok(first) => first?,
        Err(_) => return Err(none(&handle.status())),
    };
    write(&documents::certs(handle), arguments.output, output)?;
    if !arguments.watch {
        return Ok(());
    }
    loop {
        // The sender lives as long as the handle.
        let _ = version.changed().await;
        match handle.credentials() {
            Some(now) if now.generation() != last => {
                write(&documents::certs(handle), arguments.output, output)?;
                last = now.generation();
            }
            Some(_) => {}
            None => return Err(none(&handle.status())),
        }
    }
}

/// The generation of the first identity; without `--wait`, the first refusal is the answer.
async fn first(arguments: &CertsArgs, handle: &IdentityHandle) -> Result<u64, Failure> {
    let mut version = handle.subscribe();
    loop {
        if let Some(credentials) = handle.credentials() {
            return Ok(credentials.generation());
        }
        let status = handle.status();
        if status.cause().is_some() && arguments.wait.is_none() {
            return Err(none(&status));
        }
        let _ = version.changed().await;
    }
}

/// Why there is no identity, in the words of the supervisor.
fn none(status: &IdentityStatus) -> Failure {
    let cause = status.cause().unwrap_or("the Workload API has not answered yet");
    let unreachable = status.counts().errors(IdentityErrorKind::Unreachable) > 0 || status.cause().is_none();
    let failure = match unreachable {
        true => Failure::unreachable(cause),
        false => Failure::finding(cause),
    };
    match status.next_step() {
        Some(next) => failure.next(next),
        None => failure,
    }
}

/// Shows a document; one without an identity is a finding.
fn write(value: &Value, format: Format, output: &Output) -> Result<(), Failure> {
    let document = Document::parse(value).map_err(Failure::finding)?;
    if format == Format::Json {
        output.line(&value.to_string());
    }
    if document.svid.is_none() {
        let cause = document.cause.unwrap_or(document.state);
        let failure = Failure::finding(format!("no identity: {cause}"));
        return Err(match document.next_step {
            Some(next) => failure.next(next),
            None => failure,
        });
    }
    if format == Format::Table {
        output.line(&document.table(SystemTime::now(), output.out));
    }
    Ok(())
}
