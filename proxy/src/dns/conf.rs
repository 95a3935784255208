//! `resolv.conf` and `hosts`, as resolv.conf(5) and hosts(5) describe them.

use std::{
    fs, io,
    net::{IpAddr, Ipv4Addr, SocketAddr},
    path::Path,
    time::Duration,
};

const PORT: u16 = 53;
/// As many as the C library asks.
const MOST_SERVERS: usize = 3;
const MOST_SEARCHES: usize = 32;
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(2);
/// Bytes that are read of either file; a mistaken path may lead to something endless.
const MOST_BYTES: u64 = 1 << 20;

/// Whom to ask, and how names are completed.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) struct ResolvConf {
    /// Whom to ask, in this order.
    pub(super) servers: Vec<SocketAddr>,
    /// Domains that a short name is completed with.
    pub(super) search: Vec<String>,
    /// A name with fewer dots is tried with the search domains first.
    pub(super) ndots: usize,
    /// One server's time for one question.
    pub(super) timeout: Duration,
    /// How often each server is asked.
    pub(super) attempts: usize,
    /// Questions go over TCP at once.
    pub(super) tcp: bool,
}

/// Reads at most [`MOST_BYTES`].
pub(super) fn read(path: &Path) -> io::Result<String> {
    use io::Read as _;
    let mut text = Vec::new();
    fs::File::open(path)?.take(MOST_BYTES).read_to_end(&mut text)?;
    Ok(String::from_utf8_lossy(&text).into_owned())
}

/// The addresses of `name` in a hosts file.
pub(super) fn hosts(text: &str, name: &str) -> Vec<IpAddr> {
    let address = |line: &str| {
        let mut words = line.split('#').next()?.split_ascii_whitespace();
        let address: IpAddr = words.next()?.parse().ok()?;
        words.any(|word| word.trim_end_matches('.').eq_ignore_ascii_case(name)).then_some(address)
    };
    text.lines().filter_map(address).collect()
}

// === impl ResolvConf ===

impl ResolvConf {
    /// What the file says; what it says wrongly is left out, as the C library does.
    pub(super) fn parse(text: &str) -> Self {
        let mut conf = Self {
            servers: Vec::new(),
            search: Vec::new(),
            ndots: 1,
            timeout: DEFAULT_TIMEOUT,
            attempts: 2,
            tcp: false,
        };
        for line in text.lines().filter(|line| !line.starts_with(['#', ';'])) {
            let mut words = line.split_ascii_whitespace();
            match words.next() {
                Some("nameserver") => {
                    let server = words.next().and_then(server).filter(|_| conf.servers.len() < MOST_SERVERS);
                    conf.servers.extend(server);
                }
                Some("domain" | "search") => {
                    let domain = |word: &str| word.trim_matches('.').to_ascii_lowercase();
                    conf.search =
                        words.map(domain).filter(|word| !word.is_empty()).take(MOST_SEARCHES).collect();
                }
                Some("options") => words.for_each(|word| conf.option(word)),
                _ => {}
            }
        }
        if conf.servers.is_empty() {
            conf.servers.push(SocketAddr::from((Ipv4Addr::LOCALHOST, PORT)));
        }
        conf
    }

    fn option(&mut self, word: &str) {
        let (name, value) = word.split_once(':').unwrap_or((word, ""));
        let number = || value.parse::<u64>().ok();
        match (name, number()) {
            ("ndots", Some(ndots)) => self.ndots = usize::try_from(ndots.min(15)).unwrap_or(15),
            ("timeout", Some(seconds)) => self.timeout = Duration::from_secs(seconds.clamp(1, 5)),
            ("attempts", Some(attempts)) => {
                self.attempts = usize::try_from(attempts.clamp(1, 5)).unwrap_or(5);
            }
            ("use-vc", _) => self.tcp = true,
            _ => {}
        }
    }

    /// The full names that `name` may stand for, in the order they are tried.
    pub(super) fn candidates(&self, name: &str) -> Vec<String> {
        let completed = self.search.iter().map(|domain| format!("{name}.{domain}"));
        let mut names = vec![name.to_owned()];
        if name.bytes().filter(|byte| *byte == b'.').count() >= self.ndots {
            names.extend(completed);
        } else {
            names.splice(0..0, completed);
        }
        // RFC 1035, 2.3.4; nobody can be asked for a longer one.
        names.retain(|name| name.len() <= 253);
        names
    }
}

/// An address, with a port behind it where it is not 53: `127.0.0.1:5353`, `[::1]:5353`.
fn server(word: &str) -> Option<SocketAddr> {
    let ip = word.parse().ok().map(|ip: IpAddr| SocketAddr::new(ip, PORT));
    ip.or_else(|| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pods_file_is_understood() {
        let conf = ResolvConf::parse(
            "# made by the kubelet\nsearch shop.svc.cluster.local svc.cluster.local cluster.local\n\
             nameserver 10.96.0.10\nnameserver fd00::a\nnameserver nonsense\nnameserver 127.0.0.1:5353\n\
             nameserver 10.0.0.4\noptions ndots:5 timeout:90 attempts:1 edns0 use-vc\n",
        );
        let servers: Vec<String> = conf.servers.iter().map(ToString::to_string).collect();
        assert_eq!(servers, ["10.96.0.10:53", "[fd00::a]:53", "127.0.0.1:5353"]);
        assert_eq!((conf.ndots, conf.timeout.as_secs(), conf.attempts, conf.tcp), (5, 5, 1, true));
        let [first, .., last] = &conf.candidates("orders.shop")[..] else { panic!("four candidates") };
        assert_eq!((first.as_str(), last.as_str()), ("orders.shop.shop.svc.cluster.local", "orders.shop"));
    }

    #[test]
    fn without_a_word_the_local_server_is_asked_for_the_name_as_it_is() {
        let conf = ResolvConf::parse("");
        assert_eq!(conf.servers, ["127.0.0.1:53".parse().unwrap()]);
        assert_eq!(conf.candidates("a.b"), ["a.b"]);
        let conf = ResolvConf::parse("search x.test");
        assert_eq!(conf.candidates("a.b"), ["a.b", "a.b.x.test"]);
        assert_eq!(conf.candidates("a"), ["a.x.test", "a"]);
    }

    #[test]
    fn a_hosts_file_names_addresses() {
        let text = "127.0.0.1 localhost\n10.0.0.1\tdb DB.prod. # db2\n::1 localhost ip6-localhost\nx y\n";
        assert_eq!(hosts(text, "localhost").len(), 2);
        assert_eq!(hosts(text, "db.prod"), ["10.0.0.1".parse::<IpAddr>().unwrap()]);
        assert!(hosts(text, "db2").is_empty());
    }
}
