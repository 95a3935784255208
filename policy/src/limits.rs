//! How large a policy may be.

/// The bounds of a text, checked before anything grows with it.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Limits {
    /// Bytes of all texts together.
    pub text_bytes: usize,
    /// Bytes of one line.
    pub line_bytes: usize,
    /// Rules of all texts together.
    pub rules: usize,
    /// Groups of all texts together.
    pub groups: usize,
    /// Peers written in all rules and groups together.
    pub peers: usize,
    /// Path, service and method entries of all rules together, times the ports they stand on.
    pub targets: usize,
    /// Trie nodes that one request may keep alive at once: the bound on the work for a path.
    pub active_nodes: usize,
    /// Rules with conditions that one request may have to ask.
    pub conditional_rules: usize,
}

// === impl Limits ===

impl Limits {
    /// For annotations: what a person reviews.
    pub const ANNOTATIONS: Self = Self {
        text_bytes: 64 * 1024,
        line_bytes: 2048,
        rules: 256,
        groups: 32,
        peers: 1024,
        targets: 16 * 1024,
        active_nodes: 32,
        conditional_rules: 256,
    };

    /// For policy files, which may be generated.
    pub const FILES: Self = Self {
        text_bytes: 16 * 1024 * 1024,
        line_bytes: 64 * 1024,
        rules: 10_000,
        groups: 1024,
        peers: 100_000,
        targets: 100_000,
        active_nodes: 32,
        conditional_rules: 256,
    };
}

impl Default for Limits {
    fn default() -> Self {
        Self::ANNOTATIONS
    }
}
