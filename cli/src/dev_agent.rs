//! `mantlet dev-agent`: a development Workload API, and commands for a running one.

use std::io;
use std::path::{Path, PathBuf};
use std::time::Duration;

use clap::{Args, Subcommand};
use mantlet_devagent::{BindError, CaStorage, Config, Handle, Server, parse_duration};
use mantlet_id::TrustDomain;
use serde_json::json;
use tokio::io::{AsyncBufReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::UnixStream;

use crate::failure::Failure;
use crate::output::Output;
use crate::runtime::{block_on, termination};

const EXAMPLES: &str = "\
Entries say which caller gets which identity; the file is read again when it changes:
  [[entry]]
  id = \"spiffe://demo.local/ns/shop/sa/web\"
  uid = 1000     # selectors: uid, gid, pid, path; all that are set must match
  ttl = \"5m\"     # optional, as are hint, dns, federates_with

Examples:
  mantlet dev-agent --socket ./agent.sock --entries entries.toml
  mantlet dev-agent --socket ./agent.sock --svid-ttl 8s --ca-dir ./ca
  mantlet dev-agent --socket ./agent.sock --control ./control.sock \\
    --trust-domain a.test --trust-domain b.test
  mantlet dev-agent ctl --control ./control.sock ca prepare";

const CTL_EXAMPLES: &str = "\
Examples:
  mantlet dev-agent ctl --control ./control.sock status
  mantlet dev-agent ctl --control ./control.sock svid rotate
  mantlet dev-agent ctl --control ./control.sock ca prepare
  mantlet dev-agent ctl --control ./control.sock ca activate
  mantlet dev-agent ctl --control ./control.sock ca retire

Exit codes: 0 done, 1 refused, 2 usage, 3 no agent answers.";

/// Arguments of `mantlet dev-agent`.
#[derive(Debug, Args)]
#[command(after_help = EXAMPLES, args_conflicts_with_subcommands = true, subcommand_negates_reqs = true)]
pub(crate) struct DevAgentArgs {
    /// Unix socket to serve the Workload API on; an old socket there is replaced
    #[arg(long, value_name = "PATH", required = true)]
    socket: Option<PathBuf>,
    /// TOML file with entries, read again when it changes
    #[arg(long, value_name = "FILE")]
    entries: Option<PathBuf>,
    /// Trust domain to serve, repeatable: demo.local, *.test or *.localhost
    #[arg(long, value_name = "NAME", default_value = "demo.local", value_parser = trust_domain)]
    trust_domain: Vec<TrustDomain>,
    /// Lifetime of SVIDs, 1s to 24h; they are renewed at half of it
    #[arg(long, value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    svid_ttl: Duration,
    /// Lifetime of the CA
    #[arg(long, value_name = "DURATION", default_value = "30d", value_parser = parse_duration)]
    ca_ttl: Duration,
    /// Keep the CA in this directory; without it every start makes a new one
    #[arg(long, value_name = "DIR")]
    ca_dir: Option<PathBuf>,
    /// Unix socket for commands, see `mantlet dev-agent ctl`
    #[arg(long, value_name = "PATH")]
    control: Option<PathBuf>,
    #[command(subcommand)]
    command: Option<DevAgentCommand>,
}

#[derive(Debug, Subcommand)]
enum DevAgentCommand {
    /// Send a command to a running agent
    Ctl(CtlArgs),
}

#[derive(Debug, Args)]
#[command(after_help = CTL_EXAMPLES)]
struct CtlArgs {
    /// Control socket of the running agent
    #[arg(long, value_name = "PATH")]
    control: PathBuf,
    /// status | svid rotate | ca prepare|activate|retire [TRUST-DOMAIN]
    #[arg(required = true, value_name = "COMMAND")]
    command: Vec<String>,
}

pub(crate) fn run(arguments: DevAgentArgs, output: &Output) -> Result<(), Failure> {
    match arguments.command {
        Some(DevAgentCommand::Ctl(ctl)) => block_on(control(&ctl, output)),
        None => block_on(serve(arguments, output)),
    }
}

async fn serve(arguments: DevAgentArgs, output: &Output) -> Result<(), Failure> {
    let socket = absolute(arguments.socket.as_deref().unwrap_or(Path::new("")))?;
    let mut config = match arguments.trust_domain.first() {
        Some(first) => Config::new(&socket, first.clone()),
        None => return Err(Failure::usage("no --trust-domain")),
    };
    config.trust_domains = arguments.trust_domain;
    config.svid_ttl = arguments.svid_ttl;
    config.ca_ttl = arguments.ca_ttl;
    config.ca = arguments.ca_dir.map_or(CaStorage::Memory, CaStorage::Directory);
    config.entries_file = arguments.entries;
    config.control = arguments.control;
    log_to_stderr(output);
    let ended = termination()?;
    let server = Server::bind(config).map_err(|error| match error {
        BindError::Socket(_) => Failure::finding("the agent cannot start").because(&error),
        _ => Failure::usage("the agent cannot start").because(&error),
    })?;
    announce(&socket, &server.handle(), output);
    server.run(ended).await.map_err(|error| Failure::finding("the agent ended").because(&error))
}

fn announce(socket: &Path, handle: &Handle, output: &Output) {
    let endpoint = format!("unix://{}", socket.display());
    let domains: Vec<&str> = handle.trust_domains().iter().map(TrustDomain::as_str).collect();
    let entries = handle.entries().len();
    if output.terminal {
        let style = output.out;
        output.line(&format!("{} workload API  {endpoint}", style.tick()));
        output.line(&format!("  trust domain  {}", domains.join(", ")));
        output.line(&format!("  entries       {entries}"));
        output.line(&style.warn("  development CA: its identities prove nothing to anybody else"));
        output.line(&style.dim(&format!("  export SPIFFE_ENDPOINT_SOCKET={endpoint}")));
    } else {
        let event = json!({
            "event": "listening", "role": "workload_api", "addr": endpoint,
            "trust_domains": domains, "entries": entries, "production": false,
        });
        output.line(&event.to_string());
    }
    if entries == 0 {
        output.note("no entries: every caller is told \"no identity issued\" (add some with --entries FILE)");
    }
}

async fn control(arguments: &CtlArgs, output: &Output) -> Result<(), Failure> {
    let path = arguments.control.display();
    let unreachable = |error: io::Error| {
        Failure::unreachable(format!("no agent answers on {path}"))
            .because(&error)
            .next("start one with: mantlet dev-agent --socket ... --control ...")
    };
    let stream = UnixStream::connect(&arguments.control).await.map_err(unreachable)?;
    let mut stream = BufReader::new(stream);
    let line = format!("{}\n", arguments.command.join(" "));
    stream.get_mut().write_all(line.as_bytes()).await.map_err(unreachable)?;
    let mut lines = stream.lines();
    while let Some(line) = lines.next_line().await.map_err(unreachable)? {
        match line.strip_prefix("error: ") {
            Some(error) => return Err(Failure::finding(error)),
            None => output.line(&line),
        }
        if line == "ok" {
            return Ok(());
        }
    }
    Err(unreachable(io::ErrorKind::UnexpectedEof.into()))
}

/// Logs of the agent: info and worse.
fn log_to_stderr(output: &Output) {
    let subscriber = tracing_subscriber::fmt()
        .with_max_level(tracing::Level::INFO)
        .with_writer(io::stderr)
        .with_ansi(output.err.is_coloured())
        .with_target(false);
    // Set once per process; a second one would change nothing.
    let _ = subscriber.try_init();
}

fn absolute(path: &Path) -> Result<PathBuf, Failure> {
    std::path::absolute(path).map_err(|error| {
        Failure::usage(format!("the path {:?} cannot be used", path.display().to_string())).because(&error)
    })
}

fn trust_domain(name: &str) -> Result<TrustDomain, mantlet_id::IdError> {
    TrustDomain::parse(name)
}
