//! Building the tables, and refusing those whose worst case is not bounded.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{
    Compiled, CompiledRule, Config, PortRules, PortTable, WrittenRule,
    cost::{self, Excess},
    resolve::{Resolved, ResolvedRule},
};
use crate::{
    diagnostic::{Code, Diagnostic, Fault},
    language::{
        Time,
        ast::{Methods, Path, Rpc, Segment, Tail, Target, Verb},
    },
    matcher::{
        peers::{ClassId, PeerIndexBuilder, Term},
        segment::fold,
        set::Set,
        table::{MethodKey, MethodKeys, RuleTable, Terminal},
        trie::{Builder, End, GlobPattern, PatternSegment, TerminalId},
    },
};

/// The most methods that rules may name.
const MAX_METHODS: usize = 64;

/// The four tables of a port.
#[derive(Clone, Copy, Eq, PartialEq)]
struct Kind {
    verb: Verb,
    audit: bool,
}

/// Compiles `resolved`, whose `ports` were found by [`super::port_rules`].
pub(crate) fn build(
    resolved: Resolved,
    ports: &[PortRules],
    config: &Config<'_>,
) -> Result<Compiled, Vec<Diagnostic>> {
    let mut builder = TableBuilder::new(&resolved, config);
    builder.classify()?;
    let mut compiled = Compiled::default();
    let mut known: HashMap<&[usize], u32> = HashMap::new();
    for range in ports {
        let number = match known.get(range.rules.as_slice()) {
            Some(number) => *number,
            None => {
                let number = u32::try_from(compiled.tables.len()).unwrap_or(u32::MAX);
                compiled.tables.push(builder.port_table(&range.rules)?);
                known.insert(&range.rules, number);
                number
            }
        };
        compiled.ranges.push((range.first, range.last, number));
    }
    compiled.rules = resolved.rules.iter().map(|rule| compile_rule(rule, config)).collect();
    let TableBuilder { peers, classes, keys, methods, .. } = builder;
    compiled.methods = methods;
    compiled.peers = peers.finish().ok_or_else(|| vec![too_large()])?;
    let rules = resolved.rules.into_iter().zip(classes.into_iter().zip(keys));
    // As a slice, and so without the room that the larger rules had in the same place.
    compiled.written = rules.map(|(rule, (class, keys))| written(rule, class, keys)).collect();
    compiled.texts = resolved.texts;
    Ok(compiled)
}

fn written(rule: ResolvedRule, class: ClassId, methods: MethodKeys) -> WrittenRule {
    let ResolvedRule { text, rule, ports, .. } = rule;
    let (verb, audit, line) = (rule.verb.node, rule.audit, rule.line());
    WrittenRule { verb, audit, class, methods, ports: ports.into_boxed_slice(), text, line }
}

fn compile_rule(rule: &ResolvedRule, config: &Config<'_>) -> CompiledRule {
    let until = rule.rule.until.as_ref().map(|until| {
        let latch = config.latches.get(&rule.rule.to_string(), until.node);
        // One that is over when it is loaded is over for good.
        latch.is_over(Time::of(config.now));
        latch
    });
    let conditions = rule.rule.conditions.iter().map(|condition| condition.node.clone()).collect();
    CompiledRule { label: Arc::clone(&rule.label), conditions, until }
}

fn too_large() -> Diagnostic {
    let help = "split it over several workloads";
    Diagnostic::general(Code::Limit, "", "the policy is too large to compile", help)
}

struct TableBuilder<'r> {
    resolved: &'r Resolved,
    config: &'r Config<'r>,
    peers: PeerIndexBuilder,
    /// The class of each rule.
    classes: Vec<ClassId>,
    /// What each rule says about the method.
    keys: Vec<MethodKeys>,
    methods: Vec<Box<str>>,
    method_numbers: HashMap<Box<str>, u8>,
    entries: usize,
}

/// A table in the making.
#[derive(Default)]
struct Draft {
    rules: Vec<u32>,
    by_class: BTreeMap<ClassId, Vec<u32>>,
    entries: HashMap<TerminalId, HashMap<MethodKey, Vec<u32>>>,
    routes: HashMap<TerminalId, Arc<str>>,
}

// === impl TableBuilder ===

impl<'r> TableBuilder<'r> {
    fn new(resolved: &'r Resolved, config: &'r Config<'r>) -> Self {
        Self {
            resolved,
            config,
            peers: PeerIndexBuilder::new(),
            classes: Vec::new(),
            keys: vec![MethodKeys::default(); resolved.rules.len()],
            methods: Vec::new(),
            method_numbers: HashMap::new(),
            entries: 0,
        }
    }

    /// Gives every rule the class of its peers.
    fn classify(&mut self) -> Result<(), Vec<Diagnostic>> {
        for rule in &self.resolved.rules {
            let class = self.peers.class(&rule.peers, &rule.except);
            let excess = || Excess::Globs;
            self.classes.push(class.ok_or_else(|| vec![self.excess(rule, "peers", &excess())])?);
        }
        let width = cost::check_width(self.peers.patterns(), self.config.limits.active_nodes);
        match (width, self.resolved.rules.last()) {
            (Err(excess), Some(rule)) => Err(vec![self.excess(rule, "peers", &excess)]),
            _ => Ok(()),
        }
    }

