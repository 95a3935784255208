//! A trie over path segments, for request paths and for the segments of SPIFFE IDs.
//!
//! All literal edges are in one hash table keyed by (node, segment), so a step costs the same whether
//! a node has one child or ten thousand. A path can be in several branches at once (`/a/b` is below
//! `/a` and below `/*`); the compiler refuses policies in which that would be more than
//! [`MAX_ACTIVE`] branches.

use std::collections::HashMap;

use super::segment::{Segment, hash_bytes};

/// The most branches that one path can be in.
pub(crate) const MAX_ACTIVE: usize = 32;
/// The most globs below one node.
pub(crate) const MAX_GLOBS: usize = 16;

/// No node, no terminal. The root is no one's child, so zero is free.
const NONE: u32 = 0;

/// The number of a terminal: what the owner of the trie keeps there. Counts from 1.
pub(crate) type TerminalId = u32;

/// A finished trie.
#[derive(Debug, Default)]
pub(crate) struct Trie {
    nodes: Box<[Node]>,
    /// Open addressing, at most half full; a power of two.
    edges: Box<[Edge]>,
    labels: Box<str>,
    globs: Box<[Glob]>,
}

/// One node. What a path can do when it is here.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Node {
    star: u32,
    exact: TerminalId,
    slash: TerminalId,
    subtree: TerminalId,
    globs: (u32, u32),
}

#[derive(Clone, Copy, Debug, Default)]
struct Edge {
    from: u32,
    to: u32,
    label: (u32, u32),
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Glob {
    pattern: GlobPattern,
    to: u32,
}

/// One segment of a pattern, on its way into a trie.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum PatternSegment {
    Literal(Box<str>),
    Star,
    Glob(GlobPattern),
}

/// A segment with one star at its end or beginning.
#[derive(Clone, Debug, Eq, Hash, PartialEq)]
pub(crate) enum GlobPattern {
    Prefix(Box<str>),
    Suffix(Box<str>),
}

/// Where a pattern ends.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum End {
    /// With its last segment.
    Exact,
    /// With a slash behind it.
    Slash,
    /// There and everywhere below.
    Subtree,
}

/// A trie under construction.
#[derive(Debug)]
pub(crate) struct Builder {
    pub(crate) nodes: Vec<BuildNode>,
    pub(crate) terminals: u32,
}

#[derive(Debug, Default)]
pub(crate) struct BuildNode {
    pub(crate) literals: HashMap<Box<str>, u32>,
    pub(crate) star: u32,
    pub(crate) globs: Vec<(GlobPattern, u32)>,
    pub(crate) exact: TerminalId,
    pub(crate) slash: TerminalId,
    pub(crate) subtree: TerminalId,
}

/// More than [`MAX_ACTIVE`] branches: cannot happen to a policy that compiled.
#[derive(Debug)]
pub(crate) struct TooManyBranches;

// === impl Trie ===

impl Trie {
    /// Calls `visit` with the terminal of every pattern that matches. `slash` is whether the path
    /// ends in a slash that is no segment.
    pub(crate) fn walk<S: Segment>(
        &self,
        segments: impl Iterator<Item = S>,
        slash: bool,
        mut visit: impl FnMut(TerminalId),
    ) -> Result<(), TooManyBranches> {
        let mut active = Active::default();
        active.push(0)?;
        for segment in segments {
            let mut next = Active::default();
            let hash = segment.hash();
            for node in active.iter() {
                let Some(state) = self.nodes.get(node as usize) else { continue };
                if state.subtree != NONE {
                    visit(state.subtree);
                }
                if let Some(child) = self.literal(node, segment, hash) {
                    next.push(child)?;
                }
                if state.star != NONE {
                    next.push(state.star)?;
                }
                for glob in self.globs_of(state) {
                    if glob.pattern.matches(segment) {
                        next.push(glob.to)?;
                    }
                }
            }
            if next.len == 0 {
                return Ok(());
            }
            active = next;
        }
        for node in active.iter() {
            let Some(state) = self.nodes.get(node as usize) else { continue };
            for terminal in [state.subtree, if slash { state.slash } else { state.exact }] {
                if terminal != NONE {
                    visit(terminal);
                }
            }
        }
        Ok(())
    }

    fn globs_of(&self, node: &Node) -> &[Glob] {
        self.globs.get(node.globs.0 as usize..node.globs.1 as usize).unwrap_or_default()
    }

    fn literal<S: Segment>(&self, from: u32, segment: S, hash: u32) -> Option<u32> {
        let mask = self.edges.len().checked_sub(1)?;
        let mut at = slot(from, hash) as usize & mask;
        loop {
            let edge = self.edges.get(at)?;
            if edge.to == NONE {
                return None;
            }
            if edge.from == from && segment.is(self.label(edge)) {
                return Some(edge.to);
            }
            at = (at + 1) & mask;
        }
    }

