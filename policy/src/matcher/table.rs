//! The rules of one verb on one port.

use std::{ops::ControlFlow, sync::Arc};

use super::{
    peers::ClassId,
    segment::{Folded, Strict},
    set::Set,
    trie::{TooManyBranches, Trie},
};
use crate::canonical::{Canonical, Exchange};

/// The rules of one verb on one port, numbered from zero in the order of the texts.
#[derive(Debug, Default)]
pub(crate) struct RuleTable {
    /// The rule behind each number.
    pub(crate) rules: Box<[u32]>,
    /// Which rules each class has, ascending by class.
    pub(crate) by_class: Box<[(ClassId, Set)]>,
    pub(crate) paths: Trie,
    /// By terminal; the first one is a blank.
    pub(crate) terminals: Box<[Terminal]>,
}

/// What is allowed or denied where a pattern ends.
#[derive(Clone, Debug, Default)]
pub(crate) struct Terminal {
    /// The pattern, as it was written first.
    pub(crate) route: Option<Arc<str>>,
    pub(crate) entries: Box<[(MethodKey, Set)]>,
}

/// What a rule says about the method.
#[derive(Clone, Copy, Debug, Eq, Hash, PartialEq)]
pub(crate) enum MethodKey {
    /// `*`.
    Any,
    /// The method with this number.
    Named(u8),
    /// `WEBSOCKET`.
    WebSocket,
    /// `grpc`.
    Grpc,
}

/// Everything that a rule says about the method.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub(crate) struct MethodKeys {
    any: bool,
    web_socket: bool,
    grpc: bool,
    /// One bit per number of a method.
    named: u64,
}

/// What a request has to show to the entries of a terminal.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Asked<'a> {
    pub(crate) request: &'a Canonical<'a>,
    /// The number of its method, if any rule names it.
    pub(crate) method: Option<u8>,
    /// Whether this is a deny table: paths are folded and methods read widely.
    pub(crate) deny: bool,
}

// === impl RuleTable ===

impl RuleTable {
    /// The numbers of the rules whose peers include one of `classes` (ascending).
    pub(crate) fn rules_of(&self, classes: &[ClassId]) -> Set {
        let mut sets = Vec::new();
        if classes.len() <= self.by_class.len() {
            for class in classes {
                if let Ok(at) = self.by_class.binary_search_by_key(class, |(class, _)| *class) {
                    sets.extend(self.by_class.get(at).map(|(_, set)| set));
                }
            }
        } else {
            sets.extend(
                self.by_class.iter().filter(|(c, _)| classes.binary_search(c).is_ok()).map(|(_, set)| set),
            );
        }
        match sets.as_slice() {
            [] => Set::Empty,
            [one] => (*one).clone(),
            many => {
                let mut members = Vec::new();
                for set in many {
                    set.each(|member| {
                        members.push(member);
                        ControlFlow::Continue(())
                    });
                }
                Set::new(members, self.rules.len())
            }
        }
    }

    /// The first rule in `view` that is about the request and that `accept` accepts, and the terminal
    /// by which it was found.
    pub(crate) fn find(
        &self,
        view: &Set,
        asked: Asked<'_>,
        mut accept: impl FnMut(u32) -> bool,
    ) -> Result<Option<(u32, &Terminal)>, TooManyBranches> {
        let mut best: Option<(u32, &Terminal)> = None;
        self.on_path(asked, |terminal| {
            for (key, rules) in &terminal.entries {
                if !key.covers(asked) {
                    continue;
                }
                rules.each_common(view, |number| {
                    if best.is_some_and(|(found, _)| found <= number) {
                        return ControlFlow::Break(());
                    }
                    if accept(number) {
                        best = Some((number, terminal));
                        return ControlFlow::Break(());
                    }
                    ControlFlow::Continue(())
                });
            }
        })?;
        Ok(best)
    }

    /// Calls `visit` with what is allowed or denied by each pattern that fits the path.
    pub(crate) fn on_path<'t>(
        &'t self,
        asked: Asked<'_>,
        mut visit: impl FnMut(&'t Terminal),
    ) -> Result<(), TooManyBranches> {
        if asked.request.exchange() == Exchange::Asterisk {
            return Ok(());
        }
        let visit = |id: u32| {
            if let Some(terminal) = self.terminals.get(id as usize) {
                visit(terminal);
            }
        };
        let path = asked.request.path();
        let inner = path.strip_prefix('/').unwrap_or(path);
        let (inner, slash) = match inner.strip_suffix('/') {
            Some(front) => (front, true),
            None => (inner, inner.is_empty()),
        };
        // The root has no segment at all, not an empty one.
        let segments = inner.split('/').take(if inner.is_empty() { 0 } else { usize::MAX });
        if asked.deny {
            self.paths.walk(segments.map(Folded), false, visit)
        } else {
            self.paths.walk(segments.map(Strict), slash, visit)
        }
    }
}

// === impl MethodKeys ===

impl MethodKeys {
    /// Whether it is about requests at all.
    pub(crate) fn is_http(self) -> bool {
        self != Self::default()
    }

    /// Whether it is about gRPC.
    pub(crate) fn is_grpc(self) -> bool {
        self.grpc
    }

    /// Whether one of them is about the request.
    pub(crate) fn cover(self, asked: Asked<'_>) -> bool {
        let named = |method: &u8| self.named >> method & 1 == 1;
        (self.any && MethodKey::Any.covers(asked))
            || (self.web_socket && MethodKey::WebSocket.covers(asked))
            || (self.grpc && MethodKey::Grpc.covers(asked))
            || asked.method.filter(named).is_some_and(|method| MethodKey::Named(method).covers(asked))
    }
}

impl FromIterator<MethodKey> for MethodKeys {
    fn from_iter<I: IntoIterator<Item = MethodKey>>(keys: I) -> Self {
        let mut all = Self::default();
        for key in keys {
            match key {
                MethodKey::Any => all.any = true,
                MethodKey::WebSocket => all.web_socket = true,
                MethodKey::Grpc => all.grpc = true,
                // The compiler names at most 64.
                MethodKey::Named(number) => all.named |= 1_u64.checked_shl(number.into()).unwrap_or(0),
            }
        }
        all
    }
}

// === impl MethodKey ===

impl MethodKey {
    /// Whether an entry is about the request.
    fn covers(self, asked: Asked<'_>) -> bool {
        let exchange = asked.request.exchange();
        if asked.deny {
            return match self {
                Self::Any | Self::Grpc => true,
                // On the wire a WebSocket is opened by a GET, so a deny of GET stops it too.
                Self::Named(method) => asked.method == Some(method),
                Self::WebSocket => exchange == Exchange::WebSocket,
            };
        }
        match (self, exchange) {
            (Self::WebSocket, exchange) => exchange == Exchange::WebSocket,
            (_, Exchange::WebSocket) => false,
            (Self::Any, _) => asked.request.method() != "TRACE",
            (Self::Named(method), _) => asked.method == Some(method),
            (Self::Grpc, exchange) => exchange == Exchange::Grpc,
        }
    }
}
