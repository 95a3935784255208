//! The worst case of a trie, found before it is used.
//!
//! A path can be in several branches at once. All sets of branches that any path can reach are
//! enumerated here, within a budget, so that no request ever meets more than the limit.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    fmt,
    rc::Rc,
};

use crate::matcher::{
    segment::Strict,
    trie::{BuildNode, Builder, GlobPattern, MAX_GLOBS, TerminalId},
};

/// What is unbounded.
#[derive(Debug)]
pub(super) enum Excess {
    /// Too many branches at once.
    Branches(usize),
    /// Too many ways in which branches combine.
    Combinations,
    /// Too many globs beside each other.
    Globs,
    /// Too many rules with conditions for one request.
    Conditions(usize, usize),
}

/// Sets of branches that are looked at per node of the trie, before the policy is refused.
const STEPS_PER_NODE: usize = 64;
/// Rules with conditions that are counted, before the policy is refused: about a second.
const MAX_RULE_VISITS: usize = 20_000_000;

/// Checks that no path is in more than `limit` branches.
pub(super) fn check_width(trie: &Builder, limit: usize) -> Result<(), Excess> {
    let mut seen: HashSet<Vec<u32>> = HashSet::new();
    let mut explorer = Explorer::new(trie, limit);
    let mut pending = vec![vec![0]];
    while let Some(state) = pending.pop() {
        explorer.successors(&state, |next| {
            // A single branch is reached by one way only, as the trie is a tree.
            if next.len() == 1 || seen.insert(next.clone()) {
                pending.push(next);
            }
        })?;
    }
    Ok(())
}

/// Checks that no request has to ask more than `limit` rules with conditions, where `count` says how
/// many of some rules one peer can be in.
pub(super) fn check_conditions(
    trie: &Builder,
    asking: &HashMap<TerminalId, Vec<u32>>,
    limit: usize,
    count: impl Fn(&[u32]) -> usize,
) -> Result<(), Excess> {
    let mut explorer = Explorer::new(trie, usize::MAX);
    let mut pending: Vec<(Vec<u32>, Rc<[u32]>)> = vec![(vec![0], Rc::from([]))];
    // The largest number of rules with which a set of branches was entered.
    let mut entered: HashMap<Vec<u32>, usize> = HashMap::new();
    let mut work = MAX_RULE_VISITS;
    let mut check = |rules: &[u32]| {
        work = work.checked_sub(rules.len()).ok_or(Excess::Combinations)?;
        let most = if rules.len() > limit { count(rules) } else { 0 };
        if most > limit { Err(Excess::Conditions(most, limit)) } else { Ok(()) }
    };
    while let Some((state, above)) = pending.pop() {
        let nodes: Vec<_> = state.iter().filter_map(|node| trie.nodes.get(*node as usize)).collect();
        let with = |rules: &Rc<[u32]>, pick: fn(&BuildNode) -> TerminalId| {
            let added: Vec<u32> =
                nodes.iter().filter_map(|node| asking.get(&pick(node))).flatten().copied().collect();
            (!added.is_empty()).then(|| {
                let all: BTreeSet<u32> = rules.iter().copied().chain(added).collect();
                all.into_iter().collect::<Rc<[u32]>>()
            })
        };
        let below = match with(&above, |node| node.subtree) {
            Some(below) => {
                check(&below)?;
                below
            }
            None => above,
        };
        for ending in [with(&below, |node| node.exact), with(&below, |node| node.slash)].into_iter().flatten()
        {
            check(&ending)?;
        }
        explorer.successors(&state, |next| {
            let entered = entered.entry(next.clone()).or_insert(0);
            if *entered <= below.len() {
                *entered = below.len() + 1;
                pending.push((next, Rc::clone(&below)));
            }
        })?;
    }
    Ok(())
}

struct Explorer<'t> {
    trie: &'t Builder,
    limit: usize,
    steps: usize,
}

// === impl Explorer ===

impl<'t> Explorer<'t> {
    fn new(trie: &'t Builder, limit: usize) -> Self {
        Self { trie, limit, steps: (trie.nodes.len() + 1024).saturating_mul(STEPS_PER_NODE) }
    }

    /// Calls `f` with every set of branches that one more segment can lead to.
    fn successors(&mut self, state: &[u32], mut f: impl FnMut(Vec<u32>)) -> Result<(), Excess> {
        let nodes: Vec<_> = state.iter().filter_map(|node| self.trie.nodes.get(*node as usize)).collect();
        let stars: Vec<u32> = nodes.iter().map(|node| node.star).filter(|star| *star != 0).collect();
        let globs: Vec<&(GlobPattern, u32)> = nodes.iter().flat_map(|node| &node.globs).collect();
        let labels: HashSet<&str> =
            nodes.iter().flat_map(|node| node.literals.keys()).map(|label| &**label).collect();
        for label in labels {
            let mut next = stars.clone();
            next.extend(nodes.iter().filter_map(|node| node.literals.get(label)));
            next.extend(globs.iter().filter(|(glob, _)| glob.matches(Strict(label))).map(|(_, to)| *to));
            self.emit(next, &mut f)?;
        }
        // A segment that is no literal may match all globs at once, for all we know.
        let mut next = stars;
        next.extend(globs.iter().map(|(_, to)| *to));
        if next.is_empty() { Ok(()) } else { self.emit(next, &mut f) }
    }

    fn emit(&mut self, mut next: Vec<u32>, f: &mut impl FnMut(Vec<u32>)) -> Result<(), Excess> {
        self.steps = self.steps.checked_sub(next.len()).ok_or(Excess::Combinations)?;
        next.sort_unstable();
        if next.len() > self.limit {
            return Err(Excess::Branches(self.limit));
        }
        f(next);
        Ok(())
    }
}

// === impl Excess ===

impl Excess {
    pub(super) fn help(&self) -> &'static str {
        match self {
            Self::Branches(_) | Self::Combinations => "use fewer \"*\" beside literals at the same depth",
            Self::Globs => "use \"*\" for the whole segment",
            Self::Conditions(..) => {
                "name peers exactly, or use fewer rules with \"when\" or \"until\" on one path"
            }
        }
    }
}

impl fmt::Display for Excess {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Branches(limit) => {
                write!(f, "one request could match in more than {limit} branches at once")
            }
            Self::Combinations => f.write_str("wildcards overlap in too many ways"),
            Self::Globs => write!(f, "more than {MAX_GLOBS} segments with a \"*\" inside beside each other"),
            Self::Conditions(most, limit) => {
                write!(f, "one request could have to ask {most} rules with conditions, {limit} are allowed")
            }
        }
    }
}
