//! What changes in manifests, line by line.

use super::manifests::Manifests;
use super::yaml;
use crate::output::Output;

/// Lines around a change.
const CONTEXT: usize = 3;
/// Pairs of lines that are compared; beyond, everything goes out and comes in.
const MOST: usize = 16 * 1024 * 1024;

/// A line, and whether it goes, comes or stays.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
enum Edit<'t> {
    Out(&'t str),
    In(&'t str),
    Same(&'t str),
}

/// Writes what changes from `before` to `after`, document by document.
pub(super) fn show(before: &Manifests, after: &Manifests, output: &Output) {
    for (before, after) in before.documents().iter().zip(after.documents()).filter(|(a, b)| a != b) {
        let text =
            |path: &str| before.pointer(path).and_then(serde_json::Value::as_str).unwrap_or("(unnamed)");
        output.line(&output.out.bold(&format!("# {} {}", text("/kind"), text("/metadata/name"))));
        let (before, after) = (yaml::text(before), yaml::text(after));
        let (before, after): (Vec<&str>, Vec<&str>) = (before.lines().collect(), after.lines().collect());
        for line in hunks(&edits(&before, &after)) {
            match line {
                None => output.line(&output.out.dim("@@")),
                Some(Edit::Same(line)) => output.line(&format!(" {line}")),
                Some(Edit::Out(line)) => output.line(&output.out.bad(&format!("-{line}"))),
                Some(Edit::In(line)) => output.line(&output.out.good(&format!("+{line}"))),
            }
        }
    }
}

/// The changes with what stands around them; `None` where something is left out.
fn hunks<'t>(edits: &[Edit<'t>]) -> Vec<Option<Edit<'t>>> {
    let is_near = |at: usize| {
        let near = edits.iter().skip(at.saturating_sub(CONTEXT)).take(CONTEXT.min(at) + CONTEXT + 1);
        near.into_iter().any(|edit| !matches!(edit, Edit::Same(_)))
    };
    let mut shown = Vec::new();
    let mut gap = true;
    for (at, edit) in edits.iter().enumerate() {
        if !is_near(at) {
            gap = true;
            continue;
        }
        if gap {
            shown.push(None);
        }
        gap = false;
        shown.push(Some(*edit));
    }
    shown
}

/// The edits that leave the most lines in place: by the longest common subsequence of what is between the
/// lines that both begin and end with.
fn edits<'t>(before: &[&'t str], after: &[&'t str]) -> Vec<Edit<'t>> {
    let front = before.iter().zip(after).take_while(|(a, b)| a == b).count();
    let (rest_before, rest_after) = (tail(before, front), tail(after, front));
    let back = rest_before.iter().rev().zip(rest_after.iter().rev()).take_while(|(a, b)| a == b).count();
    let (middle_before, end) = rest_before.split_at(rest_before.len() - back);
    let (middle_after, _) = rest_after.split_at(rest_after.len() - back);
    let same = |lines: &[&'t str]| lines.iter().map(|line| Edit::Same(line)).collect::<Vec<_>>();
    let mut edits = same(before.get(..front).unwrap_or_default());
    edits.extend(between(middle_before, middle_after));
    edits.extend(same(end));
    edits
}

fn between<'t>(before: &[&'t str], after: &[&'t str]) -> Vec<Edit<'t>> {
    let width = after.len() + 1;
    if before.len().saturating_mul(width) > MOST {
        let out = before.iter().map(|line| Edit::Out(line));
        return out.chain(after.iter().map(|line| Edit::In(line))).collect();
    }
    // The length of the longest common subsequence of what is left from each pair of lines on.
    let mut lengths: Vec<Vec<u32>> = vec![vec![0; width]];
    for line in before.iter().rev() {
        let below = lengths.last().cloned().unwrap_or_default();
        let mut row = vec![0; width];
        for (at, other) in after.iter().enumerate().rev() {
            let cell = if line == other {
                below.get(at + 1).copied().unwrap_or(0) + 1
            } else {
                let right = row.get(at + 1).copied().unwrap_or(0);
                right.max(below.get(at).copied().unwrap_or(0))
            };
            if let Some(slot) = row.get_mut(at) {
                *slot = cell;
            }
        }
        lengths.push(row);
    }
    lengths.reverse();
    let length =
        |row: usize, column: usize| lengths.get(row).and_then(|row| row.get(column)).copied().unwrap_or(0);
    let (mut row, mut column) = (0, 0);
    let mut edits = Vec::with_capacity(before.len() + after.len());
    loop {
        match (before.get(row), after.get(column)) {
            (None, None) => return edits,
            (Some(line), Some(other)) if line == other => {
                edits.push(Edit::Same(line));
                (row, column) = (row + 1, column + 1);
            }
            (Some(line), other) if other.is_none() || length(row + 1, column) >= length(row, column + 1) => {
                edits.push(Edit::Out(line));
                row += 1;
            }
            (_, Some(other)) => {
                edits.push(Edit::In(other));
                column += 1;
            }
            // `other` is none only with a line left, which the arm above takes.
            (Some(_), None) => return edits,
        }
    }
}

fn tail<'s, 't>(lines: &'s [&'t str], from: usize) -> &'s [&'t str] {
    lines.get(from..).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(before: &str, after: &str) -> String {
        let (before, after): (Vec<&str>, Vec<&str>) =
            (before.split(' ').collect(), after.split(' ').collect());
        let sign = |edit: &Edit<'_>| match edit {
            Edit::Out(line) => format!("-{line}"),
            Edit::In(line) => format!("+{line}"),
            Edit::Same(line) => (*line).to_owned(),
        };
        edits(&before, &after).iter().map(sign).collect::<Vec<_>>().join(" ")
    }

    #[test]
    fn what_goes_and_what_comes_is_told_apart() {
        assert_eq!(shown("a b c", "a b c"), "a b c");
        assert_eq!(shown("a b c", "a x c"), "a -b +x c");
        assert_eq!(shown("a b c d", "b d e"), "-a b -c d +e");
        assert_eq!(shown("a", "b a b"), "+b a +b");
        assert_eq!(shown("a b a", "a"), "a -b -a");
    }

    #[test]
    fn lines_far_from_a_change_are_left_out() {
        let before: Vec<String> = (0..20).map(|n| n.to_string()).collect();
        let before: Vec<&str> = before.iter().map(String::as_str).collect();
        let mut after = before.clone();
        after.insert(10, "new");
        let shown = hunks(&edits(&before, &after));
        assert_eq!(shown.len(), 1 + CONTEXT + 1 + CONTEXT);
        assert_eq!((shown[0], shown[4]), (None, Some(Edit::In("new"))));
        assert!(hunks(&edits(&before, &before)).is_empty());
    }
}
