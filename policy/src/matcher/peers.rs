//! From a caller to the rules whose peers it is one of. Done once per connection.
//!
//! Peer lists that are written alike are one *class*; an identity is looked up in a hash table of
//! exact ids and a trie of patterns, so the cost does not grow with the number of peers.

use std::{
    collections::{BTreeSet, HashMap},
    net::IpAddr,
};

use ipnet::IpNet;
use mantlet_id::{PeerPattern, SegmentPattern, SpiffeId, TrustDomainPattern};

use super::{
    segment::Strict,
    trie::{Builder, End, GlobPattern, PatternSegment, TerminalId, Trie},
};
use crate::decision::Peer;

/// One peer of a rule, resolved against the workload.
#[derive(Clone, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub(crate) enum Term {
    /// Workloads.
    Pattern(PeerPattern),
    /// Callers without identity, from anywhere.
    PlaintextAny,
    /// Callers without identity, from this network.
    Plaintext(IpNet),
}

/// The number of a class.
pub(crate) type ClassId = u32;

/// Who is in which classes.
#[derive(Debug, Default)]
pub(crate) struct PeerIndex {
    exact: HashMap<SpiffeId, Uses>,
    patterns: Trie,
    pattern_uses: Vec<Uses>,
    plaintext_any: Uses,
    networks: HashMap<IpNet, Uses>,
    prefix_lengths: BTreeSet<(bool, u8)>,
}

/// Where a term occurs.
#[derive(Clone, Debug, Default)]
struct Uses {
    included: Vec<ClassId>,
    excepted: Vec<ClassId>,
}

/// Collects classes.
#[derive(Debug)]
pub(crate) struct PeerIndexBuilder {
    classes: HashMap<(Vec<Term>, Vec<Term>), ClassId>,
    exact: HashMap<SpiffeId, Uses>,
    patterns: Builder,
    pattern_uses: HashMap<TerminalId, Uses>,
    plaintext_any: Uses,
    networks: HashMap<IpNet, Uses>,
    /// Whether a class includes more than exact ids, by class.
    pub(crate) is_wide: Vec<bool>,
    /// The exact ids of each class.
    pub(crate) exact_ids: Vec<Vec<SpiffeId>>,
}

// === impl Term ===

impl Term {
    /// Whether `peer` is meant.
    pub(crate) fn matches(&self, peer: Peer<'_>) -> bool {
        match (self, peer) {
            (Self::Pattern(pattern), Peer::Identity(id)) => pattern.matches(id),
            (Self::PlaintextAny, Peer::Plaintext(_)) => true,
            (Self::Plaintext(network), Peer::Plaintext(ip)) => network.contains(&ip.to_canonical()),
            _ => false,
        }
    }
}

// === impl PeerIndex ===

impl PeerIndex {
    /// The classes that `peer` is in, ascending.
    pub(crate) fn classes_of(&self, peer: Peer<'_>) -> Vec<ClassId> {
        let (mut included, mut excepted) = (Vec::new(), Vec::new());
        let mut take = |uses: &Uses| {
            included.extend_from_slice(&uses.included);
            excepted.extend_from_slice(&uses.excepted);
        };
        match peer {
            Peer::Identity(id) => {
                self.exact.get(id).into_iter().for_each(&mut take);
                let segments = std::iter::once(id.trust_domain().as_str()).chain(id.segments()).map(Strict);
                let walked = self.patterns.walk(segments, false, |terminal| {
                    self.pattern_uses.get(terminal as usize).into_iter().for_each(&mut take);
                });
                if walked.is_err() {
                    // The compiler made sure that this cannot happen. Nobody is nobody.
                    return Vec::new();
                }
            }
            Peer::Plaintext(ip) => {
                let ip = ip.to_canonical();
                take(&self.plaintext_any);
                for (_, length) in self.prefix_lengths.iter().filter(|(v6, _)| *v6 == ip.is_ipv6()) {
                    if let Ok(network) = IpNet::new(ip, *length) {
                        self.networks.get(&network.trunc()).into_iter().for_each(&mut take);
                    }
                }
            }
        }
        included.sort_unstable();
        included.dedup();
        excepted.sort_unstable();
        included.retain(|class| excepted.binary_search(class).is_err());
        included
    }
}

// === impl PeerIndexBuilder ===

