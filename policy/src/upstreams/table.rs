//! Finding the line for a destination.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;

use super::Upstream;

/// All lines, ready to be asked. Immutable.
#[derive(Clone, Debug, Default)]
pub struct Upstreams {
    networks: HashMap<IpNet, Vec<Entry>>,
    /// Prefix lengths that occur, longest first, IPv4 and IPv6 apart.
    lengths: [BTreeSet<Reverse<u8>>; 2],
    names: BTreeMap<String, Vec<Entry>>,
    default: Option<(Upstream, u32)>,
}

/// What a destination's line says about some of its ports.
#[derive(Clone, Debug)]
pub(super) struct Entry {
    pub(super) first: u16,
    pub(super) last: u16,
    pub(super) upstream: Upstream,
    pub(super) line: u32,
}

/// Where a line's destination is.
#[derive(Clone, Debug, Eq, PartialEq)]
pub(super) enum Place {
    Network(IpNet),
    Name(String),
    Any,
}

/// What the lines say about a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Lookup {
    /// This, as line `line` says (the first, where several unite).
    Found {
        /// What happens.
        upstream: Upstream,
        /// Where it is written.
        line: u32,
        /// By what the line names the destination.
        by: By,
    },
    /// Two names lead to this address and say different things. Refuse: nobody knows which is meant.
    Conflict {
        /// The two lines.
        lines: (u32, u32),
    },
    /// Nothing.
    None,
}

/// By what a line names a destination.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum By {
    /// By its address or a network around it.
    Address,
    /// By these names, which all have the address and all mean the same.
    Names(Vec<String>),
    /// By being none of the others: the line with `*`.
    Default,
}

// === impl Upstreams ===

impl Upstreams {
    /// What applies to connections to `ip` and `port`. `is_named` says whether a name of
    /// [`Upstreams::names`] resolves to `ip`.
    #[must_use]
    pub fn lookup(&self, ip: IpAddr, port: u16, is_named: impl Fn(&str, IpAddr) -> bool) -> Lookup {
        let ip = ip.to_canonical();
        let lengths = match self.lengths.as_slice() {
            [v4, _] if ip.is_ipv4() => v4,
            [_, v6] => v6,
            _ => return Lookup::None,
        };
        for Reverse(length) in lengths {
            let network = IpNet::new(ip, *length).ok().map(|network| network.trunc());
            let entries = network.and_then(|network| self.networks.get(&network));
            if let Some(entry) = entries.and_then(|entries| narrowest(entries, port)) {
                return Lookup::Found { upstream: entry.upstream.clone(), line: entry.line, by: By::Address };
            }
        }
        match self.lookup_names(ip, port, is_named) {
            Lookup::None => match &self.default {
                Some((upstream, line)) => {
                    Lookup::Found { upstream: upstream.clone(), line: *line, by: By::Default }
                }
                None => Lookup::None,
            },
            found => found,
        }
    }

    fn lookup_names(&self, ip: IpAddr, port: u16, is_named: impl Fn(&str, IpAddr) -> bool) -> Lookup {
        let mut candidates: Vec<(&str, &Entry)> = Vec::new();
        for (name, entries) in &self.names {
            if let Some(entry) = narrowest(entries, port)
                && is_named(name, ip)
            {
                candidates.push((name, entry));
            }
        }
        let Some(width) = candidates.iter().map(|(_, entry)| entry.width()).min() else {
            return Lookup::None;
        };
        candidates.retain(|(_, entry)| entry.width() == width);
        let mut united: Option<(Upstream, u32)> = None;
        let mut names = Vec::new();
        for (name, entry) in candidates {
            names.push(name.to_owned());
            united = match united {
                None => Some((entry.upstream.clone(), entry.line)),
                Some((upstream, line)) => match upstream.unite(&entry.upstream) {
                    Some(upstream) => Some((upstream, line)),
                    None => return Lookup::Conflict { lines: (line, entry.line) },
                },
            };
        }
        let by = By::Names(names);
        united.map_or(Lookup::None, |(upstream, line)| Lookup::Found { upstream, line, by })
    }

    /// The names to resolve.
    pub fn names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    /// The names that a line about `port` has.
    pub fn names_of_port(&self, port: u16) -> impl Iterator<Item = &str> {
        let about = move |entries: &[Entry]| narrowest(entries, port).is_some();
        self.names.iter().filter(move |(_, entries)| about(entries)).map(|(name, _)| name.as_str())
    }

    /// What happens with destinations that no line names.
    #[must_use]
    pub fn otherwise(&self) -> Option<&Upstream> {
        self.default.as_ref().map(|(upstream, _)| upstream)
    }

    /// Whether there is no line at all.
    #[must_use]
    pub fn is_empty(&self) -> bool {
        self.networks.is_empty() && self.names.is_empty() && self.default.is_none()
    }

    /// Adds a line, or names the line that it contradicts.
    pub(super) fn add(&mut self, place: Place, entry: Entry) -> Result<(), u32> {
        let entries = match place {
            Place::Any => {
                return match &self.default {
                    Some((upstream, line)) if *upstream != entry.upstream => Err(*line),
                    Some(_) => Ok(()),
                    None => {
                        self.default = Some((entry.upstream, entry.line));
                        Ok(())
                    }
                };
            }
            Place::Name(name) => self.names.entry(name).or_default(),
            Place::Network(network) => {
                let [v4, v6] = &mut self.lengths;
                let lengths = if matches!(network, IpNet::V4(_)) { v4 } else { v6 };
                lengths.insert(Reverse(network.prefix_len()));
                self.networks.entry(network).or_default()
            }
        };
        for other in entries.iter_mut() {
            let same = (other.first, other.last) == (entry.first, entry.last);
            let overlap = other.first <= entry.last && entry.first <= other.last;
            if same {
                other.upstream = other.upstream.unite(&entry.upstream).ok_or(other.line)?;
                return Ok(());
            }
            // Of two that overlap and are equally wide neither is the longer match.
            if overlap && other.width() == entry.width() && other.upstream != entry.upstream {
                return Err(other.line);
            }
        }
        entries.push(entry);
        Ok(())
    }
}

/// The entry with the fewest ports among those that have `port`.
fn narrowest(entries: &[Entry], port: u16) -> Option<&Entry> {
    entries
        .iter()
        .filter(|entry| (entry.first..=entry.last).contains(&port))
        .min_by_key(|entry| entry.width())
}

// === impl Entry ===

impl Entry {
    fn width(&self) -> u16 {
        self.last - self.first
    }
}
