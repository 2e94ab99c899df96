//! The text for reviewers: figures first, then causes in the graph's order with what follows from each in one line.

use super::{DataChange, Diff, Fact, Figure, NodeChange, Number, Row, Summary};
use std::collections::BTreeMap;
use std::fmt;

/// Names that a line of followers gives.
const MAX_NAMES: usize = 3;

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let is_shown = |v: &Option<Number>| *v != Some(Number::Bytes(0));
        let shown = |f: &&Figure| !f.name.starts_with("ledger.") || is_shown(&f.before) || is_shown(&f.after);
        for figure in self.figures.iter().filter(shown) {
            let text = |value: Option<Number>| value.map_or("-".to_owned(), |v| v.to_string());
            let (before, after) = (text(figure.before), text(figure.after));
            // As many nodes have a format that only the other side has as have none.
            let none = figure.name.starts_with("formats.").then_some(Number::Count(0));
            let delta = match (figure.before.or(none), figure.after.or(none)) {
                (Some(Number::Bytes(a)), Some(Number::Bytes(b))) if a != b => {
                    format!("{:+} B", i128::from(b) - i128::from(a))
                }
                (Some(Number::Count(a)), Some(Number::Count(b))) if a != b => {
                    format!("{:+}", i128::from(b) - i128::from(a))
                }
                (Some(Number::Relative(a)), Some(Number::Relative(b))) if a != b && a > 0.0 => {
                    format!("x {:.3}", b / a)
                }
                _ if before != after => "differs".to_owned(),
                _ => String::new(),
            };
            let line = format!("  {:<20} {before:>16} {after:>16}  {delta}", figure.name);
            writeln!(f, "{}", line.trim_end())?;
        }
        Ok(())
    }
}

impl Diff {
    /// The figures, and how many nodes differ.
    pub fn overview(&self) -> String {
        format!("{}{}\n", self.summary, self.total())
    }

    fn total(&self) -> String {
        if self.is_empty() {
            return "no difference".to_owned();
        }
        let mut kinds: BTreeMap<&str, usize> = BTreeMap::new();
        self.nodes.iter().for_each(|change| *kinds.entry(change.kind()).or_insert(0) += 1);
        let kinds: Vec<_> = kinds.into_iter().map(|(kind, n)| format!("{n} {kind}")).collect();
        let n_follow = self.nodes.iter().filter(|change| change.follows.is_some()).count();
        let mut text = format!("{} differ", count(self.nodes.len(), "node"));
        if !kinds.is_empty() {
            text += &format!(" ({}; {n_follow} of them follow)", kinds.join(", "));
        }
        text + &format!(
            ", {} of constants and weights, {}",
            bytes(self.bytes_delta()),
            count(self.facts.len(), "other fact")
        )
    }
}

impl fmt::Display for Diff {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.summary)?;
        let of_causes = |list: &[NodeChange]| -> BTreeMap<String, Vec<String>> {
            let mut followers: BTreeMap<String, Vec<String>> = BTreeMap::new();
            for change in list {
                if let Some(cause) = &change.follows {
                    followers.entry(cause.clone()).or_default().push(change.name.clone());
                }
            }
            followers
        };
        let (followers, kernels) = (of_causes(&self.nodes), of_causes(&self.kernels));
        let only_reason =
            |change: &NodeChange| change.fields.iter().all(|f| f.what == "reason") && change.kind() == "changed";
        for change in self.nodes.iter().filter(|c| c.follows.is_none() && !only_reason(c)) {
            writeln!(f, "{}", line(change))?;
            follow(f, followers.get(&change.name), "node")?;
            follow(f, kernels.get(&change.name), "kernel or constant")?;
        }
        let reasons: Vec<&NodeChange> = self.nodes.iter().filter(|c| c.follows.is_none() && only_reason(c)).collect();
        if let Some(first) = reasons.first() {
            writeln!(f, "{} with another reason alone, such as", count(reasons.len(), "node"))?;
            writeln!(f, "{}", line(first))?;
        }
        let own: Vec<&NodeChange> = self.kernels.iter().filter(|c| c.follows.is_none()).collect();
        if !own.is_empty() {
            writeln!(f, "kernels and constants that follow from no node")?;
        }
        own.into_iter().try_for_each(|change| writeln!(f, "{}", line(change)))?;
        // What is in the summary needs no second line.
        let facts: Vec<&Fact> = self.facts.iter().filter(|fact| !is_in_summary(&fact.what)).collect();
        if !facts.is_empty() {
            writeln!(f, "other facts")?;
        }
        for fact in facts {
            let places = if fact.count > 1 { format!(", the first of {} places", fact.count) } else { String::new() };
            writeln!(f, "~ {}  {} -> {}{places}", fact.what, short(&fact.before), short(&fact.after))?;
        }
        writeln!(f, "{}", self.total())
    }
}

