//! Parsers of single values: text in, a valid value or a sentence about what is wrong out.

use std::{
    net::{IpAddr, SocketAddr},
    path::PathBuf,
    time::Duration,
};

use mantlet_id::TrustDomain;
use mantlet_policy::{Guardrails, NamedPort};

use super::keys::display_duration;

/// A parsed value, or what is wrong with it.
pub(super) type Checked<T> = Result<T, String>;

pub(super) fn address(text: &str) -> Checked<SocketAddr> {
    text.parse().map_err(|_| match text.rsplit_once(':') {
        None => "no port".to_owned(),
        Some((host, _)) if host.parse::<std::net::Ipv6Addr>().is_ok() => {
            "an IPv6 address with a port needs brackets: [::1]:8080".to_owned()
        }
        Some((_, port)) if port.parse::<u16>().is_err() => {
            "the port is not a number from 0 to 65535".to_owned()
        }
        Some(_) => "not an IP address; names are not resolved here".to_owned(),
    })
}

/// The addresses of a host: those that can be dialled from elsewhere.
pub(super) fn addresses(text: &str) -> Checked<Vec<IpAddr>> {
    let mut addresses = Vec::new();
    for item in text.split(',').map(str::trim) {
        let address: IpAddr = item.parse().map_err(|_| format!("{item:?} is not an IP address"))?;
        if address.is_unspecified() || address.is_loopback() || address.is_multicast() {
            return Err(format!("{item} is not an address of a pod"));
        }
        if !addresses.contains(&address.to_canonical()) {
            addresses.push(address.to_canonical());
        }
    }
    Ok(addresses)
}

/// A whole number with a unit. Bare numbers are refused: nobody remembers whose timeouts are in seconds and whose
/// in milliseconds.
pub(crate) fn duration(text: &str, min: Duration, max: Duration) -> Checked<Duration> {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    let (number, unit) = text.split_at_checked(digits).unwrap_or((text, ""));
    if number.is_empty() {
        return Err("does not begin with a whole number".to_owned());
    }
    let number: u64 = number.parse().map_err(|_| "too large".to_owned())?;
    let millis_per_unit: u64 = match unit {
        "ms" => 1,
        "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        "d" => 86_400_000,
        "" => return Err(format!("no unit; did you mean {number}s?")),
        _ => return Err(format!("unknown unit {unit:?}")),
    };
    let duration = Duration::from_millis(number.checked_mul(millis_per_unit).ok_or("too large")?);
    if duration < min {
        return Err(format!("shorter than {}", display_duration(min)));
    }
    if duration > max {
        return Err(format!("longer than {}", display_duration(max)));
    }
    Ok(duration)
}

pub(super) fn count(text: &str, min: usize, max: usize) -> Checked<usize> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err("not a whole number".to_owned());
    }
    match text.parse::<usize>() {
        Ok(n) if (min..=max).contains(&n) => Ok(n),
        _ => Err("out of range".to_owned()),
    }
}

pub(super) fn switch(text: &str) -> Checked<bool> {
    match text {
        "true" => Ok(true),
        "false" => Ok(false),
        _ => Err("neither true nor false".to_owned()),
    }
}

pub(super) fn path(text: &str) -> Checked<PathBuf> {
    match text {
        "" => Err("empty".to_owned()),
        _ if text.contains('\0') => Err("contains a NUL".to_owned()),
        _ => Ok(PathBuf::from(text)),
    }
}