impl PeerIndexBuilder {
    pub(crate) fn new() -> Self {
        Self {
            classes: HashMap::new(),
            exact: HashMap::new(),
            patterns: Builder::new(),
            pattern_uses: HashMap::new(),
            plaintext_any: Uses::default(),
            networks: HashMap::new(),
            is_wide: Vec::new(),
            exact_ids: Vec::new(),
        }
    }

    /// The class of the callers in `included` and not in `excepted`. `None` if there are too many
    /// patterns beside each other.
    pub(crate) fn class(&mut self, included: &[Term], excepted: &[Term]) -> Option<ClassId> {
        let normal =
            |terms: &[Term]| terms.iter().cloned().collect::<BTreeSet<_>>().into_iter().collect::<Vec<_>>();
        let key = (normal(included), normal(excepted));
        if let Some(class) = self.classes.get(&key) {
            return Some(*class);
        }
        let class = u32::try_from(self.classes.len()).ok()?;
        let (mut wide, mut ids) = (false, Vec::new());
        for term in &key.0 {
            match term {
                Term::Pattern(pattern) => match pattern.exact() {
                    Some(id) => ids.push(id),
                    None => wide = true,
                },
                _ => wide = true,
            }
            self.uses(term)?.included.push(class);
        }
        for term in &key.1 {
            self.uses(term)?.excepted.push(class);
        }
        self.classes.insert(key, class);
        self.is_wide.push(wide);
        self.exact_ids.push(ids);
        Some(class)
    }

    fn uses(&mut self, term: &Term) -> Option<&mut Uses> {
        Some(match term {
            Term::PlaintextAny => &mut self.plaintext_any,
            Term::Plaintext(network) => self.networks.entry(canonical_network(*network)).or_default(),
            Term::Pattern(pattern) => match pattern.exact() {
                Some(id) => self.exact.entry(id).or_default(),
                None => {
                    let (segments, end) = pattern_segments(pattern);
                    let terminal = self.patterns.insert(&segments, end)?;
                    self.pattern_uses.entry(terminal).or_default()
                }
            },
        })
    }

    /// The trie of patterns, for checking its width.
    pub(crate) fn patterns(&self) -> &Builder {
        &self.patterns
    }

    pub(crate) fn finish(mut self) -> Option<PeerIndex> {
        let prefix_lengths =
            self.networks.keys().map(|net| (matches!(net, IpNet::V6(_)), net.prefix_len())).collect();
        let count = self.patterns.terminals as usize;
        let mut uses = |terminal| self.pattern_uses.remove(&terminal).unwrap_or_default();
        let pattern_uses = (0_u32..).take(count + 1).map(&mut uses).collect();
        Some(PeerIndex {
            exact: self.exact,
            patterns: self.patterns.finish()?,
            pattern_uses,
            plaintext_any: self.plaintext_any,
            networks: self.networks,
            prefix_lengths,
        })
    }
}

/// IPv4 callers on an IPv6 socket are IPv4 callers, in a network as well.
fn canonical_network(network: IpNet) -> IpNet {
    match (network, network.addr().to_canonical()) {
        (IpNet::V6(v6), IpAddr::V4(v4)) if v6.prefix_len() >= 96 => {
            IpNet::new(IpAddr::V4(v4), v6.prefix_len() - 96).unwrap_or(network)
        }
        _ => network,
    }
}

/// The trust domain is the first segment. `**` is one or more, so it is a star and what is below.
fn pattern_segments(pattern: &PeerPattern) -> (Vec<PatternSegment>, End) {
    let mut segments = vec![match pattern.trust_domain() {
        TrustDomainPattern::Exact(name) => PatternSegment::Literal(name.as_str().into()),
        TrustDomainPattern::Any => PatternSegment::Star,
    }];
    segments.extend(pattern.segments().iter().map(|segment| match segment {
        SegmentPattern::Exact(text) => PatternSegment::Literal(text.clone()),
        SegmentPattern::Prefix(text) => PatternSegment::Glob(GlobPattern::Prefix(text.clone())),
        SegmentPattern::Any => PatternSegment::Star,
    }));
    if pattern.has_tail() {
        segments.push(PatternSegment::Star);
        return (segments, End::Subtree);
    }
    (segments, End::Exact)
}