fn is_in_summary(what: &str) -> bool {
    matches!(what, "planned_peak_bytes" | "budget_bytes" | "min_feasible_bytes") || what.starts_with("ledger.")
}

fn follow(f: &mut fmt::Formatter<'_>, names: Option<&Vec<String>>, what: &str) -> fmt::Result {
    let Some(names) = names else { return Ok(()) };
    let some = names.iter().take(MAX_NAMES).cloned().collect::<Vec<_>>().join(", ");
    let more = if names.len() > MAX_NAMES { ", ..." } else { "" };
    let follow = if names.len() == 1 { "follows" } else { "follow" };
    let what = match what {
        "node" => count(names.len(), "node"),
        _ if names.len() == 1 => "1 kernel or constant".to_owned(),
        _ => format!("{} kernels and constants", names.len()),
    };
    writeln!(f, "    ... and {what} that {follow}: {some}{more}")
}

/// The line of one change.
fn line(change: &NodeChange) -> String {
    let mut parts: Vec<String> = Vec::new();
    let sign = match change.kind() {
        "added" => '+',
        "removed" => '-',
        _ => '~',
    };
    parts.extend(change.renamed_from.as_ref().map(|old| format!("renamed from {old}")));
    parts.extend([&change.before, &change.after].into_iter().flatten().filter(|_| sign != '~').map(describe));
    // Another format has another reason: the document has it.
    let is_shown = |field: &&super::Field| field.what != "reason" || change.fields.iter().all(|f| f.what != "format");
    for field in change.fields.iter().filter(is_shown) {
        match (&change.data, field.what.as_str()) {
            (Some(data), "data") => parts.push(data.to_string()),
            _ => parts.push(format!("{} {} -> {}", field.what, field.before, field.after)),
        }
    }
    let delta = change.bytes_delta();
    parts.extend((delta != 0).then(|| bytes(delta)));
    format!("{sign} {}  {}", change.name, parts.join("; "))
}

impl fmt::Display for DataChange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {} elements differ", self.n_differ, self.n_elems)?;
        match self.max_abs {
            Some(most) => write!(f, ", by at most {most:.3e}")?,
            None => write!(f, ", one of them is not finite")?,
        }
        self.relative_l2.map_or(Ok(()), |norm| write!(f, ", relative L2 {norm:.3e}"))
    }
}

/// A hash, short enough for people to compare.
fn short(text: &str) -> &str {
    let is_hash = text.len() == 64 && text.bytes().all(|c| c.is_ascii_hexdigit());
    if is_hash { &text[..16] } else { text }
}

fn describe(row: &Row) -> String {
    let parts = [&row.op, &row.format, &row.ty, &row.kernel];
    parts.into_iter().filter(|s| !s.is_empty()).map(String::as_str).collect::<Vec<_>>().join(" ")
}

fn bytes(delta: i128) -> String {
    format!("{delta:+} B")
}

fn count(n: usize, what: &str) -> String {
    format!("{n} {what}{}", if n == 1 { "" } else { "s" })
}
