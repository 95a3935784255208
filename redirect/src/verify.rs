//! The proof from inside: a connection to nowhere that arrives at the sidecar's port.

use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::io::{self, ErrorKind, Read as _, Write as _};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpListener, TcpStream};
use std::thread;
use std::time::{Duration, Instant};

use mantlet_redirect::{Config, Privileges};

/// Addresses that belong to nobody (RFC 5737, RFC 3849), so that what is not redirected reaches nobody.
const NOWHERE: [IpAddr; 2] =
    [IpAddr::V4(Ipv4Addr::new(192, 0, 2, 1)), IpAddr::V6(Ipv6Addr::new(0x2001, 0xdb8, 0, 0, 0, 0, 0, 1))];
/// Any port that no rule knows.
const PORT: u16 = 20001;
/// Between two looks at a listener that has no connection yet.
const PAUSE: Duration = Duration::from_millis(5);
/// Connections of others that may come in between.
const STRANGERS: usize = 64;

/// What became of a family's connection.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Outcome {
    /// It arrived at the sidecar's port.
    Redirected,
    /// There is no way out by this family, so nothing has to be redirected.
    NoRoute,
}

/// Why nothing is proved.
#[derive(Debug)]
pub(crate) enum NotProved {
    /// The rules leave the sidecar's own user alone.
    Exempt { user: u32, group: u32 },
    /// The listener could not be had.
    Listen { addr: SocketAddr, error: io::Error },
    /// It went somewhere else, or nowhere.
    Elsewhere { to: SocketAddr, error: Option<io::Error> },
    /// No family has a way out.
    NoRoute,
}

/// Dials an address of each family that belongs to nobody, and expects to arrive at the sidecar's
/// outbound port.
///
/// # Errors
/// Nothing is proved, or something is not redirected.
pub(crate) fn verify(
    config: &Config,
    privileges: Privileges,
    limit: Duration,
) -> Result<[Outcome; 2], NotProved> {
    let (user, group) = (config.proxy_uid, config.proxy_gid);
    if (privileges.user, privileges.group) == (Some(user), Some(group)) {
        return Err(NotProved::Exempt { user, group });
    }
    let mut outcomes = [Outcome::NoRoute; 2];
    for (outcome, nowhere) in outcomes.iter_mut().zip(NOWHERE) {
        *outcome = family(nowhere, config.ports.outbound, limit)?;
    }
    match outcomes {
        [Outcome::NoRoute, Outcome::NoRoute] => Err(NotProved::NoRoute),
        outcomes => Ok(outcomes),
    }
}

fn family(nowhere: IpAddr, outbound: u16, limit: Duration) -> Result<Outcome, NotProved> {
    let loopback = match nowhere {
        IpAddr::V4(_) => IpAddr::from(Ipv4Addr::LOCALHOST),
        IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
    };
    let addr = SocketAddr::new(loopback, outbound);
    let to = SocketAddr::new(nowhere, PORT);
    let deadline = Instant::now() + limit;
    let listener = TcpListener::bind(addr).and_then(|listener| {
        listener.set_nonblocking(true)?;
        Ok(listener)
    });
    let listener = match listener {
        Ok(listener) => Some(listener),
        // No loopback address of this family. Whether anything gets out all the same is seen below.
        Err(error) if nowhere.is_ipv6() && error.kind() != ErrorKind::AddrInUse => None,
        Err(error) => return Err(NotProved::Listen { addr, error }),
    };
    let elsewhere = |error| NotProved::Elsewhere { to, error };
    let mut dialled = match TcpStream::connect_timeout(&to, limit) {
        Ok(dialled) => dialled,
        Err(error) if is_no_route(&error) => return Ok(Outcome::NoRoute),
        Err(error) => return Err(elsewhere(Some(error))),
    };
    let listener = listener.ok_or_else(|| elsewhere(None))?;
    let token = token();
    dialled.write_all(&token).map_err(|error| elsewhere(Some(error)))?;
    for _ in 0..STRANGERS {
        let Some(mut arrived) = accept(&listener, deadline) else { break };
        let mut seen = [0; 16];
        let left = deadline.saturating_duration_since(Instant::now()).max(PAUSE);
        let read = arrived.set_nonblocking(false).and_then(|()| arrived.set_read_timeout(Some(left)));
        if read.and_then(|()| arrived.read_exact(&mut seen)).is_ok() && seen == token {
            return Ok(Outcome::Redirected);
        }
    }
    Err(elsewhere(None))
}

fn accept(listener: &TcpListener, deadline: Instant) -> Option<TcpStream> {
    loop {
        match listener.accept() {
            Ok((arrived, _)) => return Some(arrived),
            Err(_) if Instant::now() >= deadline => return None,
            Err(_) => thread::sleep(PAUSE),
        }
    }
}

/// The kernel said so before a packet was made.
fn is_no_route(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        ErrorKind::NetworkUnreachable | ErrorKind::AddrNotAvailable | ErrorKind::Unsupported
    ) || error.raw_os_error() == Some(rustix::io::Errno::AFNOSUPPORT.raw_os_error())
}

/// What nobody else would say; no secret hangs on it.
fn token() -> [u8; 16] {
    let part = || RandomState::new().hash_one(Instant::now()).to_ne_bytes();
    let mut token = [0; 16];
    token.iter_mut().zip(part().into_iter().chain(part())).for_each(|(byte, random)| *byte = random);
    token
}

// === impl NotProved ===

impl fmt::Display for NotProved {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Exempt { user, group } => write!(
                f,
                "nothing is proved by user {user} with group {group}, whose connections the rules leave alone: \
                 run it as another user"
            ),
            Self::Listen { addr, error } => write!(
                f,
                "cannot listen on {addr} ({error}): run it before the sidecar, in the same network namespace"
            ),
            Self::Elsewhere { to, error } => {
                write!(f, "a connection to {to} was not redirected")?;
                if let Some(error) = error {
                    write!(f, " ({error})")?;
                }
                f.write_str(
                    ": the rules are missing or were changed; run mantlet-init first, and look at \
                     \"nft list table inet mantlet\"",
                )
            }
            Self::NoRoute => f.write_str(
                "nothing is proved in a network namespace without a default route: run it where the pod's \
                 network is set up",
            ),
        }
    }
}

impl std::error::Error for NotProved {}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Redirected => "redirected",
            Self::NoRoute => "no route out",
        })
    }
}