    fn port_table(&mut self, rules: &[usize]) -> Result<PortTable, Vec<Diagnostic>> {
        let mut table = PortTable::default();
        for index in rules {
            let Some(rule) = self.resolved.rules.get(*index) else { continue };
            table.is_http |= rule.rule.target.is_http();
            let lets_plaintext_in = rule.peers.iter().any(|term| !matches!(term, Term::Pattern(_)));
            if lets_plaintext_in && rule.rule.verb.node == Verb::Allow && !rule.rule.audit {
                table.plaintext.push(u32::try_from(*index).unwrap_or(u32::MAX));
            }
        }
        table.allow = self.rule_table(rules, Kind { verb: Verb::Allow, audit: false })?;
        table.deny = self.rule_table(rules, Kind { verb: Verb::Deny, audit: false })?;
        table.audit_allow = self.rule_table(rules, Kind { verb: Verb::Allow, audit: true })?;
        table.audit_deny = self.rule_table(rules, Kind { verb: Verb::Deny, audit: true })?;
        Ok(table)
    }

    fn rule_table(&mut self, rules: &[usize], kind: Kind) -> Result<RuleTable, Vec<Diagnostic>> {
        let (mut draft, mut trie) = (Draft::default(), Builder::new());
        let resolved = self.resolved;
        for index in rules {
            let Some(rule) = resolved.rules.get(*index) else { continue };
            if rule.rule.verb.node != kind.verb || rule.rule.audit != kind.audit {
                continue;
            }
            let number = u32::try_from(draft.rules.len()).unwrap_or(u32::MAX);
            draft.rules.push(u32::try_from(*index).unwrap_or(u32::MAX));
            if let Some(class) = self.classes.get(*index) {
                draft.by_class.entry(*class).or_default().push(number);
            }
            let keys = self.add_target(rule, number, kind, &mut draft, &mut trie)?;
            if let Some(slot) = self.keys.get_mut(*index) {
                *slot = keys.into_iter().collect();
            }
        }
        self.check_cost(&draft, &trie)?;
        let universe = draft.rules.len();
        let by_class =
            draft.by_class.into_iter().map(|(class, members)| (class, Set::new(members, universe)));
        let mut terminals = vec![Terminal::default(); trie.terminals as usize + 1];
        for (id, entries) in draft.entries {
            let entries =
                entries.into_iter().map(|(key, members)| (key, Set::new(members, universe))).collect();
            if let Some(terminal) = terminals.get_mut(id as usize) {
                *terminal = Terminal { route: draft.routes.get(&id).cloned(), entries };
            }
        }
        Ok(RuleTable {
            by_class: by_class.collect(),
            rules: draft.rules.into_boxed_slice(),
            paths: trie.finish().ok_or_else(|| vec![too_large()])?,
            terminals: terminals.into_boxed_slice(),
        })
    }

    /// Enters every method and path of a rule, and gives the methods.
    fn add_target(
        &mut self,
        rule: &ResolvedRule,
        number: u32,
        kind: Kind,
        draft: &mut Draft,
        trie: &mut Builder,
    ) -> Result<Vec<MethodKey>, Vec<Diagnostic>> {
        let folded = kind.verb == Verb::Deny;
        let (keys, patterns) = match &rule.rule.target {
            Target::Tcp => return Ok(Vec::new()),
            Target::Http { methods, paths } => {
                let patterns: Vec<_> =
                    paths.iter().map(|path| (path_pattern(path, folded), path.to_string())).collect();
                (self.method_keys(rule, methods)?, patterns)
            }
            Target::Grpc(rpcs) => {
                let patterns = rpcs.iter().map(|rpc| (rpc_pattern(rpc, folded), format!("/{rpc}"))).collect();
                (vec![MethodKey::Grpc], patterns)
            }
        };
        self.entries += keys.len() * patterns.len();
        if self.entries > self.config.limits.targets {
            let message =
                format!("methods, paths and ports make more than {} entries", self.config.limits.targets);
            let fault = Fault::new(Code::Limit, message, "use patterns instead of lists");
            return Err(vec![self.resolved.finding(rule, rule.rule.verb.at, fault)]);
        }
        for ((segments, end), route) in patterns {
            let terminal = trie.insert(&segments, end);
            let terminal = terminal.ok_or_else(|| vec![self.excess(rule, "paths", &Excess::Globs)])?;
            draft.routes.entry(terminal).or_insert_with(|| route.into());
            let entries = draft.entries.entry(terminal).or_default();
            keys.iter().for_each(|key| entries.entry(*key).or_default().push(number));
        }
        Ok(keys)
    }