    fn label(&self, edge: &Edge) -> &[u8] {
        self.labels.as_bytes().get(edge.label.0 as usize..edge.label.1 as usize).unwrap_or_default()
    }
}

/// Where the search for an edge starts.
fn slot(from: u32, hash: u32) -> u32 {
    (hash ^ from.wrapping_mul(0x9e37_79b9)).wrapping_mul(0x85eb_ca6b) >> 7
}

// === impl Builder ===

impl Builder {
    pub(crate) fn new() -> Self {
        Self { nodes: vec![BuildNode::default()], terminals: 0 }
    }

    /// Adds a pattern and gives the terminal it ends in; equal patterns share one. `None` if the trie
    /// has become too large or a node has too many globs.
    pub(crate) fn insert(&mut self, segments: &[PatternSegment], end: End) -> Option<TerminalId> {
        let mut at = 0;
        for segment in segments {
            at = self.child(at, segment)?;
        }
        let next = self.terminals + 1;
        let node = self.nodes.get_mut(at as usize)?;
        let terminal = match end {
            End::Exact => &mut node.exact,
            End::Slash => &mut node.slash,
            End::Subtree => &mut node.subtree,
        };
        if *terminal == NONE {
            *terminal = next;
            self.terminals = next;
        }
        Some(*terminal)
    }

    fn child(&mut self, at: u32, segment: &PatternSegment) -> Option<u32> {
        let next = u32::try_from(self.nodes.len()).ok()?;
        let node = self.nodes.get_mut(at as usize)?;
        let child = match segment {
            PatternSegment::Literal(text) => *node.literals.entry(text.clone()).or_insert(next),
            PatternSegment::Star if node.star != NONE => node.star,
            PatternSegment::Star => {
                node.star = next;
                next
            }
            PatternSegment::Glob(glob) => match node.globs.iter().find(|(other, _)| other == glob) {
                Some((_, child)) => *child,
                None if node.globs.len() == MAX_GLOBS => return None,
                None => {
                    node.globs.push((glob.clone(), next));
                    next
                }
            },
        };
        if child == next {
            self.nodes.push(BuildNode::default());
        }
        Some(child)
    }

    /// The trie in the form that is walked. `None` if it has more than 2^32 bytes of labels.
    pub(crate) fn finish(self) -> Option<Trie> {
        let edge_count: usize = self.nodes.iter().map(|node| node.literals.len()).sum();
        let size = if edge_count == 0 { 0 } else { (edge_count * 2).next_power_of_two() };
        let mut edges = vec![Edge::default(); size];
        let (mut labels, mut globs, mut nodes) =
            (String::new(), Vec::new(), Vec::with_capacity(self.nodes.len()));
        for (from, node) in (0_u32..).zip(self.nodes) {
            for (text, to) in node.literals {
                let start = u32::try_from(labels.len()).ok()?;
                labels.push_str(&text);
                let end = u32::try_from(labels.len()).ok()?;
                place(
                    &mut edges,
                    slot(from, hash_bytes(text.bytes())),
                    Edge { from, to, label: (start, end) },
                );
            }
            let first = u32::try_from(globs.len()).ok()?;
            globs.extend(node.globs.into_iter().map(|(pattern, to)| Glob { pattern, to }));
            let last = u32::try_from(globs.len()).ok()?;
            let BuildNode { star, exact, slash, subtree, .. } = node;
            nodes.push(Node { star, exact, slash, subtree, globs: (first, last) });
        }
        Some(Trie {
            nodes: nodes.into_boxed_slice(),
            edges: edges.into_boxed_slice(),
            labels: labels.into_boxed_str(),
            globs: globs.into_boxed_slice(),
        })
    }
}

/// Puts `edge` into the first free slot from `start` on; the table is half empty.
fn place(edges: &mut [Edge], start: u32, edge: Edge) {
    let Some(mask) = edges.len().checked_sub(1) else { return };
    let mut at = start as usize & mask;
    while let Some(slot) = edges.get_mut(at) {
        if slot.to == NONE {
            *slot = edge;
            return;
        }
        at = (at + 1) & mask;
    }
}

// === impl GlobPattern ===

impl GlobPattern {
    pub(crate) fn matches<S: Segment>(&self, segment: S) -> bool {
        match self {
            Self::Prefix(text) => segment.starts_with(text.as_bytes()),
            Self::Suffix(text) => segment.ends_with(text.as_bytes()),
        }
    }
}

/// The branches a path is in.
#[derive(Default)]
struct Active {
    nodes: [u32; MAX_ACTIVE],
    len: usize,
}

// === impl Active ===

impl Active {
    fn push(&mut self, node: u32) -> Result<(), TooManyBranches> {
        *self.nodes.get_mut(self.len).ok_or(TooManyBranches)? = node;
        self.len += 1;
        Ok(())
    }

    fn iter(&self) -> impl Iterator<Item = u32> + '_ {
        self.nodes.iter().take(self.len).copied()
    }
}
