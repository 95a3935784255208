//! Printing: the normal form of a text, which parses to the same document.

use std::fmt::{self, Display, Formatter};

use super::ast::{
    Condition, Document, Group, HeaderTest, HostPattern, Methods, Path, Peer, Plaintext, Port, Rpc, Rule,
    Segment, Spanned, Tail, Target, Value,
};

impl Display for Document {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.groups.iter().try_for_each(|group| writeln!(f, "{group}"))?;
        self.rules.iter().try_for_each(|rule| writeln!(f, "{rule}"))
    }
}

impl Display for Group {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "group @{} = ", self.name.node)?;
        join(f, &self.peers, ", ")
    }
}

impl Display for Rule {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        if self.audit {
            f.write_str("audit ")?;
        }
        write!(f, "{} ", self.verb.as_str())?;
        join(f, &self.peers, ", ")?;
        if !self.except.is_empty() {
            f.write_str(" except ")?;
            join(f, &self.except, ", ")?;
        }
        write!(f, " to {}", self.target)?;
        if !self.ports.is_empty() {
            f.write_str(" on ")?;
            join(f, &self.ports, ",")?;
        }
        if !self.conditions.is_empty() {
            f.write_str(" when ")?;
            join(f, &self.conditions, " and ")?;
        }
        if let Some(until) = &self.until {
            write!(f, " until {}", until.node)?;
        }
        match &self.name {
            Some(name) => write!(f, " as {}", name.node),
            None => Ok(()),
        }
    }
}

impl Display for Peer {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Mesh => f.write_str("mesh"),
            Self::Group(name) => write!(f, "@{name}"),
            Self::Plaintext(Plaintext::Any) => f.write_str("plaintext(any)"),
            Self::Plaintext(Plaintext::From(networks)) => {
                f.write_str("plaintext(")?;
                join(f, networks, ",")?;
                f.write_str(")")
            }
            Self::Short(text) | Self::Spiffe(text) => f.write_str(text),
        }
    }
}

impl Display for Target {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { methods, paths } => {
                write!(f, "{methods} ")?;
                join(f, paths, ", ")
            }
            Self::Grpc(rpcs) => {
                f.write_str("grpc ")?;
                join(f, rpcs, ", ")
            }
            Self::Tcp => f.write_str("tcp"),
        }
    }
}

impl Display for Methods {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Any => f.write_str("*"),
            Self::Only(methods) => join(f, methods, ","),
        }
    }
}

impl Display for Path {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.segments.iter().try_for_each(|segment| write!(f, "/{segment}"))?;
        f.write_str(match self.tail {
            Tail::Exact => "",
            Tail::Slash => "/",
            Tail::Subtree => "/**",
        })
    }
}

impl Display for Segment {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Literal(text) => f.write_str(text),
            Self::Star => f.write_str("*"),
            Self::Named(name) => write!(f, "{{{name}}}"),
            Self::Prefix(text) => write!(f, "{text}*"),
            Self::Suffix(text) => write!(f, "*{text}"),
        }
    }
}

impl Display for Rpc {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.service, self.method.as_deref().unwrap_or("*"))
    }
}

impl Display for Port {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Range(first, last) if first == last => write!(f, "{first}"),
            Self::Range(first, last) => write!(f, "{first}-{last}"),
            Self::Named(name) => f.write_str(name),
        }
    }
}

impl Display for Condition {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::Header { name, test } => write!(f, "header {name} {test}"),
            Self::Host(hosts) => {
                f.write_str("host ")?;
                alternatives(f, hosts)
            }
        }
    }
}

impl Display for HeaderTest {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        match self {
            Self::In(values) => alternatives(f, values),
            Self::Present => f.write_str("present"),
            Self::Absent => f.write_str("absent"),
        }
    }
}

impl Display for Value {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        let bare = (!self.text.is_empty() || self.prefix)
            && !self.text.ends_with('*')
            && self.text.bytes().all(|byte| byte.is_ascii_graphic() && !b"\"(),#".contains(&byte));
        if bare {
            f.write_str(&self.text)?;
            return if self.prefix { f.write_str("*") } else { Ok(()) };
        }
        f.write_str("\"")?;
        for c in self.text.chars() {
            if matches!(c, '"' | '\\' | '*') {
                f.write_str("\\")?;
            }
            write!(f, "{c}")?;
        }
        f.write_str(if self.prefix { "*\"" } else { "\"" })
    }
}

impl Display for HostPattern {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        write!(f, "{}{}", if self.below { "*." } else { "" }, self.name)
    }
}

impl<T: Display> Display for Spanned<T> {
    fn fmt(&self, f: &mut Formatter<'_>) -> fmt::Result {
        self.node.fmt(f)
    }
}

fn alternatives<T: Display>(f: &mut Formatter<'_>, items: &[T]) -> fmt::Result {
    if let [one] = items {
        return write!(f, "= {one}");
    }
    f.write_str("in (")?;
    join(f, items, ", ")?;
    f.write_str(")")
}

fn join<T: Display>(f: &mut Formatter<'_>, items: &[T], separator: &str) -> fmt::Result {
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            f.write_str(separator)?;
        }
        item.fmt(f)?;
    }
    Ok(())
}