    fn method_keys(
        &mut self,
        rule: &ResolvedRule,
        methods: &Methods,
    ) -> Result<Vec<MethodKey>, Vec<Diagnostic>> {
        let Methods::Only(names) = methods else { return Ok(vec![MethodKey::Any]) };
        let mut keys = Vec::new();
        for name in names {
            if name == "WEBSOCKET" {
                keys.push(MethodKey::WebSocket);
                continue;
            }
            let number = match self.method_numbers.get(name.as_str()) {
                Some(number) => *number,
                None if self.methods.len() == MAX_METHODS => {
                    let message = format!("more than {MAX_METHODS} different methods");
                    let fault = Fault::new(Code::Limit, message, "use \"*\"");
                    return Err(vec![self.resolved.finding(rule, rule.rule.verb.at, fault)]);
                }
                None => {
                    let number = u8::try_from(self.methods.len()).unwrap_or(u8::MAX);
                    self.methods.push(name.as_str().into());
                    self.method_numbers.insert(name.as_str().into(), number);
                    number
                }
            };
            keys.push(MethodKey::Named(number));
        }
        Ok(keys)
    }

    /// Bounds the branches of a path and the rules whose conditions one request may have to ask.
    fn check_cost(&self, draft: &Draft, trie: &Builder) -> Result<(), Vec<Diagnostic>> {
        let limits = &self.config.limits;
        let last = draft.rules.last().and_then(|index| self.resolved.rules.get(*index as usize));
        let Some(last) = last else { return Ok(()) };
        cost::check_width(trie, limits.active_nodes)
            .map_err(|excess| vec![self.excess(last, "paths", &excess)])?;
        let asks = |number: &u32| {
            let rule =
                draft.rules.get(*number as usize).and_then(|index| self.resolved.rules.get(*index as usize));
            rule.is_some_and(|rule| !rule.rule.conditions.is_empty() || rule.rule.until.is_some())
        };
        if draft.rules.len() <= limits.conditional_rules
            || (0_u32..).take(draft.rules.len()).filter(asks).count() <= limits.conditional_rules
        {
            return Ok(());
        }
        let mut asking: HashMap<TerminalId, Vec<u32>> = HashMap::new();
        for (terminal, entries) in &draft.entries {
            let mut rules: Vec<u32> = entries.values().flatten().copied().filter(asks).collect();
            rules.sort_unstable();
            rules.dedup();
            if !rules.is_empty() {
                asking.insert(*terminal, rules);
            }
        }
        let class_of = |number: u32| {
            let index = draft.rules.get(number as usize)?;
            self.classes.get(*index as usize).copied()
        };
        cost::check_conditions(trie, &asking, limits.conditional_rules, |rules| {
            self.most_for_one_peer(rules, class_of)
        })
        .map_err(|excess| vec![self.excess(last, "conditions", &excess)])
    }

    /// An upper bound for how many of `rules` one peer can be in: all that have a wildcard, and those
    /// of the exact id that has most.
    fn most_for_one_peer(&self, rules: &[u32], class_of: impl Fn(u32) -> Option<ClassId>) -> usize {
        let (mut wide, mut exact) = (0, HashMap::new());
        for class in rules.iter().filter_map(|number| class_of(*number)) {
            if self.peers.is_wide.get(class as usize) == Some(&true) {
                wide += 1;
                continue;
            }
            for id in self.peers.exact_ids.get(class as usize).into_iter().flatten() {
                *exact.entry(id).or_insert(0_usize) += 1;
            }
        }
        wide + exact.into_values().max().unwrap_or(0)
    }

    fn excess(&self, rule: &ResolvedRule, what: &str, excess: &Excess) -> Diagnostic {
        let fault = Fault::new(Code::Limit, format!("{what}: {excess}"), excess.help());
        self.resolved.finding(rule, rule.rule.verb.at, fault)
    }
}

/// A path pattern as the trie takes it.
fn path_pattern(path: &Path, folded: bool) -> (Vec<PatternSegment>, End) {
    let text = |text: &str| -> Box<str> { if folded { fold(text).into() } else { text.into() } };
    let segments = path.segments.iter().map(|segment| match segment {
        Segment::Literal(literal) => PatternSegment::Literal(text(literal)),
        Segment::Star | Segment::Named(_) => PatternSegment::Star,
        Segment::Prefix(begin) => PatternSegment::Glob(GlobPattern::Prefix(text(begin))),
        Segment::Suffix(end) => PatternSegment::Glob(GlobPattern::Suffix(text(end))),
    });
    let end = match path.tail {
        Tail::Subtree => End::Subtree,
        // A deny drops the final slash of pattern and path.
        Tail::Slash if !folded => End::Slash,
        Tail::Slash | Tail::Exact => End::Exact,
    };
    (segments.collect(), end)
}

fn rpc_pattern(rpc: &Rpc, folded: bool) -> (Vec<PatternSegment>, End) {
    let text = |text: &str| -> Box<str> { if folded { fold(text).into() } else { text.into() } };
    let service = match rpc.service.strip_suffix('*') {
        Some(package) => PatternSegment::Glob(GlobPattern::Prefix(text(package))),
        None => PatternSegment::Literal(text(&rpc.service)),
    };
    let method = match &rpc.method {
        Some(method) => PatternSegment::Literal(text(method)),
        None => PatternSegment::Star,
    };
    (vec![service, method], End::Exact)
}
