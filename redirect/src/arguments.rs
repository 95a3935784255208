//! The command line: every mistake at once, and no default that opens something.

use std::ffi::OsString;
use std::fmt::Display;
use std::time::Duration;

use mantlet_redirect::{Cidr, Config, PortRange, Ruleset, Udp};

/// The user and group of the sidecar, where nothing else is said.
const PROXY: u32 = 14021;
/// How long the proof may take.
const TIMEOUT: Duration = Duration::from_secs(5);
const LONGEST_TIMEOUT: u64 = 300;

pub(crate) const HELP: &str = "\
Redirects the connections of this network namespace to the sidecar.

Usage: mantlet-init [--print | --verify] [OPTIONS]

Without a mode it installs the rules, in one step: those of an earlier run are replaced, and where that
fails they stay. It needs CAP_NET_ADMIN, and neither nft nor a shell.

Modes:
  --print     print the rules as an nft script, and change nothing
  --verify    prove from inside that connections are redirected: dial a documentation address as another
              user than the sidecar, and expect to arrive at the sidecar's outbound port; run it before
              the sidecar starts
  --help, --version

Options:
  --uid ID                     user of the sidecar (default: 14021)
  --gid ID                     group of the sidecar (default: 14021); only both together are exempt
  --inbound-port PORT          where the sidecar takes inbound connections (default: 24143)
  --outbound-port PORT         where it takes outbound ones (default: 24140)
  --health-port PORT           health and metrics, open without mutual TLS (default: 24190)
  --admin-port PORT            administration, on loopback (default: 24191)
  --skip-inbound-ports LIST    ports that reach the application as they are: 8443,9000-9100
  --skip-outbound-ports LIST   destination ports that are not redirected, beside 53
  --skip-outbound-cidrs LIST   destination networks that are not redirected: 10.0.0.0/8,fd00::/8
  --udp MODE                   pass (default), or reject-quic: refuse UDP 443
  --timeout SECONDS            how long --verify waits (default: 5)

Exit codes: 0 done, 1 the rules could not be installed, 2 the command line is wrong, 3 not redirected.
";

/// What to do.
#[derive(Debug)]
pub(crate) enum Command {
    Install(Ruleset, Config),
    Print(Ruleset),
    Verify(Config, Duration),
    Help,
    Version,
}

/// A flag and its value, in the order they were given.
type Given = Vec<(String, String)>;

/// Reads the arguments, without the program's name.
///
/// # Errors
/// Everything that is wrong with them.
pub(crate) fn parse(arguments: impl IntoIterator<Item = OsString>) -> Result<Command, Vec<String>> {
    let mut mistakes = Vec::new();
    let (mut modes, mut given): (Vec<String>, Given) = (Vec::new(), Vec::new());
    let mut arguments = arguments.into_iter().map(|argument| argument.to_string_lossy().into_owned());
    while let Some(argument) = arguments.next() {
        if let "--print" | "--verify" | "--help" | "-h" | "--version" = argument.as_str() {
            modes.push(argument);
        } else if let Some((flag, value)) = argument.split_once('=') {
            given.push((flag.to_owned(), value.to_owned()));
        } else if let Some(value) = arguments.next() {
            given.push((argument, value));
        } else {
            mistakes.push(format!("\"{}\" is no mode, and has no value", argument.escape_debug()));
        }
    }
    if modes.iter().any(|mode| mode == "--help" || mode == "-h") {
        return Ok(Command::Help);
    }
    if modes.iter().any(|mode| mode == "--version") {
        return Ok(Command::Version);
    }
    let mut config = Config::new(PROXY, PROXY);
    let mut timeout = TIMEOUT;
    for (at, (flag, value)) in given.iter().enumerate() {
        if given.iter().take(at).any(|(before, _)| before == flag) {
            mistakes.push(format!("{flag} is given twice"));
        }
        mistakes.extend(set(&mut config, &mut timeout, flag, value).err().into_iter().flatten());
    }
    let ruleset = Ruleset::new(config.clone());
    let ruleset = ruleset.map_err(|problems| mistakes.extend(problems.iter().map(ToString::to_string)));
    match (ruleset, modes.as_slice()) {
        (Ok(ruleset), modes) if mistakes.is_empty() => match modes {
            [] => Ok(Command::Install(ruleset, config)),
            [mode] if mode == "--print" => Ok(Command::Print(ruleset)),
            [_] => Ok(Command::Verify(config, timeout)),
            _ => Err(vec!["--print and --verify are two different modes: give one".to_owned()]),
        },
        _ => Err(mistakes),
    }
}