pub(super) fn text(text: &str) -> Checked<String> {
    match text {
        "" => Err("empty".to_owned()),
        _ if text.len() > 1024 => Err("too long".to_owned()),
        _ if text.chars().any(char::is_control) => Err("contains a control character".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// A namespace or service account: as a segment of a SPIFFE path (SPIFFE ID 2.2).
pub(super) fn name(text: &str) -> Checked<String> {
    let allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'.' | b'_' | b'-');
    match text {
        "" => Err("empty".to_owned()),
        "." | ".." => Err("not a name".to_owned()),
        _ if text.len() > 253 => Err("longer than 253 bytes".to_owned()),
        _ if !text.bytes().all(allowed) => Err("contains a character that no name has".to_owned()),
        _ => Ok(text.to_owned()),
    }
}

/// Operators may write upper case; the network may not (SPIFFE ID 2.1).
pub(super) fn trust_domain(text: &str) -> Checked<TrustDomain> {
    if text.starts_with("spiffe://") {
        return Err("write the name without spiffe://".to_owned());
    }
    TrustDomain::parse(&text.to_ascii_lowercase()).map_err(|error| error.to_string())
}

pub(super) fn ports(text: &str) -> Checked<Vec<NamedPort>> {
    if text.split(',').any(|entry| entry.trim().is_empty()) {
        return Err("an entry is empty".to_owned());
    }
    let ports = NamedPort::parse_list(text)?;
    // IANA_SVC_NAME, as Kubernetes checks container port names.
    let valid = |name: &str| {
        (1..=15).contains(&name.len())
            && name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-')
            && name.bytes().any(|b| b.is_ascii_lowercase())
    };
    let mut names: Vec<&str> = ports.iter().filter_map(|port| port.name.as_deref()).collect();
    if let Some(name) = names.iter().find(|name| !valid(name)) {
        return Err(format!("{name:?} is not a port name (a-z 0-9 -, at most 15)"));
    }
    names.sort_unstable();
    let count = names.len();
    names.dedup();
    if names.len() < count {
        return Err("a name is used twice".to_owned());
    }
    Ok(ports)
}

/// One line of the guardrails; the lines are put together afterwards.
pub(super) fn guardrail(line: &str) -> Checked<String> {
    Guardrails::parse(line).map(|_| line.to_owned()).map_err(|error| match error.split_once(": ") {
        Some((_, problem)) => problem.to_owned(),
        None => error,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAX: Duration = Duration::from_secs(86_400);

    #[test]
    fn durations_carry_units() {
        for (text, millis) in
            [("0s", 0), ("500ms", 500), ("30s", 30_000), ("5m", 300_000), ("1d", 86_400_000)]
        {
            assert_eq!(duration(text, Duration::ZERO, MAX), Ok(Duration::from_millis(millis)), "{text}");
        }
        assert_eq!(duration("30", Duration::ZERO, MAX), Err("no unit; did you mean 30s?".to_owned()));
        for text in
            ["", "s", "1.5s", "-1s", "30 s", "30S", "1h30m", "99999999999999999999s", "18446744073709551615d"]
        {
            assert!(duration(text, Duration::ZERO, MAX).is_err(), "{text}");
        }
        assert!(duration("2d", Duration::ZERO, MAX).is_err());
        assert!(duration("1ms", Duration::from_millis(2), MAX).is_err());
    }

    #[test]
    fn an_address_error_names_the_part_that_is_wrong() {
        assert!(address("127.0.0.1:0").is_ok());
        assert!(address("[::1]:80").is_ok());
        for (text, part) in [
            ("127.0.0.1", "no port"),
            ("::1:80", "brackets"),
            ("127.0.0.1:70000", "the port"),
            ("localhost:80", "not an IP address"),
        ] {
            let error = address(text).unwrap_err();
            assert!(error.contains(part), "{text}: {error}");
        }
    }

    #[test]
    fn pod_addresses_are_those_that_others_can_dial() {
        let parsed = addresses("10.244.1.5, fd00::5,10.244.1.5,::ffff:10.0.0.1").unwrap();
        let shown: Vec<String> = parsed.iter().map(ToString::to_string).collect();
        assert_eq!(shown, ["10.244.1.5", "fd00::5", "10.0.0.1"]);
        for text in ["", "10.0.0.1,", "10.0.0.1:80", "127.0.0.1", "::1", "::", "0.0.0.0", "pod.local"] {
            assert!(addresses(text).is_err(), "{text}");
        }
    }

    #[test]
    fn ports_are_declared_container_ports() {
        let parsed = ports("http=8080/tcp, 9090, dns=53/udp").unwrap();
        let names: Vec<_> = parsed.iter().map(|port| (port.name.as_deref(), port.port)).collect();
        assert_eq!(names, [(Some("http"), 8080), (None, 9090), (Some("dns"), 53)]);
        for text in ["", ".", "..", "a/b", "a b", "a*"] {
            assert!(name(text).is_err(), "{text}");
        }
        assert_eq!(trust_domain("Prod.Example").unwrap().as_str(), "prod.example");
        for text in ["", "spiffe://prod", "prod/x", "prod:8080"] {
            assert!(trust_domain(text).is_err(), "{text}");
        }
    }

    #[test]
    fn counts_are_plain_numbers_in_range() {
        assert_eq!(count("4", 1, 8), Ok(4));
        for text in ["", "0", "9", "+4", "4.0", "0x4"] {
            assert!(count(text, 1, 8).is_err(), "{text}");
        }
    }
}
