//! The control socket: one command a line, answered by lines, the last of which is `ok` or begins
//! with `error: `. Anybody who can open it may command; its mode is 0600.
//!
//! ```text
//! status                     trust domains, authorities, entries, problems
//! svid rotate                renew every SVID that is in use
//! ca prepare [TRUST-DOMAIN]  put a new authority into the bundle
//! ca activate [TRUST-DOMAIN] let it sign, renew the SVIDs of the domain
//! ca retire [TRUST-DOMAIN]   take the old authorities out of the bundle
//! ```

use std::fmt::Write as _;
use std::io;
use std::time::{Duration, SystemTime};

use mantlet_id::TrustDomain;
use tokio::io::{AsyncBufReadExt as _, AsyncReadExt as _, AsyncWriteExt as _, BufReader};
use tokio::net::{UnixListener, UnixStream};

use crate::authorities::AuthorityError;
use crate::handle::Handle;

/// Longest command line.
const MAX_LINE: u64 = 1_024;
const HELP: &str = "commands are: status | svid rotate | ca prepare|activate|retire [TRUST-DOMAIN]";

/// Serves commands one connection after the other; without a listener it never ends.
pub(crate) async fn serve(listener: Option<UnixListener>, handle: Handle) {
    let Some(listener) = listener else { return std::future::pending().await };
    loop {
        match listener.accept().await {
            Ok((stream, _)) => {
                let handle = handle.clone();
                tokio::spawn(async move {
                    // The other side may leave at any time.
                    let _ = converse(stream, &handle).await;
                });
            }
            Err(error) => {
                tracing::warn!(%error, "cannot accept on the control socket");
                tokio::time::sleep(Duration::from_millis(100)).await;
            }
        }
    }
}

async fn converse(stream: UnixStream, handle: &Handle) -> io::Result<()> {
    let (read, mut write) = stream.into_split();
    let mut read = BufReader::new(read);
    loop {
        let mut line = String::new();
        if (&mut read).take(MAX_LINE).read_line(&mut line).await? == 0 {
            return Ok(());
        }
        let answer = match execute(line.trim(), handle) {
            Ok(text) => format!("{text}ok\n"),
            Err(error) => format!("error: {error}\n"),
        };
        write.write_all(answer.as_bytes()).await?;
    }
}

fn execute(line: &str, handle: &Handle) -> Result<String, String> {
    let words: Vec<&str> = line.split_whitespace().collect();
    let done = |result: Result<(), AuthorityError>| match result {
        Ok(()) => Ok(String::new()),
        Err(error) => Err(error.to_string()),
    };
    match words.as_slice() {
        ["status"] => Ok(status(handle)),
        ["svid", "rotate"] => {
            handle.rotate_svids();
            Ok(String::new())
        }
        ["ca", "prepare", rest @ ..] => done(handle.prepare_authority(&domain(rest, handle)?)),
        ["ca", "activate", rest @ ..] => done(handle.activate_authority(&domain(rest, handle)?)),
        ["ca", "retire", rest @ ..] => done(handle.retire_authority(&domain(rest, handle)?)),
        _ => Err(format!("unknown command {line:?}; {HELP}")),
    }
}

fn domain(rest: &[&str], handle: &Handle) -> Result<TrustDomain, String> {
    match rest {
        [] => handle.trust_domains().first().cloned().ok_or_else(|| "no trust domain".to_owned()),
        [name] => TrustDomain::parse(name).map_err(|error| format!("{name:?}: {error}")),
        _ => Err(format!("too many words; {HELP}")),
    }
}

fn status(handle: &Handle) -> String {
    let now = SystemTime::now();
    let mut text = String::new();
    for info in handle.authorities() {
        let left = info.not_after.duration_since(now).unwrap_or_default().as_secs();
        let _ = writeln!(
            text,
            "authority {} {} {} left {left}s",
            info.trust_domain,
            info.name,
            info.state.as_str()
        );
    }
    for (_, entry) in handle.entries() {
        let _ = write!(text, "entry {}", entry.id);
        let selectors = &entry.selectors;
        for (name, value) in [("uid", selectors.uid), ("gid", selectors.gid), ("pid", selectors.pid)] {
            if let Some(value) = value {
                let _ = write!(text, " {name}={value}");
            }
        }
        if let Some(path) = &selectors.path {
            let _ = write!(text, " path={}", path.display());
        }
        text.push('\n');
    }
    if let Some(problem) = handle.entries_problem() {
        let _ = writeln!(text, "problem {}", problem.replace('\n', "; "));
    }
    text
}