fn set(config: &mut Config, timeout: &mut Duration, flag: &str, value: &str) -> Result<(), Vec<String>> {
    let of_flag = |problem: &dyn Display| format!("{flag}: {problem}");
    let ports = |value| {
        PortRange::parse_list(value)
            .map_err(|problems| problems.iter().map(|p| of_flag(p)).collect::<Vec<_>>())
    };
    let number = || {
        let all_digits = value.bytes().all(|byte| byte.is_ascii_digit());
        let parsed = value.parse::<u32>().ok().filter(|_| all_digits);
        parsed.ok_or_else(|| vec![of_flag(&format!("\"{}\" is no number", value.escape_debug()))])
    };
    let port = || {
        let none = |_| vec![of_flag(&format!("{value} is no port: write one from 1 to 65535"))];
        number().and_then(|number| u16::try_from(number).map_err(none))
    };
    match flag {
        "--uid" => config.proxy_uid = number()?,
        "--gid" => config.proxy_gid = number()?,
        "--inbound-port" => config.ports.inbound = port()?,
        "--outbound-port" => config.ports.outbound = port()?,
        "--health-port" => config.ports.health = port()?,
        "--admin-port" => config.ports.admin = port()?,
        "--skip-inbound-ports" => config.skip_inbound_ports = ports(value)?,
        "--skip-outbound-ports" => config.skip_outbound_ports = ports(value)?,
        "--skip-outbound-cidrs" => {
            config.skip_outbound_cidrs = Cidr::parse_list(value)
                .map_err(|problems| problems.iter().map(|p| of_flag(p)).collect::<Vec<_>>())?;
        }
        "--udp" => {
            config.udp = match value {
                "pass" => Udp::Pass,
                "reject-quic" => Udp::RejectQuic,
                _ => return Err(vec![of_flag(&"write pass or reject-quic")]),
            };
        }
        "--timeout" => match number()? {
            seconds if (1..=LONGEST_TIMEOUT).contains(&u64::from(seconds)) => {
                *timeout = Duration::from_secs(seconds.into());
            }
            _ => return Err(vec![of_flag(&format!("write seconds from 1 to {LONGEST_TIMEOUT}"))]),
        },
        unknown => {
            return Err(vec![format!("\"{}\" is no option: see --help", unknown.escape_debug())]);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parsed(line: &str) -> Result<Command, Vec<String>> {
        parse(line.split_ascii_whitespace().map(OsString::from))
    }

    #[test]
    fn what_is_said_is_what_is_installed() {
        let line = "--uid 14100 --gid=14101 --inbound-port 1 --outbound-port 2 --health-port 3 \
                    --admin-port 4 --skip-inbound-ports 8443 --skip-outbound-ports=5,6-7 \
                    --skip-outbound-cidrs 10.0.0.0/8 --udp reject-quic";
        let Ok(Command::Install(_, config)) = parsed(line) else { panic!("{line}") };
        assert_eq!((config.proxy_uid, config.proxy_gid), (14100, 14101));
        let ports = config.ports;
        assert_eq!([ports.inbound, ports.outbound, ports.health, ports.admin], [1, 2, 3, 4]);
        assert_eq!(config.skip_inbound_ports, PortRange::parse_list("8443").unwrap());
        assert_eq!(config.skip_outbound_ports, PortRange::parse_list("5,6-7").unwrap());
        assert_eq!(config.skip_outbound_cidrs, Cidr::parse_list("10.0.0.0/8").unwrap());
        assert_eq!(config.udp, Udp::RejectQuic);
    }

    #[test]
    fn modes() {
        assert!(matches!(parsed(""), Ok(Command::Install(..))));
        assert!(matches!(parsed("--print --uid 14100"), Ok(Command::Print(_))));
        assert!(matches!(parsed("--verify --timeout 2"), Ok(Command::Verify(_, t)) if t.as_secs() == 2));
        assert!(matches!(parsed("--nonsense --help"), Ok(Command::Help)) || parsed("--help").is_ok());
        assert!(parsed("--print --verify").is_err());
    }

    #[test]
    fn every_mistake_is_told_at_once() {
        let line = "--uid 0 --gid x --inbound-port 70000 --skip-inbound-ports 1-,24140 --udp never \
                    --timeout 0 --colour red --udp pass --skip-outbound-cidrs 10.0.0.1/8 last";
        let mistakes = parsed(line).unwrap_err();
        for part in [
            "user 0",
            "--gid: \"x\"",
            "--inbound-port: 70000",
            "--skip-inbound-ports: \"1-\"",
            "--udp: write",
            "--timeout: write",
            "\"--colour\" is no option",
            "--udp is given twice",
            "--skip-outbound-cidrs: 10.0.0.1",
            "\"last\" is no mode",
        ] {
            assert!(mistakes.iter().any(|mistake| mistake.contains(part)), "{part}: {mistakes:#?}");
        }
    }

    #[test]
    fn the_help_names_every_option_with_its_default() {
        let config = Config::new(PROXY, PROXY);
        for (option, default) in [
            ("--uid ID", u64::from(config.proxy_uid)),
            ("--gid ID", config.proxy_gid.into()),
            ("--inbound-port", config.ports.inbound.into()),
            ("--outbound-port", config.ports.outbound.into()),
            ("--health-port", config.ports.health.into()),
            ("--admin-port", config.ports.admin.into()),
            ("--timeout", TIMEOUT.as_secs()),
        ] {
            let line = HELP.lines().find(|line| line.trim_start().starts_with(option)).unwrap();
            assert!(line.contains(&format!("default: {default}")), "{line}");
        }
    }
}
