//! Sets of small numbers that intersect fast at any size.
//!
//! A sparse set is never longer than a 32nd of its universe, a dense one is one bit per member of the
//! universe: so ten thousand rules cost at most 1.25 kB and about 160 steps, and the common set of
//! one or two members costs nothing.

use std::ops::ControlFlow;

/// A set of rule numbers, immutable.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub(crate) enum Set {
    /// Nothing.
    #[default]
    Empty,
    /// One member.
    One(u32),
    /// Members in ascending order.
    Sparse(Box<[u32]>),
    /// One bit per number.
    Dense(Box<[u64]>),
}

// === impl Set ===

impl Set {
    /// The set of `members`, all below `universe`. Order and repetition do not matter.
    pub(crate) fn new(mut members: Vec<u32>, universe: usize) -> Self {
        members.sort_unstable();
        members.dedup();
        match *members.as_slice() {
            [] => Self::Empty,
            [one] => Self::One(one),
            _ if members.len() <= (universe / 32).max(16) => Self::Sparse(members.into_boxed_slice()),
            _ => {
                let mut words = vec![0_u64; universe.div_ceil(64)];
                for member in members {
                    if let Some(word) = words.get_mut(member as usize / 64) {
                        *word |= 1 << (member % 64);
                    }
                }
                Self::Dense(words.into_boxed_slice())
            }
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        matches!(self, Self::Empty)
    }

    pub(crate) fn contains(&self, member: u32) -> bool {
        match self {
            Self::Empty => false,
            Self::One(one) => *one == member,
            Self::Sparse(members) => members.binary_search(&member).is_ok(),
            Self::Dense(words) => {
                words.get(member as usize / 64).is_some_and(|word| word >> (member % 64) & 1 == 1)
            }
        }
    }

    /// Calls `f` with each member, in ascending order, until it breaks.
    pub(crate) fn each(&self, mut f: impl FnMut(u32) -> ControlFlow<()>) {
        let _ = match self {
            Self::Empty => ControlFlow::Continue(()),
            Self::One(one) => f(*one),
            Self::Sparse(members) => members.iter().try_for_each(|member| f(*member)),
            Self::Dense(words) => bits(words.iter().copied(), &mut f),
        };
    }

    /// Calls `f` with each member of both sets, in ascending order, until it breaks.
    pub(crate) fn each_common(&self, other: &Self, mut f: impl FnMut(u32) -> ControlFlow<()>) {
        match (self, other) {
            (Self::Empty, _) | (_, Self::Empty) => {}
            (Self::Dense(a), Self::Dense(b)) => {
                let _ = bits(a.iter().zip(b).map(|(a, b)| a & b), &mut f);
            }
            (Self::Sparse(a), Self::Sparse(b)) => {
                let _ = if a.len() <= b.len() { gallop(a, b, &mut f) } else { gallop(b, a, &mut f) };
            }
            (Self::One(_), _) | (Self::Sparse(_), Self::Dense(_)) => {
                self.each(
                    |member| if other.contains(member) { f(member) } else { ControlFlow::Continue(()) },
                );
            }
            (Self::Sparse(_) | Self::Dense(_), _) => {
                other
                    .each(|member| if self.contains(member) { f(member) } else { ControlFlow::Continue(()) });
            }
        }
    }
}

fn bits(words: impl Iterator<Item = u64>, f: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
    for (base, word) in (0_u32..).step_by(64).zip(words) {
        let mut left = word;
        while left != 0 {
            f(base + left.trailing_zeros())?;
            left &= left - 1;
        }
    }
    ControlFlow::Continue(())
}

/// Looks each of `few` up in what is left of `many`.
fn gallop(few: &[u32], mut many: &[u32], f: &mut impl FnMut(u32) -> ControlFlow<()>) -> ControlFlow<()> {
    for member in few {
        let at = many.partition_point(|other| other < member);
        many = many.get(at..).unwrap_or_default();
        if many.first() == Some(member) {
            f(*member)?;
        }
    }
    ControlFlow::Continue(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn common(a: &Set, b: &Set) -> Vec<u32> {
        let mut out = Vec::new();
        a.each_common(b, |member| {
            out.push(member);
            ControlFlow::Continue(())
        });
        out
    }

    #[test]
    fn every_pair_of_shapes_intersects_alike() {
        let universe = 1000;
        let shapes: Vec<Vec<u32>> = vec![
            vec![],
            vec![6],
            vec![999],
            vec![0, 6, 64, 999],
            (0..1000).filter(|n| n % 2 == 0).collect(),
            (0..1000).filter(|n| n % 3 == 0).collect(),
            (0..20).collect(),
        ];
        for a in &shapes {
            for b in &shapes {
                let expected: Vec<u32> = a.iter().copied().filter(|n| b.contains(n)).collect();
                let (a, b) = (Set::new(a.clone(), universe), Set::new(b.clone(), universe));
                assert_eq!(common(&a, &b), expected);
            }
        }
    }

    #[test]
    fn order_and_repetition_do_not_matter() {
        assert_eq!(Set::new(vec![3, 1, 3], 10), Set::new(vec![1, 3], 10));
    }
}
