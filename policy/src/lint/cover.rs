//! Whether one rule is about everything that another one is about.
//!
//! Only a safe approximation: `true` is certain, `false` may be a missed warning.

use mantlet_id::{PeerPattern, SegmentPattern, TrustDomainPattern};

use crate::{
    compile::ResolvedRule,
    language::ast::{Methods, Path, Rpc, Segment, Tail, Target, Verb},
    matcher::{peers::Term, segment::fold},
};

/// Whether `wide` applies wherever `narrow` does. As a deny, `wide` is read folded.
pub(super) fn covers(wide: &ResolvedRule, narrow: &ResolvedRule) -> bool {
    let deny = wide.rule.verb.node == Verb::Deny;
    let lasts = match (&wide.rule.until, &narrow.rule.until) {
        (None, _) => true,
        (Some(wide), Some(narrow)) => wide.node >= narrow.node,
        (Some(_), None) => false,
    };
    lasts
        && ports_cover(&wide.ports, &narrow.ports)
        && wide.rule.conditions.iter().all(|condition| narrow.rule.conditions.contains(condition))
        && peers_cover(wide, narrow)
        && target_covers(&wide.rule.target, &narrow.rule.target, deny)
}

fn ports_cover(wide: &[(u16, u16)], narrow: &[(u16, u16)]) -> bool {
    narrow.iter().all(|(first, last)| wide.iter().any(|(from, to)| from <= first && last <= to))
}

fn peers_cover(wide: &ResolvedRule, narrow: &ResolvedRule) -> bool {
    let covered = |by: &[Term], term: &Term| by.iter().any(|other| term_covers(other, term));
    narrow.peers.iter().all(|term| covered(&wide.peers, term))
        && wide.except.iter().all(|excepted| {
            covered(&narrow.except, excepted)
                || narrow.peers.iter().all(|term| exact(term).is_some_and(|id| !excepted_has(excepted, &id)))
        })
}

fn exact(term: &Term) -> Option<mantlet_id::SpiffeId> {
    match term {
        Term::Pattern(pattern) => pattern.exact(),
        _ => None,
    }
}

fn excepted_has(term: &Term, id: &mantlet_id::SpiffeId) -> bool {
    term.matches(crate::decision::Peer::Identity(id))
}

fn term_covers(wide: &Term, narrow: &Term) -> bool {
    match (wide, narrow) {
        (Term::Pattern(wide), Term::Pattern(narrow)) => pattern_covers(wide, narrow),
        (Term::PlaintextAny, Term::PlaintextAny | Term::Plaintext(_)) => true,
        (Term::Plaintext(wide), Term::Plaintext(narrow)) => wide.contains(narrow),
        _ => false,
    }
}

fn pattern_covers(wide: &PeerPattern, narrow: &PeerPattern) -> bool {
    let domains = match (wide.trust_domain(), narrow.trust_domain()) {
        (TrustDomainPattern::Any, _) => true,
        (wide, narrow) => wide == narrow,
    };
    let (w, n) = (wide.segments(), narrow.segments());
    let lengths = if wide.has_tail() {
        n.len() > w.len() || (n.len() == w.len() && narrow.has_tail())
    } else {
        n.len() == w.len() && !narrow.has_tail()
    };
    domains
        && lengths
        && w.iter().zip(n).all(|(wide, narrow)| match (wide, narrow) {
            (SegmentPattern::Any, _) => true,
            (SegmentPattern::Prefix(begin), SegmentPattern::Exact(text) | SegmentPattern::Prefix(text)) => {
                text.starts_with(&**begin)
            }
            (wide, narrow) => wide == narrow,
        })
}

fn target_covers(wide: &Target, narrow: &Target, deny: bool) -> bool {
    match (wide, narrow) {
        (Target::Tcp, Target::Tcp) => true,
        (Target::Http { methods: m, paths: p }, Target::Http { methods: n, paths: q }) => {
            methods_cover(m, n, deny) && q.iter().all(|q| p.iter().any(|p| path_covers(p, q, deny)))
        }
        (Target::Grpc(p), Target::Grpc(q)) => {
            let covered = |q: &Rpc| p.iter().any(|p| path_covers(&rpc_path(p), &rpc_path(q), deny));
            q.iter().all(|q| covered(q))
        }
        (Target::Http { methods, paths }, Target::Grpc(q)) => {
            let post = Methods::Only(vec!["POST".to_owned()]);
            let covered = |q: &Rpc| paths.iter().any(|p| path_covers(p, &rpc_path(q), deny));
            methods_cover(methods, &post, deny) && q.iter().all(|q| covered(q))
        }
        // A deny of a gRPC method looks at the path alone.
        (Target::Grpc(p), Target::Http { paths, .. }) if deny => {
            paths.iter().all(|q| p.iter().any(|p| path_covers(&rpc_path(p), q, deny)))
        }
        _ => false,
    }
}

fn methods_cover(wide: &Methods, narrow: &Methods, deny: bool) -> bool {
    match (wide, narrow) {
        (Methods::Any, _) if deny => true,
        (Methods::Any, Methods::Any) => true,
        (Methods::Any, Methods::Only(names)) => {
            !names.iter().any(|name| name == "WEBSOCKET" || name == "TRACE")
        }
        (Methods::Only(_), Methods::Any) => false,
        (Methods::Only(wide), Methods::Only(narrow)) => narrow.iter().all(|name| {
            wide.contains(name) || (deny && name == "WEBSOCKET" && wide.iter().any(|w| w == "GET"))
        }),
    }
}

fn path_covers(wide: &Path, narrow: &Path, folded: bool) -> bool {
    let lengths = match (wide.tail, narrow.tail) {
        (Tail::Subtree, _) => narrow.segments.len() >= wide.segments.len(),
        (_, Tail::Subtree) => false,
        (w, n) => narrow.segments.len() == wide.segments.len() && (folded || w == n),
    };
    lengths && wide.segments.iter().zip(&narrow.segments).all(|(w, n)| segment_covers(w, n, folded))
}

fn segment_covers(wide: &Segment, narrow: &Segment, folded: bool) -> bool {
    let text = |text: &str| if folded { fold(text) } else { text.to_owned() };
    match (wide, narrow) {
        (Segment::Star | Segment::Named(_), _) => true,
        (Segment::Literal(a), Segment::Literal(b)) => text(a) == text(b),
        (Segment::Prefix(a), Segment::Literal(b) | Segment::Prefix(b)) => text(b).starts_with(&text(a)),
        (Segment::Suffix(a), Segment::Literal(b) | Segment::Suffix(b)) => text(b).ends_with(&text(a)),
        _ => false,
    }
}

fn rpc_path(rpc: &Rpc) -> Path {
    let service = match rpc.service.strip_suffix('*') {
        Some(package) => Segment::Prefix(package.to_owned()),
        None => Segment::Literal(rpc.service.clone()),
    };
    let method = rpc.method.clone().map_or(Segment::Star, Segment::Literal);
    Path { segments: vec![service, method], tail: Tail::Exact }
}
